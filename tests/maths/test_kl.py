"""The KL estimators have the right mean, and the controller steers towards its target."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import rel_entr, softmax
from transformers import LlamaConfig, LlamaForCausalLM

from pit_ray.maths.kl import KlController, k1, k3
from pit_ray.maths.masked import row_sums
from pit_ray.models.logprobs import token_logprobs
from pit_ray.models.packing import collate
from pit_ray.records import Ragged

LOGITS = hnp.arrays(np.float64, 6, elements=st.floats(-4, 4))


@given(LOGITS, LOGITS)
def test_the_mean_of_both_estimators_over_the_policy_is_the_divergence(ours: np.ndarray, theirs: np.ndarray) -> None:
    p, q = softmax(ours), softmax(theirs)
    exact = rel_entr(p, q).sum()
    assert p @ k1(np.log(p), np.log(q)) == pytest.approx(exact, abs=1e-9)
    assert p @ k3(np.log(p), np.log(q)) == pytest.approx(exact, abs=1e-9)


def tiny(seed: int) -> LlamaForCausalLM:
    """A language model over four tokens with clear preferences."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        initializer_range=1.0, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def next_token(model: LlamaForCausalLM, before: tuple[int, ...]) -> np.ndarray:
    with torch.no_grad():
        return softmax(model(input_ids=torch.tensor([before])).logits[0, -1].double().numpy())


def test_the_mean_kl_of_responses_is_the_divergence_of_the_models_over_all_of_them() -> None:
    policy, reference, prompt = tiny(0), tiny(1), (2, 0)
    responses = list(product(range(4), repeat=3))
    batch = collate([np.array(prompt)] * len(responses), [np.array(r) for r in responses], torch.device("cpu"))
    with torch.no_grad():
        ours, theirs = (token_logprobs(m, batch)[0].numpy() for m in (policy, reference))
    offsets = np.arange(0, 3 * len(responses) + 1, 3)
    chance = np.exp(row_sums(Ragged(ours, offsets)))
    # By the chain rule: at each place the divergence of the next token, as often as the policy comes there.
    exact = 0.0
    for length in range(3):
        for written in product(range(4), repeat=length):
            reached = np.prod([next_token(policy, (*prompt, *written[:t]))[token] for t, token in enumerate(written)])
            p, q = (next_token(m, (*prompt, *written)) for m in (policy, reference))
            exact += reached * rel_entr(p, q).sum()
    assert chance.sum() == pytest.approx(1, abs=1e-5)
    assert exact > 0.1
    for estimator in (k1, k3):
        assert chance @ row_sums(Ragged(estimator(ours, theirs), offsets)) == pytest.approx(exact, rel=1e-5)


FLOATS = hnp.arrays(np.float32, 8, elements=st.floats(-1000, 0, width=32))


@given(FLOATS, FLOATS, st.sampled_from([1.0, 1e-3, 1e-6]))
def test_k3_is_never_negative_and_always_finite(logprobs: np.ndarray, away: np.ndarray, scale: float) -> None:
    found = np.concatenate([k3(logprobs, logprobs + sign * np.float32(scale) * away) for sign in (-1, 1)])
    assert (found >= 0).all()
    assert np.isfinite(found).all()


def test_equal_policies_have_no_divergence_token_by_token() -> None:
    same = np.array([-0.1, -5.0], dtype=np.float32)
    assert k1(same, same).tolist() == k3(same, same).tolist() == [0.0, 0.0]


def test_k1_is_negative_where_the_reference_likes_a_token_more() -> None:
    assert k1(np.array([-2.0]), np.array([-0.5])).tolist() == [-1.5]


CONTROLLER = KlController(coefficient=0.1, target=6.0, horizon=1000.0)


def test_the_adaptive_coefficient_moves_by_the_error_and_the_samples() -> None:
    # 10 % over the target, 100 samples of a horizon of 1000: one percent up; and the same down.
    assert CONTROLLER.updated(6.6, 100).coefficient == pytest.approx(0.101)
    assert CONTROLLER.updated(5.4, 100).coefficient == pytest.approx(0.099)
    assert CONTROLLER.updated(6.0, 100).coefficient == pytest.approx(0.1)


def test_the_adaptive_coefficient_never_moves_faster_than_a_fifth_of_that() -> None:
    assert CONTROLLER.updated(60.0, 100).coefficient == pytest.approx(0.102)
    assert CONTROLLER.updated(1e9, 100).coefficient == pytest.approx(0.102)
    assert CONTROLLER.updated(-50.0, 100).coefficient == pytest.approx(0.098)


def test_steering_goes_on_from_where_it_stands() -> None:
    twice = CONTROLLER.updated(60.0, 100).updated(60.0, 100)
    assert twice.coefficient == pytest.approx(0.1 * 1.02**2)
    assert (twice.target, twice.horizon) == (6.0, 1000.0)


def test_without_a_target_the_coefficient_is_fixed() -> None:
    fixed = KlController(0.1, None, 1000.0)
    assert fixed.updated(100.0, 1000) == fixed
