"""Improving responses step by step, and when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pit_ray.curriculum import IMPROVER
from pit_ray.data.randomness import derive_seed
from pit_ray.records import Message, Prompts, Ragged, Rollouts
from pit_ray.roles import GenerateRequest, RolloutPool, Scorer


@dataclass(frozen=True)
class ImproveRequest:
    """What a user wants improved: a prompt, and a draft unless the policy is to write it."""

    prompt: str | list[Message]
    draft: str | None = None


@dataclass(frozen=True)
class ImproveResult:
    """Every step of an improvement: drafts[0] is the first draft, drafts[k] the k-th revision."""

    prompt: str | list[Message]
    drafts: list[str]
    gaps: list[float]
    """gaps[k − 1] = R(x, y_k, y_{k−1}) − R(x, y_{k−1}, y_{k−1})."""
    kept: int
    """How many revisions were kept."""
    response: str
    """The result: drafts[kept]."""


@dataclass(frozen=True)
class Revisions:
    """One round of revisions, with each one's gap to its draft."""

    responses: Ragged
    """Without end tokens."""
    finished: np.ndarray
    gaps: np.ndarray


def without_end(rollouts: Rollouts) -> Ragged:
    """The responses without their end tokens."""
    rows = zip(rollouts.response.rows(), rollouts.finished, strict=True)
    return Ragged.of(row[:-1] if done else row for row, done in rows)


def revise(
    pool: RolloutPool, gap: Scorer, prompts: Prompts, iterations: int, request: GenerateRequest
) -> list[Revisions]:
    """`iterations` rounds, each revising what the round before wrote: y_{k+1} = M_PIT(x, y_k) (PIT §3.4)."""
    rounds = []
    for k in range(iterations):
        writing = pool.generate(prompts, replace(request, seed=derive_seed(request.seed, "revision", k)))
        scores = gap.score(writing)
        written = writing.result()
        responses = without_end(written)
        rounds.append(Revisions(responses, written.finished, scores.result().score))
        source = np.full(len(prompts), IMPROVER, dtype=np.int8)
        prompts = replace(prompts, draft=responses, draft_source=source)
    return rounds


def kept_revisions(gaps: Sequence[np.ndarray], margin: float) -> np.ndarray:
    """(n,) how many revisions the stopping rule keeps: those before the first whose gap is not above `margin`."""
    above = np.stack([np.asarray(gap) > margin for gap in gaps], axis=1)
    return np.cumprod(above, axis=1).sum(axis=1)


def choose_margin(gaps: Sequence[np.ndarray], qualities: Sequence[np.ndarray]) -> float:
    """The margin of the stopping rule with the best mean quality on validation prompts.

    `gaps[k]` are the gaps of round k, `qualities[k]` the quality of what stands after k rounds (one more than rounds).
    Tried are 0 and the quantiles of the gaps; among equals the smallest wins.
    """
    quality = np.stack(qualities, axis=1)
    rows = np.arange(len(quality))
    tried = sorted({0.0, *np.quantile(np.concatenate(gaps), np.linspace(0.02, 1.0, 50)).tolist()})
    means = [float(quality[rows, kept_revisions(gaps, margin)].mean()) for margin in tried]
    return float(tried[int(np.argmax(means))])
