"""Δ with the length of the responses held equal, so that nobody wins by writing more."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from pit_ray.evaluate.comparisons import Comparison, outcomes

RIDGE = 0.01
"""Penalty on the squares of both coefficients, against n prompts: nothing at any usual n, and enough for a finite
answer where one side always wins."""
NEWTON_STEPS = 40


def at_equal_length(
    comparison: Comparison,
    ours: np.ndarray,
    theirs: np.ndarray,
    longer: np.ndarray,
    differ: np.ndarray,
    resamples: int,
    seed: int,
) -> Comparison:
    """The same comparison as it would be, were the two responses of every prompt equally long.

    The method of length-controlled AlpacaEval (Dubois et al. 2024, arXiv 2404.04475, Eq. 2), for two systems and with
    ties: P(win) = σ(a + b · tanh(d / s)), where d is how many tokens ours is `longer` by, (n,), and s the standard
    deviation of d. It is fitted to the prompts whose two texts `differ`, (n,) bool: equal ones are ties at d = 0
    whatever length is worth, and would bend the fit. `win` is 100 σ(a), the fitted share at d = 0, times the share that
    differs. `lose` is fitted the same way and apart, and Δ is their difference. The method's term for the difficulty of
    a prompt is left out: it is estimated from many systems. The interval is the percentile bootstrap over prompts, each
    resample fitted anew.

    What an answer gains by saying something that was missing takes words too, so part of an honest gain is taken away.
    """
    spread = longer[differ].std() if differ.any() else 0.0
    scaled = np.tanh(longer / spread) if spread > 0 else np.zeros(len(longer))
    # Prompts with one outcome and one difference in length are alike, so a resample is one multinomial draw over kinds.
    kinds, counts = np.unique(np.stack([scaled, outcomes(ours, theirs), differ]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(ours), counts / len(ours), size=resamples)
    weights = np.concatenate([counts[None], drawn]) * kinds[2]
    share = weights.sum(axis=1) / len(ours)
    win, lose = (100 * share * _share_at_0(kinds[0], kinds[1] == sign, weights) for sign in (1, -1))
    low, high = np.percentile((win - lose)[1:], [2.5, 97.5])
    found = {"win": float(win[0]), "lose": float(lose[0]), "delta": float(win[0] - lose[0])}
    return comparison.model_copy(update=found | {"ci95": (float(low), float(high))})


def _share_at_0(x: np.ndarray, event: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """σ(a) of the fits P(event) = σ(a + b x), one for each row of `weights` (fits, kinds); by Newton's method."""
    columns = np.stack([np.ones_like(x), x])
    coefficients = np.zeros((len(weights), 2))
    for _ in range(NEWTON_STEPS):
        share = expit(coefficients @ columns)
        gradient = (weights * (event - share)) @ columns.T - RIDGE * coefficients
        curvature = np.einsum("fk,ik,jk->fij", weights * share * (1 - share), columns, columns) + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        # Held short: where nearly all prompts have one outcome, a whole step may leap past the maximum and not return.
        coefficients += np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-8:
            break
    return expit(coefficients[:, 0])
