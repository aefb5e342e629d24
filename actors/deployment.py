"""Ray actors in every role: placed by the plan, started together on first use, kept until the end, and replaced where
they die."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from actors.footprint import MemoryRecord
from actors.gauges import Gauges
from actors.group import Group, Worker
from actors.heart import SUPERVISED, beats
from actors.learner import LearnerActor, RayLearner, learner_environment
from actors.node_packages import check_nodes
from actors.placement import RoomWatch, options, reserve
from actors.plan import ROLES, Plan, plan_actors, roles_of, shortfall
from actors.ray_session import namespace, ray_address, running, start_ray, stop_ray
from actors.recorder import RayRecorder, RecorderActor
from actors.refs import TaskRef
from actors.rollout import RayRolloutPool, RolloutActor
from actors.scorer import RayReferenceScorer, RayScorer, ScorerActor, scorer_environment
from actors.supervisor import Supervisor
from actors.weights import engine_environment
from pit_ray.config import Config
from pit_ray.errors import GroupLost
from pit_ray.roles import FitJob
from pit_ray.run_folder import RunFolder


@dataclass(frozen=True)
class EngineModel:
    """What an engine starts with; known once the stage `data` is done."""

    base: Callable[[], Path]
    eos: Callable[[], int]
    longest: int
    """Tokens of the longest sequence."""


class RayDeployment:
    """Who plays the roles on Ray."""

    def __init__(
        self, config: Config, folder: RunFolder, model: EngineModel, renderer: Path, note: Callable[[str], None],
        roles: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """`roles`: those whose actors are started; None: those of the configured method."""
        self.config, self.folder, self.model, self.renderer, self.note = config, folder, model, renderer, note
        self.plan = plan_actors(config)
        self.standing = self.plan.only(roles_of(config.method) if roles is None else roles)
        self.room: PlacementGroup | None = None
        self.deadlines = config.actors.deadlines
        self.memory = MemoryRecord(folder.path)
        self.supervisor = Supervisor(
            config.actors.faults,
            namespace(config),
            folder.path / "stacks.txt",
            note,
            lambda: shortfall(self._wanted(), ray.cluster_resources()),
            lambda role: self.gauges.restarted(role),
        )

    @cached_property
    def gauges(self) -> Gauges:
        """Made once Ray runs."""
        return Gauges(self.folder.path.name)

    def fit(self, jobs: Sequence[FitJob]) -> TaskRef[None]:
        if not self.supervisor.groups:  # whether all will fit is known before hours of training
            remove_placement_group(self._reserved(self.plan))
        elif self.standing.of("learner"):
            self._end()  # the worker group stands where learners do
        from actors.train_jobs import run_jobs  # Ray Train takes its time to import

        part = run_jobs.remote(self.config, jobs, self.folder.store)
        ranks = self.plan.only(("learner",))
        what = f"training {', '.join(job.stage for job in jobs)}"
        return TaskRef(part, what, RoomWatch(ranks, self.note))

    def rollout(self) -> RayRolloutPool:
        return RayRolloutPool(self._group("rollout"), self.deadlines)

    def reward(self) -> RayScorer:
        return RayScorer(self._group("reward"), self.deadlines)

    def reference(self) -> RayReferenceScorer:
        return RayReferenceScorer(self._group("reference"), self.deadlines)

    def learner(self) -> RayLearner:
        return RayLearner(self._group("learner"), self.deadlines, self.config.actors.rollout)

    def recorder(self) -> RayRecorder:
        return RayRecorder(self._group("recorder"), self.deadlines)

    def recover(self, lost: GroupLost) -> None:
        """New learners in place of all, since those that live wait for the dead for ever; where engines join their
        collectives, new engines too."""
        group = self._group("learner")
        together = list(group.workers)
        if self.config.actors.rollout.weight_sync != "host":
            together += self._group("rollout").workers
        others = [worker for worker in self.supervisor.on_lost_nodes() if worker not in together]
        for worker in self.supervisor.workers():
            worker.loaded = None  # it may be lost, too; the stage loads everything when it begins again
        self.supervisor.replace([*together, *others])
        RayLearner(group, self.deadlines).join().result()

    def activity(self) -> dict[str, dict[str, Any]]:
        for role, group in self.supervisor.groups.items():
            self.gauges.calls(role, group.unanswered())
        found = self.supervisor.beats()
        if running():
            names = [f"{SUPERVISED}/{rank}" for rank in range(self.config.actors.learner.ranks)]
            self.memory.note(found | beats(self.supervisor.namespace, names))
        return found

    def observe(self, record: Mapping[str, Any]) -> None:
        if running():
            self.gauges.step(record)

    def close(self) -> None:
        """Ends the actors and leaves Ray; a local Ray ends with it."""
        with suppress(Exception):  # where Ray is gone, the last seconds' peaks are, too
            self.activity()
        if self.config.tracking.profile and running():
            timeline = self.folder.profile("ray.json")
            timeline.parent.mkdir(exist_ok=True)
            ray.timeline(str(timeline))
            self.folder.store.push(timeline)
        self._end()
        stop_ray()

    def _end(self) -> None:
        """Ends all actors and gives their places back; they are started again when next needed."""
        for worker in self.supervisor.workers():
            ray.kill(worker.handle)
        self.supervisor.groups = {}
        if self.room is not None:
            remove_placement_group(self.room)
            self.room = None

    def _group(self, role: str) -> Group:
        if not self.supervisor.groups:
            self._start()
        return self.supervisor.groups[role]

    def _start(self) -> None:
        """All actors at once, so that their slow imports and engines overlap."""
        self.room = room = self._reserved(self.standing)
        places = {role: self.standing.of(role) for role in ROLES}
        groups = {role: Group([self._worker(room, i) for i in of], self.supervisor) for role, of in places.items()}
        self.supervisor.groups = groups
        self.supervisor.settle(groups["learner"].workers)
        joined = RayLearner(groups["learner"], self.deadlines).join() if places["learner"] else None
        self.supervisor.settle([worker for role in ROLES[1:] for worker in groups[role].workers])
        if joined:
            joined.result()

    def _wanted(self) -> Plan:
        """The plan without the workers that the run goes on without."""
        workers = self.supervisor.workers()
        return Plan(tuple(worker.bundle for worker in workers)) if workers else self.standing

    def _reserved(self, plan: Plan) -> PlacementGroup:
        """Room for a plan, on nodes whose packages are the driver's."""
        start_ray(self.config)
        room = reserve(plan, self.config.actors.placement_deadline, self.note)
        if ray_address(self.config) != "local":
            check_nodes()
        return room

    def _worker(self, room: PlacementGroup, index: int) -> Worker:
        bundle = self.standing.bundles[index]
        kind, environment, args = self._actor(bundle.role)
        chosen = options(self.standing, room, index, environment)
        return Worker(bundle, lambda: kind.options(**chosen).remote(bundle, *args))

    def _actor(self, role: str) -> tuple[Any, dict[str, str], tuple[Any, ...]]:
        """The class of a role's actors, their environment, and what they are made with beside their bundle."""
        actors, config, store = self.config.actors, self.config, self.folder.store
        scorer_env = scorer_environment(actors.scorer)
        if role == "rollout":
            start = (self.model.base(), config, store, self.model.eos(), self.model.longest)
            return RolloutActor, engine_environment(actors.rollout), start
        if role == "learner":
            return LearnerActor, learner_environment(actors.learner), (actors.learner,)
        if role == "recorder":
            return RecorderActor, scorer_env, (self.renderer, config.data.source, store)
        return ScorerActor, scorer_env, (config, store)
