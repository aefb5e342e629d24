"""The curriculum as data: where a phase's drafts come from, when it ends, and the state a run resumes from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pit_ray.config.training import EndRule, Kl, Phase
from pit_ray.data.randomness import generator
from pit_ray.maths.kl import KlController
from pit_ray.metrics import Metrics
from pit_ray.records import DRAFT_SOURCES, Pairs, Prompts, Ragged

NO_DRAFT, REJECTED, CHOSEN, POLICY, IMPROVER, USER = range(len(DRAFT_SOURCES))


@dataclass(frozen=True)
class PpoState:
    """Where a PPO stage stands; together with the learner's checkpoint, all that resuming needs."""

    step: int = 0
    """Steps done in the stage; also the version of the policy."""
    phase: int = 0
    phase_step: int = 0
    """Steps done in the phase."""
    kl_coefficient: float = 0.0
    scores: tuple[float, ...] = ()
    """Mean score of each of the phase's latest steps, for its end rule and to tell checkpoints apart."""
    kl: float = 0.0
    """Mean KL of the last step, nats per response."""
    entropy: float | None = None
    """Mean entropy in the stage's first step, nats per token: what a collapse is measured against."""

    def advanced(self, metrics: Metrics, kl_coefficient: float, remembered: int) -> PpoState:
        """The state after a step with these metrics; of the scores the last `remembered` are kept."""
        return replace(
            self,
            step=self.step + 1,
            phase_step=self.phase_step + 1,
            kl_coefficient=kl_coefficient,
            scores=(*self.scores, metrics.mean("objective/score"))[-remembered:],
            kl=metrics.mean("objective/kl"),
            entropy=self.entropy if self.step else metrics.mean("objective/entropy"),
        )

    def next_phase(self) -> PpoState:
        return replace(self, phase=self.phase + 1, phase_step=0, scores=(), kl=0.0)

    def plain(self) -> dict[str, Any]:
        """As JSON values; `PpoState.of` reads them."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> PpoState:
        return cls(**{**plain, "scores": tuple(plain["scores"])})


def controller(kl: Kl, coefficient: float) -> KlController:
    """The KL controller of a stage at its present coefficient."""
    return KlController(coefficient, kl.target if kl.controller == "adaptive" else None, kl.horizon)


def ended(phase: Phase, state: PpoState) -> str | None:
    """Why the phase is over, or None."""
    if state.phase_step >= phase.steps:
        return "all are done"
    rule: EndRule = phase.end
    if rule.kl_limit is not None and state.kl > rule.kl_limit:
        return f"KL {state.kl:.2f} passed its limit {rule.kl_limit:g}"
    window = rule.plateau_steps
    if window is not None and len(state.scores) >= 2 * window:
        late, early = np.mean(state.scores[-window:]), np.mean(state.scores[-2 * window : -window])
        if late <= early:
            return f"plateau: mean score {late:.3f} in the last {window} steps, {early:.3f} in as many before"
    return None


def plain_prompts(pairs: Pairs, rows: np.ndarray, first_uid: int) -> Prompts:
    """x alone, for the policy; uids count from `first_uid`, the position in the stage's endless draw."""
    uid = np.arange(first_uid, first_uid + len(rows), dtype=np.int64)
    empty = Ragged.of([[]] * len(rows))
    return Prompts(uid, pairs.prompt.take(rows), empty, np.full(len(rows), NO_DRAFT, dtype=np.int8))


def annotated_prompts(pairs: Pairs, rows: np.ndarray, first_uid: int, bridge: np.ndarray, seed: int) -> Prompts:
    """x and a draft from the data: y_l or y_w, each for half of the rows (PIT §3.3, the first curriculum phase)."""
    picked = pairs.take(rows)
    chosen = np.arange(len(rows)) % 2 == 0
    generator(seed, "annotated", first_uid).shuffle(chosen)
    better, worse = picked.drafts("chosen"), picked.drafts("rejected")
    drafts = Ragged.of(better[i] if c else worse[i] for i, c in enumerate(chosen))
    source = np.where(chosen, CHOSEN, REJECTED).astype(np.int8)
    return with_drafts(plain_prompts(pairs, rows, first_uid), drafts, source, bridge)


def with_drafts(prompts: Prompts, drafts: Ragged, source: np.ndarray | int, bridge: np.ndarray) -> Prompts:
    """The same prompts with drafts to be improved."""
    codes = np.broadcast_to(np.asarray(source, dtype=np.int8), (len(prompts),)).copy()
    return replace(prompts, draft=drafts, draft_source=codes, bridge=bridge)
