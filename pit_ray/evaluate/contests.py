"""Which systems a run compares, and how they fared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pit_ray.data.randomness import derive_seed
from pit_ray.evaluate.comparisons import Comparison, compare
from pit_ray.evaluate.length import at_equal_length
from pit_ray.evaluate.systems import System, same

STEP = "improver_vs_previous"
"""One iteration against the one before, with the stopping rule in both or in neither."""


class Contest(NamedTuple):
    """Two systems, and the fields of a `Comparison` that say what they are."""

    name: str
    iterations: int
    stopping_rule: bool
    ours: str
    theirs: str


def improver(k: int, iterations: int, stopping_rule: bool = False) -> str:
    """The name of the improver as a system after `k` revisions, or up to `k` by the rule, of at most `iterations`."""
    if not stopping_rule:
        return f"improver_{k}"
    return "improver_stopped" if k == iterations else f"improver_stopped_{k}"


def contests(iterations: int) -> list[Contest]:
    """Every comparison of a run whose improver revises up to `iterations` times."""
    found = [
        Contest("improver_vs_policy", k, rule, improver(k, iterations, rule), "policy")
        for rule in (False, True)
        for k in range(1, iterations + 1)
    ]
    found += [
        Contest("sft_improver_vs_policy", 1, False, "sft_improver", "policy"),
        Contest("policy_vs_sft_policy", 0, False, "policy", "sft_policy"),
        Contest("best_of_2_vs_policy", 0, False, "best_of_2", "policy"),
    ]
    # The first iteration's step is its comparison with the policy.
    return found + [
        Contest(STEP, k, rule, improver(k, iterations, rule), improver(k - 1, iterations, rule))
        for rule in (False, True)
        for k in range(2, iterations + 1)
    ]


def compared(
    systems: Mapping[str, System], iterations: int, resamples: int, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """Every contest by every judge; and those against a policy at equal length."""
    plain, controlled = [], []
    for name, k, rule, ours, theirs in contests(iterations):
        one, other = systems[ours], systems[theirs]
        drawn = derive_seed(seed, "bootstrap", name, k, int(rule))
        longer = one.responses.lengths - other.responses.lengths
        differ = ~same(one.responses, other.responses)
        for judge in sorted(one.scores):
            scores = one.scores[judge], other.scores[judge]
            plain.append(compare(name, judge, k, rule, *scores, resamples, drawn))
            if name != STEP:
                controlled.append(at_equal_length(plain[-1], *scores, longer, differ, resamples, drawn))
    return plain, controlled


def scores_table(uid: np.ndarray, systems: Mapping[str, System]) -> pa.Table:
    """uid, system, judge, score: one row for each answer and judge; uid is the pair's, (n,)."""
    columns: dict[str, list] = {"uid": [], "system": [], "judge": [], "score": []}
    for name, system in systems.items():
        for judge, scores in system.scores.items():
            columns["uid"].extend(uid.tolist())
            columns["system"].extend([name] * len(uid))
            columns["judge"].extend([judge] * len(uid))
            columns["score"].extend(scores.tolist())
    return pa.table(columns)
