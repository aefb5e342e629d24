"""`pit-ray evaluate` and `sweep`: further evaluations of a finished run, kept beside its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.compose import opened
from pit_ray.errors import ConfigError, listed
from pit_ray.evaluate.evaluation_folder import EvaluationFolder, read_evaluation
from pit_ray.stages import contest
from pit_ray.stages.contest import Contestant
from pit_ray.stages.context import RunContext
from pit_ray.stages.improvers import available, offer
from pit_ray.stages.judged import JudgedSplit, RunEngines

EVALUATIONS = "evaluations"


@dataclass(frozen=True)
class Setting:
    """How to evaluate once more; None: as the run's configuration says."""

    name: str
    """Of the folder in RUN/evaluations."""
    temperature: float | None = None
    """Of feedback and revisions; drafts keep the run's."""
    iterations: int | None = None


def evaluate_run(run: str, improvers: Sequence[str], settings: Sequence[Setting]) -> list[EvaluationFolder]:
    """Evaluates some improvers of a run (none: all that it has) on its held-out prompts, once for each setting; an
    evaluation that is there already is kept.

    ConfigError when the run has no such improver, or an evaluation of that name is of others.
    """
    with opened(run) as context:
        wanted = list(improvers) or available(context)
        if not wanted:
            raise ConfigError(f"{run} has no improver yet; finish it with pit-ray train and the same run folder")
        contestants = contestants_of(context, wanted)
        folders = [context.folder.path / EVALUATIONS / setting.name for setting in settings]
        split = JudgedSplit(context, "held_out", RunEngines(context))
        config = context.config.evaluation
        for folder, setting in zip(folders, settings, strict=True):
            temperature = config.temperature if setting.temperature is None else setting.temperature
            iterations = setting.iterations or config.iterations
            if (folder / "summary.json").is_file():
                refuse_other(folder, wanted, temperature, iterations)
                context.tracker.note(f"{folder} is there already")
                continue
            contest.evaluate(context, split, contestants, iterations, temperature, folder)
    return [read_evaluation(folder) for folder in folders]


def contestants_of(context: RunContext, improvers: Sequence[str]) -> list[Contestant]:
    """The models that write the drafts, then the improvers on these."""
    offers = {name: offer(context, name) for name in improvers}
    drafts = {found.drafter(context): None for found in offers.values()}
    names = {stage: "policy" if stage == "ppo_policy" else stage for stage in drafts}
    found = [Contestant(names[stage], stage) for stage in drafts]
    return found + [Contestant(name, each.drafter(context), improver=name) for name, each in offers.items()]


def refuse_other(folder: Path, improvers: Sequence[str], temperature: float, iterations: int) -> None:
    """ConfigError unless the evaluation there is the one that is asked for."""
    found = read_evaluation(folder)
    there = {info.improver for info in found.systems.values()} - {"policy"}
    if there != set(improvers) or found.summary.temperature != temperature or found.iterations != iterations:
        raise ConfigError(
            f"{folder} holds an evaluation of {listed(sorted(there))}, {found.iterations} iterations, temperature "
            f"{found.summary.temperature:g}; give another --name"
        )
