"""References to values in the making, over Ray: calls that are asked again where an actor died, and every other Ray
error as an InfraError that names what was asked."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from pit_ray.errors import InfraError, PitRayError
from pit_ray.roles import Ref

T = TypeVar("T")

LISTEN_SECONDS = 10.0
"""How often the signs of life of actors are looked at while a call is waited for."""


def first(values: Sequence[Any]) -> Any:
    """The first part: what rank or worker 0 returned."""
    return values[0]


class Place(Protocol):
    """Where an actor stands; the next one there is of another generation."""

    handle: Any
    generation: int


class Rescue(Protocol):
    """Who deals with failures."""

    def recover(self, error: RayError, what: str, calls: Sequence[Call]) -> None:
        """Puts others in the place of the dead, or raises what ends the step or the run."""

    def listen(self) -> None:
        """Looks whether everybody lives."""

    def expired(self, what: str, seconds: float) -> InfraError:
        """What to raise when a call took too long."""


class Call:
    """One call of one actor: what is asked, of whoever stands on the worker's place, and its answer in the making.

    Arguments that are calls themselves go from actor to actor; where one of them was asked again, so is this. A call
    whose worker is not known yet (None) has no `ref` until `settle`, and neither have those that are made from it.
    """

    _guard = threading.RLock()

    def __init__(self, worker: Place | None, method: str, args: Sequence[Any]) -> None:
        self.worker, self.method, self.args = worker, method, tuple(args)
        self.inputs = [arg for arg in args if isinstance(arg, Call)]
        self.ref: ray.ObjectRef | None = None
        self.generation, self.asked = -1, 0
        self.read: list[int] = []
        self._settled = threading.Event()
        self._made_from_this: list[Call] = []
        if worker is None:
            return
        with self._guard:
            open_yet = [call for call in self.inputs if call.ref is None]
            for call in open_yet:
                call._made_from_this.append(self)
        if not open_yet:
            self.ask()

    def ask(self) -> None:
        """Asks its worker, for the first time or again."""
        assert self.worker is not None
        generation = self.worker.generation  # before: whoever is replaced meanwhile will not answer
        self.settle(self.worker, generation, self.submit(self.worker))

    def submit(self, worker: Place) -> ray.ObjectRef:
        """Asks a worker, without this being the answer yet."""
        args = [arg.ref if isinstance(arg, Call) else arg for arg in self.args]
        return getattr(worker.handle, self.method).remote(*args)

    def settle(self, worker: Place, generation: int, ref: ray.ObjectRef) -> None:
        """This is its answer, by the worker's actor of that generation; what waited to be made from it is asked."""
        with self._guard:
            self.worker, self.generation, self.ref = worker, generation, ref
            self.read = [call.asked for call in self.inputs]
            self.asked += 1
            waiting, self._made_from_this = self._made_from_this, []
            for call in waiting:
                if call.ref is None and all(part.ref is not None for part in call.inputs):
                    call.ask()
        self._settled.set()

    def settled(self, timeout: float) -> bool:
        """Whether its answer is in the making, within so many seconds."""
        return self._settled.wait(timeout)

    def move(self, worker: Place) -> None:
        """Leaves a worker that will not be replaced to another one."""
        self.worker, self.generation = worker, -1

    def mend(self) -> None:
        """Asks again what was lost with an actor, and what was to be made from that."""
        for call in self.inputs:
            call.mend()
        if self.ref is not None and (self.read != [call.asked for call in self.inputs] or self._lost()):
            self.ask()

    def _lost(self) -> bool:
        if self.ref is None or (self.worker is not None and self.generation == self.worker.generation):
            return False
        try:
            ray.get(self.ref, timeout=0)
        except RayError:  # it died with the actor, or was still waiting for it
            return True
        return False

    def error(self) -> RayError | None:
        """What has gone wrong with it so far."""
        return None if self.ref is None else error_of(self.ref)

    def change(self, args: tuple[Any, ...]) -> None:
        """Asks for something else when it is next mended."""
        self.args, self.generation = args, -1


def error_of(ref: ray.ObjectRef) -> RayError | None:
    """What has gone wrong with an answer so far."""
    try:
        ray.get(ref, timeout=0)
    except GetTimeoutError:
        return None
    except RayError as error:
        return error
    return None


