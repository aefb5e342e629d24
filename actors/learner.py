"""Learner ranks: one DeepSpeed process each, and the group as one role."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import ray
import torch

from actors.plan import Bundle
from actors.refs import RayRef, parts_of
from pit_ray.config.actors import LearnerActors
from pit_ray.learner import PpoLearner
from pit_ray.metrics import Metrics, merge
from pit_ray.models.load import torch_dtype
from pit_ray.records import Ragged, Rollouts, Scores
from pit_ray.roles import LearnerSpec, Ref


def learner_environment(learner: LearnerActors) -> dict[str, str]:
    """Environment of a learner's process; DeepSpeed reads it when it is imported."""
    return {
        "OMP_NUM_THREADS": str(learner.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "DS_ACCELERATOR": "cuda" if learner.gpus else "cpu",
    }


@ray.remote
class LearnerActor:
    """One rank: joins the process group once, then trains whatever it is given."""

    learner: PpoLearner

    def __init__(self, bundle: Bundle, section: LearnerActors) -> None:
        self.name, self.rank, self.section = bundle.name, bundle.index, section

    def __repr__(self) -> str:
        return self.name

    def address(self) -> tuple[str, int]:
        """Where rank 0 listens for the others."""
        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def join(self, host: str, port: int) -> None:
        """Joins the process group."""
        from actors.deepspeed_engine import init_distributed  # slow to import, and only needed in this process

        if host.startswith("127."):
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        os.environ |= {"RANK": str(self.rank), "WORLD_SIZE": str(self.section.ranks), "LOCAL_RANK": "0"}
        os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
        torch.set_num_threads(self.section.threads)
        init_distributed("nccl" if self.section.gpus else "gloo")

    def start(self, spec: LearnerSpec, resume: Path | None) -> None:
        from actors.deepspeed_engine import engine_factory

        make = engine_factory(self.section.zero_stage, torch_dtype(spec.dtype))
        self.learner = PpoLearner(spec, make)
        if resume is not None:
            self.learner.engine.load(resume)

    def learn(self, kl_coefficient: float, seed: int, *parts: Any) -> Metrics:
        third = len(parts) // 3
        return self.learner.learn(
            Rollouts.concatenate(parts[:third]),
            Scores.concatenate(parts[third : 2 * third]),
            Ragged.concatenate(parts[2 * third :]),
            kl_coefficient,
            seed,
        )

    def weights(self) -> dict[str, Any]:
        return self.learner.weights()

    def verify(self, canary: Rollouts, version: int, *answers: Ragged) -> Metrics:
        return self.learner.verify(canary, Ragged.concatenate(answers), version)

    def save(self, folder: Path) -> None:
        self.learner.save(folder)

    def write_model(self, folder: Path) -> None:
        self.learner.write_model(folder)


class RayLearner:
    """The ranks as one role; every call reaches all of them, since their collectives need each other."""

    def __init__(self, ranks: list[Any], deadline: float) -> None:
        self.ranks, self.deadline = ranks, deadline

    def start(self, spec: LearnerSpec, resume: Path | None) -> RayRef[None]:
        return self._all("start", spec, resume)

    def learn(
        self, rollouts: Ref[Rollouts], scores: Ref[Scores], reference: Ref[Ragged], kl_coefficient: float, seed: int
    ) -> RayRef[Metrics]:
        parts = [*parts_of(rollouts), *parts_of(scores), *parts_of(reference)]
        ref = self._all("learn", kl_coefficient, seed, *parts)
        return RayRef(ref.parts, ref.what, self.deadline, lambda found: merge(list(found)))

    def weights(self) -> RayRef[Any]:
        ref = self._all("weights")
        return RayRef(ref.parts[:1], ref.what, self.deadline)

    def verify(self, canary: Rollouts, answers: Ref[Ragged], version: int) -> RayRef[Metrics]:
        ref = self._all("verify", canary, version, *parts_of(answers))
        return RayRef(ref.parts, ref.what, self.deadline, lambda found: merge(list(found)))

    def save(self, folder: Path) -> RayRef[None]:
        return self._all("save", folder)

    def write_model(self, folder: Path) -> RayRef[None]:
        return self._all("write_model", folder)

    def _all(self, method: str, *args: Any) -> RayRef[Any]:
        parts = [getattr(rank, method).remote(*args) for rank in self.ranks]
        return RayRef(parts, f"learner: {method}", self.deadline)
