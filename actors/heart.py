"""Signs of life: every actor's process tells, from a thread of its own, that it lives and what it is doing; asked to,
it tells where each of its threads stands. They lie in the key-value store of Ray's head, where anyone on the cluster
can read them."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar

import ray
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from actors.footprint import LOOK_SECONDS, Footprint
from actors.start_up import imported
from pit_ray.errors import LINE, short

BEAT_SECONDS = 5.0
FRAMES = 6
"""Innermost frames of a thread that are told."""
IDLE = "idle"
SUPERVISED = "supervised"
"""By this name, with its rank, a worker of Ray Train gives its signs of life."""

Method = TypeVar("Method", bound=Callable[..., Any])


class Heart:
    """The signs of life of one actor; beats until its process ends."""

    def __init__(self, name: str) -> None:
        self.name, self.doing, self.since = name, IDLE, time.time()
        context = ray.get_runtime_context()
        self.place = {"pid": os.getpid(), "node": socket.gethostname()}
        self.key, self.asked_key = _key(context.namespace, "beat", name), _key(context.namespace, "asked")
        self.told, self.footprint = b"", Footprint()
        self.over = threading.Event()
        threading.Thread(target=self._beat, name="heart", daemon=True).start()

    def imported(self) -> None:
        """The imports are done, and what comes is the actor's own."""
        imported()
        self.footprint.imported()

    def _beat(self) -> None:
        while not self.over.is_set():
            with suppress(Exception):  # the head may be away for a moment
                self._tell()
            until = time.monotonic() + BEAT_SECONDS
            while time.monotonic() < until and not self.over.wait(LOOK_SECONDS):
                self.footprint.look()

    def stop(self) -> None:
        """For a process that outlives what it did; its last sign stays."""
        self.over.set()
        with suppress(Exception):
            self._tell()

    def _tell(self) -> None:
        now = {
            "name": self.name,
            "doing": self.doing,
            "since": self.since,
            "time": time.time(),
            **self.place,
            "memory": self.footprint.told(),
        }
        asked = _internal_kv_get(self.asked_key) or b""
        if asked != self.told:
            now["stacks"], now["asked"] = _stacks(), asked.decode()
            self.told = asked
        _internal_kv_put(self.key, json.dumps(now).encode(), overwrite=True)


def does(method: Method) -> Method:
    """Marks a method of an actor as something that its signs of life tell of; the actor has a `heart`."""

    @wraps(method)
    def told(self: Any, *args: Any, **options: Any) -> Any:
        self.heart.doing, self.heart.since = method.__name__, time.time()
        try:
            return method(self, *args, **options)
        finally:
            self.heart.doing, self.heart.since = IDLE, time.time()

    return told  # type: ignore[return-value]


def beats(namespace: str, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The last sign of life of each actor that has given one."""
    found = {name: _internal_kv_get(_key(namespace, "beat", name)) for name in names}
    return {name: json.loads(value) for name, value in found.items() if value}


def ask_for_stacks(namespace: str, names: Iterable[str]) -> dict[str, str]:
    """What each actor is doing (the first line), and where its threads stand; of one that is silent, since when."""
    wanted, asked = list(names), str(time.time())
    _internal_kv_put(_key(namespace, "asked"), asked.encode(), overwrite=True)
    deadline = time.monotonic() + 3 * BEAT_SECONDS
    while True:
        found = beats(namespace, wanted)
        told = {name: _told(beat) for name, beat in found.items() if beat.get("asked") == asked}
        if len(told) == len(wanted) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    return {name: told.get(name) or _silent(found.get(name)) for name in wanted}


def _told(beat: dict[str, Any]) -> str:
    return f"{beat['doing']} for {beat['time'] - beat['since']:.0f} s\n{beat['stacks']}"


def _silent(beat: dict[str, Any] | None) -> str:
    if beat is None:
        return "has given no sign of life"
    return f"silent for {time.time() - beat['time']:.0f} s, when it was at: {beat['doing']}"


def _stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        if names.get(ident) == "heart":
            continue
        where = [f"{short(f.filename, LINE)}:{f.lineno} {f.name}" for f in traceback.extract_stack(frame)[-FRAMES:]]
        parts.append(f"{names.get(ident, ident)}: " + " > ".join(where))
    return "\n".join(parts)


def _key(namespace: str, *parts: str) -> bytes:
    return ":".join(("pit-ray", namespace, *parts)).encode()
