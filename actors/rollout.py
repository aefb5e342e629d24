"""Rollout workers: one vLLM engine each, and the pool that cuts prompts into fixed shards for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.group import Group
from actors.heart import Heart, does
from actors.plan import Bundle
from actors.refs import RayRef, calls_of
from actors.vllm_generator import VllmGenerator
from actors.weight_transfer import Meeting, Transfer
from pit_ray.config import Config
from pit_ray.config.actors import Deadlines
from pit_ray.models.lora import Adapter
from pit_ray.records import Prompts, Ragged, Rollouts
from pit_ray.roles import GenerateRequest, Ref
from pit_ray.store import Store


@ray.remote
class RolloutActor:
    """A process with one engine."""

    def __init__(self, bundle: Bundle, model: Path, config: Config, store: Store, eos: int, max_model_len: int) -> None:
        self.name, self.store = bundle.name, store
        self.heart = Heart(self.name)
        store.pull(model)
        import vllm  # noqa: F401  reads its environment, which the actor has by now

        self.heart.imported()
        self.generator = VllmGenerator(model, config, eos, max_model_len, ray.get_runtime_context().is_canceled)

    def __repr__(self) -> str:
        return self.name

    def ready(self) -> str:
        """The id of its node, once the engine stands."""
        return ray.get_runtime_context().get_node_id()

    @does
    def generate(self, prompts: Prompts, request: GenerateRequest, set_aside: Sequence[int] = ()) -> Rollouts:
        """`set_aside`: rows of the shard that no engine is to see."""
        if not set_aside:
            return self.generator.generate(prompts, request)
        good = np.setdiff1d(np.arange(len(prompts)), set_aside)
        rollouts = self.generator.generate(prompts.take(good), request)
        if not request.whole:
            return rollouts
        both = Rollouts.concatenate([rollouts, silent(prompts.take(set_aside), self.generator.eos, rollouts)])
        return both.take(np.argsort([*good, *set_aside]))

    @does
    def load(self, folder: Path, version: int) -> None:
        self.store.pull(folder)
        self.generator.load(folder, version)

    @does
    def update(self, weights: dict[str, Any] | Adapter, version: int) -> None:
        if isinstance(weights, Adapter):
            self.store.pull(weights.base)
        self.generator.update(weights, version)

    @does
    def receive(self, info: dict[str, Any], meeting: Meeting, rank: int, version: int) -> None:
        self.generator.receive(info, meeting, rank, version)

    @does
    def logprobs(self, rollouts: Rollouts) -> Ragged:
        return self.generator.logprobs(rollouts)


def silent(prompts: Prompts, eos: int, like: Rollouts) -> Rollouts:
    """Empty responses: the end token alone."""
    response, logprobs = Ragged.of([[eos]] * len(prompts)), Ragged.of([[0.0]] * len(prompts), np.float32)
    finished = np.ones(len(prompts), dtype=bool)
    return Rollouts(prompts, response, logprobs, finished, like.version, like.temperature)


class RayRolloutPool:
    """Rollout workers as one role."""

    def __init__(self, group: Group, deadlines: Deadlines) -> None:
        self.group, self.deadlines = group, deadlines

    def generate(self, prompts: Prompts, request: GenerateRequest) -> RayRef[Rollouts]:
        calls = self.group.hand_out("generate", ((shard, request) for shard in prompts.shards(request.shard_size)))
        return self.group.ref(calls, "rollout: generate", self.deadlines.generate, Rollouts.concatenate)

    def load(self, folder: Path, version: int) -> RayRef[None]:
        calls = self.group.load("load", folder, version)
        return self.group.ref(calls, f"rollout: load {folder}", self.deadlines.load)

    def sync(self, weights: Ref[Any], version: int) -> RayRef[None]:
        what = f"rollout: weights of version {version}"
        if isinstance(weights, Transfer):
            return self.group.ref(weights.to(self.group, version), what, self.deadlines.sync)
        shared, *others = calls_of(weights)
        calls = self.group.load("update", shared, version)
        # The other ranks have a part in making them: where one dies, the first waits for ever.
        return self.group.ref([*calls, *others], what, self.deadlines.sync)

    def logprobs(self, rollouts: Rollouts) -> RayRef[Ragged]:
        calls = self.group.each("logprobs", rollouts)
        return self.group.ref(calls, "rollout: log-probabilities", self.deadlines.sync, Ragged.concatenate)
