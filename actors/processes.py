"""The processes that a run has started, on record in its folder, so that none outlives it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from pit_ray.errors import InfraError
from pit_ray.run_folder import write_json

RECORD = "processes.json"
LOOK_SECONDS = 1.0
"""How often the driver looks for processes that are new."""
SAME_START = 1.0
"""Seconds by which two readings of one process's start may differ, since the machine's clock may be set."""
END_SECONDS = 20.0


@contextmanager
def on_record(run: Path) -> Iterator[None]:
    """Ends what a dead driver of this run has left; records what this process starts, and leaves none of it behind.

    The run folder must be locked. InfraError when a process cannot be ended.
    """
    path = run / RECORD
    end(left_behind(path))
    seen: set[psutil.Process] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            with suppress(InfraError):  # a full disk is the business of those who write results
                _record(path, seen)

    _record(path, seen)
    looking = threading.Thread(target=look, name="processes", daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()
        end(seen.union(psutil.Process().children(recursive=True)))
        path.unlink(missing_ok=True)


def left_behind(path: Path) -> set[psutil.Process]:
    """The processes of a record that still live, known by pid and start time, and what those have started since."""
    if not path.is_file():
        return set()
    record = json.loads(path.read_text(encoding="utf-8"))
    found: set[psutil.Process] = set()
    for entry in record["processes"] if record["host"] == socket.gethostname() else ():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(entry["pid"])
            if abs(process.create_time() - entry["start"]) <= SAME_START:
                found.update((process, *process.children(recursive=True)))
    return found


def end(processes: Iterable[psutil.Process]) -> None:
    """Kills processes and returns when they are gone; InfraError names those that stay."""
    living = [process for process in processes if _lives(process)]
    for process in living:
        with suppress(psutil.Error):
            process.kill()
    deadline = time.monotonic() + END_SECONDS
    while any(_lives(process) for process in living):
        if time.monotonic() > deadline:
            still = ", ".join(str(process.pid) for process in living if _lives(process))
            raise InfraError(f"processes of this run cannot be ended: {still}")
        time.sleep(0.05)


def _lives(process: psutil.Process) -> bool:
    # An orphan that nobody reaps stays as a zombie, which does nothing.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _record(path: Path, seen: set[psutil.Process]) -> None:
    """Brings `seen` and the record on disk up to date."""
    now = {process for process in seen if _lives(process)}.union(psutil.Process().children(recursive=True))
    if now != seen or not path.is_file():
        seen.clear()
        seen.update(now)
        found = [{"pid": process.pid, "start": process.create_time()} for process in now]
        write_json(path, {"host": socket.gethostname(), "processes": sorted(found, key=lambda entry: entry["start"])})
