"""The vLLM engine against a transformers forward of the same weights, before and after weight updates."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import RayError
from transformers import AutoModelForCausalLM

from actors.group import Group
from actors.plan import Bundle
from actors.rollout import RayRolloutPool, RolloutActor
from actors.weights import engine_environment
from pit_ray.canary import canary
from pit_ray.config import Config
from pit_ray.config.actors import Deadlines
from pit_ray.config.training import Phase, Ppo
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds.notes import Notes
from pit_ray.errors import DataError, InfraError, TrainingError
from pit_ray.in_process import TorchLearner
from pit_ray.records import Prompts, Rollouts
from pit_ray.roles import GenerateRequest, LearnerSpec, Resolved
from pit_ray.scoring import ReferencePolicy
from pit_ray.store import Store
from tests.actors.conftest import supervised

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pool(local_ray: None, config: Config, folders: dict[str, Path], renderer: Renderer) -> Iterator[RayRolloutPool]:
    """Two workers with one engine each."""
    environment = {"env_vars": engine_environment(config.actors.rollout)}

    def create(bundle: Bundle) -> Any:
        kind = RolloutActor.options(num_cpus=0.5, runtime_env=environment)
        return kind.remote(bundle, folders["policy"], config, Store(folders["policy"]), renderer.eos, 200)

    group = supervised("rollout", create, 2)
    yield RayRolloutPool(group, Deadlines())
    for worker in group.workers:
        ray.kill(worker.handle)


def request(temperature: float = 1.0, seed: int = 5, shard: int = 12) -> GenerateRequest:
    return GenerateRequest(temperature, max_new_tokens=20, seed=seed, shard_size=shard)


def test_a_prompt_that_an_engine_fails_on_is_set_aside(pool: RayRolloutPool, prompts: Prompts) -> None:
    quarantine = pool.group.supervisor.quarantine  # type: ignore[attr-defined]
    quarantine.budget = 1
    expected = pool.generate(prompts, request()).result()
    row = int(prompts.prompt.offsets[5])
    kept, prompts.prompt.values[row] = int(prompts.prompt.values[row]), 10**6  # no such token
    try:
        found = pool.generate(prompts, replace(request(), whole=False)).result()
        assert quarantine.found[0].startswith(f"prompt {prompts.uid[5]} is set aside: IndexError: ")
        with pytest.raises(DataError, match=r"more prompts than actors\.faults\.data = 1 allows: prompt 5 is"):
            pool.generate(prompts, request()).result()
    finally:
        prompts.prompt.values[row] = kept
    others = [i for i in range(len(prompts)) if i != 5]
    assert found.prompts.uid.tolist() == prompts.uid[others].tolist()
    assert [row.tolist() for row in found.response.rows()] == [expected.response[i].tolist() for i in others]


def test_where_all_rows_are_wanted_one_that_is_set_aside_is_empty(pool: RayRolloutPool, prompts: Prompts) -> None:
    engine = pool.group.workers[0].handle
    whole = ray.get(engine.generate.remote(prompts.take(range(4)), request(), (2,)))
    others = ray.get(engine.generate.remote(prompts.take([0, 1, 3]), request())).response.rows()
    assert whole.prompts.uid.tolist() == prompts.uid[:4].tolist()
    found = [row.tolist() for row in whole.response.rows()]
    assert found[:2] + found[3:] == [row.tolist() for row in others]
    assert len(found[2]) == 1 and whole.finished[2]


def test_a_call_that_nobody_wants_any_more_ends_and_leaves_no_trace(pool: RayRolloutPool, prompts: Prompts) -> None:
    engine = pool.group.workers[0].handle
    expected = ray.get(engine.generate.remote(prompts, request()))
    long = engine.generate.remote(prompts.take(np.tile(np.arange(len(prompts)), 80)), request())
    time.sleep(1.0)
    ray.cancel(long)
    found = ray.get(engine.generate.remote(prompts, request()))
    with pytest.raises(RayError, match="given up: nobody wants"):
        ray.get(long)
    np.testing.assert_array_equal(found.response.values, expected.response.values)
    np.testing.assert_array_equal(found.logprobs.values, expected.logprobs.values)


def mismatch(rollouts: Rollouts, model: Path) -> float:
    """Largest difference between the sampler's log-probabilities and those of an independent forward pass."""
    logprobs = ReferencePolicy(model, torch.float32, CPU, 4096, False).logprobs(rollouts)
    return float(np.abs(logprobs.values - rollouts.logprobs.values).max())


