"""What an improver is: PIT's, one that gives itself feedback, best-of-n and whatever comes are used through this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from pit_ray.data.randomness import derive_seed
from pit_ray.records import Prompts, Ragged, Rows
from pit_ray.roles import GenerateRequest, RolloutPool, ScoreKind, Scorer


@dataclass(frozen=True)
class Cost(Rows):
    """What each of n responses took, all (n,) float64."""

    calls: np.ndarray
    """Times that a language model wrote."""
    tokens: np.ndarray
    """Tokens that it wrote, end tokens not counted."""
    scorer_calls: np.ndarray
    """Sequences that a reward model read."""
    scorer_tokens: np.ndarray
    """Tokens of these sequences."""

    @classmethod
    def of(
        cls, count: int, calls: object = 0, tokens: object = 0, scorer_calls: object = 0, scorer_tokens: object = 0
    ) -> Cost:
        """Each a number for all rows, or an array (count,)."""
        given = (calls, tokens, scorer_calls, scorer_tokens)
        return cls(*(np.broadcast_to(np.asarray(value, dtype=np.float64), (count,)) for value in given))

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def spread(self, rows: np.ndarray, count: int) -> Cost:
        """The costs of some `rows` among `count`, 0 for the others."""
        spread = [np.zeros(count) for _ in fields(self)]
        for column, f in zip(spread, fields(self), strict=True):
            column[rows] = getattr(self, f.name)
        return Cost(*spread)


@dataclass(frozen=True)
class Round:
    """What stands after a round of revising n responses; the first round of a history holds the drafts."""

    responses: Ragged
    """Without end tokens; a row that was not revised is the one before."""
    finished: np.ndarray
    """(n,) bool: whether the response ended by itself."""
    revised: np.ndarray
    """(n,) bool: False where the improver had stopped."""
    score: np.ndarray
    """(n,) float64, by which the improver chooses: a gap, a reward, what its feedback says; NaN where unknown."""
    cost: Cost
    """Of this round alone."""
    feedback: Ragged | None = None
    """What the improver says of each response; None for one that gives no feedback."""
    stopped: np.ndarray | None = None
    """(n,) bool: rows that are not to be revised further. None: none."""
    unread: np.ndarray | None = None
    """(n,) bool: rows whose feedback, made in this round, could not be read. None: none."""


class Improver(Protocol):
    """Revises responses, round after round."""

    @property
    def name(self) -> str: ...

    def begin(self, asked: Prompts, drafts: Ragged, request: GenerateRequest) -> Round:
        """The drafts as a first round, with what must be known of them before they are revised."""

    def revise(self, asked: Prompts, rounds: Sequence[Round], request: GenerateRequest) -> Round:
        """One more round on top of those before."""

    def kept(self, rounds: Sequence[Round]) -> np.ndarray:
        """(n,) int64: the round whose response the improver's own rule keeps, 0 being the drafts."""


def opening(drafts: Ragged, score: float = np.nan) -> Round:
    """The first round of an improver that needs to know nothing of the drafts."""
    n = len(drafts)
    return Round(drafts, np.ones(n, bool), np.zeros(n, bool), np.full(n, score), Cost.of(n))


def improve(
    improver: Improver, asked: Prompts, drafts: Ragged, iterations: int, request: GenerateRequest
) -> list[Round]:
    """The drafts and `iterations` rounds, each revising what the round before left: y_{k+1} = M(x, y_k)
    (PIT, arXiv 2310.00898, §3.4). `asked` holds x alone; the draws of round k derive from the request's seed and k."""
    rounds = [improver.begin(asked, drafts, request)]
    for k in range(iterations):
        rounds.append(improver.revise(asked, rounds, replace(request, seed=derive_seed(request.seed, "revision", k))))
    return rounds


class Engines(Protocol):
    """Where improvers find the models that they write and score with."""

    def sampler(self, model: Path) -> RolloutPool:
        """Rollout workers that hold this model until another is asked for."""

    def scorer(self, model: Path, kind: ScoreKind) -> Scorer:
        """Scorers that hold this model, reading it as `kind`, until another is asked for."""
