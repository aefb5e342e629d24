"""Generalised advantage estimation (Schulman et al. 2016, Eq. 16)."""

from __future__ import annotations

import numpy as np


def advantages(rewards_T: np.ndarray, values_T: np.ndarray, gamma: float, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and returns of one response's T sampled tokens, each (T,) float32.

    `values_T[t]` is the value before token t is written; after the last token the value is 0. Masked positions
    (prompt, draft) are left out of the arrays, so the recursion carries from one sampled token to the next.
    """
    advantage_T = np.zeros(len(rewards_T), dtype=np.float64)
    following = 0.0
    for t in reversed(range(len(rewards_T))):
        next_value = float(values_T[t + 1]) if t + 1 < len(values_T) else 0.0
        delta = float(rewards_T[t]) + gamma * next_value - float(values_T[t])
        following = delta + gamma * lam * following
        advantage_T[t] = following
    return advantage_T.astype(np.float32), (advantage_T + values_T).astype(np.float32)