def moved(folder: Path, target: Path) -> dict[str, torch.Tensor]:
    """The folder's model with every weight moved a little, saved to `target`; its state dict."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    model.save_pretrained(target)
    return dict(model.named_parameters())


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_sampler_and_learner_agree_on_log_probabilities(
    pool: RayRolloutPool, prompts: Prompts, folders: dict[str, Path], temperature: float
) -> None:
    pool.load(folders["policy"], 0).result()
    rollouts = pool.generate(prompts, request(temperature)).result()
    assert rollouts.temperature == temperature
    assert mismatch(rollouts, folders["policy"]) < 1e-4


def test_new_weights_are_used_and_old_ones_are_noticed(
    pool: RayRolloutPool, prompts: Prompts, folders: dict[str, Path], tmp_path: Path
) -> None:
    state = moved(folders["policy"], tmp_path / "moved")
    pool.load(folders["policy"], 0).result()
    before = pool.generate(prompts, request()).result()
    assert mismatch(before, tmp_path / "moved") > 1e-2
    pool.sync(Resolved({name: tensor.detach() for name, tensor in state.items()}), 3).result()
    after = pool.generate(prompts, request()).result()
    assert after.version == 3
    assert mismatch(after, tmp_path / "moved") < 1e-4
    pool.load(folders["policy"], 0).result()
    again = pool.generate(prompts, request()).result()
    assert np.array_equal(again.response.values, before.response.values)
    assert np.array_equal(again.logprobs.values, before.logprobs.values)


@pytest.fixture
def ahead(pool: RayRolloutPool, folders: dict[str, Path], asked: Rollouts) -> TorchLearner:
    """A learner one small update ahead of the workers, with which it agreed before."""
    ppo = Ppo(phases=(Phase(name="p", drafts="annotated", steps=3),))
    policy, learner = folders["policy"], TorchLearner()
    learner.start(LearnerSpec(policy, folders["reward"], policy, ppo, "float32", 3, 11, False, Store(policy)), None)
    pool.load(policy, 0).result()
    assert difference(learner, pool, asked, 0) < 1e-4
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in learner.learner.policy.parameters():
            parameter += 1e-3 * torch.randn(parameter.shape, generator=generator)
    return learner


@pytest.fixture(scope="module")
def asked(renderer: Renderer) -> Rollouts:
    return canary(renderer.tokenise(Notes().pairs(24, 3)), renderer.eos)


def difference(learner: TorchLearner, pool: RayRolloutPool, asked: Rollouts, version: int) -> float:
    return learner.verify(asked, pool.logprobs(asked), version).result().mean("val/canary_difference")


def new_weights(learner: TorchLearner) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in learner.learner.policy.named_parameters()}


def test_workers_agree_with_the_learner_after_a_sync(
    pool: RayRolloutPool, ahead: TorchLearner, asked: Rollouts
) -> None:
    pool.sync(Resolved(new_weights(ahead)), 1).result()
    assert difference(ahead, pool, asked, 1) < 1e-4


def test_a_worker_that_a_sync_passed_over_is_named(pool: RayRolloutPool, ahead: TorchLearner, asked: Rollouts) -> None:
    ray.get(pool.group.workers[0].handle.update.remote(new_weights(ahead), 1))
    with pytest.raises(TrainingError, match=r"rollout/1 .* version 1: .* differ by up to .*stale weights"):
        difference(ahead, pool, asked, 1)


def test_a_worker_that_took_over_a_part_is_named(pool: RayRolloutPool, ahead: TorchLearner, asked: Rollouts) -> None:
    weights, name = new_weights(ahead), "model.layers.1.mlp.down_proj.weight"
    old = dict(AutoModelForCausalLM.from_pretrained(ahead.learner.spec.policy).named_parameters())[name].detach()
    first, second = (worker.handle for worker in pool.group.workers)
    ray.get([first.update.remote(weights, 1), second.update.remote(weights | {name: old}, 1)])
    with pytest.raises(TrainingError, match=r"rollout/1 .* version 1: .*partial sync"):
        difference(ahead, pool, asked, 1)


def test_weights_that_are_not_all_of_the_models_are_refused(
    pool: RayRolloutPool, prompts: Prompts, ahead: TorchLearner
) -> None:
    weights = new_weights(ahead)
    lacking = {name: tensor for name, tensor in weights.items() if "layers.1.mlp.up_proj" not in name}
    said = rf"version 1 .* 1 of {len(weights)} are missing \['model.layers.1.mlp.up_proj.weight'\], 0 are unknown"
    with pytest.raises(InfraError, match=said):
        pool.sync(Resolved(lacking), 1).result()
    with pytest.raises(InfraError, match=r"1 are unknown \['value.weight'\]"):
        pool.sync(Resolved(weights | {"value.weight": torch.zeros(1)}), 1).result()
    assert pool.generate(prompts, request()).result().version == 0


def test_rollouts_depend_on_requests_and_not_on_who_serves_them(
    pool: RayRolloutPool, prompts: Prompts, folders: dict[str, Path]
) -> None:
    pool.load(folders["policy"], 0).result()
    two = pool.generate(prompts, request()).result()
    alone = Group(pool.group.workers[:1], pool.group.supervisor)
    one = RayRolloutPool(alone, Deadlines()).generate(prompts, request()).result()
    assert np.array_equal(two.response.values, one.response.values)
    assert np.array_equal(two.logprobs.values, one.logprobs.values)
    other = pool.generate(prompts, request(seed=6)).result()
    assert not np.array_equal(two.response.values[:50], other.response.values[:50])


def test_end_token_is_last_exactly_when_the_response_stopped_by_itself(
    pool: RayRolloutPool, prompts: Prompts, renderer: Renderer
) -> None:
    rollouts = pool.generate(prompts, request(temperature=2.0)).result()
    ends = np.array([row[-1] == renderer.eos for row in rollouts.response.rows()])
    assert np.array_equal(ends, rollouts.finished)
    assert 0 < rollouts.finished.sum() < len(rollouts)
    inside = [renderer.eos in row[:-1] for row in rollouts.response.rows()]
    assert not any(inside)
    assert np.array_equal(rollouts.prompts.uid, prompts.uid)


def test_a_folder_without_weights_is_refused(pool: RayRolloutPool, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="safetensors"):
        pool.load(tmp_path, 1).result()
