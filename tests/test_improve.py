"""PIT's stopping rule: what it keeps, and which margin is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pit_ray.improve import choose_margin, kept_revisions

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
