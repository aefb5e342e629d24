"""Adapters in running vLLM engines: over the weights that they belong to, and gone where other weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from actors.plan import Bundle
from actors.rollout import RayRolloutPool, RolloutActor
from actors.weights import engine_environment
from pit_ray.canary import canary
from pit_ray.config import Config
from pit_ray.config.actors import Deadlines
from pit_ray.config.training import Lora, Phase, Ppo
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds.notes import Notes
from pit_ray.errors import InfraError, TrainingError
from pit_ray.in_process import TorchLearner
from pit_ray.models.lora import Adapter
from pit_ray.records import Prompts, Rollouts
from pit_ray.roles import LearnerSpec, Resolved
from pit_ray.store import Store
from tests.actors.conftest import supervised
from tests.actors.test_vllm_generator import difference, mismatch, moved, request

pytestmark = pytest.mark.slow
LORA = Lora(rank=3, alpha=12.0, sync="adapter")


@pytest.fixture(scope="module")
def pool(local_ray: None, config: Config, folders: dict[str, Path], renderer: Renderer) -> Iterator[RayRolloutPool]:
    """Two workers whose engines have room for an adapter."""
    environment = {"env_vars": engine_environment(config.actors.rollout)}
    adapted = config.model_copy(update={"model": config.model.model_copy(update={"lora": LORA})})

    def create(bundle: Bundle) -> Any:
        kind = RolloutActor.options(num_cpus=0.5, runtime_env=environment)
        return kind.remote(bundle, folders["policy"], adapted, Store(folders["policy"]), renderer.eos, 200)

    group = supervised("rollout", create, 2)
    yield RayRolloutPool(group, Deadlines())
    for worker in group.workers:
        ray.kill(worker.handle)


@pytest.fixture(scope="module")
def base(folders: dict[str, Path], renderer: Renderer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the adapters belong to: another model than the one that the engines started with."""
    folder = tmp_path_factory.mktemp("base") / "model"
    moved(folders["policy"], folder)
    renderer.save(folder)
    return folder


@pytest.fixture(scope="module")
def asked(renderer: Renderer) -> Rollouts:
    return canary(renderer.tokenise(Notes().pairs(24, 3)), renderer.eos)


def learned(base: Path, folders: dict[str, Path], seed: int) -> TorchLearner:
    """A learner whose adapter has moved."""
    learner, phases = TorchLearner(), (Phase(name="p", drafts="annotated", steps=3),)
    spec = LearnerSpec(base, folders["reward"], base, Ppo(phases=phases), "float32", 3, 11, False, Store(base), LORA)
    learner.start(spec, None)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in learner.learner.policy.named_parameters():
            if "lora_B" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return learner


def adapter_of(learner: TorchLearner) -> Adapter:
    found = learner.learner.weights()
    assert isinstance(found, Adapter)
    return found


def test_engines_answer_as_the_learner_does_adapter_after_adapter(
    pool: RayRolloutPool, base: Path, folders: dict[str, Path], asked: Rollouts, prompts: Prompts, tmp_path: Path
) -> None:
    for version in (1, 2):
        learner = learned(base, folders, version)
        pool.sync(Resolved(adapter_of(learner)), version).result()
        assert difference(learner, pool, asked, version) < 1e-4
        rollouts = pool.generate(prompts, request()).result()
        assert rollouts.version == version
        learner.write_model(tmp_path / str(version))
        assert mismatch(rollouts, tmp_path / str(version)) < 1e-4
    assert mismatch(rollouts, tmp_path / "1") > 1e-2 < mismatch(rollouts, base)


def test_other_weights_drop_the_adapter_and_the_next_finds_its_own_again(
    pool: RayRolloutPool, base: Path, folders: dict[str, Path], asked: Rollouts, prompts: Prompts
) -> None:
    learner = learned(base, folders, 1)
    pool.sync(Resolved(adapter_of(learner)), 1).result()
    before = pool.generate(prompts, request()).result()
    pool.load(folders["policy"], 0).result()
    assert mismatch(pool.generate(prompts, request()).result(), folders["policy"]) < 1e-4
    with pytest.raises(TrainingError, match="differ by up to"):
        difference(learner, pool, asked, 1)
    pool.sync(Resolved(adapter_of(learner)), 2).result()
    again = pool.generate(prompts, request()).result()
    assert np.array_equal(again.response.values, before.response.values)
    assert np.array_equal(again.logprobs.values, before.logprobs.values)


def test_a_worker_in_the_place_of_another_has_base_and_adapter_after_the_one_call(
    pool: RayRolloutPool, base: Path, folders: dict[str, Path], asked: Rollouts
) -> None:
    learner = learned(base, folders, 4)
    pool.sync(Resolved(adapter_of(learner)), 7).result()
    worker = pool.group.workers[1]
    worker.replace()
    ray.get(worker.reload())
    assert difference(learner, pool, asked, 7) < 1e-4


def test_an_adapter_that_lacks_a_matrix_is_refused(pool: RayRolloutPool, base: Path, folders: dict[str, Path]) -> None:
    whole = adapter_of(learned(base, folders, 1))
    name = "model.layers.1.mlp.up_proj.lora_B.weight"
    lacking = replace(whole, weights={n: tensor for n, tensor in whole.weights.items() if n != name})
    with pytest.raises(InfraError, match=rf"a partial sync.*{name}"):
        pool.sync(Resolved(lacking), 1).result()
