"""A run of every stage that takes seconds, in one process, and what a finished one is compared by."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from pit_ray import driver
from pit_ray.config.training import Lora
from pit_ray.config.tree import Config
from pit_ray.data.templates import Renderer
from pit_ray.in_process import InProcess
from pit_ray.run_folder import RunFolder
from pit_ray.tracking import read_metrics
from tests.disturbed import STAGES

CAUSAL = ("sft_policy", "sft_improver", "ppo_policy", "ppo_improver")
REWARDS = ("reward", "gap_reward")
PER_STEP = 8
PPO_STEPS = {"ppo_policy": 2, "ppo_improver": 7}
ITERATIONS = 2


def config_for(run: Path | str, **changes: Any) -> Config:
    """A run of every stage that takes seconds."""
    fast = {"lr": 1e-3, "warmup_steps": 1}
    supervised = {"epochs": 0.5, "batch_size": 8, "checkpoint_every": 2, "optimizer": fast}
    ppo = {"rollouts_per_step": PER_STEP, "shard_size": 4, "checkpoint_every": 2, "optimizer": fast | {"lr": 2e-2}}
    plain: dict[str, Any] = {
        "run": str(run),
        "seed": 5,
        "data": {"source": "world:notes", "pairs": 150, "held_out": 12, "validation": 8},
        "model": {
            "from_scratch": {
                "vocab_size": 400, "hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 48,
                "max_position_embeddings": 512,
            },
            "dtype": "float32",
            "improve_instruction": "improve",
        },
        "sampling": {"max_new_tokens": 10},
        "sft": supervised,
        "reward": supervised,
        "gap_reward": supervised,
        "ppo_policy": ppo | {"phases": [{"name": "policy", "drafts": "none", "steps": PPO_STEPS["ppo_policy"]}]},
        "ppo_improver": ppo
        | {
            "phases": [
                {"name": "from_data", "drafts": "annotated", "steps": 2},
                {"name": "from_policy", "drafts": "on_policy", "steps": 3},
                {"name": "from_itself", "drafts": "self", "steps": 2},
            ],
            "kl": {"controller": "adaptive", "target": 0.01, "horizon": 100},
        },
        "evaluation": {"iterations": ITERATIONS, "bootstrap": 50, "examples": 3},
        "actors": {"deployment": "in_process"},
        "tracking": {"wandb": False, "console": "plain"},
    }  # fmt: skip
    return Config.model_validate(plain | changes)


def with_lora(run: Path | str) -> Config:
    """The same with adapters of rank 2 in every stage."""
    plain = config_for(run)
    return plain.model_copy(update={"model": plain.model.model_copy(update={"lora": Lora(rank=2)})})


def deployment(config: Config, kind: type[InProcess] = InProcess, **options: Any) -> Callable[..., InProcess]:
    """What the driver is given to deploy the roles of a run folder."""

    def deploy(folder: RunFolder, note: Callable[[str], None] = print) -> InProcess:
        data = folder.stage("data")
        return kind(
            config,
            folder.store,
            folder.base,
            data / "renderer",
            lambda: Renderer.load(data / "renderer").eos,
            **options,
        )

    return deploy


def run_to_the_end(config: Config) -> RunFolder:
    """Trains on one thread; the finished run."""
    torch.set_num_threads(1)
    driver.train(config, deployment(config))
    return RunFolder(config.run)


def summary(folder: RunFolder) -> dict[str, Any]:
    """What its evaluation found."""
    return json.loads((folder.path / "evaluation" / "summary.json").read_text(encoding="utf-8"))


def without_time(folder: RunFolder) -> list[dict[str, Any]]:
    """Its metrics without those that no two runs share."""
    return [
        {name: value for name, value in record.items() if not name.startswith("time")}
        for record in read_metrics(folder.path)
    ]


def rollout_tables(folder: RunFolder) -> dict[str, dict[str, list[Any]]]:
    """Every recorded sample, by file and column."""
    files = sorted((folder.path / "rollouts").rglob("*.parquet"))
    return {str(file.relative_to(folder.path)): pq.read_table(file).to_pydict() for file in files}


def before(stage: str, finished: RunFolder, run: Path) -> RunFolder:
    """A copy of the finished run as it was when `stage` began."""
    shutil.copytree(finished.path, run)
    folder, later = RunFolder(run), STAGES[STAGES.index(stage) :]
    for name in later:
        shutil.rmtree(folder.stage(name))
        shutil.rmtree(run / "rollouts" / name, ignore_errors=True)
    shutil.rmtree(run / "evaluation")
    (run / "report.html").unlink()
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["stage"] not in later))
    return folder
