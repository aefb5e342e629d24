"""The losses against numbers worked by hand, with each clip active on each side."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor

from pit_ray.maths.correction import importance_weights
from pit_ray.maths.losses import bradley_terry, clipped_policy, clipped_value, five_comparisons

# log(1 + e^−d): what a comparison that is right by d costs.
COST = {0: 0.6931472, 1: 0.3132617, 2: 0.1269280, 3: 0.0485874, -2: 2.1269280}


def ratios(*values: float) -> tuple[Tensor, Tensor]:
    """New and old log-probabilities of tokens whose probability was ½ and is now so many times that."""
    old = torch.full((len(values),), math.log(0.5))
    return (old + tensor(values).log()).requires_grad_(), old


def test_clipped_policy_by_hand() -> None:
    # ratio, advantage -> surrogate: 1.5, 1 -> 1.2 clipped; 1.5, −1 -> −1.5; ½, 1 -> ½; ½, −1 -> −0.8 clipped;
    # 1.1, 2 -> 2.2 within the range.
    new, old = ratios(1.5, 1.5, 0.5, 0.5, 1.1)
    advantages = tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    loss, found = clipped_policy(new, old, advantages, torch.ones(5), clip=0.2)
    assert float(loss.detach()) == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8 + 2.2))
    assert found.tolist() == pytest.approx([1.5, 1.5, 0.5, 0.5, 1.1])
    loss.backward()
    assert new.grad is not None
    # A clipped token teaches nothing; the others −ratio · advantage.
    assert new.grad.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0, -2.2])


def test_importance_weights_scale_each_token_of_the_policy_loss() -> None:
    new, old = ratios(1.0, 1.0)
    loss, _ = clipped_policy(new, old, tensor([3.0, 5.0]), tensor([2.0, 0.5]), clip=0.2)
    assert float(loss.detach()) == pytest.approx(-(6.0 + 2.5))


def test_clipped_value_by_hand() -> None:
    # All were 0. Return 1: 0.5 is held at 0.2, which is worse, so 0.8² counts; −0.5 is held at −0.2, which is better,
    # so 1.5² counts; 0.1 is not held: 0.9². Return −1: −0.5 is held at −0.2: 0.8².
    values = tensor([0.5, -0.5, 0.1, -0.5], requires_grad=True)
    loss = clipped_value(values, torch.zeros(4), tensor([1.0, 1.0, 1.0, -1.0]), clip=0.2)
    assert float(loss.detach()) == pytest.approx((0.64 + 2.25 + 0.81 + 0.64) / 2)
    loss.backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0.0, -1.5, -0.9, 0.0])


def test_an_unlimited_value_clip_leaves_half_the_squared_error_and_its_whole_gradient() -> None:
    values = tensor([4.0, -3.0, 0.5], requires_grad=True)
    loss = clipped_value(values, torch.zeros(3), tensor([1.0, 1.0, 1.0]), clip=math.inf)
    assert float(loss.detach()) == pytest.approx((9 + 16 + 0.25) / 2)
    loss.backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([3.0, -4.0, -0.5])


def test_bradley_terry_by_hand() -> None:
    loss = bradley_terry(tensor([1.0, 5.0, 0.0]), tensor([0.0, 5.0, 2.0]))
    assert float(loss) == pytest.approx(COST[1] + COST[0] + COST[-2], abs=1e-6)


def test_five_comparisons_by_hand() -> None:
    # wl 2, ww 1, ll 0, lw −1: wl−ww 1, wl−ll 2, wl−lw 3, ww−lw 2, ll−lw 1.
    loss = five_comparisons(tensor([2.0]), tensor([1.0]), tensor([0.0]), tensor([-1.0]))
    assert float(loss) == pytest.approx(2 * COST[1] + 2 * COST[2] + COST[3], abs=1e-6)


def test_five_comparisons_add_up_over_pairs_and_start_at_five_coin_tosses_each() -> None:
    assert float(five_comparisons(*torch.zeros(4, 3))) == pytest.approx(15 * COST[0], abs=1e-5)


def test_five_comparisons_pull_towards_the_order_of_the_paper() -> None:
    roles = [torch.zeros(1, requires_grad=True) for _ in range(4)]
    five_comparisons(*roles).backward()
    wl, ww, ll, lw = (float(role.grad) for role in roles if role.grad is not None)
    # Down the gradient wl rises and lw falls, each by three comparisons; ww and ll are held between them.
    assert (wl, lw) == pytest.approx((-1.5, 1.5))
    assert (ww, ll) == pytest.approx((0.0, 0.0))


@given(st.lists(st.tuples(st.floats(-30, 0), st.floats(-30, 0)), max_size=20), st.floats(1, 5))
def test_importance_weights_are_probability_ratios_up_to_the_cap(
    logprobs: list[tuple[float, float]], cap: float
) -> None:
    learner, sampler = np.array(logprobs).reshape(-1, 2).T
    weights = importance_weights(learner, sampler, cap)
    assert weights.dtype == np.float32
    for weight, (ours, theirs) in zip(weights, logprobs, strict=True):
        expected = cap if ours > theirs + math.log(cap) else math.exp(ours) / math.exp(theirs)
        assert weight == pytest.approx(expected, rel=1e-4, abs=3e-9)
