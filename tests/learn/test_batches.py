"""Micro-batches hold every row once, as many on each rank, within the budget where that is possible."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.learn.batches import micro_batches, with_end
from pit_ray.records import Ragged


@st.composite
def work(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """Lengths of rows, ranks (no more than rows), a budget."""
    lengths = draw(st.lists(st.integers(1, 60), min_size=1, max_size=40))
    return np.array(lengths), draw(st.integers(1, min(4, len(lengths)))), draw(st.integers(1, 400))


def all_ranks(lengths: np.ndarray, world: int, budget: int) -> list[list[np.ndarray]]:
    return [micro_batches(lengths, rank, world, budget) for rank in range(world)]


@given(work())
def test_every_row_is_in_one_micro_batch_of_one_rank(case: tuple[np.ndarray, int, int]) -> None:
    lengths, world, budget = case
    rows = [int(row) for rank in all_ranks(lengths, world, budget) for batch in rank for row in batch]
    assert sorted(rows) == list(range(len(lengths)))


@given(work())
def test_every_rank_has_as_many_micro_batches_and_none_is_empty(case: tuple[np.ndarray, int, int]) -> None:
    lengths, world, budget = case
    ranks = all_ranks(lengths, world, budget)
    assert len({len(rank) for rank in ranks}) == 1
    assert all(len(batch) for rank in ranks for batch in rank)
    rows = [sum(map(len, rank)) for rank in ranks]
    assert max(rows) - min(rows) <= 1


@given(work())
def test_a_micro_batch_is_within_the_budget_or_cannot_be_smaller(case: tuple[np.ndarray, int, int]) -> None:
    lengths, world, budget = case
    for rank in all_ranks(lengths, world, budget):
        # Where every row of another rank already stands alone, a rank with one row more must keep two together.
        smallest = 2 if len(rank) == len(lengths) // world else 1
        for batch in rank:
            assert lengths[batch].sum() <= budget or len(batch) <= smallest


@given(work())
def test_none_could_be_joined_with_the_next(case: tuple[np.ndarray, int, int]) -> None:
    lengths, world, budget = case
    first, *_ = all_ranks(lengths, world, budget)
    # A last round that is not whole takes the round before with it, which may have had room elsewhere.
    for batch, after in pairwise(first[:-1] if len(lengths) % world else first):
        assert lengths[batch].sum() + lengths[after[0]] > budget


def test_a_last_round_that_is_not_whole_does_not_break_the_budget() -> None:
    assert [len(rows) for rows in micro_batches(np.ones(5, dtype=int), 0, 2, budget=2)] == [1, 2]
    assert [len(rows) for rows in micro_batches(np.ones(5, dtype=int), 1, 2, budget=2)] == [1, 1]


def test_rows_of_one_length_are_not_cut_below_the_budget() -> None:
    assert [len(rows) for rows in micro_batches(np.full(64, 500), 0, 1, budget=8000)] == [16] * 4


def test_fewer_rows_than_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="1 rows cannot be shared among 2 ranks"):
        micro_batches(np.array([5]), 0, 2, 100)


def test_with_end_closes_every_response() -> None:
    assert [row.tolist() for row in with_end(Ragged.of([[3, 4], [], [5]]), 1).rows()] == [[3, 4, 1], [1], [5, 1]]
