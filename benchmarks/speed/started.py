"""`pit-ray train quickstart` given the models of the stages before the improver's PPO, as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pit_ray.data.worlds import base_folder
from pit_ray.models.load import load_scalar

DEADLINE = 3600.0


def ready(root: Path) -> list[str]:
    """Overrides that give the base in the place of every language model, and a reward model over it."""
    base, reward = base_folder("notes"), root / "reward"
    load_scalar(base, torch.float32, new_head_seed=1).save_pretrained(reward)
    for file in base.iterdir():
        if not (reward / file.name).exists() and file.suffix != ".safetensors":
            (reward / file.name).write_bytes(file.read_bytes())
    models = dict.fromkeys(("sft_policy", "sft_improver", "ppo_policy"), base)
    return [f"ready.{stage}={path}" for stage, path in (models | {"reward": reward, "gap_reward": reward}).items()]


class Started:
    """The command, running."""

    def __init__(self, run: Path, overrides: list[str]) -> None:
        command = [sys.executable, "-m", "actors.cli", "train", "quickstart", f"run={run}", "tracking.wandb=false"]
        self.run, self.log, self.since = run, run.with_name(f"{run.name}.log"), time.perf_counter()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *overrides], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait_for(self, pattern: str) -> float:
        """Seconds from the start until a file of the run folder is there; SystemExit with the command's last words
        where it ends before, or takes too long."""
        while not list(self.run.glob(pattern)):
            if self.process.poll() is not None or time.perf_counter() - self.since > DEADLINE:
                raise SystemExit(self.log.read_text()[-3000:])
            time.sleep(0.05)
        return time.perf_counter() - self.since


@contextmanager
def started(run: Path, overrides: list[str]) -> Iterator[Started]:
    """Ends the command, and all that it started, at the end."""
    command = Started(run, overrides)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGINT)
        command.process.wait()
