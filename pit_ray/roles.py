"""The roles of a run as Protocols. The driver knows these alone; who plays them is decided where a run is composed.

Every method that computes returns a `Ref` at once, and takes unresolved `Ref`s, so that data goes from role to role
and the driver resolves only metrics and per-sample scalars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from pit_ray.config.training import Lora, Ppo, Supervised
from pit_ray.config.tree import Config
from pit_ray.errors import GroupLost
from pit_ray.metrics import Metrics
from pit_ray.records import Prompts, Ragged, Rollouts, Scores
from pit_ray.store import Store

T_co = TypeVar("T_co", covariant=True)

ScoreKind = Literal["reward", "gap", "difference"]
"""reward: R_P(x, y). gap: R_PIT(x, y, draft) − R_PIT(x, draft, draft). difference: R_P(x, y) − R_P(x, draft)."""

FitKind = Literal["sft_policy", "sft_improver", "reward", "gap_reward", "sft"]
"""sft: on examples that a stage has made; the others on preference pairs."""


class Ref(Protocol[T_co]):
    """A value that is being made elsewhere."""

    def result(self, timeout: float | None = None) -> T_co:
        """The value, waited for at most `timeout` seconds (TimeoutError); InfraError if its maker died."""

    def wait(self, timeout: float | None = None) -> None:
        """Returns when the value is there, without fetching it."""

    def cancel(self) -> None:
        """Gives up on the value."""


T = TypeVar("T")


class Resolved(Generic[T]):
    """A Ref whose value is already here."""

    def __init__(self, value: T) -> None:
        self.value = value

    def result(self, timeout: float | None = None) -> T:
        return self.value

    def wait(self, timeout: float | None = None) -> None:
        return None

    def cancel(self) -> None:
        return None


@dataclass(frozen=True)
class GenerateRequest:
    """How to sample. The draw of a response derives from (`seed`, its uid)."""

    temperature: float
    max_new_tokens: int
    seed: int
    shard_size: int
    """Prompts in one generate call; the cut is fixed by this, not by how many workers there are."""
    whole: bool = True
    """What becomes of a prompt that an engine fails on: an empty response, or (False) no rollout at all."""


@dataclass(frozen=True)
class FitJob:
    """A supervised stage: everything a worker needs to run it, as paths of the run's store."""

    stage: str
    kind: FitKind
    config: Config
    section: Supervised
    """The stage's part of the configuration."""
    pairs: Path
    """Parquet of tokenised pairs to learn from; of kind sft, of examples."""
    validation: Path
    """Parquet of unseen pairs, for reward models."""
    model: Path
    """Where the weights start."""
    renderer: Path
    folder: Path
    """The stage's folder; the model is written to `folder / "model"`, metrics to `folder / "metrics.jsonl"`, and when
    both are, `folder / "finished.json"`."""
    store: Store


@dataclass(frozen=True)
class LearnerSpec:
    """A PPO learner: two models and how to train them."""

    policy: Path
    value: Path
    """A reward model whose backbone the value model starts from."""
    renderer: Path
    ppo: Ppo
    dtype: str
    total_steps: int
    seed: int
    trust_remote_code: bool
    store: Store
    """Of the run; the paths above are its own, or on storage that all nodes see."""
    lora: Lora | None = None
    """Of both models; None: all their weights are trained."""
    trace: Path | None = None
    """Where rank 0 writes a trace of its second update, if anywhere."""


class RolloutPool(Protocol):
    """Rollout workers: one policy at a time, many samples."""

    def generate(self, prompts: Prompts, request: GenerateRequest) -> Ref[Rollouts]:
        """One response per prompt, in the order of the prompts."""

    def load(self, folder: Path, version: int) -> Ref[None]:
        """Takes the weights of a saved model."""

    def sync(self, weights: Ref[Any], version: int) -> Ref[None]:
        """Takes a learner's weights in place; rollouts made afterwards carry `version`."""

    def logprobs(self, rollouts: Rollouts) -> Ref[Ragged]:
        """Every worker's own log-probabilities of given responses at temperature 1: the first worker's rows, then the
        second's, and so on."""


class Scorer(Protocol):
    """Reward or gap reward."""

    def load(self, folder: Path, kind: ScoreKind, eos: int) -> Ref[None]: ...

    def score(self, rollouts: Ref[Rollouts]) -> Ref[Scores]: ...


class ReferenceScorer(Protocol):
    """The frozen policy that the KL penalty is measured against."""

    def load(self, folder: Path) -> Ref[None]: ...

    def logprobs(self, rollouts: Ref[Rollouts]) -> Ref[Ragged]:
        """Log-probabilities of the response tokens at the rollouts' temperature."""


class Learner(Protocol):
    """The data-parallel group that owns policy and value model."""

    def start(self, spec: LearnerSpec, resume: Path | None) -> Ref[None]: ...

    def learn(
        self, rollouts: Ref[Rollouts], scores: Ref[Scores], reference: Ref[Ragged], kl_coefficient: float, seed: int
    ) -> Ref[Metrics]: ...

    def weights(self) -> Ref[Any]:
        """The policy's weights for `RolloutPool.sync`."""

    def verify(self, canary: Rollouts, answers: Ref[Ragged], version: int) -> Ref[Metrics]:
        """Compares the workers' log-probabilities of the canary (a row each) with the learner's own; TrainingError
        where they disagree (see `canary.check`)."""

    def save(self, folder: Path) -> Ref[None]:
        """Writes the state to resume from."""

    def write_model(self, folder: Path) -> Ref[None]:
        """Writes the policy as a Hugging Face folder."""


class Recorder(Protocol):
    """Writes rollouts to disk and judges them by gold where there is one."""

    def record(self, folder: Path | None, rollouts: Ref[Rollouts], scores: Ref[Scores]) -> Ref[Metrics]:
        """Metrics of the samples; with a folder, also a Parquet file of each shard of them."""


class Deployment(Protocol):
    """Who plays the roles, started on first use and kept until `close`."""

    def fit(self, jobs: Sequence[FitJob]) -> Ref[None]:
        """Runs supervised stages in order, in one worker group."""

    def rollout(self) -> RolloutPool: ...

    def reward(self) -> Scorer: ...

    def reference(self) -> ReferenceScorer: ...

    def learner(self) -> Learner: ...

    def recorder(self) -> Recorder: ...

    def recover(self, lost: GroupLost) -> None:
        """New processes in place of those that only work together, ready for the stage to begin again."""

    def activity(self) -> dict[str, dict[str, Any]]:
        """Actor -> what it is `doing`, `since` when (seconds of the epoch), on which `node`; {} where nobody tells."""

    def observe(self, record: Mapping[str, Any]) -> None:
        """A step is done: its record in metrics.jsonl, for whoever watches the deployment."""

    def close(self) -> None: ...
