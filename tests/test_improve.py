"""Improving step by step: what the stopping rule keeps, which margin is chosen, and what each round starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pit_ray.curriculum import POLICY, plain_prompts, with_drafts
from pit_ray.improve import choose_margin, kept_revisions, revise, without_end
from pit_ray.records import DRAFT_SOURCES, Pairs, Prompts, Ragged, Rollouts, Scores
from pit_ray.roles import GenerateRequest, Ref, Resolved, ScoreKind

GAPS = [np.array([0.9, 0.2, -0.1, 0.6]), np.array([0.8, 0.9, 0.9, 0.5]), np.array([0.7, 0.9, 0.9, 0.9])]
"""Three rounds of four responses."""


@pytest.mark.parametrize(
    ("margin", "kept"),
    [
        (0.0, [3, 3, 0, 3]),
        (0.2, [3, 0, 0, 3]),  # a gap equal to the margin is not above it
        (0.55, [3, 0, 0, 1]),
        (0.75, [2, 0, 0, 0]),
        (1.0, [0, 0, 0, 0]),
        (-1.0, [3, 3, 3, 3]),
    ],
)
def test_revisions_are_kept_until_the_first_that_gains_too_little(margin: float, kept: list[int]) -> None:
    assert kept_revisions(GAPS, margin).tolist() == kept


def test_the_margin_is_the_one_with_the_best_mean_quality() -> None:
    # Gaps above ½ came with better responses, lower ones with worse.
    gaps = [np.array([0.1, 0.2, 0.3, 0.8, 0.9])]
    before, after = np.zeros(5), np.array([-1.0, -1.0, -1.0, 1.0, 1.0])
    margin = choose_margin(gaps, [before, after])
    assert 0.3 <= margin < 0.8
    assert kept_revisions(gaps, margin).tolist() == [0, 0, 0, 1, 1]


def test_when_all_revisions_help_all_are_kept_and_when_none_does_nearly_none() -> None:
    gaps = [np.linspace(0.1, 1.0, 50), np.linspace(0.1, 1.0, 50)]
    better = [np.zeros(50), np.ones(50), np.full(50, 2.0)]
    assert kept_revisions(gaps, choose_margin(gaps, better)).tolist() == [2] * 50
    assert kept_revisions(gaps, choose_margin(gaps, better[::-1])).sum() <= 4


def test_a_negative_margin_is_chosen_where_gaps_are_too_modest() -> None:
    gaps = [np.linspace(-1.0, 1.0, 21)]
    margin = choose_margin(gaps, [np.zeros(21), np.ones(21)])
    assert margin < -0.9


def test_among_equal_margins_the_smallest_is_chosen() -> None:
    gaps = [np.array([-2.0, 3.0, 4.0])]
    indifferent = [np.ones(3), np.ones(3)]
    assert choose_margin(gaps, indifferent) < 0
    assert choose_margin([np.array([2.0, 3.0, 4.0])], indifferent) == 0.0


@given(
    hnp.arrays(np.float64, (3, 6), elements=st.floats(-2, 2)), hnp.arrays(np.float64, (4, 6), elements=st.floats(0, 9))
)
def test_the_chosen_margin_is_at_least_as_good_as_stopping_at_0(gaps: np.ndarray, quality: np.ndarray) -> None:
    def mean(margin: float) -> float:
        total = 0.0
        for response in range(6):
            stands = 0
            while stands < 3 and gaps[stands, response] > margin:
                stands += 1
            total += quality[stands, response]
        return total / 6

    chosen = choose_margin(list(gaps), list(quality))
    assert mean(chosen) >= mean(0.0) - 1e-9


class Appender:
    """A rollout pool whose model appends a token to the draft, and ends every other response."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.sources: list[set[str]] = []

    def generate(self, prompts: Prompts, request: GenerateRequest) -> Resolved[Rollouts]:
        self.seeds.append(request.seed)
        self.sources.append({DRAFT_SOURCES[i] for i in prompts.draft_source})
        finished = np.arange(len(prompts)) % 2 == 0
        rows = [np.append(d, [9, 1] if f else [9]) for d, f in zip(prompts.draft.rows(), finished, strict=True)]
        response = Ragged.of(rows)
        zeros = Ragged(np.zeros(len(response.values), dtype=np.float32), response.offsets)
        return Resolved(Rollouts(prompts, response, zeros, finished))

    def load(self, folder: Path, version: int) -> Resolved[None]:
        return Resolved(None)

    def sync(self, weights: Ref[Any], version: int) -> Resolved[None]:
        return Resolved(None)


class LengthGap:
    """A gap scorer to which a response is worth the square of its length."""

    def load(self, folder: Path, kind: ScoreKind, eos: int) -> Resolved[None]:
        return Resolved(None)

    def score(self, rollouts: Ref[Rollouts]) -> Resolved[Scores]:
        written = rollouts.result()
        baseline = written.prompts.draft.lengths.astype(np.float32) ** 2
        return Resolved(Scores(without_end(written).lengths.astype(np.float32) ** 2 - baseline, baseline))


def test_each_round_revises_what_the_round_before_wrote() -> None:
    pairs = Pairs(np.arange(2), Ragged.of([[3], [4]]), Ragged.of([[5], [6]]), Ragged.of([[7], [8]]))
    plain = plain_prompts(pairs, np.arange(2), 0)
    prompts = with_drafts(plain, Ragged.of([[5], []]), POLICY, np.array([2]))
    pool, request = Appender(), GenerateRequest(temperature=1.0, max_new_tokens=4, seed=1, shard_size=2)
    first, second = revise(pool, LengthGap(), prompts, 2, request)
    assert [row.tolist() for row in first.responses.rows()] == [[5, 9], [9]]
    assert [row.tolist() for row in second.responses.rows()] == [[5, 9, 9], [9, 9]]
    assert first.gaps.tolist() == [3.0, 1.0]
    assert second.gaps.tolist() == [5.0, 3.0]
    assert pool.sources == [{"policy"}, {"improver"}]
    # Each round draws anew, and each time the same.
    assert len({*pool.seeds, request.seed}) == 3
    again = Appender()
    revise(again, LengthGap(), prompts, 2, request)
    assert again.seeds == pool.seeds
