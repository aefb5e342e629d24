"""Kullback–Leibler estimators between a policy and its reference, and the controllers of the penalty.

Estimators of KL(π ‖ π_ref) from tokens sampled by π (Schulman, "Approximating KL divergence", 2020):
k1 = log π − log π_ref is unbiased and may be negative; k3 = exp(−k1) − 1 + k1 is unbiased and never negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def k1(logprobs: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Per token, nats; used in the reward."""
    return logprobs - reference


def k3(logprobs: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Per token, nats, ≥ 0; used for watching."""
    difference = np.clip(reference - logprobs, -20.0, 20.0)
    return np.expm1(difference) - difference


@dataclass(frozen=True)
class KlController:
    """The coefficient β of the KL penalty. Adaptive: a proportional controller (Ziegler et al. 2019, §2.2)."""

    coefficient: float
    target: float | None
    """Nats per response to steer towards; None keeps the coefficient fixed."""
    horizon: float

    def updated(self, kl: float, samples: int) -> KlController:
        """The controller after `samples` responses of mean KL `kl` (nats per response)."""
        if self.target is None:
            return self
        error = float(np.clip(kl / self.target - 1, -0.2, 0.2))
        return KlController(self.coefficient * (1 + error * samples / self.horizon), self.target, self.horizon)
