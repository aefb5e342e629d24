"""The command `pit-ray`: declares its commands, imports what each needs when it runs, and tells errors in one line."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from actors import evaluate_commands
from actors.cluster import commands
from actors.requests import check_row, read_rows, write_answers
from actors.serve import commands as serve_commands
from actors.start_up import collect_seldom
from pit_ray.errors import ConfigError, DataError, PitRayError
from pit_ray.secrets import masked

TRACEBACK = "PIT_RAY_TRACEBACK"
PROGRESS_BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
"""Of downloads, loading and saving; in a log they would be heaps of control characters."""

app = typer.Typer(
    name="pit-ray",
    help="Teach language models to improve their own responses from preference data.",
    epilog="Start with: pit-ray train quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command()(commands.submit)
for command in evaluate_commands.COMMANDS:
    app.command()(command)
app.add_typer(commands.cluster, name="cluster")
app.command()(serve_commands.serve)

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run: runs/quickstart, /shared/runs/hh, s3://bucket/runs/hh.")
]


def main() -> None:
    """Entry point. Exit code 2: configuration or data is wrong; 130, 143: Ctrl-C, SIGTERM; 1: any other failure."""
    collect_seldom()
    bin_folder = str(Path(sys.executable).parent)  # DeepSpeed calls ninja by name, also where no one activated .venv
    os.environ["PATH"] = os.pathsep.join([bin_folder, os.environ.get("PATH", os.defpath)])
    if not sys.stderr.isatty():
        os.environ |= {name: "1" for name in PROGRESS_BARS}
    try:
        app()
    except SystemExit as stop:
        if stop.code in (130, 143):
            typer.secho("interrupted; the same command goes on where this one stopped", fg="yellow", err=True)
        raise
    except Exception as error:
        if os.environ.get(TRACEBACK) == "1":
            raise
        fail(error)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe, or the path of a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Replace single values; docs/configuration.md lists the keys."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, and where, and stop.")] = False,
) -> None:
    """Train a policy and its improver, and report on both.

    On a run folder that exists, the run is resumed.

    \b
    Examples:
      pit-ray train quickstart
      pit-ray train quickstart seed=7 run=runs/seed-7
      pit-ray train my.yaml data.source=pairs.jsonl.gz ppo_improver.kl.coefficient=0.1
      pit-ray train my.yaml actors.rollout.workers=4 --dry-run
    """
    from pit_ray.config import load_config

    config = load_config(recipe, overrides or ())
    from actors import ray_session

    if dry_run:
        from actors import compose

        typer.echo(compose.describe(config))
        ray_session.check_machines(config)  # after the plan, which may be meant for other machines
    else:
        with ray_session.begun_early(config):
            from actors import compose  # takes seconds, as Ray does

            compose.train(config)


@app.command()
def improve(
    run: Run,
    prompt: Annotated[str | None, typer.Option("--prompt", help="One prompt.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="JSON lines with a prompt, and maybe a draft, each.")
    ] = None,
    draft: Annotated[
        str | None, typer.Option("--draft", help="Improve this; else the run's policy writes one.")
    ] = None,
    improver: Annotated[
        str | None,
        typer.Option(help="pit, sft, best_of_n, self_refine, self or tripost. Default: that of the run's method."),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Revise so often and keep the last. Default: up to evaluation.iterations, by the improver's own rule.",
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Of feedback and revisions. Default: evaluation.temperature.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where the answered lines go. Default with --file: NAME.improved.jsonl beside it."),
    ] = None,
) -> None:
    """Revise responses with an improver of a finished run.

    A gap tells how much better a revision is than its draft by the run's gap reward model; above 0 is better. Improvers
    that give feedback show it, and their score of a revision instead.
    A line of --file is {"prompt": TEXT or [{"role": …, "content": …}, …], "draft": TEXT}, the draft and any other
    fields as you like; it comes back in the same order with "response" and "steps" added.

    \b
    Examples:
      pit-ray improve runs/quickstart \\
        --prompt "tell ben about boat key coat desk lamp river table horse ; ask for the train"
      pit-ray improve runs/mine --prompt "How do I boil an egg?" --draft "No idea." --iterations 2 --temperature 0.2
      pit-ray improve runs/mine --file prompts.jsonl --output improved.jsonl
    """
    if (prompt is None) == (file is None):
        raise ConfigError("give exactly one of --prompt TEXT and --file PATH.jsonl")
    if file is not None and draft is not None:
        raise ConfigError('--draft goes with --prompt; in a file each line has its own "draft"')
    from pit_ray.run_folder import find_run

    find_run(run)
    if file is not None:
        output = output or file.with_name(f"{file.stem}.improved.jsonl")
        rows = read_rows(file)
    else:
        rows = [{"prompt": prompt} | ({} if draft is None else {"draft": draft})]
        check_row(rows[0], "--prompt")
    from actors.improve import improve_requests
    from pit_ray.improve import ImproveRequest

    requests = [ImproveRequest(prompt=row["prompt"], draft=row.get("draft")) for row in rows]
    write_answers(rows, improve_requests(run, requests, iterations, improver, temperature), output, show=file is None)


@app.command()
def report(run: Run) -> None:
    """Write a run's report again, from its records.

    \b
    Example:
      pit-ray report runs/quickstart
    """
    from pit_ray.run_folder import find_run

    folder = find_run(run)
    from pit_ray.evaluate.report import write_report

    written = write_report(folder.path)
    folder.store.push(written)
    typer.echo(written)


@app.command()
def status(run: Run) -> None:
    """Tell where a run stands, what each of its actors is doing and since when, and what has befallen it.

    \b
    Example:
      pit-ray status runs/quickstart
    """
    from pit_ray.run_folder import find_run
    from pit_ray.status import describe_status

    typer.echo(describe_status(find_run(run)))


@app.command()
def replay(
    run: Run,
    step: Annotated[int, typer.Argument(help="A step of the stage, counted from 0.")],
    stage: Annotated[str, typer.Option(help="ppo_improver or ppo_policy.")] = "ppo_improver",
) -> None:
    """Run a recorded step of PPO again, beside the run, and compare; exit code 1 when anything differs.

    \b
    Example:
      pit-ray replay runs/quickstart 12 --stage ppo_policy
    """
    from actors.compose import replay as replay_step

    raise typer.Exit(0 if replay_step(run, stage, step) else 1)


@app.command()
def doctor() -> None:
    """Check this machine, and say how to fix what is wrong.

    Looks at Python, packages, devices, memory, disk, compiler, Ray, vLLM and Weights & Biases; exit code 1 when
    something that is needed is missing.
    """
    from actors.doctor import doctor as examine

    raise typer.Exit(examine())


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from pit_ray.config.load import RECIPES, recipe_names

    names = recipe_names()
    width = max(map(len, names), default=0)
    for name in names:
        typer.echo(f"{name:<{width}}  {_first_comment(RECIPES / f'{name}.yaml')}")


def _first_comment(recipe: Path) -> str:
    lines = recipe.read_text(encoding="utf-8").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#")), "")


def fail(error: Exception) -> NoReturn:
    """Says what went wrong in one line and exits: 2 for what the user gave, 1 for anything else."""
    from pit_ray.tracking import visible

    unforeseen = f"{type(error).__name__}: {error} (a traceback comes with {TRACEBACK}=1)"
    message = str(error) if isinstance(error, PitRayError) else unforeseen
    one_line = visible(re.sub(r"\s*\n\s*", " ", masked(message).strip()))
    typer.secho(f"error: {one_line}", fg="red", err=True)
    sys.exit(2 if isinstance(error, (ConfigError, DataError)) else 1)


if __name__ == "__main__":
    main()
