"""A run of the command in a process of its own that can be disturbed, and how its result differs from another's."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from pit_ray.run_folder import RunFolder
from pit_ray.tracking import read_metrics

STAGES = ("data", "sft_policy", "sft_improver", "reward", "gap_reward", "ppo_policy", "ppo_improver", "evaluate")
TITLES = {
    "rollout": r"ray::(rollout/|RolloutActor)",
    "reward": r"ray::(reward/|ScorerActor\.(load_reward|score))",
    "reference": r"ray::(reference/|ScorerActor\.(load_reference|logprobs))",
    "learner": r"ray::(learner/|LearnerActor)",
    "worker": r"ray::RayTrainWorker",
}
"""What Ray calls the processes of each role while they are busy; a worker is a rank of a supervised stage."""


TABLE = "PIT_RAY_FAULTS"
"""Environment variable: the file to which rows of the table of faults are added."""


class Disturbed:
    """`pit-ray train RECIPE run=RUN`, started as often as it takes."""

    def __init__(self, recipe: Path, run: Path, *overrides: str, address: str = "127.0.0.1:1") -> None:
        """`address`: what RAY_ADDRESS says. By default nobody listens there, and a local run must not try to join."""
        self.recipe, self.run, self.overrides, self.address = recipe, run, overrides, address
        self.said = ""
        """What the command has printed since it was last started; complete once it has ended."""
        self._roles: dict[psutil.Process, str] = {}

    def start(self) -> None:
        command = [sys.executable, "-m", "actors.cli", "train", str(self.recipe), f"run={self.run}", *self.overrides]
        self._log = self.run.with_name(f"{self.run.name}.log")
        environment = os.environ | {"WANDB_MODE": "offline", "RAY_ADDRESS": self.address, "COLUMNS": "200"}
        with self._log.open("wb") as log:
            self.driver = psutil.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._roles.clear()

    def look(self) -> bool:
        """Brings `said` and the roles up to date; whether the command still runs."""
        running = self.driver.poll() is None
        self.said = self._log.read_text(encoding="utf-8")
        for process in self.recorded():
            try:
                title = " ".join(process.cmdline())
            except psutil.Error:
                continue
            for role, pattern in TITLES.items():
                if re.match(pattern, title):
                    self._roles[process] = role
        return running

    def wait_for(self, what: str, seconds: float = 1800) -> None:
        """Returns once the command has printed `what`."""
        deadline = time.monotonic() + seconds
        while what not in self.said:
            assert self.look(), f"the command ended before it said {what!r}:\n{self.said[-4000:]}"
            assert time.monotonic() < deadline, f"{what!r} was not said in {seconds:g} s:\n{self.said[-4000:]}"
            time.sleep(0.1)

    def end(self, seconds: float = 1800) -> int:
        """Waits for the command's end; its exit code, -9 when it was killed."""
        code = self.driver.wait(seconds)
        self.look()
        return code

    def recorded(self) -> list[psutil.Process]:
        """The processes on record in the run folder that live."""
        path = self.run / "processes.json"
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))["processes"]
        except FileNotFoundError:
            return []
        return list(_alive(entry["pid"] for entry in entries))

    def victims(self, role: str) -> list[psutil.Process]:
        """The living processes of a role, as far as it has been busy since the command was started."""
        if role == "driver":
            return [psutil.Process(self.driver.pid)] if self.driver.poll() is None else []
        return [process for process, its in self._roles.items() if its == role and lives(process)]

    def stage(self) -> str | None:
        """The first stage that is not finished."""
        return next((stage for stage in STAGES if not self.done(stage)), None)

    def done(self, stage: str) -> bool:
        return any(self.run.glob(f"stages/*-{stage}/done.json"))


def before(stage: str, undisturbed: Path, run: Path) -> None:
    """Makes a run folder as the undisturbed run's was when `stage` began, so that no test waits for what is before."""
    done = STAGES[: STAGES.index(stage)]
    run.mkdir()
    for name in ("config.yaml", "environment.json"):
        shutil.copy(undisturbed / name, run)
    for number, name in enumerate(done):
        shutil.copytree(undisturbed / "stages" / f"{number:02d}-{name}", run / "stages" / f"{number:02d}-{name}")
        if (rollouts := undisturbed / "rollouts" / name).is_dir():
            shutil.copytree(rollouts, run / "rollouts" / name)
    lines = (undisturbed / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["stage"] in done))


def recovery(run: Path, struck: float) -> float:
    """Seconds from a fault to the next step of PPO that was done, less what a step takes."""
    after = [record for record in read_metrics(run) if record["time"] > struck and "time/step" in record]
    return after[0]["time"] - struck - float(np.median([record["time/step"] for record in after]))


def tell_cost(what: str, how: str, seconds: float, lost: Sequence[str] = ()) -> None:
    """Adds a fault and what it cost to the table, where one is being made."""
    if path := os.environ.get(TABLE):
        row = f"| {what} | {how} | {', '.join(lost) or 'nothing'} | {max(0.0, seconds):.0f} |\n"
        with Path(path).open("a", encoding="utf-8") as table:
            table.write(row)


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _alive(pids: Iterator[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        try:
            process = psutil.Process(pid)
        except psutil.NoSuchProcess:
            continue
        if lives(process):
            yield process


def result(run: Path) -> dict[str, Any]:
    """All that two runs of one seed share to the bit: metrics without times, rollouts, evaluation, models."""
    folder = RunFolder(run)
    found: dict[str, Any] = {
        f"metrics.jsonl, line {number}": {k: v for k, v in record.items() if not k.startswith("time")}
        for number, record in enumerate(read_metrics(run), start=1)
    }
    for file in sorted((run / "rollouts").rglob("*.parquet")):
        found[str(file.relative_to(run))] = pq.read_table(file).to_pydict()
    summary = json.loads((run / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    found["evaluation/summary.json"] = summary | {"seconds": None}
    found["evaluation/samples.json"] = json.loads((run / "evaluation" / "samples.json").read_text(encoding="utf-8"))
    for stage in STAGES[1:-1]:
        weights = load_file(folder.model(stage) / "model.safetensors")
        found[f"model of {stage}"] = {name: (array.dtype, array.tobytes()) for name, array in weights.items()}
    return found


def differences(ours: Path, theirs: Path) -> list[str]:
    """The names of what is not equal to the bit in the results of two runs."""
    one, other = result(ours), result(theirs)
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
