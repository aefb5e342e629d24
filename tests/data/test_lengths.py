"""Each length policy does what it says, to the end that it says, and everything is counted."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.config.tree import FieldLength, Lengths
from pit_ray.data.lengths import apply_lengths, fit_drafts
from pit_ray.errors import DataError
from pit_ray.records import Pairs, Ragged


def table(*rows: tuple[list[int], list[int], list[int]]) -> Pairs:
    prompt, chosen, rejected = (Ragged.of(column) for column in zip(*rows, strict=True))
    return Pairs(np.arange(100, 100 + len(rows)), prompt, chosen, rejected)


Policy = Literal["error", "drop", "truncate"]


def limits(prompt: Policy, response: Policy, most: int = 3) -> Lengths:
    return Lengths(
        prompt=FieldLength(max_tokens=most, policy=prompt), response=FieldLength(max_tokens=most, policy=response)
    )


def plain(ragged: Ragged) -> list[list[int]]:
    return [row.tolist() for row in ragged.rows()]


PAIRS = table(
    ([1, 2, 3], [4], [5, 6, 7]),
    ([1, 2, 3, 4], [5], [6]),
    ([1], [1, 2, 3, 4], [9, 8, 7, 6]),
    ([1, 2, 3, 4, 5], [6], [9, 8, 7, 6, 5]),
)


def test_drop_leaves_out_each_row_with_a_field_that_is_too_long() -> None:
    fitted, report = apply_lengths(PAIRS, limits("drop", "drop"))
    assert fitted.uid.tolist() == [100]
    assert plain(fitted.rejected) == [[5, 6, 7]]
    assert report.counts == {
        "prompt": {"kept": 2, "dropped": 2, "truncated": 0},
        "response": {"kept": 2, "dropped": 2, "truncated": 0},
        "draft": {"kept": 4, "dropped": 0, "truncated": 0},
    }
    assert str(report) == (
        "1 of 4 pairs left; prompt 2 kept, 2 dropped, 0 truncated; response 2 kept, 2 dropped, 0 truncated; "
        "draft 4 kept, 0 dropped, 0 truncated"
    )


def test_truncate_cuts_the_beginning_of_prompts_and_the_end_of_responses() -> None:
    fitted, report = apply_lengths(PAIRS, limits("truncate", "truncate"))
    assert fitted.uid.tolist() == [100, 101, 102, 103]
    assert plain(fitted.prompt) == [[1, 2, 3], [2, 3, 4], [1], [3, 4, 5]]
    assert plain(fitted.chosen) == [[4], [5], [1, 2, 3], [6]]
    assert plain(fitted.rejected) == [[5, 6, 7], [6], [9, 8, 7], [9, 8, 7]]
    assert fitted.prompt.values.dtype == np.int32
    assert report.counts["prompt"] == {"kept": 2, "dropped": 0, "truncated": 2}
    assert report.counts["response"] == {"kept": 2, "dropped": 0, "truncated": 2}


def test_each_field_has_its_own_policy() -> None:
    fitted, report = apply_lengths(PAIRS, limits("truncate", "drop"))
    assert fitted.uid.tolist() == [100, 101]
    assert plain(fitted.prompt) == [[1, 2, 3], [2, 3, 4]]
    assert (report.rows, report.left) == (4, 2)


def test_responses_that_truncation_makes_equal_are_dropped() -> None:
    pairs = table(([1], [1, 2, 3, 4], [1, 2, 3, 5]), ([1], [2], [3]))
    fitted, report = apply_lengths(pairs, limits("drop", "truncate"))
    assert fitted.uid.tolist() == [101]
    assert report.counts["response"] == {"kept": 1, "dropped": 1, "truncated": 0}


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        (limits("error", "drop"), ["prompt of uid 101", "4 tokens", "data.lengths.prompt.max_tokens = 3"]),
        (limits("drop", "error"), ["response of uid 102", "4 tokens", "data.lengths.response.max_tokens = 3"]),
    ],
)
def test_error_names_the_row_its_length_and_the_key(lengths: Lengths, said: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        apply_lengths(PAIRS, lengths)
    for part in said:
        assert part in str(caught.value)


def test_a_limit_that_holds_changes_nothing() -> None:
    fitted, report = apply_lengths(PAIRS, limits("error", "error", most=5))
    assert fitted.uid.tolist() == PAIRS.uid.tolist()
    assert plain(fitted.prompt) == plain(PAIRS.prompt)
    assert report.left == report.counts["prompt"]["kept"] == report.counts["response"]["kept"] == 4


def test_no_row_left_is_an_error_that_names_both_limits() -> None:
    pairs = table(([1, 2, 3, 4], [1], [2]), ([1], [1, 2, 3, 4, 5], [2]))
    with pytest.raises(DataError) as caught:
        apply_lengths(pairs, limits("drop", "drop"))
    assert "no pair is left of 2: 1 have a prompt" in str(caught.value)
    assert "data.lengths.prompt.max_tokens = 3" in str(caught.value)
    assert "data.lengths.response.max_tokens = 3" in str(caught.value)


def test_an_empty_table_stays_empty() -> None:
    empty = Pairs(np.zeros(0, dtype=np.int64), Ragged.of([]), Ragged.of([]), Ragged.of([]))
    fitted, report = apply_lengths(empty, limits("drop", "truncate"))
    assert len(fitted) == report.rows == report.left == 0


ROWS = st.lists(st.tuples(*[st.lists(st.integers(0, 2), max_size=6)] * 3), min_size=1, max_size=8)
POLICY = st.sampled_from(["drop", "truncate", "error"])


@given(ROWS, POLICY, POLICY, st.integers(1, 5))
def test_nothing_too_long_gets_through_and_the_counts_add_up(
    rows: list[tuple[list[int], list[int], list[int]]], prompt: Policy, response: Policy, most: int
) -> None:
    pairs = table(*rows)
    try:
        fitted, report = apply_lengths(pairs, limits(prompt, response, most))
    except DataError:
        longest = max(len(part) for row in rows for part in row)
        assert longest > most
        return
    assert max(int(r.lengths.max()) for r in (fitted.prompt, fitted.chosen, fitted.rejected)) <= most
    assert all(sum(counts.values()) == len(rows) for counts in report.counts.values())
    for row, uid in enumerate(fitted.uid):
        x, y_w, y_l = rows[uid - 100]
        assert fitted.prompt[row].tolist() == x[-most:]
        assert fitted.chosen[row].tolist() == y_w[:most]
        assert fitted.rejected[row].tolist() == y_l[:most]


DRAFTS = Ragged.of([[1, 2], [1, 2, 3, 4], [], [5, 6, 7]])


def test_drafts_are_dropped_with_the_rows_that_are_kept() -> None:
    fitted, kept, affected = fit_drafts(DRAFTS, FieldLength(max_tokens=2, policy="drop"))
    assert (plain(fitted), kept.tolist(), affected) == ([[1, 2], []], [0, 2], 2)


def test_drafts_lose_their_end() -> None:
    fitted, kept, affected = fit_drafts(DRAFTS, FieldLength(max_tokens=2, policy="truncate"))
    assert (plain(fitted), kept.tolist(), affected) == ([[1, 2], [1, 2], [], [5, 6]], [0, 1, 2, 3], 2)


def test_a_draft_too_long_is_named() -> None:
    with pytest.raises(DataError, match=r"draft of row 1 has 4 tokens, more than data.lengths.draft.max_tokens = 3"):
        fit_drafts(DRAFTS, FieldLength(max_tokens=3, policy="error"))


def test_no_draft_left_is_an_error_but_no_draft_given_is_not() -> None:
    limit = FieldLength(max_tokens=1, policy="drop")
    with pytest.raises(DataError, match=r"all 2 are longer than data.lengths.draft.max_tokens = 1"):
        fit_drafts(DRAFTS.take([0, 1]), limit)
    fitted, kept, affected = fit_drafts(Ragged.of([]), limit)
    assert (len(fitted), len(kept), affected) == (0, 0, 0)


def test_a_draft_may_be_shorter_than_a_response() -> None:
    pairs = table(([1], [1, 2, 3, 4, 5], [2]), ([1], [2], [3]))
    cut = Lengths(draft=FieldLength(max_tokens=2, policy="truncate"))
    fitted, report = apply_lengths(pairs, cut)
    assert plain(fitted.chosen) == [[1, 2, 3, 4, 5], [2]]
    assert plain(fitted.drafts("chosen")) == [[1, 2], [2]]
    assert report.counts["draft"] == {"kept": 1, "dropped": 0, "truncated": 1}
    left, report = apply_lengths(pairs, Lengths(draft=FieldLength(max_tokens=2, policy="drop")))
    assert left.uid.tolist() == [101]
    with pytest.raises(DataError, match=r"data\.lengths\.draft\.max_tokens"):
        apply_lengths(pairs, Lengths(draft=FieldLength(max_tokens=2, policy="error")))
