"""The actors of one role: places in the plan, and whoever stands on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakSet

import ray

from actors.plan import Bundle
from actors.queue import Queue
from actors.refs import Call, RayRef, Rescue, first

T = TypeVar("T")

NAME_SECONDS = 60.0
"""How long a dead actor's name may stay taken."""

Loaded = tuple[str, tuple[Any, ...]]
GIVEN: Loaded = ("receive", ())
"""What an actor has loaded that was given weights by a transfer: nobody can tell its successor the same."""


@dataclass(eq=False)
class Worker:
    """A place in the plan. The actor on it may be replaced by another, which is then told what the first had loaded."""

    bundle: Bundle
    create: Callable[[], Any]
    """Makes an actor on this place and returns its handle at once."""
    handle: Any = field(init=False)
    node: str | None = None
    """The id of the node it stands on, once it has answered."""
    generation: int = 0
    """How often the actor was replaced."""
    loaded: Loaded | None = None
    """The call that gave the actor what it works with: a model, weights."""
    equipped: bool = True
    """Whether the actor has been told that; what it is asked afterwards, it does with it."""

    def __post_init__(self) -> None:
        self.handle = self._created()

    def replace(self) -> None:
        """Puts a new actor on the place of one that died, or is to die."""
        ray.kill(self.handle, no_restart=True)
        self.handle = self._created()
        self.equipped = self.loaded is None
        self.generation += 1
        self.node = None

    def _created(self) -> Any:
        freed = time.monotonic() + NAME_SECONDS
        while True:
            try:
                return self.create()
            except ValueError:  # Ray gives the name of one that was ended away once it has noted the death
                if time.monotonic() > freed:
                    raise
                time.sleep(0.1)

    def reload(self) -> Any:
        """Tells a new actor what the one before had loaded; the answer in the making, None where it had nothing."""
        if self.loaded is None:
            return None
        method, args = self.loaded
        told = getattr(self.handle, method).remote(*(arg.ref if isinstance(arg, Call) else arg for arg in args))
        self.equipped = True
        return told


class Group:
    """The workers of a role."""

    def __init__(self, workers: Sequence[Worker], supervisor: Rescue) -> None:
        self.workers, self.supervisor = list(workers), supervisor
        self.queue = Queue(self.workers)
        self._calls: WeakSet[Call] = WeakSet()
        self.met: tuple[object, Any] | None = None
        """Of learners: which processes last met for a transfer of weights, and where."""
        self._counting = threading.Lock()

    def share(self, shard: int, method: str, *args: Any) -> Call:
        """A call of the worker whose turn it is at this shard; which one it is decides nothing but the time."""
        return self._call(self.workers[shard % len(self.workers)], method, args)

    def hand_out(self, method: str, each: Iterable[tuple[Any, ...]]) -> list[Call]:
        """A call with each of these arguments, of whoever is free first; whoever it is decides nothing but the time."""
        calls = [self._call(None, method, args) for args in each]
        self.queue.add(calls)
        return calls

    def each(self, method: str, *args: Any) -> list[Call]:
        """The same call of every worker, after what was asked before."""
        self.queue.flush()
        return [self._call(worker, method, args) for worker in self.workers]

    def unanswered(self) -> int:
        """Calls that wait for their worker, or are being worked on."""
        with self._counting:
            refs = [call.ref for call in self._calls]
        asked = [ref for ref in refs if ref is not None]
        waiting = len(ray.wait(asked, num_returns=len(asked), timeout=0, fetch_local=False)[1]) if asked else 0
        return len(refs) - len(asked) + waiting

    def _call(self, worker: Worker | None, method: str, args: Sequence[Any]) -> Call:
        call = Call(worker, method, args)
        with self._counting:
            self._calls.add(call)
        return call

    def load(self, method: str, *args: Any) -> list[Call]:
        """The same call of every worker, which those that come to stand in their places will be told too."""
        for worker in self.workers:
            worker.loaded = (method, args)
        return self.each(method, *args)

    def retire(self, worker: Worker) -> None:
        """Goes on without a worker; what it was asked, another is to be asked."""
        ray.kill(worker.handle, no_restart=True)
        self.workers.remove(worker)
        with self._counting:
            for i, call in enumerate(call for call in self._calls if call.worker is worker):
                call.move(self.workers[i % len(self.workers)])

    def ref(
        self, calls: list[Call], what: str, deadline: float, merge: Callable[[Sequence[Any]], T] = first
    ) -> RayRef[T]:
        return RayRef(calls, what, deadline, self.supervisor, merge)
