"""What a run is doing, for whoever can read its folder: written by the driver every few seconds, shown by
`pit-ray status`."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from pit_ray.errors import DataError, InfraError
from pit_ray.events import read_events
from pit_ray.progress import clock, duration
from pit_ray.run_folder import RunFolder, write_json
from pit_ray.tracking import read_metrics, visible

FILE = "status.json"
WRITE_SECONDS = 5.0
STALE_SECONDS = 60.0
"""A status older than this is that of a driver that died."""
EVENTS_SHOWN = 5


class StatusWriter:
    """A context manager that keeps RUN/status.json up to date, and with it all records of a run that is kept in an
    object store; `activity` tells what each actor is doing."""

    def __init__(self, folder: RunFolder, activity: Callable[[], dict[str, dict[str, Any]]]) -> None:
        self.folder, self.activity = folder, activity
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="status", daemon=True)

    def __enter__(self) -> StatusWriter:
        self._write("running")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._over.set()
        self._thread.join()
        with suppress(InfraError):
            self._write("finished" if kind is None else "interrupted" if kind is KeyboardInterrupt else "failed")

    def _keep(self) -> None:
        while not self._over.wait(WRITE_SECONDS):
            with suppress(Exception):  # what is wrong is the business of those who write results
                self._give_way()
                self._write("running")

    def _give_way(self) -> None:
        """Ends this driver where another has the run, which took it, silent for long, for dead; at once, since both
        would write the same files."""
        found = self.folder.store.read(self.folder.path / FILE) if self.folder.store.remote else None
        if found is not None and (driver := json.loads(found)["driver"]) != this_driver():
            who = f"process {driver['pid']} on {driver['host']}"
            print(f"{who} has taken over the run; this one ends", file=sys.stderr, flush=True)
            os._exit(1)

    def _write(self, state: str) -> None:
        actors = self.activity() if state == "running" else {}
        now = {"state": state, "time": time.time(), "driver": this_driver(), "actors": actors}
        write_json(self.folder.path / FILE, now)
        self.folder.keep_records()


def this_driver() -> dict[str, Any]:
    """What tells this process from every other."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def describe_status(folder: RunFolder) -> str:
    """State, stage, phase and step of a run, what each actor is doing and since when, and its last faults, as lines.
    DataError where it has not begun."""
    run = folder.path
    path = run / FILE
    if not path.is_file():
        raise DataError(f"{run}: no run has been started here (it has no {FILE})")
    status, now = json.loads(path.read_text(encoding="utf-8")), time.time()
    lines = [f"{run}: {_state(status, now)}", *_progress(run, now)]
    for name, beat in sorted(status["actors"].items()):
        lines.append(f"  {name:14} {beat['doing']:12} {duration(max(0.0, now - beat['since'])):>12}  on {beat['node']}")
    events = read_events(run)[-EVENTS_SHOWN:]
    lines += [f"  {clock(event['time'])}  {event['text']}" for event in events]
    return visible("\n".join(lines))


def _state(status: dict[str, Any], now: float) -> str:
    age, driver = now - status["time"], status["driver"]
    where = f"process {driver['pid']} on {driver['host']}"
    if status["state"] != "running":
        return f"{status['state']} {duration(age)} ago, {where}"
    if age > STALE_SECONDS:
        return f"its driver ({where}) has not been heard of for {duration(age)}; the same command goes on with the run"
    return f"running, {where}"


def _progress(run: Path, now: float) -> list[str]:
    records = read_metrics(run)
    if not records:
        return ["  no step is done yet"]
    last = records[-1]
    steps = [record for record in records if record["stage"] == last["stage"]]
    phase = f" {last['phase']}" if last["phase"] else ""
    return [f"  {last['stage']}{phase}: {len(steps)} steps, the last {duration(now - last['time'])} ago"]
