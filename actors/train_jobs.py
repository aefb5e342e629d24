"""Supervised stages in Ray Train: one worker group runs a list of jobs with DeepSpeed, and resumes after a death."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from pit_ray.config import Config
from pit_ray.learn.supervised import fit
from pit_ray.models.load import torch_dtype
from pit_ray.roles import FitJob
from pit_ray.run_folder import write_json

STAGE_MARK = "stage.txt"


class TrainCheckpoints:
    """A stage's checkpoints as Ray Train keeps them: written by all ranks, found again after a death or a resume."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def latest(self) -> tuple[int, Path] | None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        folder = Path(tempfile.mkdtemp(prefix="pit-ray-"))
        checkpoint.to_directory(str(folder))
        stage, steps = (folder / STAGE_MARK).read_text().split()
        return (int(steps), folder / "engine") if stage == self.stage else None

    def save(self, steps_done: int, write: Callable[[Path], None]) -> None:
        folder = Path(tempfile.mkdtemp(prefix="pit-ray-"))
        write(folder / "engine")
        (folder / STAGE_MARK).write_text(f"{self.stage} {steps_done}")
        ray.train.report({"steps": steps_done}, checkpoint=Checkpoint.from_directory(str(folder)))
        shutil.rmtree(folder, ignore_errors=True)


def worker_loop(settings: dict[str, Any]) -> None:
    """What each rank runs: the jobs that are not finished yet, in order."""
    import torch

    from actors.deepspeed_engine import engine_factory, init_distributed

    config: Config = settings["config"]
    torch.set_num_threads(config.actors.learner.threads)
    init_distributed()
    make = engine_factory(config.actors.learner.zero_stage, torch_dtype(config.model.dtype))
    for job in settings["jobs"]:
        mark = job.folder / "finished.json"
        if mark.is_file():
            continue
        started = time.monotonic()
        fit(job, make, TrainCheckpoints(job.stage))
        torch.distributed.barrier()
        if torch.distributed.get_rank() == 0:
            write_json(mark, {"seconds": time.monotonic() - started})
        torch.distributed.barrier()


@ray.remote(num_cpus=0)
def run_jobs(config: Config, jobs: Sequence[FitJob], storage: Path) -> None:
    """One `fit()` for the jobs; returns when all their models are written."""
    learner = config.actors.learner
    resources = {"CPU": learner.cpus} | ({"GPU": learner.gpus} if learner.gpus else {})
    trainer = TorchTrainer(
        worker_loop,
        train_loop_config={"config": config, "jobs": list(jobs)},
        torch_config=TorchConfig(backend="nccl" if learner.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=learner.ranks, use_gpu=bool(learner.gpus), resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="-".join(job.stage for job in jobs),
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=learner.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    trainer.fit()
