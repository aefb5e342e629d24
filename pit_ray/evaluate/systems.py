"""What the compared systems answered, and whether they won by length, by copying, or collapsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel, ConfigDict

from pit_ray.records import Ragged

Scores = dict[str, np.ndarray]
"""judge -> (n,) scores."""


class Origin(BaseModel):
    """How a system came to its answers, and what one took: means per prompt, from the prompt on, drafts included."""

    model_config = ConfigDict(frozen=True)

    improver: str
    """The improver's name, or `policy` for answers that are no revisions."""
    drafts: str | None = None
    """The system whose answers were revised; None for answers that are no revisions."""
    iteration: int = 0
    """Rounds of revising."""
    stopping_rule: bool = False
    """Whether the improver's own rule chose among them."""
    calls: float = 1.0
    """Times that a language model wrote."""
    tokens: float
    """Tokens that it wrote."""
    scorer_calls: float = 0.0
    """Sequences that a reward model read."""
    scorer_tokens: float = 0.0
    unreadable: float = 0.0
    """Feedback that could not be read; these rows were not revised further."""


@dataclass(frozen=True)
class System:
    """One system's answers to the same n prompts."""

    responses: Ragged
    """Without end tokens."""
    finished: np.ndarray | None = None
    """(n,) whether an answer ended by itself; None for the data's own."""
    drafts: Ragged | None = None
    """What was revised; None for answers that are no revisions."""
    scores: Scores = field(default_factory=dict)
    origin: Origin | None = None


def picked(systems: Sequence[System], which: np.ndarray, drafts: Ragged | None) -> System:
    """To prompt i, the answer of systems[which[i]]; all of them sampled."""
    at = which.astype(np.int64), np.arange(len(which))
    return System(
        responses=Ragged.of(systems[k].responses[i] for k, i in zip(*at, strict=True)),
        finished=np.stack([s.finished for s in systems if s.finished is not None])[at],
        drafts=drafts,
        scores={judge: np.stack([s.scores[judge] for s in systems])[at] for judge in systems[0].scores},
    )


def same(ours: Ragged, theirs: Ragged) -> np.ndarray:
    """(n,) whether two responses to a prompt are the same tokens."""
    return np.array([np.array_equal(a, b) for a, b in zip(ours.rows(), theirs.rows(), strict=True)])


class Health(BaseModel):
    """Signs of a hollow win in one system's answers."""

    model_config = ConfigDict(frozen=True)

    tokens: float
    """Mean length without the end token."""
    truncated: float | None
    """Share that ran into `sampling.max_new_tokens`; None for the data's own."""
    distinct: float
    """Different answers over answers."""
    copied: float | None
    """Share that equals the draft; None where there is none. Of the stopping rule: the share that ends as it began."""
    reward_length_correlation: float
    """Pearson correlation of R_P and length; 0 where either does not vary."""


def health(system: System) -> Health:
    """The signs of a system that the judge `reward` has scored."""
    rows = [row.tobytes() for row in system.responses.rows()]
    lengths, reward = system.responses.lengths, system.scores["reward"]
    varied = np.ptp(lengths) > 0 and np.ptp(reward) > 0
    copied = None
    if system.drafts is not None:
        copied = float(same(system.responses, system.drafts).mean())
    return Health(
        tokens=float(lengths.mean()),
        truncated=None if system.finished is None else float(1 - system.finished.mean()),
        distinct=len(set(rows)) / len(rows),
        copied=copied,
        reward_length_correlation=float(np.corrcoef(reward, lengths)[0, 1]) if varied else 0.0,
    )
