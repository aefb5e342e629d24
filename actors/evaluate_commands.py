"""The commands that compare: `pit-ray evaluate`, `compare`, `sweep`, `judge`. Each imports what it needs when it runs,
as in actors/cli.py."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pit_ray.errors import ConfigError

Run = Annotated[str, typer.Argument(metavar="RUN", help="A finished run, for instance runs/quickstart.")]
Improvers = Annotated[
    list[str] | None,
    typer.Option("--improver", help="pit, sft, best_of_n, self_refine, self or tripost; may be given several times."),
]
Evaluation = Annotated[
    Path, typer.Argument(metavar="EVAL", help="A run, or RUN/evaluations/NAME that pit-ray evaluate has made.")
]
Output = Annotated[Path, typer.Option(help="Folder of what is written.")]


class Swept(StrEnum):
    temperature = "temperature"
    iterations = "iterations"


def evaluate(
    run: Run,
    improver: Improvers = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Of feedback and revisions. Default: evaluation.temperature.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Default: evaluation.iterations.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the folder in RUN/evaluations. Default: by what is asked.")
    ] = None,
) -> None:
    """Let improvers of a run revise the same drafts of its held-out prompts, and compare them.

    Every judge that scores answers one by one is asked: gold in a world, reward, verifier in a task. `pit-ray judge`
    adds verdicts on pairs of answers by a model or by people, `pit-ray compare` puts evaluations beside one another.

    \b
    Examples:
      pit-ray evaluate runs/quickstart
      pit-ray evaluate runs/quickstart --improver pit --improver best_of_n --iterations 5 --temperature 0.4
    """
    from rich.console import Console

    from actors.evaluate import Setting, evaluate_run
    from pit_ray.evaluate.comparisons import Comparison, delta_table, headlines

    parts = [*(improver or ["all"]), *([f"t{temperature:g}"] if temperature is not None else [])]
    chosen = name or "-".join([*parts, *([f"k{iterations}"] if iterations else [])])
    (found,) = evaluate_run(run, improver or [], [Setting(chosen, temperature, iterations)])
    Console().print(delta_table(headlines([Comparison(**c.model_dump()) for c in found.summary.comparisons])))
    typer.echo(found.path)


def compare(
    paths: Annotated[list[Path], typer.Argument(metavar="EVAL...", help="Runs, or RUN/evaluations/NAME.")],
    pair: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS:THEIRS", help="Compare these two systems; may be given several times."),
    ] = None,
    output: Output = Path("comparison"),
) -> None:
    """Put evaluations side by side: methods, judges and iterations in one table and one report, with significance,
    ratings, and what each improvement took.

    \b
    Examples:
      pit-ray compare runs/quickstart runs/self-refine
      pit-ray compare runs/quickstart/evaluations/all --pair pit_3:best_of_n_3 --output runs/comparison
    """
    from pit_ray.evaluate.compare_page import markdown, write_comparison
    from pit_ray.evaluate.compare_runs import compare_evaluations
    from pit_ray.evaluate.evaluation_folder import read_evaluation

    pairs = None if pair is None else [split_pair(text) for text in pair]
    found = compare_evaluations([read_evaluation(path) for path in paths], pairs)
    written = write_comparison(found, output)
    typer.echo(markdown(found))
    typer.echo(written)


def split_pair(text: str) -> tuple[str, str]:
    """OURS and THEIRS; a label may itself hold a colon, so the middle one parts them."""
    parts = text.split(":")
    if len(parts) < 2 or len(parts) % 2:
        raise ConfigError(f"--pair {text}: give two systems as OURS:THEIRS, for instance pit_1:best_of_n_1")
    half = len(parts) // 2
    return ":".join(parts[:half]), ":".join(parts[half:])


def sweep(
    run: Run,
    of: Annotated[Swept, typer.Argument(help="What is varied; drafts stay the same.")],
    values: Annotated[list[float], typer.Argument(help="Temperatures, or numbers of iterations.")],
    improver: Improvers = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Revisions at each temperature. Default: evaluation.iterations.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder. Default: RUN/evaluations/sweep-….")] = None,
) -> None:
    """Evaluate improvers of a run at several temperatures or numbers of iterations, and plot Δ against the drafts.

    \b
    Examples:
      pit-ray sweep runs/quickstart temperature 0.2 0.4 0.6 0.8 1.0
      pit-ray sweep runs/quickstart iterations 1 2 3 4 5 --improver pit
    """
    from actors.evaluate import Setting, evaluate_run
    from pit_ray.evaluate.sweeps import markdown, write_sweep
    from pit_ray.evaluate.sweeps import sweep as sweep_over

    names = "-".join(improver or ["all"])
    tail = f"-k{iterations}" if iterations else ""
    if of is Swept.temperature:
        settings = [Setting(f"{names}-t{value:g}{tail}", value, iterations) for value in values]
        found = evaluate_run(run, improver or [], settings)
    else:
        if iterations is not None:
            raise ConfigError("--iterations: the numbers of iterations are what is swept; give it with temperature")
        if bad := [value for value in values if value < 1 or value != int(value)]:
            raise ConfigError(f"iterations: {bad[0]:g} is no number of iterations, for instance 1 2 3")
        most = int(max(values))
        # Fewer revisions are the first of more: one evaluation has them all.
        found = evaluate_run(run, improver or [], [Setting(f"{names}-k{most}", iterations=most)]) * len(values)
    swept = sweep_over(of.value, list(zip(values, found, strict=True)))
    written = write_sweep(swept, output or found[0].path.parent / f"sweep-{of.value}-{names}{tail}")
    typer.echo(markdown(swept))
    typer.echo(written)


def judge(
    path: Evaluation,
    ours: Annotated[str | None, typer.Argument(help="A system of the evaluation.")] = None,
    theirs: Annotated[str | None, typer.Argument(help="The system that it is compared with.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Of the endpoint: base_url, model, key_variable, max_requests, …"
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Judge only the first so many prompts.")] = None,
    sheet: Annotated[bool, typer.Option("--sheet", help="Write a blinded sheet for people instead.")] = False,
    sheets: Annotated[
        list[Path] | None, typer.Option("--answers", help="Read a filled sheet; one option for each rater.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order in the sheet.")] = 0,
) -> None:
    """Judge pairs of answers of an evaluation by a model behind an OpenAI-compatible endpoint, or by people.

    A model is asked in both orders; what it answered is kept, so the same command goes on after an interruption. The
    verdicts are added to the evaluation, where `pit-ray compare` finds them.

    \b
    Examples:
      pit-ray judge runs/quickstart/evaluations/all pit_1 policy base_url=http://127.0.0.1:8000/v1 model=judge
      pit-ray judge runs/quickstart/evaluations/all pit_1 policy --sheet --count 50
      pit-ray judge runs/quickstart/evaluations/all --answers anna.csv --answers ben.csv
    """
    from actors.judging import endpoint_of, judge_by_model, judge_by_people, sheet_for_people

    if sheets:
        typer.echo(judge_by_people(path, sheets, typer.echo))
        return
    if ours is None or theirs is None:
        raise ConfigError(
            "give the two systems to compare, for instance: pit-ray judge RUN/evaluations/all pit_1 policy"
        )
    if sheet:
        typer.echo(sheet_for_people(path, (ours, theirs), count, seed))
        return
    typer.echo(judge_by_model(path, ours, theirs, count, endpoint_of(None, overrides or ()), typer.echo))


COMMANDS = (evaluate, compare, sweep, judge)
