"""p-values and intervals against their definitions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.evaluate.significance import holm, sign_test, wilson


def outcomes(wins: int, losses: int, ties: int) -> np.ndarray:
    return np.repeat([1, -1, 0], [wins, losses, ties]).astype(np.int8)


@pytest.mark.parametrize(("wins", "losses"), [(8, 1), (1, 8), (15, 5), (7, 7), (30, 12)])
def test_the_sign_test_counts_all_that_is_as_uneven(wins, losses):
    n = wins + losses
    uneven = sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(wins - losses)) / 2**n
    for ties in (0, 9):
        assert sign_test(outcomes(wins, losses, ties)) == pytest.approx(uneven), "ties say nothing"
    assert sign_test(outcomes(0, 0, 5)) == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p):
    found = holm(p)
    for i in range(len(p)):
        sets = [s for r in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), r) if i in s]
        assert found[i] == pytest.approx(max(min(1, len(s) * min(p[j] for j in s)) for s in sets))
    assert holm([]) == []


def test_wilson_solves_its_equation():
    z, n = 1.959964, 80
    for right in (0, 3, 40, 80):
        for end in wilson(right, n):
            assert abs(right / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), abs=1e-6)
