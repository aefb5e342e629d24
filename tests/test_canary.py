"""After a sync every sampler answers as the learner does, or it is named with what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from pit_ray.canary import TOKENS, Answers, canary, check
from pit_ray.config.training import Optimizer, Phase, Ppo
from pit_ray.errors import TrainingError
from pit_ray.in_process import TorchLearner, TorchRollout
from pit_ray.records import Pairs, Ragged, Rollouts
from pit_ray.roles import LearnerSpec, Resolved
from pit_ray.store import Store

EOS = 1


def answers(version: int, learner: list[float], *workers: list[float]) -> Answers:
    return Answers(version, np.array(learner, np.float32), np.array(workers, np.float32))


BEFORE = answers(4, [-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0])


def test_the_largest_difference_of_any_worker_is_measured() -> None:
    now = answers(5, [-1.5, -2.5, -3.5], [-1.5, -2.5, -3.53], [-1.51, -2.5, -3.5])
    metrics = check(now, BEFORE, tolerance=0.1)
    assert metrics.mean("val/canary_difference") == pytest.approx(0.03, rel=1e-4)


def test_a_worker_beyond_the_tolerance_is_named_with_version_and_size() -> None:
    now = answers(5, [-1.5, -2.5, -3.5], [-1.5, -2.5, -3.5], [-1.5, -2.75, -3.5])
    with pytest.raises(TrainingError, match=r"rollout/1 .* version 5: .* up to 0\.25 nats .*0\.1\).*partial"):
        check(now, BEFORE, tolerance=0.1)


def test_a_worker_that_answers_as_before_is_stale_at_any_tolerance() -> None:
    now = answers(5, [-1.001, -2.001, -3.001], [-1.002, -2.001, -3.001], [-1.0, -2.0, -3.0])
    with pytest.raises(TrainingError, match=r"rollout/1 .* after version 4 did not reach it \(stale"):
        check(now, BEFORE, tolerance=0.1)


def test_workers_may_answer_as_before_where_the_learner_does_too() -> None:
    assert check(BEFORE, BEFORE, tolerance=1e-4).mean("val/canary_difference") == 0
    # Here it has moved by no more than rounding, or in few tokens: too little to be sure that a sampler must follow.
    for still in ([-1.000001, -2.000001, -3.000001], [-1.001, -2.0, -3.0]):
        check(answers(5, still, [-1.0, -2.0, -3.0]), answers(4, [-1, -2, -3], [-1, -2, -3]), 0.1)


def test_the_first_sync_has_nothing_to_compare_with_but_the_learner() -> None:
    check(BEFORE, None, tolerance=1e-4)
    with pytest.raises(TrainingError, match="rollout/0"):
        check(answers(0, [-1.0], [-2.0]), None, tolerance=1e-4)


def test_an_answer_that_is_no_number_is_not_agreement() -> None:
    with pytest.raises(TrainingError, match="rollout/1"):
        check(answers(5, [-1.0, -2.0], [-1.0, -2.0], [-1.0, np.nan]), None, tolerance=1e-4)


def test_the_canary_is_long_enough_to_tell_and_its_prompt_short() -> None:
    prompts = Ragged.of([[2] * 9, [3] * 2, [4] * 5, [5] * 1])
    chosen = Ragged.of([[7] * (TOKENS + 8), [7] * (TOKENS - 1), [8] * TOKENS, [9] * 3])
    asked = canary(Pairs(np.arange(4), prompts, chosen, chosen), EOS)
    assert [row.tolist() for row in asked.prompts.contexts().rows()] == [[4] * 5]
    assert [row.tolist() for row in asked.response.rows()] == [[8] * TOKENS + [EOS]]


@pytest.fixture
def learner(causal: Path, scalar: Path) -> TorchLearner:
    optimizer = Optimizer(lr=1e-5, schedule="constant", warmup_steps=0)
    ppo = Ppo(phases=(Phase(name="policy", drafts="none", steps=3),), minibatches=1, optimizer=optimizer)
    started = TorchLearner()
    started.start(LearnerSpec(causal, scalar, causal, ppo, "float32", 3, 7, False, Store(causal)), None)
    return started


def moved(learner: TorchLearner) -> None:
    """The learner's policy after an update of one learning rate a weight."""
    with torch.no_grad():
        for parameter in learner.learner.policy.parameters():
            parameter += 1e-5 * torch.sign(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


class Pool(TorchRollout):
    """A pool whose weights are set by the test."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.version, self.eos = model, 0, EOS


def verified(learner: TorchLearner, pool: TorchRollout, asked: Rollouts, version: int) -> float:
    metrics = learner.verify(asked, pool.logprobs(asked), version).result()
    return metrics.mean("val/canary_difference")


def test_learner_and_sampler_agree_after_each_sync_and_not_without(
    learner: TorchLearner, new_model: Callable[[int], PreTrainedModel], pairs: Pairs
) -> None:
    pool, asked = Pool(new_model(1)), canary(pairs, EOS)
    with pytest.raises(TrainingError, match="version 0"):
        verified(learner, Pool(new_model(2)), asked, 0)
    learner.learner.answers = None
    assert verified(learner, pool, asked, 0) < 1e-5
    moved(learner)
    with pytest.raises(TrainingError, match=r"version 1: .*stale"):
        verified(learner, pool, asked, 1)
    pool.sync(learner.weights(), 1)
    assert verified(learner, pool, asked, 1) < 1e-5


def test_an_update_that_lacks_a_layer_shows(
    learner: TorchLearner, new_model: Callable[[int], PreTrainedModel], pairs: Pairs
) -> None:
    pool, asked = Pool(new_model(1)), canary(pairs, EOS)
    verified(learner, pool, asked, 0)
    for _ in range(100):
        moved(learner)
    weights = learner.weights().result()
    name = "model.layers.1.mlp.down_proj.weight"
    pool.sync(Resolved(weights | {name: pool.model.state_dict()[name].clone()}), 1)
    with pytest.raises(TrainingError, match=r"rollout/0 .*partial"):
        verified(learner, pool, asked, 1)
