"""One driver at a time for a run in an object store, which has no locks: whoever writes its status last, and is heard
of, has the run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pit_ray.errors import ConfigError
from pit_ray.run_folder import RunFolder, write_json
from pit_ray.status import FILE, STALE_SECONDS, this_driver

SETTLE_SECONDS = 3.0
"""Two drivers that look at the same moment both find the run free; after this, both see whose name stands."""
LOOK_SECONDS = 2.0
STARTING_SECONDS = 240.0
"""What a driver that is starting is given beyond STALE_SECONDS, since it writes no status before its run is here."""


@contextmanager
def claimed(folder: RunFolder, note: Callable[[str], None]) -> Iterator[None]:
    """Keeps other drivers from the run as long as this one writes its status. ConfigError, with the driver that is at
    work, when there is one; one that was killed counts as such until it has been silent for STALE_SECONDS."""
    if not folder.store.remote:
        yield
        return
    _wait_for_silence(folder, note)
    before, mine = _status(folder), this_driver()
    claim = {"state": "running", "time": time.time() + STARTING_SECONDS, "driver": mine, "actors": {}}
    _write(folder, claim)
    time.sleep(SETTLE_SECONDS)
    status = _status(folder)
    if status is not None and status["driver"] != mine:
        raise _at_work(folder, status)
    try:
        yield
    except BaseException:
        if _status(folder) == claim:  # it ended before it had begun
            _write(folder, before or {**claim, "state": "failed", "time": time.time()})
        raise


def _wait_for_silence(folder: RunFolder, note: Callable[[str], None]) -> None:
    """Returns when no driver is at work; while one may be, its status is watched for a sign of life."""
    found = _status(folder)
    if found is None or found["state"] != "running" or found["driver"] == this_driver():
        return
    until = found["time"] + STALE_SECONDS
    if time.time() < until:
        note(f"waiting {until - time.time():.0f} s: {_named(found)} may still be at work on {folder.store.uri}")
    while time.time() < until:
        time.sleep(LOOK_SECONDS)
        again = _status(folder)
        if again is None or again["state"] != "running":
            return
        if again["time"] != found["time"]:
            raise _at_work(folder, again)


def _write(folder: RunFolder, status: dict[str, Any]) -> None:
    write_json(folder.path / FILE, status)
    folder.store.push(folder.path / FILE)


def _status(folder: RunFolder) -> dict[str, Any] | None:
    text = folder.store.read(folder.path / FILE)
    return None if text is None else json.loads(text)


def _named(status: dict[str, Any]) -> str:
    return f"process {status['driver']['pid']} on {status['driver']['host']}"


def _at_work(folder: RunFolder, status: dict[str, Any]) -> ConfigError:
    return ConfigError(
        f"{folder.store.uri} is being worked on by {_named(status)}; wait for it, end it, or give another run"
    )
