"""TriPosT (arXiv 2310.13522): the model's own trajectories of attempt, feedback and update are edited with a verifier,
cut into turns, balanced and learned with weights; again and again. Baselines: gold rationales, LMSI."""

from __future__ import annotations

from functools import partial

from pit_ray.config import Config
from pit_ray.config.training import Supervised
from pit_ray.methods.stage import DATA, Stage, learns, makes
from pit_ray.records import Questions
from pit_ray.stages import contest
from pit_ray.stages.contest import Contestant
from pit_ray.stages.context import RunContext
from pit_ray.stages.editing import correct_samples, edit_trajectories
from pit_ray.stages.self_training import as_many_steps, label_examples


def stages(config: Config) -> tuple[Stage, ...]:
    section = config.tripost
    found = [
        DATA,
        makes("rationales", lambda c: label_examples(c, "rationales", c.questions("sft")), "gold rationales"),
        learns("sft_rationale", "rationales", None, lambda c: c.config.tripost.rationale),
    ]
    if section.lmsi_samples:
        found += [
            makes("lmsi", lambda c: correct_samples(c, "sft_rationale"), "samples answers, keeps the right ones"),
            learns("sft_lmsi", "lmsi", "sft_rationale", lambda c: c.config.tripost.sft),
        ]
    before = "sft_rationale"
    for number in range(1, section.iterations + 1):
        found += [
            makes(
                f"edit_{number}",
                partial(edit_trajectories, number=number, model=before),
                "edits the model's own trajectories",
            ),
            learns(f"sft_tripost_{number}", f"edit_{number}", before, lambda c: c.config.tripost.sft),
        ]
        before = f"sft_tripost_{number}"
    found += [
        makes("all_rationales", lambda c: label_examples(c, "all_rationales", both(c)), "those of all questions"),
        learns("sft_rationale_long", "all_rationales", "sft_rationale", as_long),
        Stage(("evaluate",), lambda c: contest.run(c, contestants(c))),
    ]
    return tuple(found)


def both(context: RunContext) -> Questions:
    """Those whose rationales are learned first, and those that are attempted."""
    return Questions.concatenate([context.questions("sft"), context.questions("rl")])


def as_long(context: RunContext) -> Supervised:
    """As many steps on the gold rationales of all questions as all iterations took together."""
    section = context.config.tripost
    iterations = [f"sft_tripost_{number}" for number in range(1, section.iterations + 1)]
    return as_many_steps(context, section.sft, iterations, len(both(context)))


def contestants(context: RunContext) -> list[Contestant]:
    """Direct answers of every model, and TriPosT's with self-correction, against SFT on rationales."""
    section = context.config.tripost
    models = [f"sft_tripost_{n}" for n in range(1, section.iterations + 1)]
    others = ["sft_rationale_long", *(["sft_lmsi"] if section.lmsi_samples else [])]
    found = [Contestant("sft_rationale", "sft_rationale")]
    found += [Contestant(stage, stage) for stage in (*others, *models)]
    return found + [Contestant(f"{stage}_corrected", stage, improver="tripost", by=stage) for stage in models]
