"""Prompts on which an engine fails: found one by one, set aside, and counted apart from what befalls machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import ray
from ray.exceptions import RayActorError, RayError

from actors.group import Worker
from actors.refs import Call, cause_of, reason_of
from pit_ray.errors import DataError, PitRayError, listed
from pit_ray.records import Prompts

GENERATE = "generate"
OFTEN = 2
"""How often a shard must have been asked in vain, because its worker died, before its prompts are looked at."""


class Quarantine:
    """The prompts that a run has set aside, within a budget."""

    def __init__(
        self, budget: int, patience: float, note: Callable[[str], None], revive: Callable[[Worker], None]
    ) -> None:
        """`patience`: seconds that one prompt may take; `revive` puts a new actor in the place of one that has failed:
        an engine that has raised an error may go on for ever afterwards."""
        self.budget, self.patience, self.note, self.revive = budget, patience, note, revive
        self.found: list[str] = []

    def examine(self, calls: Iterable[Call]) -> bool:
        """Asks suspected shards again, prompt by prompt; whether some prompt was at fault, which is then left out when
        its shard is next asked. DataError when the budget is spent."""
        return any([self._examine(call) for call in calls])

    def _examine(self, call: Call) -> bool:
        prompts, request, *earlier = call.args
        known = set(earlier[0]) if earlier else set()
        rows = [row for row in range(len(prompts)) if row not in known]
        if not isinstance(cause_of(call.error() or RayError()), RayActorError):
            self.revive(call.worker)  # type: ignore[arg-type]
        faults = {row: why for row in rows if (why := self._fault(call, prompts.take([row]), request))}
        if not faults or len(faults) == len(rows):  # alone none fails, or all do: the prompts are not at fault
            return False
        for row, why in faults.items():
            self._set_aside(int(prompts.uid[row]), why)
        call.change((prompts, request, tuple(sorted(known | faults.keys()))))
        return True

    def _fault(self, call: Call, alone: Prompts, request: object) -> str | None:
        """What goes wrong with one prompt by itself."""
        try:
            asked = Call(call.worker, GENERATE, (alone, request))
            ray.get(asked.ref, timeout=self.patience)  # type: ignore[arg-type]
            return None
        except RayActorError as error:
            why = f"the engine died: {reason_of(error)}"
        except RayError as error:
            cause = cause_of(error)
            said = str(cause).strip().splitlines()
            why = ": ".join([type(cause).__name__, *said[:1]])
        self.revive(call.worker)  # type: ignore[arg-type]
        return why

    def _set_aside(self, uid: int, why: str) -> None:
        fault = f"prompt {uid} is set aside: {why}"
        self.found.append(fault)
        self.note(fault)
        if len(self.found) > self.budget:
            raise DataError(
                f"engines fail on more prompts than actors.faults.data = {self.budget} allows: {listed(self.found)}"
            )


def suspects(calls: Sequence[Call], died: bool) -> list[Call]:
    """The shards behind these calls that have failed: by an error of their own, or with a worker that `died` on them
    not for the first time."""
    found = []
    for call in {id(call): call for call in _behind(calls)}.values():
        if call.method != GENERATE or (error := call.error()) is None:
            continue
        if isinstance(cause_of(error), RayActorError):
            if died and call.asked >= OFTEN:
                found.append(call)
        elif not isinstance(cause_of(error), PitRayError) and not died:
            found.append(call)
    return found


def _behind(calls: Sequence[Call]) -> Iterable[Call]:
    for call in calls:
        yield call
        yield from _behind(call.inputs)
