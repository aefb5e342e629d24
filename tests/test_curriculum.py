"""The curriculum: where drafts come from, when a phase ends, and a state that survives being written down."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.config.training import EndRule, Kl, Phase
from pit_ray.curriculum import (
    CHOSEN,
    IMPROVER,
    REJECTED,
    PpoState,
    annotated_prompts,
    controller,
    ended,
    plain_prompts,
    with_drafts,
)
from pit_ray.data.splits import draw_order
from pit_ray.metrics import Metrics
from pit_ray.records import DRAFT_SOURCES, Pairs, Ragged

BRIDGE = np.array([1, 2], dtype=np.int32)


def table(size: int) -> Pairs:
    """Pair i has the prompt [i, 0], the preferred response [i, 1] and the other one [i, 2, 2]."""
    rows = range(size)
    return Pairs(
        np.arange(size), Ragged.of([i, 0] for i in rows), Ragged.of([i, 1] for i in rows),
        Ragged.of([i, 2, 2] for i in rows),
    )  # fmt: skip


def phase(steps: int = 100, plateau: int | None = None, kl_limit: float | None = None) -> Phase:
    end = EndRule(plateau_steps=plateau, kl_limit=kl_limit)
    return Phase(name="annotated", drafts="annotated", steps=steps, end=end)


def state(*scores: float, kl: float = 0.0) -> PpoState:
    return PpoState(step=50 + len(scores), phase=1, phase_step=len(scores), scores=scores, kl=kl)


def test_a_phase_ends_after_its_steps() -> None:
    assert ended(phase(steps=3), state(1.0, 2.0)) is None
    assert ended(phase(steps=3), state(1.0, 2.0, 3.0)) == "all are done"
    # What was done in phases before does not count.
    assert ended(phase(steps=3), PpoState(step=99, phase=1)) is None


def test_a_phase_ends_when_kl_passes_its_limit() -> None:
    assert ended(phase(kl_limit=4.0), state(1.0, kl=4.0)) is None
    assert "KL 4.50 passed its limit 4" in str(ended(phase(kl_limit=4.0), state(1.0, kl=4.5)))
    assert ended(phase(), state(1.0, kl=1e9)) is None


@pytest.mark.parametrize(
    ("scores", "over"),
    [
        ((1, 2, 3), False),  # fewer than two windows
        ((1, 1, 2, 2), False),
        ((5, 5, 1, 1, 2, 2), False),  # only the last two windows count
        ((1, 3, 2, 2), True),  # no better
        ((1, 1, 3, 3, 2, 2), True),  # worse
    ],
)
def test_a_phase_ends_on_a_plateau_of_two_windows(scores: tuple[float, ...], over: bool) -> None:
    reason = ended(phase(plateau=2), state(*scores))
    assert (reason is not None) == over
    if over:
        assert "plateau" in str(reason)


STATES = st.builds(
    PpoState,
    step=st.integers(0, 10**6),
    phase=st.integers(0, 9),
    phase_step=st.integers(0, 1000),
    kl_coefficient=st.floats(0, 10),
    scores=st.lists(st.floats(-5, 5), max_size=4).map(tuple),
    kl=st.floats(-5, 100),
)


@given(STATES)
def test_a_state_comes_back_from_json_exactly(before: PpoState) -> None:
    assert PpoState.of(json.loads(json.dumps(before.plain()))) == before


def test_a_step_counts_in_stage_and_phase_and_a_new_phase_starts_from_0() -> None:
    metrics = Metrics.of(4, objective__score=2.5, objective__kl=1.5)
    after = PpoState(step=7, phase=1, phase_step=2, kl_coefficient=0.1, scores=(1.0, 2.0)).advanced(metrics, 0.2, 10)
    assert after == PpoState(step=8, phase=1, phase_step=3, kl_coefficient=0.2, scores=(1.0, 2.0, 2.5), kl=1.5)
    assert after.next_phase() == PpoState(step=8, phase=2, phase_step=0, kl_coefficient=0.2)


def test_a_long_phase_makes_no_longer_a_state() -> None:
    state, metrics = PpoState(), Metrics.of(objective__score=0.0, objective__kl=0.0, objective__entropy=1.0)
    for step in range(30):
        state = state.advanced(metrics | Metrics.of(objective__score=2.0 * step), 0.1, remembered=8)
    assert state.scores == tuple(float(step) for step in range(22, 30)) and state.phase_step == 30
    assert ended(Phase(name="p", drafts="none", steps=99, end=EndRule(plateau_steps=4)), state) is None


def test_the_controller_follows_the_configuration() -> None:
    adaptive = controller(Kl(coefficient=9.0, controller="adaptive", target=3.0, horizon=50.0), 0.25)
    assert (adaptive.coefficient, adaptive.target, adaptive.horizon) == (0.25, 3.0, 50.0)
    assert controller(Kl(target=3.0), 0.25).updated(1000.0, 100).coefficient == 0.25


def test_plain_prompts_count_their_uids_from_the_position_of_the_draw() -> None:
    prompts = plain_prompts(table(5), np.array([3, 0, 3]), first_uid=40)
    assert prompts.uid.tolist() == [40, 41, 42]
    assert [row.tolist() for row in prompts.contexts().rows()] == [[3, 0], [0, 0], [3, 0]]
    assert prompts.draft.lengths.tolist() == [0, 0, 0]
    assert {DRAFT_SOURCES[i] for i in prompts.draft_source} == {"none"}


@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 2**31))
def test_steps_go_through_every_pair_before_one_comes_again(size: int, per_step: int, seed: int) -> None:
    pairs = table(size)
    steps = [
        plain_prompts(pairs, draw_order(size, step * per_step, per_step, seed, "ppo_policy"), step * per_step)
        for step in range(3 * size)
    ]
    seen = [int(row[0]) for step in steps for row in step.prompt.rows()]
    for start in range(0, 3 * size, size):
        assert sorted(seen[start : start + size]) == list(range(size))
    uids = [uid for step in steps for uid in step.uid.tolist()]
    assert uids == list(range(len(uids)))


@given(st.integers(1, 30), st.integers(0, 10**6), st.integers(0, 2**31))
def test_annotated_drafts_are_half_the_better_and_half_the_worse_response(rows: int, first: int, seed: int) -> None:
    pairs = table(40)
    drawn = np.random.default_rng(seed).integers(0, 40, size=rows)
    prompts = annotated_prompts(pairs, drawn, first, BRIDGE, seed)
    better = prompts.draft_source == CHOSEN
    assert set(prompts.draft_source.tolist()) <= {CHOSEN, REJECTED}
    assert abs(2 * better.sum() - rows) <= 1
    for i, row in enumerate(drawn.tolist()):
        assert prompts.prompt[i].tolist() == [row, 0]
        assert prompts.draft[i].tolist() == ([row, 1] if better[i] else [row, 2, 2])
        assert prompts.contexts()[i].tolist() == [row, 0, *prompts.draft[i].tolist(), 1, 2]
    again = annotated_prompts(pairs, drawn, first, BRIDGE, seed)
    assert again.draft_source.tolist() == prompts.draft_source.tolist()


def test_which_half_differs_from_step_to_step_and_with_the_seed() -> None:
    pairs, rows = table(40), np.arange(40)
    draws = [(0, 0), (40, 0), (0, 1)]
    picked = {tuple(annotated_prompts(pairs, rows, first, BRIDGE, seed).draft_source.tolist()) for first, seed in draws}
    assert len(picked) == 3


def test_annotated_drafts_respect_the_limit_of_drafts() -> None:
    limited = Pairs(**{**vars(table(4)), "draft_limit": 1})
    prompts = annotated_prompts(limited, np.arange(4), 0, BRIDGE, 0)
    assert [row.tolist() for row in prompts.draft.rows()] == [[0], [1], [2], [3]]


def test_drafts_may_come_from_one_source_or_from_one_each() -> None:
    plain, drafts = plain_prompts(table(2), np.arange(2), 0), Ragged.of([[7], []])
    assert with_drafts(plain, drafts, IMPROVER, BRIDGE).draft_source.tolist() == [IMPROVER, IMPROVER]
    each = with_drafts(plain, drafts, np.array([CHOSEN, REJECTED]), BRIDGE)
    assert each.draft_source.tolist() == [CHOSEN, REJECTED]
    assert each.draft_source.dtype == np.int8
    # The prompts without drafts stay as they were.
    assert plain.bridge is None
    assert plain.draft.lengths.tolist() == [0, 0]
