"""Tests of paired outcomes, corrected for how many there are, and intervals of shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest


def sign_test(outcome: np.ndarray) -> float:
    """Two-sided exact p of outcomes (n,) in {−1, 0, 1}, were winning and losing equally likely; ties say nothing. Of
    outcomes that are right or wrong this is McNemar's exact test. 1 without wins and losses."""
    wins, losses = int((outcome > 0).sum()), int((outcome < 0).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Corrected by Holm's step-down method (1979): all of a table that are below 0.05 are so with at most 5 % risk of
    even one that should not be, however they hang together."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected.tolist()


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, `right` of n, by Wilson's score (1927)."""
    interval = binomtest(right, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
