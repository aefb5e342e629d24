"""What improving is asked and answers, and when PIT's improver stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pit_ray.records import Message, Ragged, Rollouts


@dataclass(frozen=True)
class ImproveRequest:
    """What a user wants improved: a prompt, and a draft unless the policy is to write it."""

    prompt: str | list[Message]
    draft: str | None = None


@dataclass(frozen=True)
class ImproveResult:
    """Every step of an improvement: drafts[0] is the first draft, drafts[k] the k-th revision."""

    prompt: str | list[Message]
    drafts: list[str]
    gaps: list[float | None]
    """What the improver itself says of drafts[k], k ≥ 1: PIT's is the gap R(x, y_k, y_{k−1}) − R(x, y_{k−1}, y_{k−1});
    that of others is their score of it, None where they give none."""
    kept: int
    """Which of the drafts was kept."""
    response: str
    """The result: drafts[kept]."""
    feedback: list[str] | None = None
    """What the improver said of each of the drafts; None for one that gives no feedback."""


def without_end(rollouts: Rollouts) -> Ragged:
    """The responses without their end tokens."""
    rows = zip(rollouts.response.rows(), rollouts.finished, strict=True)
    return Ragged.of(row[:-1] if done else row for row, done in rows)


def kept_revisions(gaps: Sequence[np.ndarray], margin: float) -> np.ndarray:
    """(n,) how many revisions the stopping rule keeps: those before the first whose gap is not above `margin`."""
    above = np.stack([np.asarray(gap) > margin for gap in gaps], axis=1)
    return np.cumprod(above, axis=1).sum(axis=1)


def choose_margin(gaps: Sequence[np.ndarray], qualities: Sequence[np.ndarray]) -> float:
    """The margin of the stopping rule with the best mean quality on validation prompts.

    `gaps[k]` are the gaps of round k, `qualities[k]` the quality of what stands after k rounds (one more than rounds).
    Tried are 0 and the quantiles of the gaps; among equals the smallest wins.
    """
    quality = np.stack(qualities, axis=1)
    rows = np.arange(len(quality))
    tried = sorted({0.0, *np.quantile(np.concatenate(gaps), np.linspace(0.02, 1.0, 50)).tolist()})
    means = [float(quality[rows, kept_revisions(gaps, margin)].mean()) for margin in tried]
    return float(tried[int(np.argmax(means))])
