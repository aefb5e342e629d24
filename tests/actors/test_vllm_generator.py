"""The vLLM engine against a transformers forward of the same weights, before and after weight updates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from actors.plan import Bundle
from actors.rollout import RayRolloutPool, RolloutActor
from actors.weights import engine_environment
from pit_ray.config import Config
from pit_ray.data.templates import Renderer
from pit_ray.errors import DataError
from pit_ray.records import Prompts, Rollouts
from pit_ray.roles import GenerateRequest, Resolved
from pit_ray.scoring import ReferencePolicy

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pool(local_ray: None, config: Config, folders: dict[str, Path], renderer: Renderer) -> Iterator[RayRolloutPool]:
    """Two workers with one engine each."""
    environment = {"env_vars": engine_environment(config.actors.rollout)}
    workers: list[Any] = [
        RolloutActor.options(num_cpus=0.5, runtime_env=environment).remote(
            Bundle("rollout", i, 0.5, 0.0), folders["policy"], config, renderer.eos, 200
        )
        for i in range(2)
    ]
    ray.get([worker.ready.remote() for worker in workers], timeout=300)
    yield RayRolloutPool(workers, deadline=300)
    for worker in workers:
        ray.kill(worker)


def request(temperature: float = 1.0, seed: int = 5, shard: int = 12) -> GenerateRequest:
    return GenerateRequest(temperature, max_new_tokens=20, seed=seed, shard_size=shard)


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


@pytest.mark.parametrize("temperature", [1.0, 0.6])
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


def test_rollouts_depend_on_requests_and_not_on_who_serves_them(
    pool: RayRolloutPool, prompts: Prompts, folders: dict[str, Path]
) -> None:
    pool.load(folders["policy"], 0).result()
    two = pool.generate(prompts, request()).result()
    one = RayRolloutPool(pool.workers[:1], deadline=300).generate(prompts, request()).result()
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
