"""Calls that wait for whoever of a group is free first: a thread that hands them out as `dispatch` says."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

import ray
from ray.exceptions import RayActorError

from actors.dispatch import Dispatch
from actors.refs import Call, Place, cause_of, error_of

LOOK_SECONDS = 0.1
"""How often it is looked whether something has been added, or is late."""


class Member(Place, Protocol):
    """A worker of the group."""

    equipped: bool

    def __hash__(self) -> int: ...


class Queue:
    """The calls of one group that have no worker yet. Its thread lives while there are any, or they are worked on.

    A worker that has failed is given no more until another stands in its place. Where none is left, the calls are
    asked all the same, so that they fail and whoever waits for them sees to it.
    """

    def __init__(self, workers: Sequence[Member]) -> None:
        """`workers`: the group's own list, which changes with it."""
        self.workers = workers
        self._policy: Dispatch[Member] = Dispatch()
        self._asked: dict[ray.ObjectRef, tuple[Member, int]] = {}
        """Answers in the making, with their worker and which generation of it."""
        self._failed: dict[Member, int] = {}
        """Workers, and the generation that has failed."""
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None

    def add(self, calls: Sequence[Call]) -> None:
        """Returns at once."""
        with self._lock:
            self._policy.add(calls)
            self._hand_out()
            if self._thread is None and self._asked:
                self._thread = threading.Thread(target=self._run, name="dispatch", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Asks everything that still waits, each worker its share, so that it comes before what they are asked next."""
        with self._lock:
            for i, job in enumerate(self._policy.waiting):
                job.what.move(self.workers[i % len(self.workers)])
                job.what.ask()
            self._policy.waiting.clear()

    def _run(self) -> None:
        try:
            while self._look():
                pass
        except BaseException:
            if ray.is_initialized():  # else the run is over
                self._give_up()
                raise

    def _look(self) -> bool:
        """Sees to what has been answered; whether there is more to come."""
        with self._lock:
            if not self._asked:
                self._thread = None
                return False
            asked = list(self._asked)
        ready, _ = ray.wait(asked, num_returns=1, timeout=LOOK_SECONDS, fetch_local=False)
        with self._lock:
            for ref in ready:
                self._answered(ref)
            self._hand_out()
        return True

    def _hand_out(self) -> None:
        able = [w for w in self.workers if w.equipped and self._failed.get(w) != w.generation]
        for worker, job in self._policy.hand_out(able, time.monotonic()):
            generation = worker.generation  # before: whoever is replaced meanwhile will not answer
            self._asked[job.what.submit(worker)] = worker, generation
        if not self._asked:
            self.flush()

    def _answered(self, ref: ray.ObjectRef) -> None:
        worker, generation = self._asked.pop(ref)
        wanted = not self._policy.running[worker][0].done
        if (error := error_of(ref)) is None:
            job = self._policy.answered(worker, time.monotonic())
        else:
            job = self._policy.failed(worker)
            if wanted or isinstance(cause_of(error), RayActorError):
                self._failed[worker] = generation
        if job is None:
            return
        job.what.settle(worker, generation, ref)
        if worker not in self.workers:
            job.what.move(self.workers[0])
        for other, (who, _) in self._asked.items():
            if who in job.workers:
                ray.cancel(other)

    def _give_up(self) -> None:
        """Leaves everything to Ray."""
        with self._lock:
            self._thread = None
            for ref, (worker, generation) in self._asked.items():
                if (job := self._policy.running.pop(worker)[0]) and not job.done:
                    job.done = True
                    job.what.settle(worker, generation, ref)
            self._asked.clear()
            self.flush()
