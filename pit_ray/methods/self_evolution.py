"""SELF (arXiv 2310.00533): meta-skills from an annotator, then rounds in which the model learns from its own refined
and self-filtered answers to unlabelled questions."""

from __future__ import annotations

from functools import partial

from pit_ray.config import Config
from pit_ray.config.training import Supervised
from pit_ray.methods.stage import DATA, Stage, learns, makes
from pit_ray.stages import contest
from pit_ray.stages.contest import Contestant
from pit_ray.stages.context import RunContext
from pit_ray.stages.self_training import as_many_steps, evolve, label_examples, labelled, meta_corpus, parted, with_meta


def stages(config: Config) -> tuple[Stage, ...]:
    section = config.self_evolution
    found = [
        DATA,
        makes("labels", lambda c: label_examples(c, "labels", parted(c)[0]), "labelled questions"),
        learns("sft_qa", "labels", None, lambda c: c.config.self_evolution.qa),
        makes("meta", lambda c: meta_corpus(c, "sft_qa"), "answers, annotated with feedback and refinements"),
        learns("sft_meta", "meta", "sft_qa", lambda c: c.config.self_evolution.meta),
    ]
    for number in range(1, section.rounds + 1):
        before = f"sft_round_{number - 1}" if number > 1 else "sft_meta"
        found += [
            makes(f"round_{number}", partial(evolve, number=number, model=before), "answers, refines, sifts"),
            makes(f"mix_{number}", partial(with_meta, number=number), "what was kept, with the corpus of meta"),
            learns(
                f"sft_round_{number}", f"mix_{number}", "sft_qa" if section.start == "base" else before,
                lambda c: c.config.self_evolution.meta,
            ),
        ]  # fmt: skip
    found += [
        makes("all_labels", lambda c: label_examples(c, "all_labels", labelled(c)), "those of the corpus, too"),
        learns("sft_qa_long", "all_labels", "sft_qa", as_long),
    ]
    return *found, Stage(("evaluate",), lambda c: contest.run(c, contestants(c)))


def as_long(context: RunContext) -> Supervised:
    """As many steps on all labels, those of the corpus's questions too, as the last model took after `sft_qa`."""
    section = context.config.self_evolution
    rounds = [f"sft_round_{number}" for number in range(1, section.rounds + 1)]
    stages = rounds[-1:] if section.start == "base" else ["sft_meta", *rounds]
    return as_many_steps(context, section.meta, stages, len(labelled(context)))


def contestants(context: RunContext) -> list[Contestant]:
    """Every model's direct answers, and with self-refinement, against SFT on the labels alone."""
    section = context.config.self_evolution
    models = ["sft_meta", *(f"sft_round_{n}" for n in range(1, section.rounds + 1))]
    found = [Contestant(stage, stage) for stage in ("sft_qa", "sft_qa_long")]
    for stage in models:
        found += [Contestant(stage, stage), Contestant(f"{stage}_refined", stage, improver="self", by=stage)]
    if section.votes > 1:
        found += [Contestant(f"{stage}_votes", stage, votes=section.votes) for stage in ("sft_qa", models[-1])]
    return found
