"""Training the runs of a plan, each in a process of its own; what is finished stays as it is."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol, TypeVar

from pit_ray.config import load_config
from pit_ray.errors import ConfigError, InfraError
from pit_ray.progress import duration
from pit_ray.run_folder import RunFolder, environment

HEARTBEAT = 60.0
"""Seconds between two lines about a run that goes on."""
GRACE = 30.0
"""Seconds that an interrupted run may take to end."""
CHILDREN: list[subprocess.Popen] = []
"""Runs that have been started."""


class PlannedRun(Protocol):
    """One training run of a plan."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str:
        """Runs of one kind take about as long."""

    @property
    def folder(self) -> Path: ...

    @property
    def given(self) -> Path | None:
        """The folder of the run whose models it is given, which is finished first."""

    def arguments(self) -> list[str]:
        """The recipe and overrides of `pit-ray train`; only once the run whose models it is given is finished."""


R = TypeVar("R", bound=PlannedRun)


def finished(run: PlannedRun) -> bool:
    return any(run.folder.glob("stages/*-evaluate/done.json"))


def train_all(runs: Sequence[R], train: Callable[[R], None], jobs: int = 1) -> None:
    """Trains what is not finished, `jobs` runs at a time, begun in order, and says how long the rest may take. After
    the first that fails no other is begun.

    ConfigError where a folder holds a run of another configuration, or a part of one that another commit began.
    """
    begun: dict[Path, Future[None]] = {}

    def one(number: int, run: R) -> None:
        if run.given in begun:
            begun[run.given].result()
        train_one(f"[{number}/{len(runs)}] {run.name}", run, runs, train)

    with ThreadPoolExecutor(jobs) as pool:
        for number, run in enumerate(runs, start=1):
            begun[run.folder] = pool.submit(one, number, run)
        try:
            wait(begun.values(), return_when=FIRST_EXCEPTION)
        except BaseException:
            end_children()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    for future in begun.values():
        if not future.cancelled():
            future.result()


def train_one(place: str, run: R, runs: Sequence[R], train: Callable[[R], None]) -> None:
    recipe, *overrides = run.arguments()
    if (run.folder / "config.yaml").is_file():
        RunFolder(run.folder).open(load_config(recipe, overrides))
    if finished(run):
        print(f"{place}: finished before", flush=True)
        return
    refuse_other_commit(run.folder)
    print(f"{place}: training{left(runs)}", flush=True)
    started = time.monotonic()
    train(run)
    print(f"{place}: done in {duration(time.monotonic() - started)}", flush=True)


def left(runs: Sequence[PlannedRun]) -> str:
    """How long the unfinished runs may take one after another, from the stages' seconds of finished ones of their kind;
    "" where there are none yet."""
    taken: dict[str, list[float]] = {}
    for run in runs:
        if finished(run):
            summary = json.loads((run.folder / "evaluation" / "summary.json").read_text(encoding="utf-8"))
            taken.setdefault(run.kind, []).append(sum(summary["seconds"].values()))
    known = [seconds for found in taken.values() for seconds in found]
    waiting = [taken.get(run.kind) or known for run in runs if not finished(run)]
    if not all(waiting):
        return ""
    return f"; about {duration(sum(sum(seconds) / len(seconds) for seconds in waiting))} left"


def child(run: PlannedRun) -> None:
    """Trains a run in a process of its own; see `run_child`."""
    options = ["tracking.wandb=false", "tracking.console=plain"]
    run_child(run.name, run.folder.with_suffix(".log"), ["train", *run.arguments(), *options])


def run_child(name: str, log: Path, arguments: Sequence[str]) -> None:
    """A command of pit-ray in a process of its own, its output in `log`; InfraError with the last lines if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "actors.cli", *arguments]
    started = time.monotonic()
    with log.open("a", encoding="utf-8", buffering=1) as sink:
        sink.write(f"$ {shlex.join(command)}\n")
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
        CHILDREN.append(process)
        while (code := ended(process, HEARTBEAT)) is None:
            print(f"    {duration(time.monotonic() - started)}  {name}  {tail(log, 1)}", flush=True)
    if code:
        raise InfraError(f"{name} ended with exit code {code}; the end of {log}:\n{tail(log, 12)}")


def end_children() -> None:
    """Waits for the runs to end, which an interrupt from the terminal reaches too, and ends those that do not."""
    for process in CHILDREN:
        if ended(process, GRACE) is None:
            process.terminate()
            process.wait()


def ended(process: subprocess.Popen, seconds: float) -> int | None:
    """The exit code, waited for at most so long; None while it runs."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(seconds)
    return None


def tail(log: Path, lines: int) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def refuse_changes(folder: Path) -> None:
    """ConfigError unless everything that could decide the result is in a commit; what a plan's results are is not."""
    command = ["git", "-C", str(folder), "status", "--porcelain", "--", ".", ":(exclude)results"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise ConfigError(f"results are of a commit, and git knows none for {folder}; --allow-dirty goes on anyway")
    if found.stdout:
        changed = found.stdout.rstrip()
        raise ConfigError(f"results are of a commit; commit these changes first, or --allow-dirty:\n{changed}")


def refuse_other_commit(run: Path) -> None:
    """ConfigError when an unfinished run was begun at another commit than this one."""
    path, now = run / "environment.json", environment()["commit"]
    began = json.loads(path.read_text(encoding="utf-8"))["commit"] if path.is_file() else now
    if began != now:
        raise ConfigError(f"{run} was begun at commit {began}, this is {now}; go back to that one, or empty the folder")
