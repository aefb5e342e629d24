"""Losses and gradients are the same however a step is cut and padded, and whatever dropout the model was made with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pit_ray.config.training import Optimizer, Phase, Ppo
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds import WORLDS, base_folder
from pit_ray.learn import reward, sft
from pit_ray.learn.engine import TorchEngine
from pit_ray.learn.modules import Policy, Reward
from pit_ray.learner import PpoLearner
from pit_ray.metrics import Metrics
from pit_ray.models import load, packing
from pit_ray.models.load import load_causal, load_scalar, load_tokenizer
from pit_ray.records import Pairs, Prompts, Ragged, Rollouts, Scores
from pit_ray.roles import LearnerSpec
from pit_ray.store import Store

EOS = 1
BRIDGE = np.array([1, 40, 41], dtype=np.int32)
OPTIMIZER = Optimizer(lr=1e-3, warmup_steps=0)
LOSSES = {"loss/sft", "loss/reward", "loss/policy_avg", "loss/value_avg"}

Gradients = dict[str, Tensor]
Step = Callable[[int], tuple[dict[str, float], Gradients]]
"""Budget of a micro-batch -> the losses and the gradients of one step on fresh weights."""


class Recording(TorchEngine):
    """Keeps the gradients of its last step."""

    gradients: Gradients

    def apply(self) -> float:
        self.gradients = {n: p.grad.clone() for n, p in self.module.named_parameters() if p.grad is not None}
        return super().apply()


def spec(policy: Path, value: Path, budget: int, dtype: str = "float32") -> LearnerSpec:
    optimizer = OPTIMIZER.model_copy(update={"micro_batch_tokens": budget})
    phases = (Phase(name="improver", drafts="annotated", steps=2),)
    settings = Ppo(phases=phases, epochs=1, minibatches=1, value_clip=0.2, optimizer=optimizer)
    return LearnerSpec(policy, value, policy, settings, dtype, 2, 7, False, Store(policy))


def learned(pairs: Pairs, learner: PpoLearner) -> Metrics:
    """One PPO step on made-up responses, scores and reference."""
    rng = np.random.default_rng(5)
    prompts = Prompts(pairs.uid, pairs.prompt, pairs.rejected, np.ones(len(pairs), dtype=np.int8), BRIDGE)
    noise = Ragged(rng.normal(-5, 0.3, len(pairs.chosen.values)).astype(np.float32), pairs.chosen.offsets)
    rollouts = Rollouts(prompts, pairs.chosen, noise, np.arange(len(pairs)) % 2 == 0, temperature=0.8)
    score = rng.normal(size=len(pairs)).astype(np.float32)
    return learner.learn(rollouts, Scores(score, np.zeros_like(score)), noise, 0.05, seed=3)


@pytest.fixture(params=["policy", "improver", "reward", "gap reward", "ppo"])
def step(request: pytest.FixtureRequest, causal: Path, scalar: Path, pairs: Pairs) -> Step:
    def run(budget: int) -> tuple[dict[str, float], Gradients]:
        bridge = BRIDGE if request.param in ("improver", "gap reward") else None
        if request.param == "ppo":
            learner = PpoLearner(spec(causal, scalar, budget), Recording)
            metrics, engine = learned(pairs, learner), learner.engine
        elif "reward" in request.param:
            engine = Recording(Reward(load_scalar(scalar, torch.float32)), OPTIMIZER, 2)
            metrics = reward.step(engine, pairs, bridge, EOS, budget)
        else:
            engine = Recording(Policy(load_causal(causal, torch.float32)), OPTIMIZER, 2)
            metrics = sft.step(engine, sft.examples(pairs, bridge, EOS), budget)
        assert isinstance(engine, Recording)
        return {name: metrics.mean(name) for name in LOSSES & metrics.keys()}, engine.gradients

    return run


def assert_equal(found: tuple[dict[str, float], Gradients], expected: tuple[dict[str, float], Gradients]) -> None:
    assert found[0] and found[0] == pytest.approx(expected[0], rel=1e-6, abs=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert gradient.norm() > 0, name
        assert (found[1][name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("budget", [120, 1])
def test_losses_and_gradients_do_not_depend_on_micro_batches(step: Step, budget: int) -> None:
    assert_equal(step(budget), step(100_000))


@pytest.mark.parametrize("shared", [1, 10**9])
def test_losses_and_gradients_do_not_depend_on_what_is_shared(
    step: Step, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = step(300)
    monkeypatch.setattr(packing, "LEAST_SHARED", shared)
    assert_equal(step(300), expected)


def test_losses_and_gradients_of_packed_and_of_padded_rows_are_the_same(
    step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = step(300)
    monkeypatch.setattr(load, "use_packing", lambda model: None)
    assert_equal(step(300), expected)


def with_dropout(folder: Path, target: Path) -> Path:
    """The same model, made with dropout."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    assert config["attention_dropout"] == 0.0
    (target / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}), encoding="utf-8")
    return target


def test_nothing_drops_out_in_ppo(causal: Path, scalar: Path, pairs: Pairs, tmp_path: Path) -> None:
    dropping = with_dropout(causal, tmp_path / "policy"), with_dropout(scalar, tmp_path / "value")
    plain, other = PpoLearner(spec(causal, scalar, 300), Recording), PpoLearner(spec(*dropping, 300), Recording)
    assert learned(pairs, other) == learned(pairs, plain)
    weights = plain.weights()
    assert all(torch.equal(weight, weights[name]) for name, weight in other.weights().items())
    # The dropout is real: in training mode the same model answers otherwise each time.
    other.policy.train()
    ids = torch.arange(2, 12)[None]
    first, second = (other.policy(input_ids=ids).logits for _ in range(2))
    assert not torch.equal(first, second)


def test_the_first_ratio_is_1_in_bfloat16(scalar: Path) -> None:
    # A trained model, whose logits are large, in minibatches: there rounding depends on what else is in the batch.
    base = base_folder("notes")
    pairs = Renderer(load_tokenizer(base), "improve").tokenise(WORLDS["notes"].pairs(64, seed=3))
    plain = spec(base, scalar, 8192, "bfloat16")
    still = OPTIMIZER.model_copy(update={"lr": 1e-12, "micro_batch_tokens": 8192})
    settings = plain.ppo.model_copy(update={"minibatches": 4, "optimizer": still})
    learner = PpoLearner(replace(plain, ppo=settings), TorchEngine)
    prompts = Prompts(pairs.uid, pairs.prompt, pairs.rejected, np.ones(len(pairs), dtype=np.int8), BRIDGE)
    sampled = Ragged(np.full(len(pairs.chosen.values), -2, np.float32), pairs.chosen.offsets)
    rollouts = Rollouts(prompts, pairs.chosen, sampled, np.ones(len(pairs), dtype=bool), temperature=1.0)
    zero = np.zeros(len(pairs), np.float32)
    # The learner itself holds the first minibatch to the limit; nothing moves, so the others are like it.
    learned = learner.learn(rollouts, Scores(zero, zero), sampled, 0.05, seed=3)
    assert learned.mean("val/ratio") == pytest.approx(1.0, abs=2e-2)
    assert next(iter(learner.weights().values())).dtype == torch.bfloat16
