"""Rollouts and scores become experience: what each token is rewarded for, and what PPO is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from pit_ray.config.training import Optimizer, Phase, Ppo
from pit_ray.experience import build_experience
from pit_ray.learn import ppo
from pit_ray.learn.engine import TorchEngine
from pit_ray.learn.modules import ActorCritic
from pit_ray.metrics import Metrics
from pit_ray.models.load import load_scalar
from pit_ray.records import Experience, Prompts, Ragged, Rollouts, Scores

PPO = Ppo(
    phases=(Phase(name="policy", drafts="none", steps=1),),
    gamma=1.0,
    gae_lambda=1.0,
    importance_cap=1.5,
    missing_eos_penalty=2.0,
    optimizer=Optimizer(lr=1e-3, warmup_steps=0),
    minibatches=1,
)
BETA = 0.5
TEMPERATURE = 0.8
BRIDGE = np.array([1, 9], dtype=np.int32)
PROMPTS = Prompts(
    np.arange(3), Ragged.of([[5, 6], [7], [8, 9, 10]]), Ragged.of([[20], [21, 22], [23]]), np.ones(3, np.int8), BRIDGE
)
RESPONSES = Ragged.of([[30, 31, 1], [32, 1], [33, 34, 35, 36]])
FINISHED = np.array([True, True, False])
SCORES = Scores(np.array([1.0, -2.0, 4.0], dtype=np.float32), np.zeros(3, dtype=np.float32))
KL = Ragged.of([[0.5, -0.25, 1.0], [0.0, 2.0], [-1.0, 0.5, 0.25, 0.25]], np.float32)
"""log π − log π_ref of every token; the reference is made to fit."""
RATIO = Ragged.of([[1.0, 0.5, 1.2], [3.0, 1.0], [1.0, 1.0, 0.1, 1.4]], np.float32)
"""π_learner / π_sampler of every token; the sampler is made to fit."""


@pytest.fixture(scope="module")
def engine(new_model: Callable[[int], PreTrainedModel], scalar: Path) -> TorchEngine:
    module = ActorCritic(new_model(1), load_scalar(scalar, torch.float32))
    return TorchEngine(module, PPO.optimizer, 10)


@pytest.fixture(scope="module")
def true_logprobs(engine: TorchEngine) -> Ragged:
    """The learner's log-probabilities of the responses, row by row from plain logits."""
    rows = []
    policy: Any = engine.module.policy
    with torch.no_grad():
        for prompt, draft, response in zip(PROMPTS.prompt.rows(), PROMPTS.draft.rows(), RESPONSES.rows(), strict=True):
            ids = torch.tensor([[*prompt, *draft, *BRIDGE, *response]])
            logits = policy(input_ids=ids).logits[0, -len(response) - 1 : -1] / TEMPERATURE
            rows.append(torch.log_softmax(logits, -1)[range(len(response)), response].numpy())
    return Ragged.of(rows, np.float32)


def build(engine: TorchEngine, true_logprobs: Ragged, settings: Ppo = PPO) -> tuple[Experience, Metrics]:
    offsets = true_logprobs.offsets
    sampler = Ragged(true_logprobs.values - np.log(RATIO.values), offsets)
    reference = Ragged(true_logprobs.values - KL.values, offsets)
    rollouts = Rollouts(PROMPTS, RESPONSES, sampler, FINISHED, version=3, temperature=TEMPERATURE)
    return build_experience(engine, rollouts, SCORES, reference, BETA, settings)


def plain(rows: Ragged) -> list[list[float]]:
    return [row.tolist() for row in rows.rows()]


def assert_close(found: Ragged, expected: list[list[float]]) -> None:
    assert found.lengths.tolist() == [len(row) for row in expected]
    np.testing.assert_allclose(found.values, np.concatenate(expected), rtol=1e-4, atol=1e-4)


def test_a_return_is_the_score_at_the_end_less_the_kl_still_to_come(engine: TorchEngine, true_logprobs: Ragged) -> None:
    experience, _ = build(engine, true_logprobs)
    # Scores 1, −2 and, without an end token, 4 − 2; from each the KL from here on, halved.
    assert_close(
        experience.returns,
        [
            [1 - 0.625, 1 - 0.375, 1 - 0.5],
            [-2 - 1.0, -2 - 1.0],
            [2 - 0.0, 2 - 0.5, 2 - 0.25, 2 - 0.125],
        ],
    )


def test_with_lambda_0_a_return_is_this_tokens_reward_and_the_next_value(
    engine: TorchEngine, true_logprobs: Ragged
) -> None:
    experience, _ = build(engine, true_logprobs, PPO.model_copy(update={"gae_lambda": 0.0}))
    rewards = [[-0.25, 0.125, 1 - 0.5], [0.0, -2 - 1.0], [0.5, -0.25, -0.125, 2 - 0.125]]
    following = [[*row[1:], 0.0] for row in plain(experience.values)]
    assert_close(experience.returns, [np.add(*rows).tolist() for rows in zip(rewards, following, strict=True)])


