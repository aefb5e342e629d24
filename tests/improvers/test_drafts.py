"""The improver that reads a draft, and best-of-n: what each round starts from, what is kept, what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pit_ray.improvers.drafts import DraftImprover, GapModel
from pit_ray.improvers.interface import improve
from pit_ray.improvers.samples import SampleImprover
from pit_ray.records import Ragged
from tests.improvers.engines import REQUEST, Appender, HeldEngines, LengthGap, Lottery, asked

BRIDGE = np.array([2], dtype=np.int32)
DRAFTS = Ragged.of([[5], []])


def draft_improver(pool: Appender, margin: float | None = None) -> DraftImprover:
    engines = HeldEngines(pool, LengthGap())
    return DraftImprover("pit", engines, Path("improver"), BRIDGE, GapModel(Path("gap"), "gap"), margin)


def test_each_round_revises_what_the_round_before_wrote() -> None:
    pool = Appender()
    rounds = improve(draft_improver(pool), asked([3], [4]), DRAFTS, 2, REQUEST)
    texts = [[row.tolist() for row in r.responses.rows()] for r in rounds]
    assert texts == [[[5], []], [[5, 9], [9]], [[5, 9, 9], [9, 9]]]
    assert [r.score.tolist() for r in rounds] == [[0.0, 0.0], [3.0, 1.0], [5.0, 3.0]]
    assert pool.sources == [{"policy"}, {"improver"}]
    # Each round draws anew, and each time the same.
    assert len({*pool.seeds, REQUEST.seed}) == 3
    again = Appender()
    improve(draft_improver(again), asked([3], [4]), DRAFTS, 2, REQUEST)
    assert again.seeds == pool.seeds


def test_the_stopping_rule_keeps_revisions_up_to_the_first_that_gains_too_little() -> None:
    improver = draft_improver(Appender(), margin=2.0)
    rounds = improve(improver, asked([3], [4]), DRAFTS, 2, REQUEST)
    assert improver.kept(rounds).tolist() == [2, 0]
    assert improver.kept(rounds[:1]).tolist() == [0, 0]
    assert draft_improver(Appender()).kept(rounds).tolist() == [2, 2]


def test_a_revision_costs_a_call_and_two_sequences_of_the_scorer() -> None:
    (opening, first) = improve(draft_improver(Appender()), asked([3, 3], [4]), DRAFTS, 1, REQUEST)
    assert opening.cost.calls.tolist() == opening.cost.scorer_calls.tolist() == [0, 0]
    assert first.cost.calls.tolist() == [1, 1]
    assert first.cost.tokens.tolist() == [2, 1]
    assert first.cost.scorer_calls.tolist() == [2, 2]
    # x, draft and bridge twice, then once the revision and once the draft.
    assert first.cost.scorer_tokens.tolist() == [2 * (2 + 1 + 1) + 2 + 1, 2 * (1 + 0 + 1) + 1 + 0]


def test_best_of_n_keeps_what_the_reward_model_likes_best() -> None:
    improver = SampleImprover("best_of_n", HeldEngines(Lottery(), LengthGap()), Path("policy"), Path("reward"), 1)
    rounds = improve(improver, asked([3], [4]), Ragged.of([[5, 5, 5], []]), 2, REQUEST)
    texts = [[row.tolist() for row in r.responses.rows()] for r in rounds]
    assert texts == [[[5, 5, 5], []], [[5, 5, 5], [7]], [[5, 5, 5], [7, 7]]]
    assert [r.revised.tolist() for r in rounds] == [[False, False], [False, True], [False, True]]
    assert improver.kept(rounds).tolist() == [2, 2]
    assert sum(r.cost.calls for r in rounds).tolist() == [2, 2]
    assert sum(r.cost.scorer_calls for r in rounds).tolist() == [3, 3]
