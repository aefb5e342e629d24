"""Rollout workers: one vLLM engine each, and the pool that cuts prompts into fixed shards for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.plan import Bundle
from actors.refs import RayRef, parts_of
from actors.vllm_generator import VllmGenerator
from pit_ray.config import Config
from pit_ray.records import Prompts, Ragged, Rollouts
from pit_ray.roles import GenerateRequest, Ref


@ray.remote
class RolloutActor:
    """A process with one engine."""

    def __init__(self, bundle: Bundle, model: Path, config: Config, eos: int, max_model_len: int) -> None:
        self.name = bundle.name
        self.generator = VllmGenerator(model, config, eos, max_model_len)

    def __repr__(self) -> str:
        return self.name

    def ready(self) -> None:
        """Returns once the engine stands."""

    def generate(self, prompts: Prompts, request: GenerateRequest) -> Rollouts:
        return self.generator.generate(prompts, request)

    def load(self, folder: Path, version: int) -> None:
        self.generator.load(folder, version)

    def update(self, weights: dict[str, Any], version: int) -> None:
        self.generator.update(weights, version)

    def logprobs(self, rollouts: Rollouts) -> Ragged:
        return self.generator.logprobs(rollouts)


class RayRolloutPool:
    """Rollout workers as one role."""

    def __init__(self, workers: list[Any], deadline: float) -> None:
        self.workers, self.deadline = workers, deadline

    def generate(self, prompts: Prompts, request: GenerateRequest) -> RayRef[Rollouts]:
        starts = range(0, len(prompts), request.shard_size)
        shards = [prompts.take(np.arange(i, min(i + request.shard_size, len(prompts)))) for i in starts]
        parts = [self.workers[i % len(self.workers)].generate.remote(shard, request) for i, shard in enumerate(shards)]
        return RayRef(parts, "rollout: generate", self.deadline, Rollouts.concatenate)

    def load(self, folder: Path, version: int) -> RayRef[None]:
        parts = [worker.load.remote(folder, version) for worker in self.workers]
        return RayRef(parts, f"rollout: load {folder}", self.deadline)

    def sync(self, weights: Ref[Any], version: int) -> RayRef[None]:
        (shared,) = parts_of(weights)
        parts = [worker.update.remote(shared, version) for worker in self.workers]
        return RayRef(parts, f"rollout: weights of version {version}", self.deadline)

    def logprobs(self, rollouts: Rollouts) -> RayRef[Ragged]:
        parts = [worker.logprobs.remote(rollouts) for worker in self.workers]
        return RayRef(parts, "rollout: log-probabilities", self.deadline, Ragged.concatenate)
