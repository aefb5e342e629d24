"""Improvers that read a prompt and a draft and write the revision at once: PIT's, and one from SFT alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pit_ray.curriculum import IMPROVER, POLICY, with_drafts
from pit_ray.improve import kept_revisions, without_end
from pit_ray.improvers.interface import Cost, Engines, Round, opening
from pit_ray.records import Prompts, Ragged
from pit_ray.roles import GenerateRequest, ScoreKind


@dataclass(frozen=True)
class GapModel:
    """What tells how much better a revision is than its draft."""

    folder: Path
    kind: ScoreKind


@dataclass(frozen=True)
class DraftImprover:
    """y_{k+1} = M(x, y_k), scored by its gap to y_k (PIT, arXiv 2310.00898, §3.4)."""

    name: str
    engines: Engines
    model: Path
    bridge: np.ndarray
    gap: GapModel
    margin: float | None = None
    """Of the stopping rule; None: the last revision is kept."""

    def begin(self, asked: Prompts, drafts: Ragged, request: GenerateRequest) -> Round:
        return opening(drafts, 0.0)

    def revise(self, asked: Prompts, rounds: Sequence[Round], request: GenerateRequest) -> Round:
        drafts = rounds[-1].responses
        prompts = with_drafts(asked, drafts, POLICY if len(rounds) == 1 else IMPROVER, self.bridge)
        writing = self.engines.sampler(self.model).generate(prompts, request)
        scores = self.engines.scorer(self.gap.folder, self.gap.kind).score(writing)
        written = writing.result()
        responses, n = without_end(written), len(prompts)
        read = asked.prompt.lengths + (drafts.lengths + len(self.bridge) if self.gap.kind == "gap" else 0)
        return Round(
            responses=responses,
            finished=written.finished,
            revised=np.ones(n, bool),
            score=scores.result().score.astype(np.float64),
            cost=Cost.of(n, 1, responses.lengths, 2, 2 * read + responses.lengths + drafts.lengths),
        )

    def kept(self, rounds: Sequence[Round]) -> np.ndarray:
        if self.margin is None or len(rounds) == 1:
            return np.full(len(rounds[0].responses), len(rounds) - 1)
        return kept_revisions([r.score for r in rounds[1:]], self.margin)
