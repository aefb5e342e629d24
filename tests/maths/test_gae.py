"""Generalised advantage estimation is the sum that defines it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.maths.gae import advantages

NUMBERS = st.floats(-5, 5, width=32)
RESPONSES = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12)
SHARES = st.floats(0, 1)


def arrays(response: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and values, float32 as a learner has them."""
    table = np.array(response, dtype=np.float32).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@given(RESPONSES, SHARES, SHARES)
def test_advantages_are_the_discounted_sum_of_temporal_differences(
    response: list[tuple[float, float]], gamma: float, lam: float
) -> None:
    rewards, values = arrays(response)
    found, returns = advantages(rewards, values, gamma, lam)
    after = [*values[1:].tolist(), 0.0]
    expected = []
    for t in range(len(response)):
        total = 0.0
        for step in range(len(response) - t):
            delta = rewards[t + step] + gamma * after[t + step] - values[t + step]
            total += (gamma * lam) ** step * delta
        expected.append(total)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(returns, np.array(expected) + values, rtol=1e-5, atol=1e-4)
    assert found.dtype == returns.dtype == np.float32


@given(RESPONSES)
def test_with_lambda_and_gamma_1_a_return_is_what_is_still_to_come(response: list[tuple[float, float]]) -> None:
    rewards, values = arrays(response)
    _, returns = advantages(rewards, values, 1.0, 1.0)
    np.testing.assert_allclose(returns, [rewards[t:].sum() for t in range(len(rewards))], rtol=1e-4, atol=1e-4)


def test_three_tokens_by_hand() -> None:
    # δ = (1 + ½·1 − ½, 0 + ½·(−1) − 1, 2 − (−1)) = (1, −1.5, 3), each later one counts a quarter.
    found, returns = advantages(np.array([1.0, 0.0, 2.0]), np.array([0.5, 1.0, -1.0]), gamma=0.5, lam=0.5)
    assert found.tolist() == pytest.approx([0.8125, -0.75, 3.0])
    assert returns.tolist() == pytest.approx([1.3125, 0.25, 2.0])


def test_advantages_carry_from_one_sampled_part_to_the_next_by_hand() -> None:
    # Written: tokens 2, 3 and 6 of seven. What stands between counts for nothing, so 6 follows 3 directly:
    # δ_6 = 2 − 1 = 1, A_6 = 1; δ_3 = 0 + ½·1 − 2 = −1.5, A_3 = −1.5 + ¼·1; δ_2 = 1 + ½·2 − 0 = 2, A_2 = 2 + ¼·A_3.
    mask = np.array([0, 0, 1, 1, 0, 0, 1], dtype=bool)
    rewards = np.array([9.0, 9.0, 1.0, 0.0, 9.0, 9.0, 2.0])
    values = np.array([7.0, 7.0, 0.0, 2.0, 7.0, 7.0, 1.0])
    found, returns = advantages(rewards[mask], values[mask], gamma=0.5, lam=0.5)
    assert found.tolist() == pytest.approx([1.6875, -1.25, 1.0])
    assert returns.tolist() == pytest.approx([1.6875, 0.75, 2.0])
