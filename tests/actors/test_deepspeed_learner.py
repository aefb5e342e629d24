"""PPO steps on DeepSpeed, ZeRO 0 to 3 and one or two ranks, against plain PyTorch in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from actors.learner import LearnerActor, RayLearner, learner_environment
from actors.plan import Bundle
from pit_ray.config import Config
from pit_ray.config.actors import LearnerActors
from pit_ray.config.tree import Optimizer, Phase, Ppo
from pit_ray.in_process import TorchLearner
from pit_ray.metrics import Metrics
from pit_ray.records import Prompts, Ragged, Rollouts, Scores
from pit_ray.roles import LearnerSpec, Resolved

pytestmark = pytest.mark.slow


def ppo(micro_batch_tokens: int) -> Ppo:
    return Ppo(
        phases=(Phase(name="p", drafts="annotated", steps=3),),
        rollouts_per_step=24,
        optimizer=Optimizer(lr=1e-3, schedule="constant", warmup_steps=0, micro_batch_tokens=micro_batch_tokens),
    )


def spec(folders: dict[str, Path], micro_batch_tokens: int = 600) -> LearnerSpec:
    return LearnerSpec(
        policy=folders["policy"],
        value=folders["reward"],
        renderer=folders["policy"],
        ppo=ppo(micro_batch_tokens),
        dtype="float32",
        total_steps=3,
        seed=11,
        trust_remote_code=False,
    )


@pytest.fixture(scope="module")
def batch(prompts: Prompts) -> tuple[Rollouts, Scores, Ragged]:
    """Made-up responses with scores and reference log-probabilities: the learner must not care where they come from."""
    rng = np.random.default_rng(0)
    responses = Ragged.of(rng.integers(5, 60, size=rng.integers(3, 20)) for _ in range(len(prompts)))
    noise = Ragged(rng.normal(-3, 1, len(responses.values)).astype(np.float32), responses.offsets)
    rollouts = Rollouts(prompts, responses, noise, np.zeros(len(prompts), dtype=bool))
    score = rng.normal(size=len(prompts)).astype(np.float32)
    return rollouts, Scores(score, np.zeros_like(score)), noise


def train(learner: Any, started: LearnerSpec, batch: tuple[Rollouts, Scores, Ragged]) -> tuple[Metrics, dict[str, Any]]:
    """Metrics of the second of two steps, and the policy after them."""
    learner.start(started, None).result()
    for step in range(2):
        metrics = learner.learn(*(Resolved(part) for part in batch), 0.05, step).result()
    return metrics, learner.weights().result()


def check_equal(expected: tuple[Metrics, dict[str, Any]], found: tuple[Metrics, dict[str, Any]]) -> None:
    for name in ("loss/policy_avg", "loss/value_avg", "objective/kl", "val/ratio", "policy/grad_norm"):
        assert found[0].mean(name) == pytest.approx(expected[0].mean(name), rel=1e-4, abs=1e-6), name
    for name, weight in found[1].items():
        torch.testing.assert_close(weight, expected[1][name], rtol=1e-4, atol=2e-5)


def test_micro_batches_change_nothing(folders: dict[str, Path], batch: tuple[Rollouts, Scores, Ragged]) -> None:
    check_equal(train(TorchLearner(), spec(folders, 10**6), batch), train(TorchLearner(), spec(folders, 300), batch))


@pytest.mark.parametrize(("zero", "ranks"), [(0, 1), (0, 2), (1, 2), (2, 2), (3, 2)])
def test_zero_and_ranks_change_nothing(
    local_ray: None,
    config: Config,
    folders: dict[str, Path],
    batch: tuple[Rollouts, Scores, Ragged],
    tmp_path: Path,
    zero: int,
    ranks: int,
) -> None:
    section = LearnerActors(ranks=ranks, zero_stage=zero, cpus=0.5, threads=1)  # type: ignore[arg-type]
    environment = {"env_vars": learner_environment(section)}
    actors = [
        LearnerActor.options(num_cpus=0.5, runtime_env=environment).remote(  # type: ignore[attr-defined]
            Bundle("learner", rank, 0.5, 0.0), section
        )
        for rank in range(ranks)
    ]
    host, port = ray.get(actors[0].address.remote())
    ray.get([actor.join.remote(host, port) for actor in actors], timeout=300)
    learner = RayLearner(actors, deadline=300)
    check_equal(train(TorchLearner(), spec(folders), batch), train(learner, spec(folders), batch))
    learner.save(tmp_path / "state").result()
    learner.write_model(tmp_path / "model").result()
    third = learner.learn(*(Resolved(part) for part in batch), 0.05, 2).result()
    learner.start(spec(folders), tmp_path / "state").result()
    resumed = learner.learn(*(Resolved(part) for part in batch), 0.05, 2).result()
    assert resumed.values_by_name() == third.values_by_name(), "a resumed learner must go on exactly"
    for actor in actors:
        ray.kill(actor)