class RayRef(Generic[T]):
    """A value in one or more parts (shards, ranks), each a call; `merge` makes it whole."""

    def __init__(
        self,
        calls: list[Call],
        what: str,
        deadline: float,
        supervisor: Rescue,
        merge: Callable[[Sequence[Any]], T] = first,
    ) -> None:
        self.calls, self.what, self.deadline, self.supervisor, self.merge = calls, what, deadline, supervisor, merge

    def _parts(self, seconds: float) -> list[ray.ObjectRef]:
        """The answers; GetTimeoutError while somebody is still to be asked after so many seconds."""
        until = time.monotonic() + seconds
        if not all(call.settled(max(until - time.monotonic(), 0)) for call in self.calls):
            raise GetTimeoutError
        return [call.ref for call in self.calls if call.ref is not None]

    def result(self, timeout: float | None = None) -> T:
        limit, started = self.deadline if timeout is None else timeout, time.monotonic()
        while True:
            left = limit - (time.monotonic() - started)
            pause = min(LISTEN_SECONDS, max(left, 0))
            try:
                # Raises as soon as one part has failed, though the others may wait for that one for ever.
                return self.merge(ray.get(self._parts(pause), timeout=pause))
            except GetTimeoutError:
                if left > 0:
                    self.supervisor.listen()
                elif timeout is not None:
                    raise TimeoutError(self.what) from None
                else:
                    raise self.supervisor.expired(self.what, limit) from None
            except RayError as error:
                self.supervisor.recover(error, self.what, self.calls)
                for call in self.calls:
                    call.mend()
                if timeout is None:
                    started = time.monotonic()  # what is asked again has its whole time

    def wait(self, timeout: float | None = None) -> None:
        limit = self.deadline if timeout is None else timeout
        started = time.monotonic()
        while True:
            left = limit - (time.monotonic() - started)
            pause = min(LISTEN_SECONDS, max(left, 0))
            with suppress(GetTimeoutError):
                parts = self._parts(pause)
                if len(ray.wait(parts, num_returns=len(parts), timeout=pause, fetch_local=False)[0]) == len(parts):
                    return
            if left <= 0:
                raise self.supervisor.expired(self.what, limit)
            self.supervisor.listen()

    def cancel(self) -> None:
        for call in self.calls:
            if call.ref is not None:
                ray.cancel(call.ref)


class TaskRef(Generic[T]):
    """The value of one task, which answers for its own failures; `listen` is called when it is not there in time."""

    def __init__(self, part: ray.ObjectRef, what: str, listen: Callable[[], None]) -> None:
        self.part, self.what, self.listen = part, what, listen

    def result(self, timeout: float | None = None) -> T:
        try:
            return ray.get(self.part, timeout=timeout)
        except GetTimeoutError:
            self.listen()
            raise TimeoutError(self.what) from None
        except RayError as error:
            raise translated(error, self.what) from error

    def wait(self, timeout: float | None = None) -> None:
        ray.wait([self.part], timeout=timeout, fetch_local=False)

    def cancel(self) -> None:
        ray.cancel(self.part)


def cause_of(error: BaseException) -> BaseException:
    """What a task raised, where that is the error."""
    return error.cause if isinstance(error, RayTaskError) and error.cause is not None else error


def translated(error: BaseException, what: str) -> PitRayError:
    """An error of ours that was raised in an actor as it was; anything else as an InfraError with its cause."""
    cause = cause_of(error)
    if isinstance(cause, PitRayError):
        return cause
    if isinstance(cause, RayActorError):
        return InfraError(f"{what}: {dead_name(cause)} died: {reason_of(cause)}")
    return InfraError(f"{what}: {type(cause).__name__}: {str(cause).strip()}")


def dead_name(error: RayActorError) -> str:
    """The name of the actor that an error speaks of."""
    name = re.search(r"^\s*name: (\S+)", str(error), re.MULTILINE)
    return name[1] if name else "the actor"


def reason_of(error: RayActorError) -> str:
    """Why an actor died, in a line; Ray guesses at length after it."""
    return str(error).strip().splitlines()[-1].partition(" Worker exit detail:")[0]


def calls_of(ref: Ref[Any]) -> list[Any]:
    """The calls of a RayRef; any other Ref's value, put into the object store."""
    return ref.calls if isinstance(ref, RayRef) else [ray.put(ref.result())]
