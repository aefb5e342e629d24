"""The canary: a few tokens that every rollout worker and the learner score after each weight sync, to agree on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pit_ray.curriculum import plain_prompts
from pit_ray.errors import TrainingError
from pit_ray.metrics import Metrics
from pit_ray.records import Pairs, Rollouts
from pit_ray.scoring import as_rollouts

TOKENS = 32
MOVED = 1e-5
"""Nats by which the learner's answers to half of the tokens must have moved before a worker's must have moved too."""


def canary(pairs: Pairs, eos: int) -> Rollouts:
    """One prompt with the first tokens of its preferred response: of those with the most tokens to compare (at most
    33, the end token included) the one with the shortest prompt."""
    row = np.lexsort((pairs.prompt.lengths, -np.minimum(pairs.chosen.lengths, TOKENS)))[:1]
    return as_rollouts(plain_prompts(pairs, row, 0), pairs.chosen.take(row).cut(TOKENS), eos)


@dataclass(frozen=True)
class Answers:
    """What learner and workers said about the canary after one sync: log-probabilities of its T tokens, in nats."""

    version: int
    learner_T: np.ndarray
    workers_WT: np.ndarray


def check(now: Answers, before: Answers | None, tolerance: float) -> Metrics:
    """val/canary_difference: the largest difference between a worker and the learner, in nats.

    TrainingError where it passes `tolerance`, and where a worker answers to the bit as it did `before` although the
    learner's answers have moved: a skipped sync shows in this way at any precision.
    """
    if before is not None and len(before.workers_WT) != len(now.workers_WT):
        before = None  # a worker has gone, and who answered what before is not known
    difference_W = np.abs(now.workers_WT - now.learner_T).max(axis=1)
    same_W = np.zeros(len(difference_W), dtype=bool)
    if before is not None and np.median(np.abs(now.learner_T - before.learner_T)) > MOVED:
        same_W = (now.workers_WT == before.workers_WT).all(axis=1)
    agrees_W = difference_W <= tolerance  # false where an answer is not a number
    if same_W.any() or not agrees_W.all():
        worker = int(np.argmax(same_W)) if same_W.any() else int(np.argmin(agrees_W))
        cause = (
            f"it still answers as before the sync, so the weights after version {before.version} did not reach it "
            "(stale weights)"
            if before is not None and same_W[worker]
            else "it holds a part of these weights or others (a partial sync), or computes in another precision"
        )
        raise TrainingError(
            f"rollout/{worker} and the learner disagree after the sync of policy version {now.version}: their "
            f"log-probabilities of the canary differ by up to {difference_W[worker]:.2g} nats (tolerance "
            f"{tolerance:g}); {cause}"
        )
    return Metrics.of(val__canary_difference=float(difference_W.max()))
