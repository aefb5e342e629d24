"""Roles in this process whose models are simple rules, so that what an improver does with them can be told by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pit_ray.curriculum import NO_DRAFT
from pit_ray.improve import without_end
from pit_ray.improvers.dialogues import Dialogues, Written
from pit_ray.records import DRAFT_SOURCES, Prompts, Ragged, Rollouts, Scores
from pit_ray.roles import GenerateRequest, Ref, Resolved, ScoreKind

REQUEST = GenerateRequest(temperature=1.0, max_new_tokens=8, seed=1, shard_size=2)


def asked(*prompts: Sequence[int]) -> Prompts:
    """Prompts without drafts."""
    n = len(prompts)
    return Prompts(np.arange(n), Ragged.of(prompts), Ragged.of([[]] * n), np.full(n, NO_DRAFT, dtype=np.int8))


class Appender:
    """A rollout pool whose model appends a token to the draft, and ends every other response."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.sources: list[set[str]] = []

    def generate(self, prompts: Prompts, request: GenerateRequest) -> Resolved[Rollouts]:
        self.seeds.append(request.seed)
        self.sources.append({DRAFT_SOURCES[i] for i in prompts.draft_source})
        finished = np.arange(len(prompts)) % 2 == 0
        rows = [np.append(d, [9, 1] if f else [9]) for d, f in zip(prompts.draft.rows(), finished, strict=True)]
        response = Ragged.of(rows)
        zeros = Ragged(np.zeros(len(response.values), dtype=np.float32), response.offsets)
        return Resolved(Rollouts(prompts, response, zeros, finished))

    def load(self, folder: Path, version: int) -> Resolved[None]:
        return Resolved(None)

    def sync(self, weights: Ref[Any], version: int) -> Resolved[None]:
        return Resolved(None)


class LengthGap:
    """A gap scorer to which a response is worth the square of its length."""

    def load(self, folder: Path, kind: ScoreKind, eos: int) -> Resolved[None]:
        return Resolved(None)

    def score(self, rollouts: Ref[Rollouts]) -> Resolved[Scores]:
        written = rollouts.result()
        baseline = written.prompts.draft.lengths.astype(np.float32) ** 2
        return Resolved(Scores(without_end(written).lengths.astype(np.float32) ** 2 - baseline, baseline))


class Lottery(Appender):
    """A rollout pool whose n-th call answers with n sevens."""

    def generate(self, prompts: Prompts, request: GenerateRequest) -> Resolved[Rollouts]:
        self.seeds.append(request.seed)
        rows = Ragged.of([[7] * len(self.seeds)] * len(prompts))
        zeros = Ragged(np.zeros(len(rows.values), dtype=np.float32), rows.offsets)
        return Resolved(Rollouts(prompts, rows, zeros, np.zeros(len(prompts), dtype=bool)))


class HeldEngines:
    """One pool and one scorer, and which models they were asked to hold."""

    def __init__(self, pool: Any, scorer: Any) -> None:
        self.pool, self._scorer = pool, scorer
        self.held: list[Path] = []

    def sampler(self, model: Path) -> Any:
        self.held.append(model)
        return self.pool

    def scorer(self, model: Path, kind: ScoreKind) -> Any:
        self.held.append(model)
        return self._scorer


class Speaker:
    """A writer that answers by a rule, conversation by conversation: of texts, the prompt and its turns (what the
    assistant said, what the user says to it), to the next text."""

    def __init__(self, ids: Callable[[str], list[int]], text: Callable[[np.ndarray], str], rule: Callable) -> None:
        self.ids, self.text, self.rule = ids, text, rule
        self.heard: list[list[tuple[str, str]]] = []
        """The turns of every conversation."""

    def write(self, dialogues: Dialogues, request: GenerateRequest) -> Written:
        said = []
        for i, x in enumerate(dialogues.asked.prompt.rows()):
            turns = [(self.text(turn.said[i]), turn.instruction) for turn in dialogues.turns]
            self.heard.append(turns)
            said.append(self.ids(self.rule(self.text(x), turns)))
        return Written(Ragged.of(said), np.ones(len(said), dtype=bool))
