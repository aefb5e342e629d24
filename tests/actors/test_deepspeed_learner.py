"""PPO steps on DeepSpeed, ZeRO 0 to 3 and one or two ranks, against plain PyTorch in one process."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from actors.learner import LearnerActor, RayLearner, learner_environment
from pit_ray.config import Config
from pit_ray.config.actors import Deadlines, LearnerActors
from pit_ray.config.training import Lora, Optimizer, Phase, Ppo
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds.notes import Notes
from pit_ray.errors import TrainingError
from pit_ray.in_process import TorchLearner
from pit_ray.learn import reward, sft
from pit_ray.learn.engine import EngineFactory, TorchEngine
from pit_ray.learn.modules import Policy, Reward
from pit_ray.learner import PpoLearner
from pit_ray.metrics import Metrics, merge
from pit_ray.models.load import load_causal, load_scalar
from pit_ray.records import Pairs, Prompts, Ragged, Rollouts, Scores
from pit_ray.roles import LearnerSpec, Resolved
from pit_ray.store import Store
from tests.actors.conftest import supervised

pytestmark = pytest.mark.slow
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

Batch = tuple[Rollouts, Scores, Ragged]
KINDS = ("policy", "gap reward", "ppo")


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
        store=Store(folders["policy"]),
    )


def once(folders: dict[str, Path], micro_batch_tokens: int) -> LearnerSpec:
    """A PPO step of a single update."""
    started = spec(folders, micro_batch_tokens)
    return replace(started, ppo=started.ppo.model_copy(update={"epochs": 1, "minibatches": 1}))


@pytest.fixture(scope="module")
def batch(prompts: Prompts) -> Batch:
    """Made-up responses with scores and reference log-probabilities: the learner must not care where they come from."""
    rng = np.random.default_rng(0)
    responses = Ragged.of(rng.integers(5, 60, size=rng.integers(3, 20)) for _ in range(len(prompts)))
    noise = Ragged(rng.normal(-3, 1, len(responses.values)).astype(np.float32), responses.offsets)
    rollouts = Rollouts(prompts, responses, noise, np.zeros(len(prompts), dtype=bool))
    score = rng.normal(size=len(prompts)).astype(np.float32)
    return rollouts, Scores(score, np.zeros_like(score)), noise


@pytest.fixture(scope="module")
def pairs(renderer: Renderer) -> Pairs:
    return renderer.tokenise(Notes().pairs(12, 4))


@pytest.fixture(scope="module")
def dropping(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same models, made with dropout."""
    made = {name: tmp_path_factory.mktemp("dropout") / name for name in folders}
    for name, folder in folders.items():
        shutil.copytree(folder, made[name])
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"attention_dropout": 0.5}
        (made[name] / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return made


def one_step(
    make: EngineFactory, kind: str, started: LearnerSpec, batch: Batch, pairs: Pairs, bridge: np.ndarray
) -> tuple[Metrics, dict[str, torch.Tensor]]:
    """Metrics and gradients of one step on fresh weights; every rank calls."""
    budget, optimizer = started.ppo.optimizer.micro_batch_tokens, started.ppo.optimizer
    if kind == "ppo":
        learner = PpoLearner(started, make)
        engine: Any = learner.engine
    elif kind == "policy":
        engine = make(Policy(load_causal(started.policy, torch.float32)), optimizer, 3)
    else:
        engine = make(Reward(load_scalar(started.value, torch.float32)), optimizer, 3)
    gradients, apply = {}, engine.apply

    def recording() -> float:
        from deepspeed.utils import safe_get_full_grad  # slow to import, also where these tests are only collected

        module = engine.module if isinstance(engine, TorchEngine) else engine.engine.module
        for name, parameter in module.named_parameters():
            gradients[name] = safe_get_full_grad(parameter).detach().cpu().clone()
        return apply()

    engine.apply = recording
    if kind == "ppo":
        return learner.learn(*batch, 0.05, 0), gradients
    if kind == "policy":
        return sft.step(engine, sft.examples(pairs, None, 1), budget), gradients
    return reward.step(engine, pairs, bridge, 1, budget), gradients


def on_ranks(
    actors: list[Any],
    zero: int,
    recompute: bool,
    kind: str,
    started: LearnerSpec,
    batch: Batch,
    pairs: Pairs,
    bridge: np.ndarray,
) -> tuple[Metrics, dict[str, torch.Tensor]]:
    """`one_step` on DeepSpeed in every actor."""

    def run(actor: Any) -> tuple[Metrics, dict[str, torch.Tensor]]:
        from actors.deepspeed_engine import engine_factory

        return one_step(engine_factory(zero, torch.float32, recompute), kind, started, batch, pairs, bridge)

    found = ray.get([actor.__ray_call__.remote(run) for actor in actors], timeout=300)
    return merge([metrics for metrics, _ in found]), found[0][1]


def check_same_step(
    expected: tuple[Metrics, dict[str, torch.Tensor]], found: tuple[Metrics, dict[str, torch.Tensor]]
) -> None:
    """Losses to 1e-6, the gradient of every parameter to 1e-5 of its norm."""
    losses = [name for name in expected[0] if name.startswith("loss/")]
    assert losses and found[1].keys() == expected[1].keys()
    for name in losses:
        assert found[0].mean(name) == pytest.approx(expected[0].mean(name), rel=1e-6, abs=1e-6), name
    for name, gradient in expected[1].items():
        assert gradient.norm() > 0, name
        assert (found[1][name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def train(learner: Any, started: LearnerSpec, batch: Batch) -> tuple[Metrics, dict[str, Any]]:
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


def test_micro_batches_change_nothing(folders: dict[str, Path], batch: Batch) -> None:
    check_equal(train(TorchLearner(), spec(folders, 10**6), batch), train(TorchLearner(), spec(folders, 300), batch))


@pytest.mark.parametrize(
    ("zero", "ranks", "recompute"),
    [
        (0, 1, False),
        (3, 1, False),
        (0, 2, False),
        (1, 2, False),
        (2, 2, False),
        (3, 2, False),
        (0, 1, True),
        (3, 2, True),
    ],
)
def test_zero_and_ranks_change_nothing(
    local_ray: None,
    config: Config,
    folders: dict[str, Path],
    dropping: dict[str, Path],
    batch: Batch,
    pairs: Pairs,
    renderer: Renderer,
    tmp_path: Path,
    zero: int,
    ranks: int,
    recompute: bool,
) -> None:
    section = LearnerActors(ranks=ranks, zero_stage=zero, cpus=0.5, threads=1, gradient_checkpointing=recompute)  # type: ignore[arg-type]
    environment = {"env_vars": learner_environment(section)}
    kind_of = LearnerActor.options(num_cpus=0.5, runtime_env=environment)  # type: ignore[attr-defined]
    group = supervised("learner", lambda bundle: kind_of.remote(bundle, section), ranks)
    learner, actors = RayLearner(group, Deadlines()), [worker.handle for worker in group.workers]
    learner.join()
    for kind in KINDS:
        # One micro-batch of ordinary models in one process; here small ones, of models made with dropout.
        expected = one_step(TorchEngine, kind, once(folders, 10**6), batch, pairs, renderer.bridge)
        found = on_ranks(actors, zero, recompute, kind, once(dropping, 300), batch, pairs, renderer.bridge)
        check_same_step(expected, found)
    for name, started in (("whole", spec(folders)), ("adapted", replace(spec(folders), lora=Lora(rank=4)))):
        check_equal(train(TorchLearner(), started, batch), train(learner, started, batch))
        state = tmp_path / name / "checkpoint" / "learner"
        learner.save(state).result()
        learner.write_model(tmp_path / name / "model").result()
        third = learner.learn(*(Resolved(part) for part in batch), 0.05, 2).result()
        learner.start(started, state).result()
        resumed = learner.learn(*(Resolved(part) for part in batch), 0.05, 2).result()
        assert resumed.values_by_name() == third.values_by_name(), "a resumed learner must go on exactly"
    sizes = [sum(file.stat().st_size for file in (tmp_path / n).rglob("*.pt")) for n in ("whole", "adapted")]
    assert sizes[1] < sizes[0] / 3, "frozen weights must stay out of checkpoints"
    if ranks == 2:
        check_one_rank_can_fail(learner, batch)
    for actor in actors:
        ray.kill(actor)


def check_one_rank_can_fail(learner: RayLearner, batch: Batch) -> None:
    """A loss without a number on one rank alone is told at once, although the other rank waits for it."""
    rollouts, scores, reference = batch
    logprobs = Ragged(rollouts.logprobs.values.copy(), rollouts.logprobs.offsets)
    logprobs.values[0] = np.nan
    broken = replace(rollouts, logprobs=logprobs)
    began = time.monotonic()
    with pytest.raises(TrainingError, match="the loss is not finite"):
        learner.learn(Resolved(broken), Resolved(scores), Resolved(reference), 0.05, 3).result()
    assert time.monotonic() - began < 60
