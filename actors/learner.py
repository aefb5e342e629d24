"""Learner ranks: one DeepSpeed process each, and the group as one role."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import ray
import torch

from actors.group import Group
from actors.heart import Heart, does
from actors.plan import Bundle
from actors.refs import RayRef, calls_of
from actors.weight_transfer import Meeting, Sender, Transfer, manifest
from actors.weights import ZERO_COPY
from pit_ray.config.actors import Deadlines, LearnerActors, RolloutActors
from pit_ray.learner import PpoLearner
from pit_ray.metrics import Metrics, merge
from pit_ray.models.load import torch_dtype
from pit_ray.models.lora import Adapter
from pit_ray.records import Ragged, Rollouts, Scores
from pit_ray.roles import LearnerSpec, Ref


def learner_environment(learner: LearnerActors) -> dict[str, str]:
    """Environment of a learner's process; DeepSpeed reads it when it is imported."""
    return {
        "OMP_NUM_THREADS": str(learner.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "DS_ACCELERATOR": "cuda" if learner.gpus else "cpu",
        **ZERO_COPY,
    }


@ray.remote
class LearnerActor:
    """One rank: joins the process group once, then trains whatever it is given."""

    learner: PpoLearner
    sender: Sender | None = None

    def __init__(self, bundle: Bundle, section: LearnerActors) -> None:
        self.name, self.rank, self.section = bundle.name, bundle.index, section
        self.heart = Heart(self.name)

    def __repr__(self) -> str:
        return self.name

    def ready(self) -> str:
        """The id of its node, once the process stands."""
        return ray.get_runtime_context().get_node_id()

    def address(self) -> tuple[str, int]:
        """Where rank 0 listens for the others."""
        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    @does
    def join(self, host: str, port: int) -> None:
        """Joins the process group."""
        from actors.deepspeed_engine import init_distributed  # slow to import, and only needed in this process

        os.environ |= {"RANK": str(self.rank), "WORLD_SIZE": str(self.section.ranks), "LOCAL_RANK": "0"}
        os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
        torch.set_num_threads(self.section.threads)
        init_distributed("nccl" if self.section.gpus else "gloo")
        self.heart.imported()

    @does
    def start(self, spec: LearnerSpec, resume: Path | None) -> None:
        from actors.deepspeed_engine import engine_factory

        make = engine_factory(self.section.zero_stage, torch_dtype(spec.dtype), self.section.gradient_checkpointing)
        self.learner = PpoLearner(spec, make)
        if resume is not None:
            self.learner.resume(resume)

    @does
    def learn(self, kl_coefficient: float, seed: int, *parts: Any) -> Metrics:
        third = len(parts) // 3
        return self.learner.learn(
            Rollouts.concatenate(parts[:third]),
            Scores.concatenate(parts[third : 2 * third]),
            Ragged.concatenate(parts[2 * third :]),
            kl_coefficient,
            seed,
        )

    @does
    def weights(self) -> dict[str, Any] | Adapter:
        return self.learner.weights()

    @does
    def manifest(self) -> dict[str, Any]:
        return manifest(self._parameters())

    @does
    def send(self, meeting: Meeting) -> dict[str, Any]:
        """Sends the policy to the engines of a meeting, which receive it at the same time; every rank must call."""
        if self.sender is None or self.sender.meeting != meeting:
            if self.sender is not None:
                self.sender.close()
            self.sender = Sender(meeting, self.rank)
        return self.sender.send(self._parameters())

    def _parameters(self) -> Any:
        """The engine, of which a transfer needs more than learning does; a new one with each stage."""
        return self.learner.engine

    @does
    def verify(self, canary: Rollouts, version: int, *answers: Ragged) -> Metrics:
        return self.learner.verify(canary, Ragged.concatenate(answers), version)

    @does
    def save(self, folder: Path) -> None:
        self.learner.save(folder)

    @does
    def write_model(self, folder: Path) -> None:
        self.learner.write_model(folder)


class RayLearner:
    """The ranks as one role; every call reaches all of them, since their collectives need each other."""

    def __init__(self, group: Group, deadlines: Deadlines, rollout: RolloutActors | None = None) -> None:
        self.group, self.deadlines, self.rollout = group, deadlines, rollout or RolloutActors()

    def join(self) -> RayRef[None]:
        """Brings the ranks together, once they stand."""
        calls = [self.group.share(0, "address")]
        address: RayRef[tuple[str, int]] = self.group.ref(calls, "learner: address", self.deadlines.start)
        return self._all("join", self.deadlines.start, *address.result())

    def start(self, spec: LearnerSpec, resume: Path | None) -> RayRef[None]:
        return self._all("start", self.deadlines.load, spec, resume)

    def learn(
        self, rollouts: Ref[Rollouts], scores: Ref[Scores], reference: Ref[Ragged], kl_coefficient: float, seed: int
    ) -> RayRef[Metrics]:
        shards = [*calls_of(rollouts), *calls_of(scores), *calls_of(reference)]
        calls = self.group.each("learn", kl_coefficient, seed, *shards)
        return self.group.ref(calls, "learner: learn", self.deadlines.learn, lambda found: merge(list(found)))

    def weights(self) -> Ref[Any]:
        if self.rollout.weight_sync != "host":
            return Transfer(self.group, self.rollout, self.deadlines.sync)
        return self._all("weights", self.deadlines.sync)

    def verify(self, canary: Rollouts, answers: Ref[Ragged], version: int) -> RayRef[Metrics]:
        calls = self.group.each("verify", canary, version, *calls_of(answers))
        return self.group.ref(calls, "learner: verify", self.deadlines.sync, lambda found: merge(list(found)))

    def save(self, folder: Path) -> RayRef[None]:
        return self._all("save", self.deadlines.save, folder)

    def write_model(self, folder: Path) -> RayRef[None]:
        return self._all("write_model", self.deadlines.save, folder)

    def _all(self, method: str, deadline: float, *args: Any) -> RayRef[Any]:
        return self.group.ref(self.group.each(method, *args), f"learner: {method}", deadline)
