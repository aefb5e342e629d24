"""Scorers: actors that read rollouts shard by shard, and their pools."""

from __future__ import annotations

from pathlib import Path

import ray
import torch

from actors.group import Group
from actors.heart import Heart, does
from actors.plan import Bundle
from actors.refs import RayRef, calls_of
from pit_ray.config import Config
from pit_ray.config.actors import Deadlines, ScorerActors
from pit_ray.models.load import torch_dtype
from pit_ray.records import Ragged, Rollouts, Scores
from pit_ray.roles import Ref, ScoreKind
from pit_ray.scoring import ReferencePolicy, RewardModel
from pit_ray.store import Store


def scorer_environment(scorer: ScorerActors) -> dict[str, str]:
    """Environment of a scorer's process."""
    return {
        "OMP_NUM_THREADS": str(scorer.threads),
        # Reward and reference are scored at the same time; threads that spin while they wait keep others from work.
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
    }


@ray.remote
class ScorerActor:
    """A process with one frozen model: a reward model, or the reference policy."""

    def __init__(self, bundle: Bundle, config: Config, store: Store) -> None:
        self.name, self.config, self.store = bundle.name, config, store
        self.heart = Heart(self.name)
        self.dtype = torch_dtype(config.model.dtype)
        self.device = torch.device("cuda" if config.actors.scorer.gpus else "cpu")
        torch.set_num_threads(config.actors.scorer.threads)
        self.heart.imported()

    def __repr__(self) -> str:
        return self.name

    def ready(self) -> str:
        """The id of its node, once the process stands."""
        return ray.get_runtime_context().get_node_id()

    @does
    def load_reward(self, folder: Path, kind: ScoreKind, eos: int) -> None:
        self.store.pull(folder)
        budget, trust = self.config.actors.scorer.batch_tokens, self.config.model.trust_remote_code
        self.reward = RewardModel(folder, kind, eos, self.dtype, self.device, budget, trust)

    @does
    def load_reference(self, folder: Path) -> None:
        self.store.pull(folder)
        budget, trust = self.config.actors.scorer.batch_tokens, self.config.model.trust_remote_code
        self.reference = ReferencePolicy(folder, self.dtype, self.device, budget, trust)

    @does
    def score(self, rollouts: Rollouts) -> Scores:
        return self.reward.score(rollouts)

    @does
    def logprobs(self, rollouts: Rollouts) -> Ragged:
        return self.reference.logprobs(rollouts)


class RayScorer:
    """Scorer actors as one role; shard i goes to actor i modulo their number."""

    def __init__(self, group: Group, deadlines: Deadlines) -> None:
        self.group, self.deadlines = group, deadlines

    def load(self, folder: Path, kind: ScoreKind, eos: int) -> RayRef[None]:
        calls = self.group.load("load_reward", folder, kind, eos)
        return self.group.ref(calls, f"reward: load {folder}", self.deadlines.load)

    def score(self, rollouts: Ref[Rollouts]) -> RayRef[Scores]:
        calls = [self.group.share(i, "score", shard) for i, shard in enumerate(calls_of(rollouts))]
        return self.group.ref(calls, "reward: score", self.deadlines.score, Scores.concatenate)


class RayReferenceScorer:
    """Reference-policy actors as one role, shared out likewise."""

    def __init__(self, group: Group, deadlines: Deadlines) -> None:
        self.group, self.deadlines = group, deadlines

    def load(self, folder: Path) -> RayRef[None]:
        calls = self.group.load("load_reference", folder)
        return self.group.ref(calls, f"reference: load {folder}", self.deadlines.load)

    def logprobs(self, rollouts: Ref[Rollouts]) -> RayRef[Ragged]:
        calls = [self.group.share(i, "logprobs", shard) for i, shard in enumerate(calls_of(rollouts))]
        return self.group.ref(calls, "reference: logprobs", self.deadlines.score, Ragged.concatenate)
