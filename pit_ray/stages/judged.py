"""A split's prompts: sampling answers to them, and judging these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pit_ray.curriculum import NO_DRAFT
from pit_ray.data.tasks import find_questions
from pit_ray.data.worlds import find_world
from pit_ray.evaluate.systems import Origin, System
from pit_ray.improve import without_end
from pit_ray.improvers.interface import Engines
from pit_ray.records import Prompts, Questions, Ragged
from pit_ray.roles import Resolved, RolloutPool, ScoreKind, Scorer
from pit_ray.scoring import as_rollouts
from pit_ray.stages.context import RunContext
from pit_ray.stages.questions import read_levels


class RunEngines:
    """A run's rollout workers and scorers, which change models when another is asked for."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self._sampler: Path | None = None
        self._scorer: tuple[Path, ScoreKind] | None = None

    def sampler(self, model: Path) -> RolloutPool:
        pool = self.context.deployment.rollout()
        if self._sampler != model:
            pool.load(model, 0).result()
            self._sampler = model
        return pool

    def scorer(self, model: Path, kind: ScoreKind) -> Scorer:
        scorer = self.context.deployment.reward()
        if self._scorer != (model, kind):
            scorer.load(model, kind, self.context.renderer.eos).result()
            self._scorer = (model, kind)
        return scorer


@dataclass(frozen=True)
class JudgedSplit:
    """The questions of a split; what is sampled for them derives from the run's seed, the split and the stage."""

    context: RunContext
    split: str
    engines: Engines

    @cached_property
    def questions(self) -> Questions:
        return self.context.questions(self.split)

    @cached_property
    def prompts(self) -> Prompts:
        # Draws derive from the place in the split, as they do wherever pairs are asked in order.
        rows = np.arange(len(self.questions))
        return replace(prompts_of(self.questions, rows), uid=rows)

    @cached_property
    def asked(self) -> list[str]:
        return self.texts(self.prompts.prompt)

    @cached_property
    def scored(self) -> dict[tuple[int, bytes], np.float32]:
        """(place, response) -> R_P, of what was asked for so far."""
        return {}

    def texts(self, rows: Ragged) -> list[str]:
        return [self.context.renderer.text(row) for row in rows.rows()]

    def answers(self, stage: str, *purpose: str, temperature: float | None = None) -> System:
        """What a stage's model writes; another `purpose` is another, independent sample."""
        context = self.context
        again = f" ({', '.join(purpose)})" if purpose else ""
        context.tracker.note(f"evaluate: {stage} answers {len(self.prompts)} {self.split} prompts{again}")
        chosen = context.config.evaluation.temperature if temperature is None else temperature
        request = context.request("evaluate", stage, self.split, *purpose, temperature=chosen)
        found = self.engines.sampler(context.model(stage)).generate(self.prompts, request).result()
        responses = without_end(found)
        origin = Origin(improver="policy", tokens=float(responses.lengths.mean()))
        return System(responses, found.finished, origin=origin)

    def judged(self, systems: dict[str, System]) -> dict[str, System]:
        """With scores by every judge that scores answers one by one: `reward` where the run has an R_P, `gold` in a
        world, `verifier` (1 where the final answer is right, else 0) in a task."""
        return {name: replace(system, scores=self.scores(system.responses)) for name, system in systems.items()}

    def scores(self, responses: Ragged) -> dict[str, np.ndarray]:
        """judge -> (n,)."""
        source = self.context.config.data.source
        world, task, found = find_world(source), find_questions(source), {}
        if self.context.has("reward"):
            found["reward"] = self.rewards(responses)
        said = self.texts(responses)
        if world is not None:
            found["gold"] = np.array([world.gold(x, y) for x, y in zip(self.asked, said, strict=True)])
        if task is not None:
            right = [task.answer(label) or "" for label in self.texts(self.questions.answer)]
            found["verifier"] = np.array([float(task.correct(y, a)) for y, a in zip(said, right, strict=True)])
        return found

    def by_level(self, systems: Mapping[str, System]) -> dict[str, dict[str, Any]]:
        """level -> how many questions it has, and the accuracy of every judged system on them. Empty where the levels
        were not noted."""
        levels = np.array(read_levels(self.context, self.questions.uid) or [])
        found = {}
        for level in dict.fromkeys(levels.tolist()):
            at = levels == level
            accuracy = {name: float(s.scores["verifier"][at].mean()) for name, s in systems.items()}
            found[level] = {"n": int(at.sum()), "accuracy": accuracy}
        return found

    def golds(self, row: int, responses: Sequence[np.ndarray]) -> list[float] | None:
        """The gold of some responses to one prompt; None where there is no gold."""
        world = find_world(self.context.config.data.source)
        return (
            None if world is None else [world.gold(self.asked[row], self.context.renderer.text(y)) for y in responses]
        )

    def rewards(self, responses: Ragged) -> np.ndarray:
        """(n,) R_P. A text that several systems wrote is scored once: what else is in a batch moves a score by a
        rounding, and the same answer must tie with itself."""
        keys = [(i, row.tobytes()) for i, row in enumerate(responses.rows())]
        if new := [i for i, key in enumerate(keys) if key not in self.scored]:
            rollouts = as_rollouts(self.prompts.take(new), responses.take(new), self.context.renderer.eos)
            scorer = self.engines.scorer(self.context.model("reward"), "reward")
            found = scorer.score(Resolved(rollouts)).result().score
            self.scored.update((keys[i], score) for i, score in zip(new, found, strict=True))
        return np.array([self.scored[key] for key in keys])


def prompts_of(questions: Questions, rows: np.ndarray | Sequence[int]) -> Prompts:
    """Some questions as prompts without drafts, with the questions' uids."""
    picked = questions.take(rows)
    n = len(picked)
    return Prompts(picked.uid, picked.prompt, Ragged.of([[]] * n), np.full(n, NO_DRAFT, dtype=np.int8))
