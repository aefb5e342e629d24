"""Seconds from `pit-ray train quickstart`, given models for all stages before the improver's PPO, to its first
rollouts; caches are warm from a first start that does not count.

usage: python -m benchmarks.speed.startup FINDINGS
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.speed.findings import FINDINGS, Finding, finding
from pit_ray.data.worlds import base_folder
from pit_ray.models.load import load_scalar

STARTS, DEADLINE = 4, 300.0


def ready(root: Path) -> list[str]:
    """The base in the place of every language model, and a reward model over it."""
    base, reward = base_folder("notes"), root / "reward"
    load_scalar(base, torch.float32, new_head_seed=1).save_pretrained(reward)
    for file in base.iterdir():
        if not (reward / file.name).exists() and file.suffix != ".safetensors":
            (reward / file.name).write_bytes(file.read_bytes())
    models = dict.fromkeys(("sft_policy", "sft_improver", "ppo_policy"), base)
    return [f"ready.{stage}={path}" for stage, path in (models | {"reward": reward, "gap_reward": reward}).items()]


def seconds(run: Path, given: list[str]) -> float:
    """Until rollouts of the first step are written; then the run is ended."""
    command = [sys.executable, "-m", "actors.cli", "train", "quickstart", f"run={run}", "tracking.wandb=false", *given]
    started = time.perf_counter()
    with (run.parent / f"{run.name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        while not list(run.glob("rollouts/ppo_improver/step-*/*.parquet")):
            took = time.perf_counter() - started
            if process.poll() is not None or took > DEADLINE:
                raise SystemExit(Path(log.name).read_text()[-3000:])
            time.sleep(0.05)
        return time.perf_counter() - started
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()


def main() -> list[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        given = ready(Path(folder))
        took = [seconds(Path(folder) / f"run-{number}", given) for number in range(STARTS)]
    print("start-up: " + ", ".join(f"{value:.1f}" for value in took) + " s, the first with cold caches")
    return [finding("startup_seconds", statistics.median(took[1:]), "<= 25")]


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(main()))
