"""Micro-batches hold every row once, as many on each rank, within the budget where that is possible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.learn.batches import collate, flat, micro_batches, with_end
from pit_ray.records import Ragged

CPU = torch.device("cpu")


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
            assert len(batch) * lengths[batch].max() <= budget or len(batch) <= smallest


@given(work())
def test_what_fits_at_once_is_not_cut(case: tuple[np.ndarray, int, int]) -> None:
    lengths, world, _ = case
    roomy = len(lengths) * int(lengths.max())
    assert all(len(rank) == 1 for rank in all_ranks(lengths, world, roomy))


def test_a_long_row_does_not_scatter_the_short_ones() -> None:
    lengths = np.array([1000] + [10] * 100)
    assert len(micro_batches(lengths, 0, 1, budget=1000)) <= 5
    # Longer than the budget, it stands alone.
    assert len(micro_batches(lengths, 0, 1, budget=900)) <= 5


def test_fewer_rows_than_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="1 rows cannot be shared among 2 ranks"):
        micro_batches(np.array([5]), 0, 2, 100)


def test_collate_pads_on_the_right_and_marks_responses() -> None:
    contexts, responses = [np.array([5, 6]), np.array([7])], [np.array([8]), np.array([9, 10, 11])]
    ids, attention, mask = collate(contexts, responses, CPU)
    assert ids.tolist() == [[5, 6, 8, 0], [7, 9, 10, 11]]
    assert attention.tolist() == [[True, True, True, False], [True] * 4]
    assert mask.tolist() == [[False, False, True, False], [False, True, True, True]]


def test_what_the_mask_selects_is_aligned_with_flat() -> None:
    responses = Ragged.of([[8], [9, 10, 11], [12, 13]])
    rows = np.array([2, 0, 1])
    batch = collate([np.array([1] * (i + 1)) for i in rows], [responses[i] for i in rows], CPU)
    assert batch.ids_BT[batch.mask_BT].tolist() == flat(responses, rows, CPU).tolist() == [12, 13, 8, 9, 10, 11]


def test_with_end_closes_every_response() -> None:
    assert [row.tolist() for row in with_end(Ragged.of([[3, 4], [], [5]]), 1).rows()] == [[3, 4, 1], [1], [5, 1]]
