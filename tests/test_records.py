"""Columnar records: rows of different lengths, taken, joined, cut, and written to disk without loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.data.parquet import list_column, read_pairs, write_pairs, write_table
from pit_ray.records import Pairs, Prompts, Ragged, Rollouts

ROWS = st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=6)


def plain(ragged: Ragged) -> list[list[int]]:
    return [row.tolist() for row in ragged.rows()]


@given(ROWS)
def test_ragged_gives_its_rows_back(rows: list[list[int]]) -> None:
    ragged = Ragged.of(rows)
    assert plain(ragged) == rows
    assert len(ragged) == len(rows)
    assert ragged.lengths.tolist() == [len(row) for row in rows]


@given(ROWS, st.data())
def test_take_gives_rows_in_any_order_and_number(rows: list[list[int]], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(rows) - 1)) if rows else st.just([]))
    taken = Ragged.of(rows, np.int16).take(index)
    assert plain(taken) == [rows[i] for i in index]
    assert taken.values.dtype == np.int16


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_concatenate_joins_parts_in_order(parts: list[list[list[int]]]) -> None:
    joined = Ragged.concatenate([Ragged.of(part) for part in parts])
    assert plain(joined) == [row for part in parts for row in part]


def test_concatenate_joins_views_of_larger_arrays() -> None:
    whole = Ragged.of([[1, 2], [3], [4, 5, 6]])
    view = Ragged(whole.values, whole.offsets[1:])
    assert plain(Ragged.concatenate([view, view])) == [[3], [4, 5, 6], [3], [4, 5, 6]]


@given(ROWS, st.none() | st.integers(1, 6))
def test_cut_keeps_the_beginning_of_each_row(rows: list[list[int]], limit: int | None) -> None:
    assert plain(Ragged.of(rows).cut(limit)) == [row[:limit] for row in rows]


def prompts(first: int, bridge: np.ndarray | None) -> Prompts:
    rows = [[first], [first, first]]
    return Prompts(np.array([first, first + 1]), Ragged.of(rows), Ragged.of([[7], []]), np.zeros(2, np.int8), bridge)


def rollouts(first: int) -> Rollouts:
    response = Ragged.of([[first, 1], [first]])
    logprobs = Ragged(np.full(3, -0.5, dtype=np.float32), response.offsets)
    return Rollouts(prompts(first, None), response, logprobs, np.array([True, False]), version=4, temperature=0.7)


def test_rows_are_taken_and_joined_across_nested_records() -> None:
    joined = Rollouts.concatenate([rollouts(10), rollouts(20)])
    assert len(joined) == 4
    picked = joined.take(np.array([3, 0]))
    assert plain(picked.response) == [[20], [10, 1]]
    assert picked.prompts.uid.tolist() == [21, 10]
    assert plain(picked.prompts.prompt) == [[20, 20], [10]]
    assert picked.finished.tolist() == [False, True]
    assert (picked.version, picked.temperature) == (4, 0.7)


def test_contexts_are_the_prompt_or_prompt_draft_and_bridge() -> None:
    assert plain(prompts(5, None).contexts()) == [[5], [5, 5]]
    assert plain(prompts(5, np.array([8, 9])).contexts()) == [[5, 7, 8, 9], [5, 5, 8, 9]]


def pairs(limit: int | None = None) -> Pairs:
    return Pairs(
        np.array([3, 9]), Ragged.of([[1], [2, 3]]), Ragged.of([[4, 5, 6], [7]]), Ragged.of([[], [8, 9]]), limit
    )


def test_drafts_are_cut_and_responses_stay_whole() -> None:
    limited = pairs(1)
    assert plain(limited.drafts("chosen")) == [[4], [7]]
    assert plain(limited.drafts("rejected")) == [[], [8]]
    assert plain(limited.chosen) == [[4, 5, 6], [7]]
    assert plain(pairs().drafts("chosen")) == [[4, 5, 6], [7]]
    assert limited.take([1]).draft_limit == 1


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("rows", [[0, 1], [1], []])
def test_pairs_come_back_from_parquet(tmp_path: Path, rows: list[int], limit: int | None) -> None:
    before = pairs(limit).take(rows)
    write_pairs(before, tmp_path / "new" / "pairs.parquet")
    after = read_pairs(tmp_path / "new" / "pairs.parquet")
    assert after.uid.tolist() == before.uid.tolist()
    for name in ("prompt", "chosen", "rejected"):
        assert plain(getattr(after, name)) == plain(getattr(before, name))
        assert getattr(after, name).values.dtype == np.int32
    assert after.draft_limit == limit


def test_a_table_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_pairs(pairs(), path)
    before = path.read_bytes()
    unwritable = pa.table({"span": pa.array([pa.MonthDayNano([1, 2, 3])])})  # Parquet has no such type
    with pytest.raises(pa.ArrowException):
        write_table(unwritable, path)
    assert path.read_bytes() == before


@given(ROWS)
def test_a_list_column_is_the_rows(rows: list[list[int]]) -> None:
    assert list_column(Ragged.of(rows)).to_pylist() == rows
