"""A phase's rollouts, step after step: prompts with their drafts, sampled and scored, perhaps one step ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pit_ray.config.training import Phase
from pit_ray.curriculum import IMPROVER, POLICY, PpoState, annotated_prompts, plain_prompts, with_drafts
from pit_ray.data.randomness import derive_seed
from pit_ray.data.splits import draw_order
from pit_ray.improve import without_end
from pit_ray.records import Prompts
from pit_ray.roles import Resolved
from pit_ray.stages.ppo_stage import PpoStage, Sampled, sync
from pit_ray.stages.stop import read_scored, write_scored

DRAFT_BLOCK = 16
"""Steps whose drafts are sampled in one go, so that the rollout workers change weights seldom."""


EARLY = "early.parquet"
"""In a checkpoint: what was sampled for its next step by weights that are gone."""


class RolloutStream:
    """The rollouts of one phase. With `lag` 1, those of the next step are asked for before this one is learned, so that
    they are sampled meanwhile, by weights that are a step older; the first step of a phase is always sampled by its
    own."""

    def __init__(self, stage: PpoStage, phase: Phase) -> None:
        self.stage, self.phase = stage, phase
        self.prompts_of = prompt_source(stage, phase)

    def of(self, state: PpoState) -> Sampled:
        """The present step's rollouts."""
        return self.stage.early.get(state.step) or self._sample(state, state.step)

    def look_ahead(self, state: PpoState) -> None:
        """Asks for the next step's rollouts where they may be a step old and the phase has room for the step."""
        following = replace(state, step=state.step + 1, phase_step=state.phase_step + 1)
        if self.stage.ppo.lag and following.phase_step < self.phase.steps and following.step not in self.stage.early:
            self.stage.early[following.step] = self._sample(following, state.step)

    def settle(self, state: PpoState) -> None:
        """Waits for what was asked for ahead of `state` and drops what is behind. The weights that it is sampled by are
        about to change: what is lost until its scores are here is sampled again by the same."""
        for step in [step for step in self.stage.early if step < state.step]:
            del self.stage.early[step]
        if sampled := self.stage.early.get(state.step):
            sampled.scores.result()

    def _sample(self, state: PpoState, version: int) -> Sampled:
        """A step's rollouts by the learner's present weights, whose version is given."""
        stage = self.stage
        request = stage.context.request(stage.name, "rollout", state.step)
        request = replace(request, shard_size=stage.ppo.shard_size, whole=False)
        rollouts = stage.rollout.generate(self.prompts_of(state, version), request)
        return Sampled(rollouts, stage.reward.score(rollouts), stage.reference.logprobs(rollouts))


def write_early(stage: PpoStage, step: int, folder: Path) -> None:
    """Keeps in a checkpoint what was sampled ahead for its next step."""
    if sampled := stage.early.get(step):
        write_scored(sampled.rollouts.result(), sampled.scores.result(), sampled.reference.result(), folder / EARLY)


def read_early(folder: Path) -> Sampled | None:
    """What `write_early` kept in a checkpoint."""
    if not (folder / EARLY).is_file():
        return None
    rollouts, scores, reference = read_scored(folder / EARLY)
    return Sampled(Resolved(rollouts), Resolved(scores), Resolved(reference))


def prompt_source(stage: PpoStage, phase: Phase) -> Callable[[PpoState, int], Prompts]:
    """(state, version of the learner's weights) -> the prompts of a step of a phase. Sampled drafts are made for a
    whole block of steps and made again, equal, when a run resumes inside the block."""
    size, seed, bridge = stage.ppo.rollouts_per_step, stage.context.config.seed, stage.context.renderer.bridge
    blocks: dict[int, Prompts] = {}

    def rows(step: int) -> tuple[np.ndarray, int]:
        return draw_order(len(stage.pairs), step * size, size, seed, stage.name), step * size

    def of(state: PpoState, version: int) -> Prompts:
        if phase.drafts == "none":
            return plain_prompts(stage.pairs, *rows(state.step))
        if phase.drafts == "annotated":
            return annotated_prompts(stage.pairs, *rows(state.step), bridge, seed)
        block, within = divmod(state.phase_step, DRAFT_BLOCK)
        if block not in blocks:
            blocks.clear()
            first = state.step - within
            steps = range(first, first + min(DRAFT_BLOCK, phase.steps - block * DRAFT_BLOCK))
            plain = Prompts.concatenate([plain_prompts(stage.pairs, *rows(step)) for step in steps])
            blocks[block] = sampled_drafts(stage, phase, plain)
            sync(stage, version)
        return blocks[block].take(np.arange(within * size, (within + 1) * size))

    return of


def sampled_drafts(stage: PpoStage, phase: Phase, prompts: Prompts) -> Prompts:
    """The prompts with drafts by the tuned policy; in a `self` phase with the improver's revisions of those."""
    context, bridge = stage.context, stage.context.renderer.bridge
    # The temperature of later use, not of exploring: an improver must learn to keep what is right in such drafts.
    temperature = context.config.evaluation.temperature
    request = context.request(stage.name, "drafts", phase.name, int(prompts.uid[0]), temperature=temperature)
    request = replace(request, shard_size=stage.ppo.shard_size)
    stage.rollout.load(context.model("ppo_policy"), 0).result()
    drafted = without_end(stage.rollout.generate(prompts, request).result())
    prompts = with_drafts(prompts, drafted, POLICY, bridge)
    if phase.drafts != "self":
        return prompts
    stage.rollout.load(stage.folder / "phases" / phase.name, 0).result()
    again = replace(request, seed=derive_seed(request.seed, "self"))
    return with_drafts(prompts, without_end(stage.rollout.generate(prompts, again).result()), IMPROVER, bridge)
