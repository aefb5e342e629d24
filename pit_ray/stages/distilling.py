"""Stage `improved_N`: improvements of the policy's own responses, for the policy to learn."""

from __future__ import annotations

import numpy as np

from pit_ray.data.splits import draw_order
from pit_ray.data.worlds import find_world
from pit_ray.errors import DataError
from pit_ray.improve import without_end
from pit_ray.improvers.interface import improve
from pit_ray.records import Ragged
from pit_ray.stages.context import RunContext
from pit_ray.stages.examples import ExampleRows
from pit_ray.stages.improvers import improver_named
from pit_ray.stages.judged import RunEngines, prompts_of
from pit_ray.stages.self_training import finish


def improved(context: RunContext, number: int, policy: str) -> None:
    """The policy of a stage answers prompts, PIT's improver revises the answers, and of the revisions those with the
    largest gap to their draft are kept.

    DataError when no revision is better than its draft by the gap reward.
    """
    section, stage = context.config.distill, f"improved_{number}"
    questions = context.questions("rl")
    rows = draw_order(len(questions), (number - 1) * section.prompts, section.prompts, context.config.seed, "distill")
    # A prompt may be drawn twice; its second draw is another sample.
    prompts = prompts_of(questions, rows)
    engines = RunEngines(context)
    request = context.request(stage, temperature=context.config.evaluation.temperature)
    drafts = without_end(engines.sampler(context.model(policy)).generate(prompts, request).result())
    rounds = improve(improver_named(context, engines, "pit"), prompts, drafts, section.iterations, request)
    gaps = np.sum([r.score for r in rounds[1:]], axis=0)
    best = np.argsort(-gaps, kind="stable")[: round(section.keep * len(gaps))]
    kept = np.sort(best[gaps[best] > 0])
    if not len(kept):
        raise DataError(f"stage {stage}: no revision of {len(gaps)} has a gap above 0, so there is nothing to learn")
    examples = ExampleRows(context)
    for i in kept:
        examples.answer(int(prompts.uid[i]), prompts.prompt[int(i)], rounds[-1].responses[int(i)])
    counts = {"drafts": len(gaps), "kept": len(kept), "mean_gap_kept": float(gaps[kept].mean())}
    finish(context, stage, examples, counts | golds(context, prompts.prompt, drafts, rounds[-1].responses, kept))


def golds(context: RunContext, asked: Ragged, drafts: Ragged, revisions: Ragged, kept: np.ndarray) -> dict[str, float]:
    """For the record alone: mean gold of drafts, revisions and kept revisions in a world."""
    world, text = find_world(context.config.data.source), context.renderer.text
    if world is None:
        return {}
    questions = [text(x) for x in asked.rows()]
    before, after = (
        np.array([world.gold(x, text(y)) for x, y in zip(questions, rows.rows(), strict=True)])
        for rows in (drafts, revisions)
    )
    return {"gold_drafts": before.mean(), "gold_revisions": after.mean(), "gold_kept": float(after[kept].mean())}
