"""A PPO stage at work: its roles and where it stands."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pit_ray.checkpoint import Checkpoints, checkpoints_in
from pit_ray.config.training import Ppo
from pit_ray.curriculum import PpoState
from pit_ray.metrics import Metrics
from pit_ray.records import Pairs, Ragged, Rollouts, Scores
from pit_ray.roles import Learner, Recorder, Ref, ReferenceScorer, RolloutPool, Scorer
from pit_ray.run_folder import CHECKPOINTS
from pit_ray.stages.context import RunContext


@dataclass(frozen=True)
class Sampled:
    """A step's rollouts and what scorers say of them, in the making."""

    rollouts: Ref[Rollouts]
    scores: Ref[Scores]
    reference: Ref[Ragged]


@dataclass
class PpoStage:
    """One PPO stage of a run with its roles at hand."""

    context: RunContext
    name: str
    ppo: Ppo
    pairs: Pairs
    canary: Rollouts
    rollout: RolloutPool
    reward: Scorer
    reference: ReferenceScorer
    learner: Learner
    recorder: Recorder
    reached: PpoState = field(default_factory=PpoState)
    """Where the learner stands, whenever a signal can interrupt."""
    saved: PpoState | None = None
    """The state of the newest checkpoint."""
    early: dict[int, Sampled] = field(default_factory=dict)
    """Step -> what is sampled for it by the weights of the step before."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What the parts of the present step have taken."""

    @property
    def folder(self) -> Path:
        return self.context.folder.stage(self.name)

    @property
    def checkpoints(self) -> Checkpoints:
        return checkpoints_in(self.folder / CHECKPOINTS, self.ppo.keep_checkpoints, self.context.folder.store)

    @contextmanager
    def timed(self, part: str):
        started = time.monotonic()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - started


def sync(stage: PpoStage, version: int) -> Metrics:
    """The learner's weights, `version` steps old, to every rollout worker; TrainingError unless all then agree about
    the canary."""
    stage.rollout.sync(stage.learner.weights(), version).result()
    return stage.learner.verify(stage.canary, stage.rollout.logprobs(stage.canary), version).result()
