"""Scorers and the recorder: actors that read rollouts shard by shard, and their pools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
import torch

from actors.plan import Bundle
from actors.refs import RayRef, parts_of
from pit_ray.config import Config
from pit_ray.metrics import Metrics, merge
from pit_ray.models.load import torch_dtype
from pit_ray.recorder import RolloutRecorder
from pit_ray.records import Ragged, Rollouts, Scores
from pit_ray.roles import Ref, ScoreKind
from pit_ray.scoring import ReferencePolicy, RewardModel


@ray.remote
class ScorerActor:
    """A process with one frozen model: a reward model, or the reference policy."""

    def __init__(self, bundle: Bundle, config: Config) -> None:
        self.name, self.config = bundle.name, config
        self.dtype = torch_dtype(config.model.dtype)
        self.device = torch.device("cuda" if config.actors.scorer.gpus else "cpu")
        torch.set_num_threads(config.actors.scorer.threads)

    def __repr__(self) -> str:
        return self.name

    def ready(self) -> None:
        """Returns once the process stands."""

    def load_reward(self, folder: Path, kind: ScoreKind, eos: int) -> None:
        budget, trust = self.config.actors.scorer.batch_tokens, self.config.model.trust_remote_code
        self.reward = RewardModel(folder, kind, eos, self.dtype, self.device, budget, trust)

    def load_reference(self, folder: Path) -> None:
        budget, trust = self.config.actors.scorer.batch_tokens, self.config.model.trust_remote_code
        self.reference = ReferencePolicy(folder, self.dtype, self.device, budget, trust)

    def score(self, rollouts: Rollouts) -> Scores:
        return self.reward.score(rollouts)

    def logprobs(self, rollouts: Rollouts) -> Ragged:
        return self.reference.logprobs(rollouts)


class RayScorer:
    """Scorer actors as one role; shard i goes to actor i modulo their number."""

    def __init__(self, workers: list[Any], deadline: float) -> None:
        self.workers, self.deadline = workers, deadline

    def load(self, folder: Path, kind: ScoreKind, eos: int) -> RayRef[None]:
        parts = [worker.load_reward.remote(folder, kind, eos) for worker in self.workers]
        return RayRef(parts, f"reward: load {folder}", self.deadline)

    def score(self, rollouts: Ref[Rollouts]) -> RayRef[Scores]:
        parts = [self._of(i).score.remote(shard) for i, shard in enumerate(parts_of(rollouts))]
        return RayRef(parts, "reward: score", self.deadline, Scores.concatenate)

    def _of(self, shard: int) -> Any:
        return self.workers[shard % len(self.workers)]


class RayReferenceScorer(RayScorer):
    """Reference-policy actors as one role."""

    def load(self, folder: Path) -> RayRef[None]:  # type: ignore[override]
        parts = [worker.load_reference.remote(folder) for worker in self.workers]
        return RayRef(parts, f"reference: load {folder}", self.deadline)

    def logprobs(self, rollouts: Ref[Rollouts]) -> RayRef[Ragged]:
        parts = [self._of(i).logprobs.remote(shard) for i, shard in enumerate(parts_of(rollouts))]
        return RayRef(parts, "reference: logprobs", self.deadline, Ragged.concatenate)


@ray.remote
class RecorderActor:
    """A process that judges and writes rollouts."""

    def __init__(self, bundle: Bundle, renderer: Path, source: str) -> None:
        self.name = bundle.name
        self.recorder = RolloutRecorder(renderer, source)

    def __repr__(self) -> str:
        return self.name

    def ready(self) -> None:
        """Returns once the process stands."""

    def record(self, path: Path | None, *shards_and_scores: Any) -> Metrics:
        half = len(shards_and_scores) // 2
        rollouts, scores = shards_and_scores[:half], shards_and_scores[half:]
        return self.recorder.record(path, Rollouts.concatenate(rollouts), Scores.concatenate(scores))


class RayRecorder:
    """The recorder actor as a role."""

    def __init__(self, worker: Any, deadline: float) -> None:
        self.worker, self.deadline = worker, deadline

    def record(self, path: Path | None, rollouts: Ref[Rollouts], scores: Ref[Scores]) -> RayRef[Metrics]:
        part = self.worker.record.remote(path, *parts_of(rollouts), *parts_of(scores))
        return RayRef([part], "recorder: record", self.deadline, lambda parts: merge(list(parts)))
