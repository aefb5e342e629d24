"""Correction for the mismatch between the sampler that wrote a token and the learner that trains on it."""

from __future__ import annotations

import numpy as np


def importance_weights(learner: np.ndarray, sampler: np.ndarray, cap: float) -> np.ndarray:
    """Truncated importance weights min(π_learner / π_sampler, cap) per token, float32 (Ionides 2008)."""
    return np.minimum(np.exp(np.clip(learner - sampler, -20.0, 20.0)), cap).astype(np.float32)
