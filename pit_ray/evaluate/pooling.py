"""Effects over several seeds, with prompts resampled inside each seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SPREAD = 2
"""Two outcomes in {−1, 0, 1} differ by at most this."""


class Effect(NamedTuple):
    """A difference of Δ in percentage points, with its 95 % interval."""

    delta: float
    low: float
    high: float


def pooled_difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], resamples: int, seed: int) -> Effect:
    """Δ of `ours` less Δ of `theirs`, averaged over seeds.

    ours[s] and theirs[s] are the outcomes (n_s,) in {−1, 0, 1} of two systems against one opponent, on the same prompts
    in the same order. The interval is the paired percentile bootstrap: prompts are drawn with replacement inside each
    seed, both outcomes of a prompt together. It speaks of new prompts for these training runs; how much training runs
    differ is seen in the seeds themselves.

    Raises ValueError unless both have the same seeds with the same numbers of prompts, at least one each.
    """
    if not ours or [len(o) for o in ours] != [len(t) for t in theirs] or min(map(len, ours)) == 0:
        raise ValueError(f"outcomes do not pair up: {[len(o) for o in ours]} and {[len(t) for t in theirs]} prompts")
    random = np.random.default_rng(seed)
    values = 100 * np.arange(-SPREAD, SPREAD + 1)
    means, drawn = [], []
    for mine, other in zip(ours, theirs, strict=True):
        # A prompt counts by its difference alone, one of five values: n draws of prompts are one multinomial draw.
        ahead = mine.astype(np.int64) - other
        shares = np.bincount(ahead + SPREAD, minlength=len(values)) / len(ahead)
        means.append(float(shares @ values))
        drawn.append(random.multinomial(len(ahead), shares, size=resamples) @ values / len(ahead))
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return Effect(float(np.mean(means)), float(low), float(high))
