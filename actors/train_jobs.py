"""Supervised stages in Ray Train: one worker group runs a list of jobs with DeepSpeed, started again after a death.

Each stage goes on from the newest checkpoint in its own folder, so neither which other stages are still to do nor what
Ray Train has stored of an earlier one decides where.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import ray
import ray.train
from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import FailureConfig

from actors.heart import SUPERVISED, Heart
from actors.ray_session import START_SECONDS
from pit_ray.config import Config
from pit_ray.errors import InfraError, PitRayError
from pit_ray.learn.supervised import FINISHED, fit
from pit_ray.models.load import torch_dtype
from pit_ray.roles import FitJob
from pit_ray.store import Store


def worker_loop(settings: dict[str, Any]) -> None:
    """What each rank runs: the jobs that are not finished yet, in order."""
    import torch

    from actors.deepspeed_engine import engine_factory, init_distributed

    config: Config = settings["config"]
    heart = Heart(f"{SUPERVISED}/{ray.train.get_context().get_world_rank()}")
    torch.set_num_threads(config.actors.learner.threads)
    init_distributed()
    heart.imported()
    learner, dtype = config.actors.learner, torch_dtype(config.model.dtype)
    make = engine_factory(learner.zero_stage, dtype, learner.gradient_checkpointing)
    for job in settings["jobs"]:
        if job.store.read(job.folder / FINISHED) is None:
            heart.doing, heart.since = job.stage, time.time()
            fit(job, make)
    heart.stop()


@ray.remote(num_cpus=0)
def run_jobs(config: Config, jobs: Sequence[FitJob], store: Store) -> None:
    """One `fit()` for the jobs; returns when all their models are written."""
    learner = config.actors.learner
    filesystem, path = store.opened(store.root / "ray_train")
    resources = {"CPU": learner.cpus} | ({"GPU": learner.gpus} if learner.gpus else {})
    trainer = TorchTrainer(
        worker_loop,
        train_loop_config={"config": config, "jobs": list(jobs)},
        torch_config=TorchConfig(backend="nccl" if learner.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=learner.ranks, use_gpu=bool(learner.gpus), resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="supervised",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(
                max_failures=learner.max_failures,
                # Each is a try to start the workers that has waited for room.
                controller_failure_limit=math.ceil(config.actors.faults.recovery_deadline / START_SECONDS),
            ),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise reason(error, learner.max_failures) from None


def reason(error: TrainingFailedError, restarts: int) -> PitRayError:
    """The error of ours that a worker raised; else an InfraError with the last words of each worker that failed."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    for failure in failures.values():
        if isinstance(failure, PitRayError):
            return failure
    last = {rank: str(failure).strip().splitlines()[-1] for rank, failure in sorted(failures.items())}
    ranks = "; ".join(f"rank {rank}: {line}" for rank, line in last.items())
    return InfraError(f"the worker group failed (actors.learner.max_failures: {restarts}): {ranks}")
