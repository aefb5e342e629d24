"""What happens when an actor or a machine fails: workers are replaced in their places, a learner's death sends the
stage back to its last checkpoint, a call that takes too long ends the run with what every actor was doing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError

from actors.group import GIVEN, Group, Worker
from actors.heart import ask_for_stacks, beats
from actors.quarantine import Quarantine, suspects
from actors.refs import Call, cause_of, reason_of, translated
from pit_ray.config.actors import Faults
from pit_ray.errors import GroupLost, InfraError
from pit_ray.run_folder import write_text

LOOK_SECONDS = 2.0
"""How long to look for the death behind another actor's complaint of it."""
TRY_SECONDS = 20.0
"""How long a new actor may stay silent before it is asked whether it can start at all."""
TELL_SECONDS = 30.0
TRIES = 2
"""How often an actor whose start has failed, for instance since a GPU was not free yet, is started again."""


class Supervisor:
    """Keeps the groups of a run alive within its budget of faults."""

    def __init__(
        self, faults: Faults, namespace: str, stacks: Path, note: Callable[[str], None],
        shortfall: Callable[[], str | None], replaced: Callable[[str], None],
    ) -> None:  # fmt: skip
        """`stacks`: the file for where everybody stood when a call took too long; `note` tells the user; `shortfall`
        says what the cluster lacks for the plan, None where nothing; `replaced` counts replacements, by role."""
        self.faults, self.namespace, self.stacks, self.note, self.shortfall = faults, namespace, stacks, note, shortfall
        self.replaced = replaced
        self.groups: dict[str, Group] = {}
        self.quarantine = Quarantine(faults.data, faults.recovery_deadline, note, lambda worker: self.replace([worker]))
        self.spent: list[str] = []
        """What has failed so far, in words."""
        self.heard: dict[str, tuple[Any, float]] = {}
        """By name, the last sign of life and when it was first seen, by this driver's clock."""
        self.gone: set[str] = set()
        """The ids of the actors that others have replaced."""

    def recover(self, error: RayError, what: str, calls: Sequence[Call]) -> None:
        """Replaces whoever died behind `error`, and sets aside prompts that an engine fails on, so that what was lost
        can be asked for again.

        GroupLost when it was a learner; our own error when an actor raised one; InfraError for any other error of an
        actor, and when the budget is spent.
        """
        death = _death(error, [call.ref for call in calls if call.ref is not None])
        if death is None and not isinstance(cause_of(error), ObjectLostError):
            try:
                if self.quarantine.examine(suspects(calls, died=False)):
                    return
            except GroupLost as lost:
                self._spend(f"{what}: {lost}", error)
                raise
            raise translated(error, what) from error
        dead = self._dead(death)
        if not dead:
            if death is not None and death.actor_id in self.gone:
                return  # another call has seen to it
            raise translated(error, what) from error
        names = ", ".join(worker.bundle.name for worker in dead)
        fault = f"{what}: {names} died: {reason_of(death) if death else cause_of(error)}"
        self._spend(fault, error)
        if any(worker in self.groups["learner"].workers for worker in dead):
            raise GroupLost(fault) from error
        shards = suspects(calls, died=True)
        self.replace(dead)
        self.quarantine.examine(shards)

    def replace(self, dead: Sequence[Worker]) -> None:
        """New actors on these places, started together, with what the old ones had loaded. InfraError when the cluster
        has no room for them within faults.recovery_deadline; GroupLost when only learners could give them their
        weights, which have moved on meanwhile, or are in the middle of giving them."""
        started = time.monotonic()
        if given := [worker.bundle.name for worker in dead if worker.loaded is GIVEN]:
            raise GroupLost(f"{', '.join(given)}: replaced together with the learners, who gave the weights")
        for worker in dead:
            self.gone.add(worker.handle._actor_id.hex())
            worker.replace()
            self.replaced(worker.bundle.role)
        self.settle(dead)
        new = [worker for worker in dead if worker in self.workers()]
        loading = [reloaded for worker in new if (reloaded := worker.reload()) is not None]
        try:
            ray.get(loading, timeout=self.faults.recovery_deadline)
        except RayError as error:
            raise translated(error, f"loading what {new[0].bundle.name} is to work with") from error
        if new:
            names = ", ".join(worker.bundle.name for worker in new)
            self.note(f"replaced {names} in {time.monotonic() - started:.1f} s")

    def settle(self, workers: Sequence[Worker]) -> None:
        """Returns once all answer; one that was sent to a dying node is made anew."""
        started = time.monotonic()
        for worker in workers:
            self._until_ready(worker, started)

    def on_lost_nodes(self) -> list[Worker]:
        """The workers that went with a node."""
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return [worker for worker in self.workers() if worker.node is not None and worker.node not in alive]

    def listen(self) -> None:
        """Ends every worker that has given no sign of life for faults.silence, so that its calls fail and it is
        replaced; one whose process hangs, or whose machine is cut off, dies in no other way."""
        last = self.beats()
        for worker in self.workers():
            silent = self._silent(worker, last.get(worker.bundle.name))
            if silent > self.faults.silence:
                self.note(f"{worker.bundle.name} has been silent for {silent:.0f} s, and is ended")
                ray.kill(worker.handle, no_restart=True)

    def _silent(self, worker: Worker, beat: dict[str, Any] | None) -> float:
        """Seconds without a new sign of life, by this driver's clock, since machines' clocks differ."""
        sign = (worker.generation, beat["time"] if beat else None)
        before, since = self.heard.get(worker.bundle.name, (None, 0.0))
        if sign != before:
            since = time.monotonic()
            self.heard[worker.bundle.name] = (sign, since)
        return time.monotonic() - since if beat else 0.0

    def beats(self) -> dict[str, dict[str, Any]]:
        """The last sign of life of each actor."""
        return beats(self.namespace, self._names())

    def expired(self, what: str, seconds: float) -> InfraError:
        """What to raise when a call has not been answered in time: where every actor stands, as the message says and
        the file that it names."""
        stacks = ask_for_stacks(self.namespace, self._names())
        whole = "\n\n".join(f"{name}\n{told}" for name, told in stacks.items())
        write_text(self.stacks, whole + "\n")
        brief = "; ".join(f"{name}: {told.splitlines()[0]}" for name, told in stacks.items())
        return InfraError(
            f"{what}: no answer within {seconds:g} s (actors.deadlines). What everybody did: {brief}. "
            f"Where each thread stood is in {self.stacks}"
        )

    def workers(self) -> list[Worker]:
        return [worker for group in self.groups.values() for worker in group.workers]

    def _names(self) -> list[str]:
        return [worker.bundle.name for worker in self.workers()]

    def _until_ready(self, worker: Worker, started: float) -> None:
        """Waits for an actor; one that was sent to a node that is dying is made anew."""
        told, answer, error, refused = started, worker.handle.ready.remote(), None, 0
        while True:
            try:
                worker.node = ray.get(answer, timeout=TRY_SECONDS)
                return
            except GetTimeoutError:  # an engine takes its time; no room takes longer
                if self._can_do_without(worker):
                    self.groups["rollout"].retire(worker)
                    left = len(self.groups["rollout"].workers)
                    self.note(f"going on without {worker.bundle.name}, with {left} rollout workers")
                    return
            except RayActorError as found:
                error, refused = found, refused + found.actor_init_failed
                if refused > TRIES:
                    raise InfraError(f"{worker.bundle.name} cannot start: {reason_of(found)}") from found
                worker.replace()
                answer = worker.handle.ready.remote()
            why = self.shortfall() or (f"the last one died: {reason_of(error)}" if error else "it is starting")
            waited = time.monotonic() - started
            if waited > self.faults.recovery_deadline:
                limit = "actors.faults.recovery_deadline"
                raise InfraError(f"{worker.bundle.name} could not be replaced within {waited:.0f} s ({limit}): {why}")
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                self.note(f"waiting for {worker.bundle.name}: {why}")

    def _can_do_without(self, worker: Worker) -> bool:
        """Whether this is one rollout worker more than must be, and there is no room for it."""
        fewest, group = self.faults.fewest_rollout_workers, self.groups.get("rollout")
        if fewest is None or group is None or worker not in group.workers:
            return False
        return len(group.workers) > fewest and self.shortfall() is not None

    def _dead(self, death: RayActorError | None) -> list[Worker]:
        """The workers that are dead: the one that the error speaks of, and all on nodes that are gone."""
        named = death.actor_id if death is not None else None
        lost = self.on_lost_nodes()
        return [worker for worker in self.workers() if worker.handle._actor_id.hex() == named or worker in lost]

    def _spend(self, fault: str, error: Exception) -> None:
        self.spent.append(fault)
        self.note(fault)
        if len(self.spent) > self.faults.infrastructure:
            before = "; ".join(self.spent[:-1])
            raise InfraError(
                f"{fault}; that is more than actors.faults.infrastructure = {self.faults.infrastructure} allows"
                + (f" (before: {before})" if before else "")
            ) from error


def _death(error: RayError, parts: Sequence[ray.ObjectRef]) -> RayActorError | None:
    """Of an actor that a part needed: others complain about it before it is noticed itself."""
    if isinstance(cause := cause_of(error), RayActorError):
        return cause
    for part in parts:
        try:
            ray.get(part, timeout=LOOK_SECONDS)
        except RayError as found:
            if isinstance(cause := cause_of(found), RayActorError):
                return cause
    return None
