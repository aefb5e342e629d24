"""Micro-batches hold every row once, as many on each rank, within the budget where that is possible."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.learn.batches import PASS_TOKENS, collate, flat, micro_batches, with_end
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


def cost(lengths: np.ndarray, parts: list[list[int]]) -> int:
    """Padded tokens of the parts, and what a pass costs beside them."""
    return sum(len(part) * max(lengths[row] for row in part) + PASS_TOKENS for part in parts)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=9), st.integers(400, 4000))
def test_no_other_cut_costs_less(lengths: list[int], budget: int) -> None:
    longest = np.array(sorted(lengths, reverse=True))
    rows = range(len(longest))
    within = [
        cost(longest, parts)
        for size in rows
        for cuts in combinations(rows[1:], size)
        if (parts := [list(rows[a:b]) for a, b in pairwise((0, *cuts, len(longest)))])
        and all(len(part) * longest[part[0]] <= budget for part in parts)
    ]
    found = [batch.tolist() for batch in micro_batches(longest, 0, 1, budget)]
    assert cost(longest, found) == min(within)


def test_short_rows_are_not_padded_to_long_ones() -> None:
    lengths = np.array([1000] + [10] * 100)
    assert [len(rows) for rows in micro_batches(lengths, 0, 1, budget=100_000)] == [1, 100]


def test_rows_of_one_length_are_not_cut_below_the_budget() -> None:
    assert [len(rows) for rows in micro_batches(np.full(64, 500), 0, 1, budget=8000)] == [16] * 4


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
