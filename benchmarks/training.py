"""Training the runs of a plan, each in a process of its own; what is finished stays as it is."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
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
    """Trains what is not finished, `jobs` runs at a time, begun in order, and says how long the rest may take.
    After the first that fails no other is begun.

    ConfigError where a folder holds a run of another configuration, or a part of one that another commit began.
    """
    places = [f"[{number}/{len(runs)}] {run.name}" for number, run in enumerate(runs, start=1)]
    side_by_side(
        [
            Task(run.folder, run.given, partial(train_one, place, run, runs, train))
            for place, run in zip(places, runs, strict=True)
        ],
        jobs,
    )


@dataclass(frozen=True)
class Task:
    """Something to do in a thread of its own."""

    folder: Path
    after: Path | None
    """The folder of the task that is done first, if it is among them."""
    do: Callable[[], None]


def side_by_side(tasks: Sequence[Task], jobs: int) -> None:
    """Does tasks, `jobs` at a time, begun in order, those that are waited for before the others. After the first that
    fails no other is begun; its error is raised once those under way have ended. An interrupt ends all. One at a time
    they are done in this thread."""
    begun: dict[Path, Future[None]] = {}
    stop = Event()
    if jobs == 1:
        with children_ended(stop):
            for task in tasks:
                task.do()
        return

    def one(task: Task) -> None:
        if task.after in begun:
            wait([begun[task.after]])
        if stop.is_set():
            return
        try:
            task.do()
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(jobs) as pool, children_ended(stop):
        for task in tasks:
            begun[task.folder] = pool.submit(one, task)
        wait(begun.values())
    for future in begun.values():
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


@contextlib.contextmanager
def children_ended(stop: Event) -> Iterator[None]:
    """After an error or interrupt no task is begun, and runs under way, which an interrupt from the terminal reaches
    too, are waited for and, if they do not end, ended."""
    try:
        yield
    except BaseException:
        stop.set()
        for process in CHILDREN:
            if ended(process, GRACE) is None:
                process.terminate()
                process.wait()
        raise


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
