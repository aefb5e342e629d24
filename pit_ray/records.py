"""What flows through a run: columnar, frozen records of numpy arrays, one type per stage of a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np

Message = dict[str, str]
"""One turn of a conversation: {"role": one of ROLES, "content": text}."""
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class PreferencePair:
    """One preference triple as text: a prompt and two responses, the first preferred."""

    prompt: tuple[Message, ...]
    """The conversation up to the response; the last turn is the user's."""
    chosen: str
    """y_w, the preferred response."""
    rejected: str
    """y_l, the dispreferred response."""
    uid: int
    """The pair's place in its source (row number from 0); every random draw about it derives from this."""


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array: row i is values[offsets[i]:offsets[i + 1]]."""

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: Iterable[Sequence[int] | Sequence[float] | np.ndarray], dtype: type = np.int32) -> Ragged:
        arrays: list[np.ndarray] = [np.asarray(row, dtype=dtype) for row in rows]
        offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([len(a) for a in arrays], out=offsets[1:])
        return cls(np.concatenate(arrays) if arrays else np.zeros(0, dtype=dtype), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def rows(self) -> list[np.ndarray]:
        return [self[i] for i in range(len(self))]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def cut(self, limit: int | None) -> Ragged:
        """Each row's first `limit` values; the rows themselves when there is no limit or none is longer."""
        if limit is None or not (self.lengths > limit).any():
            return self
        return Ragged.of((row[:limit] for row in self.rows()), dtype=self.values.dtype.type)

    def take(self, index: np.ndarray | Sequence[int]) -> Ragged:
        return Ragged.of([self[int(i)] for i in index], dtype=self.values.dtype.type)

    @staticmethod
    def concatenate(parts: Sequence[Ragged]) -> Ragged:
        offsets = [np.zeros(1, dtype=np.int64)]
        base = 0
        for part in parts:
            offsets.append(part.offsets[1:] - part.offsets[0] + base)
            base = int(offsets[-1][-1]) if len(part) else base
        values = [part.values[part.offsets[0] : part.offsets[-1]] for part in parts]
        return Ragged(np.concatenate(values), np.concatenate(offsets))


class Rows:
    """Row operations shared by the columnar records: every per-row field is an array or a Ragged of equal length."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    def take(self, index: np.ndarray | Sequence[int]):
        """The rows at `index`, in that order; fields that are not per row are kept."""
        picked = {}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            per_row = f.metadata.get("per_row", True)
            if not per_row:
                picked[f.name] = value
            elif isinstance(value, np.ndarray):
                picked[f.name] = value[np.asarray(index, dtype=np.int64)]
            else:
                picked[f.name] = value.take(index)
        return type(self)(**picked)

    @classmethod
    def concatenate(cls, parts: Sequence):
        """The rows of all parts, in order; fields that are not per row must be equal and are kept from the first."""
        joined = {}
        for f in fields(cls):  # type: ignore[arg-type]
            column = [getattr(part, f.name) for part in parts]
            if not f.metadata.get("per_row", True):
                joined[f.name] = column[0]
            elif isinstance(column[0], np.ndarray):
                joined[f.name] = np.concatenate(column)
            else:
                joined[f.name] = type(column[0]).concatenate(column)
        return cls(**joined)


SHARED = {"per_row": False}
"""Marks a dataclass field that holds one value for all rows."""


@dataclass(frozen=True)
class Pairs(Rows):
    """Tokenised preference pairs. `prompt` is x as the policy sees it, up to where its response begins;
    `chosen` and `rejected` are y_w and y_l without an end-of-sequence token."""

    uid: np.ndarray
    prompt: Ragged
    chosen: Ragged
    rejected: Ragged
    draft_limit: int | None = field(default=None, metadata=SHARED)
    """Where a response that serves as a draft is cut; None: nowhere."""

    def drafts(self, which: Literal["chosen", "rejected"]) -> Ragged:
        """y_w or y_l as the response to be improved."""
        rows: Ragged = getattr(self, which)
        return rows.cut(self.draft_limit)


@dataclass(frozen=True)
class Prompts(Rows):
    """What a rollout starts from: x alone (policy), or x and a draft (improver)."""

    uid: np.ndarray
    """(n,) int64; unique within a step."""
    prompt: Ragged
    draft: Ragged
    """The response to be improved, without its end token; empty rows for the policy."""
    draft_source: np.ndarray
    """(n,) int8 codes of DRAFT_SOURCES."""
    bridge: np.ndarray | None = field(default=None, metadata=SHARED)
    """The token ids between a draft and its revision; None when there is no draft."""

    def shards(self, size: int) -> list[Prompts]:
        """The rows in order, in pieces of `size`, the last one perhaps smaller."""
        return [self.take(np.arange(i, min(i + size, len(self)))) for i in range(0, len(self), size)]

    def contexts(self) -> Ragged:
        """The token ids that a response follows: x, or x ‖ draft ‖ bridge."""
        if self.bridge is None:
            return self.prompt
        return Ragged.of(
            np.concatenate([p, d, self.bridge]) for p, d in zip(self.prompt.rows(), self.draft.rows(), strict=True)
        )


@dataclass(frozen=True)
class Examples(Rows):
    """What supervised fine-tuning learns from: a response after a context."""

    uid: np.ndarray
    """(n,) int64: the prompt that an example comes from; several may share one."""
    context: Ragged
    response: Ragged
    """With its end token."""
    weight: np.ndarray
    """(n,) float32: how much each token of the response counts in the loss."""


@dataclass(frozen=True)
class Questions(Rows):
    """Prompts with a known good response each: what methods with a verifier train on and are tested on."""

    uid: np.ndarray
    """(n,) int64; unique within a run, whatever the split."""
    prompt: Ragged
    answer: Ragged
    """The label, without an end token: a task's rationale, a pair's y_w."""


DRAFT_SOURCES = ("none", "rejected", "chosen", "policy", "improver", "user")
"""Where a draft came from; `Prompts.draft_source` indexes this."""


@dataclass(frozen=True)
class Rollouts(Rows):
    """Sampled responses. EOS is the last id of a response exactly when it stopped by itself (`finished`)."""

    prompts: Prompts
    response: Ragged
    logprobs: Ragged
    """The sampler's log-probability of each response token at `temperature`, float32."""
    finished: np.ndarray
    version: int = field(default=0, metadata=SHARED)
    """The policy version that wrote them: the number of optimisation steps behind its weights."""
    temperature: float = field(default=1.0, metadata=SHARED)


@dataclass(frozen=True)
class Scores(Rows):
    """Per-sample scalars of a scorer, (n,) float32. For an improver `score` is the gap
    R(x, revision, draft) − R(x, draft, draft); for the policy it is R_P(x, y)."""

    score: np.ndarray
    baseline: np.ndarray
    """What was subtracted: R(x, draft, draft), or 0 for the policy."""


@dataclass(frozen=True)
class Experience(Rows):
    """Everything a PPO update needs, response tokens only; all Ragged rows have the response's length, float32."""

    context: Ragged
    response: Ragged
    logprobs: Ragged
    """Of the learner's policy before this step's update."""
    advantages: Ragged
    returns: Ragged
    values: Ragged
    weights: Ragged
    """Truncated importance weights between sampler and learner."""
    temperature: float = field(default=1.0, metadata=SHARED)
