"""The recorder: an actor that judges and writes rollouts, and its role. It needs no model, and its process starts
without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from actors.group import Group
from actors.heart import Heart, does
from actors.plan import Bundle
from actors.refs import RayRef, calls_of
from pit_ray.config.actors import Deadlines
from pit_ray.metrics import Metrics, merge
from pit_ray.recorder import RolloutRecorder
from pit_ray.records import Rollouts, Scores
from pit_ray.roles import Ref
from pit_ray.store import Store


@ray.remote
class RecorderActor:
    """A process that judges and writes rollouts."""

    def __init__(self, bundle: Bundle, renderer: Path, source: str, store: Store) -> None:
        self.name = bundle.name
        self.heart = Heart(self.name)
        self.recorder = RolloutRecorder(renderer, source, store)
        self.heart.imported()

    def __repr__(self) -> str:
        return self.name

    def ready(self) -> str:
        """The id of its node, once the process stands."""
        return ray.get_runtime_context().get_node_id()

    @does
    def record(self, folder: Path | None, *shards_and_scores: Any) -> Metrics:
        half = len(shards_and_scores) // 2
        return self.recorder.record(folder, list(zip(shards_and_scores[:half], shards_and_scores[half:], strict=True)))


class RayRecorder:
    """The recorder actor as a role."""

    def __init__(self, group: Group, deadlines: Deadlines) -> None:
        self.group, self.deadlines = group, deadlines

    def record(self, folder: Path | None, rollouts: Ref[Rollouts], scores: Ref[Scores]) -> RayRef[Metrics]:
        call = self.group.share(0, "record", folder, *calls_of(rollouts), *calls_of(scores))
        return self.group.ref([call], "recorder: record", self.deadlines.save, lambda parts: merge(list(parts)))
