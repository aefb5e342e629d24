"""Best-of-n: no revision at all, but another answer by the policy, kept where the reward model likes it better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pit_ray.improve import without_end
from pit_ray.improvers.interface import Cost, Engines, Round
from pit_ray.records import Prompts, Ragged
from pit_ray.roles import GenerateRequest, Resolved
from pit_ray.scoring import as_rollouts


@dataclass(frozen=True)
class SampleImprover:
    """After k rounds, the best of the draft and k more samples by R_P."""

    name: str
    engines: Engines
    policy: Path
    reward: Path
    eos: int

    def begin(self, asked: Prompts, drafts: Ragged, request: GenerateRequest) -> Round:
        score, cost = self._judged(asked, drafts)
        n = len(drafts)
        return Round(drafts, np.ones(n, bool), np.zeros(n, bool), score, cost)

    def revise(self, asked: Prompts, rounds: Sequence[Round], request: GenerateRequest) -> Round:
        before = rounds[-1]
        written = self.engines.sampler(self.policy).generate(asked, request).result()
        found = without_end(written)
        score, cost = self._judged(asked, found)
        better = score > before.score
        rows = zip(better, found.rows(), before.responses.rows(), strict=True)
        return Round(
            responses=Ragged.of(new if wins else old for wins, new, old in rows),
            finished=np.where(better, written.finished, before.finished),
            revised=better,
            score=np.where(better, score, before.score),
            cost=cost + Cost.of(len(found), 1, found.lengths),
        )

    def kept(self, rounds: Sequence[Round]) -> np.ndarray:
        return np.full(len(rounds[0].responses), len(rounds) - 1)

    def _judged(self, asked: Prompts, responses: Ragged) -> tuple[np.ndarray, Cost]:
        rollouts = as_rollouts(asked, responses, self.eos)
        score = self.engines.scorer(self.reward, "reward").score(Resolved(rollouts)).result().score
        return score.astype(np.float64), Cost.of(len(score), 0, 0, 1, asked.prompt.lengths + responses.lengths)
