"""References to values in the making, over Ray; every Ray error becomes an InfraError that names what was asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from pit_ray.errors import InfraError, PitRayError
from pit_ray.roles import Ref

T = TypeVar("T")

DEATH_SECONDS = 1.0
"""How long to look for a dead actor behind another's error."""


def first(values: Sequence[Any]) -> Any:
    """The first part: what rank or worker 0 returned."""
    return values[0]


class RayRef(Generic[T]):
    """A value in one or more parts (shards, ranks), each an ObjectRef; `merge` makes it whole."""

    def __init__(
        self, parts: list[ray.ObjectRef], what: str, deadline: float, merge: Callable[[Sequence[Any]], T] = first
    ) -> None:
        self.parts, self.what, self.deadline, self.merge = parts, what, deadline, merge

    def result(self, timeout: float | None = None) -> T:
        try:
            return self.merge(ray.get(self.parts, timeout=self.deadline if timeout is None else timeout))
        except GetTimeoutError:
            if timeout is not None:
                raise TimeoutError(self.what) from None
            raise InfraError(f"{self.what}: no answer within {self.deadline:g} s (actors.call_deadline)") from None
        except RayError as error:
            raise translated(self._death() or error, self.what) from error

    def wait(self, timeout: float | None = None) -> None:
        limit = self.deadline if timeout is None else timeout
        done, _ = ray.wait(self.parts, num_returns=len(self.parts), timeout=limit, fetch_local=False)
        if len(done) < len(self.parts):
            raise InfraError(
                f"{self.what}: {len(self.parts) - len(done)} of {len(self.parts)} parts missing after {limit:g} s"
            )

    def cancel(self) -> None:
        for part in self.parts:
            ray.cancel(part)

    def _death(self) -> RayActorError | None:
        """Of an actor that a part needed: others complain about it before it is noticed itself."""
        for part in self.parts:
            try:
                ray.get(part, timeout=DEATH_SECONDS)
            except RayError as error:
                if isinstance(death := cause_of(error), RayActorError):
                    return death
        return None


def cause_of(error: RayError) -> Exception:
    """What a task raised, where that is the error."""
    return error.cause if isinstance(error, RayTaskError) else error


def translated(error: RayError, what: str) -> PitRayError:
    """An error of ours that was raised in an actor as it was; anything else as an InfraError with its cause."""
    cause = cause_of(error)
    if isinstance(cause, PitRayError):
        return cause
    if isinstance(cause, RayActorError):
        name = re.search(r"^\s*name: (\S+)", str(cause), re.MULTILINE)
        return InfraError(f"{what}: {name[1] if name else 'the actor'} died: {str(cause).strip().splitlines()[-1]}")
    return InfraError(f"{what}: {type(cause).__name__}: {str(cause).strip()}")


def parts_of(ref: Ref[Any]) -> list[ray.ObjectRef]:
    """The parts of a RayRef; any other Ref's value, put into the object store as one part."""
    return ref.parts if isinstance(ref, RayRef) else [ray.put(ref.result())]