def test_advantages_are_returns_less_values_whitened_over_all_tokens(
    engine: TorchEngine, true_logprobs: Ragged
) -> None:
    experience, _ = build(engine, true_logprobs)
    raw = experience.returns.values - experience.values.values
    assert experience.advantages.values.mean() == pytest.approx(0, abs=1e-5)
    assert experience.advantages.values.std() == pytest.approx(1, abs=1e-4)
    slope, _ = np.polyfit(raw, experience.advantages.values, 1)
    assert slope > 0
    assert np.corrcoef(raw, experience.advantages.values)[0, 1] == pytest.approx(1, abs=1e-5)


def test_logprobs_are_the_learners_and_weights_correct_for_the_sampler(
    engine: TorchEngine, true_logprobs: Ragged
) -> None:
    experience, metrics = build(engine, true_logprobs)
    assert_close(experience.logprobs, plain(true_logprobs))
    assert_close(experience.weights, [[1.0, 0.5, 1.2], [1.5, 1.0], [1.0, 1.0, 0.1, 1.4]])
    assert metrics.mean("val/sampler_mismatch_max") == pytest.approx(math.log(10), rel=1e-3)
    assert metrics.mean("val/sampler_mismatch") == pytest.approx(np.abs(np.log(RATIO.values)).mean(), rel=1e-3)


@pytest.mark.parametrize(("lag", "cap"), [(0, 2.0), (1, 1.0)])
def test_without_a_cap_of_its_own_it_is_that_of_the_lag(
    engine: TorchEngine, true_logprobs: Ragged, lag: int, cap: float
) -> None:
    settings = PPO.model_copy(update={"lag": lag, "importance_cap": None})
    weights = build(engine, true_logprobs, settings)[0].weights
    assert_close(weights, [np.minimum(row, cap) for row in RATIO.rows()])


def test_values_are_what_the_value_model_says_before_each_token(engine: TorchEngine, true_logprobs: Ragged) -> None:
    experience, _ = build(engine, true_logprobs)
    model: Any = engine.module.value
    expected = []
    with torch.no_grad():
        for prompt, draft, response in zip(PROMPTS.prompt.rows(), PROMPTS.draft.rows(), RESPONSES.rows(), strict=True):
            ids = [*prompt, *draft, *BRIDGE, *response]
            hidden = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
            expected.append(model.score(hidden)[-len(response) - 1 : -1, 0].tolist())
    assert_close(experience.values, expected)


def test_context_response_and_temperature_are_passed_on(engine: TorchEngine, true_logprobs: Ragged) -> None:
    experience, _ = build(engine, true_logprobs)
    assert plain(experience.context) == [[5, 6, 20, 1, 9], [7, 21, 22, 1, 9], [8, 9, 10, 23, 1, 9]]
    assert plain(experience.response) == plain(RESPONSES)
    assert experience.temperature == TEMPERATURE
    for name in ("logprobs", "advantages", "returns", "values", "weights"):
        column = getattr(experience, name)
        assert column.values.dtype == np.float32
        assert column.lengths.tolist() == RESPONSES.lengths.tolist()


def test_metrics_speak_of_samples_and_tokens(engine: TorchEngine, true_logprobs: Ragged) -> None:
    _, metrics = build(engine, true_logprobs)
    values = metrics.values_by_name()
    assert values["objective/kl"] == pytest.approx((1.25 + 2.0 + 0.0) / 3, abs=1e-4)
    assert values["objective/score"] == pytest.approx((1 - 2 + 2) / 3)
    assert values["objective/kl_coefficient"] == BETA
    assert values["val/eos_rate"] == pytest.approx(2 / 3)
    assert values["val/response_length"] == pytest.approx(3.0)
    assert values["objective/entropy"] > 0
    assert values["objective/kl_k3_token"] > 0
    assert metrics["objective/kl"][1] == 3
    assert metrics["objective/entropy"][1] == 9


@pytest.mark.parametrize("budget", [1, 20])
def test_experience_does_not_depend_on_micro_batches(engine: TorchEngine, true_logprobs: Ragged, budget: int) -> None:
    small = PPO.model_copy(update={"optimizer": PPO.optimizer.model_copy(update={"micro_batch_tokens": budget})})
    whole, _ = build(engine, true_logprobs)
    cut, _ = build(engine, true_logprobs, small)
    for name in ("logprobs", "values", "advantages", "returns"):
        assert_close(getattr(cut, name), plain(getattr(whole, name)))


def test_the_learner_starts_from_its_own_experience_at_ratio_1(
    new_model: Callable[[int], PreTrainedModel], scalar: Path, engine: TorchEngine, true_logprobs: Ragged
) -> None:
    learner = TorchEngine(ActorCritic(new_model(1), load_scalar(scalar, torch.float32)), PPO.optimizer, 10)
    experience, _ = build(learner, true_logprobs)
    assert (
        ppo.step(learner, experience, PPO, seed=0, ratio_limit=ppo.RATIO_LIMIT[torch.float32])["val/ratio"][1] == 2 * 9
    )


def test_a_response_that_ended_is_not_punished(engine: TorchEngine, true_logprobs: Ragged) -> None:
    lenient = PPO.model_copy(update={"missing_eos_penalty": 0.0})
    strict, _ = build(engine, true_logprobs)
    without, _ = build(engine, true_logprobs, lenient)
    gained = replace(strict, returns=Ragged(without.returns.values - strict.returns.values, RESPONSES.offsets))
    assert_close(gained.returns, [[0, 0, 0], [0, 0], [2, 2, 2, 2]])
