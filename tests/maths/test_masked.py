"""Statistics over rows of different lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.maths.masked import explained_variance, row_sums, whiten
from pit_ray.records import Ragged

ROWS = st.lists(st.lists(st.integers(-50, 50), max_size=6), max_size=8)


@given(ROWS)
def test_row_sums_are_the_sums_of_rows_and_0_for_empty_ones(rows: list[list[int]]) -> None:
    assert row_sums(Ragged.of(rows, np.float32)).tolist() == [sum(row) for row in rows]


@given(ROWS.filter(lambda rows: len({value for row in rows for value in row}) > 1))
def test_whitened_values_have_mean_0_and_standard_deviation_1_over_the_batch(rows: list[list[int]]) -> None:
    before = Ragged.of(rows, np.float32)
    after = whiten(before)
    assert after.values.mean(dtype=np.float64) == pytest.approx(0, abs=1e-5)
    assert after.values.std(dtype=np.float64) == pytest.approx(1, abs=1e-4)
    assert after.lengths.tolist() == before.lengths.tolist()
    # The order of the values stays.
    assert np.argsort(after.values, kind="stable").tolist() == np.argsort(before.values, kind="stable").tolist()


def test_equal_values_whiten_to_0() -> None:
    assert whiten(Ragged.of([[3.0], [3.0, 3.0]], np.float32)).values.tolist() == [0.0, 0.0, 0.0]


def test_explained_variance_by_hand() -> None:
    returns = np.array([1.0, 3.0, 5.0])
    # A constant error is none: advantages are whitened.
    worked = (([1, 3, 5], 1.0), ([2, 4, 6], 1.0), ([7, 7, 7], 0.0), ([2, 3, 4], 0.75), ([5, 3, 1], -3.0))
    for values, expected in worked:
        assert explained_variance(np.array(values, dtype=float), returns) == pytest.approx(expected)
    assert explained_variance(returns, np.full(3, 2.0)) == 0.0
