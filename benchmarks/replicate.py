"""`make replicate`: trains every world, seed and variant of a plan, one after another, and writes what came of it.

A variant uses the models of the full run of its world and seed, all but the improver that it trains. Runs lie in
RUNS/WORLD/seed-N/VARIANT; what is finished is not trained again. usage: python -m benchmarks.replicate --help
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.replication_page import write_results
from benchmarks.replication_runs import Finished, read_runs
from pit_ray.config import Config, load_config
from pit_ray.errors import ConfigError, InfraError, PitRayError
from pit_ray.progress import duration
from pit_ray.run_folder import RunFolder, environment

ROOT = Path(__file__).parents[1]
READY = ("sft_policy", "sft_improver", "reward", "gap_reward", "ppo_policy")
"""What a variant takes over from the full run."""
HEARTBEAT = 60.0
"""Seconds between two lines about a run that goes on."""
GRACE = 30.0
"""Seconds that an interrupted run may take to end."""

Variant = Literal["full", "annotated_only", "on_policy_only", "difference"]


class World(BaseModel):
    """One world of a plan: a recipe, and what is changed in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    overrides: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ("full",)


class Plan(BaseModel):
    """What is run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: Path
    seeds: tuple[int, ...] = Field(min_length=1)
    worlds: dict[str, World] = Field(min_length=1)
    variant_overrides: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Plan:
        """ConfigError when the file does not hold a plan."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError, ValidationError) as error:
            raise ConfigError(f"{path}: no plan: {error}") from error


@dataclass(frozen=True)
class Run:
    """One training run of a plan."""

    plan: Plan
    world: str
    seed: int
    variant: Variant

    @property
    def name(self) -> str:
        return f"{self.world}, seed {self.seed}, {self.variant}"

    @property
    def folder(self) -> Path:
        return self._folder_of(self.variant)

    @property
    def finished(self) -> bool:
        return any(self.folder.glob("stages/*-evaluate/done.json"))

    def arguments(self) -> list[str]:
        """The recipe and overrides of `pit-ray train`; of a variant only once its full run is finished."""
        world = self.plan.worlds[self.world]
        common = [*world.overrides, f"seed={self.seed}", f"run={self.folder}"]
        if self.variant == "full":
            return [world.recipe, *common]
        full, config = RunFolder(self._folder_of("full")), load_config(world.recipe, common)
        ready = [f"ready.{stage}={getattr(config.ready, stage) or full.model(stage)}" for stage in READY]
        return [world.recipe, *common, *ready, *changes(self.variant, config), *self.plan.variant_overrides]

    def _folder_of(self, variant: Variant) -> Path:
        return self.plan.runs / self.world / f"seed-{self.seed}" / variant


def changes(variant: Variant, full: Config) -> list[str]:
    """The overrides that make a variant of a full run: one phase as long as all of its phases, or another gap."""
    if variant == "difference":
        return ["gap_reward.variant=difference"]
    drafts = variant.removesuffix("_only")
    steps = sum(phase.steps for phase in full.ppo_improver.phases)
    return [f"ppo_improver.phases=[{{name: {drafts}, drafts: {drafts}, steps: {steps}}}]"]


def runs_of(plan: Plan) -> list[Run]:
    """Every run, the full one of a world and seed before its variants; ConfigError for what no run could read."""
    for name, world in plan.worlds.items():
        if world.variants[:1] != ("full",):
            raise ConfigError(f"worlds.{name}.variants: the first must be full, whose models the others use")
        load_config(world.recipe, [*world.overrides, *plan.variant_overrides])
    places = [(name, seed) for name in plan.worlds for seed in plan.seeds]
    return [Run(plan, name, seed, variant) for name, seed in places for variant in plan.worlds[name].variants]


def train_all(runs: Sequence[Run], train: Callable[[Run], None]) -> None:
    """Trains what is not finished, in order, and says how long the rest may take.

    ConfigError where a folder holds a run of another configuration, or a part of one that another commit began.
    """
    for number, run in enumerate(runs, start=1):
        place = f"[{number}/{len(runs)}] {run.name}"
        recipe, *overrides = run.arguments()
        if (run.folder / "config.yaml").is_file():
            RunFolder(run.folder).open(load_config(recipe, overrides))
        if run.finished:
            print(f"{place}: finished before", flush=True)
            continue
        refuse_other_commit(run.folder)
        print(f"{place}: training{left(runs)}", flush=True)
        started = time.monotonic()
        train(run)
        print(f"{place}: done in {duration(time.monotonic() - started)}", flush=True)


def left(runs: Sequence[Run]) -> str:
    """How long the unfinished runs may take, from the stages' seconds of finished ones of their kind; "" at first."""
    taken: dict[bool, list[float]] = {True: [], False: []}
    for run in runs:
        if run.finished:
            summary = json.loads((run.folder / "evaluation" / "summary.json").read_text(encoding="utf-8"))
            taken[run.variant == "full"].append(sum(summary["seconds"].values()))
    waiting = [taken[run.variant == "full"] or taken[True] for run in runs if not run.finished]
    if not all(waiting):
        return ""
    return f"; about {duration(sum(sum(seconds) / len(seconds) for seconds in waiting))} left"


def child(run: Run) -> None:
    """Trains a run in a process of its own, its output in VARIANT.log; InfraError with the last lines if it fails."""
    log = run.folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "actors.cli", "train", *run.arguments()]
    started = time.monotonic()
    with log.open("a", encoding="utf-8", buffering=1) as sink:
        sink.write(f"$ {shlex.join(command)}\n")
        process = subprocess.Popen(
            [*command, "tracking.wandb=false", "tracking.console=plain"], stdout=sink, stderr=sink
        )
        try:
            while (code := ended(process, HEARTBEAT)) is None:
                print(f"    {duration(time.monotonic() - started)}  {tail(log, 1)}", flush=True)
        except BaseException:
            # An interrupt from the terminal reaches the child too, which then ends its own workers.
            ended(process, GRACE)
            process.terminate()
            process.wait()
            raise
    if code:
        raise InfraError(f"{run.name} ended with exit code {code}; the end of {log}:\n{tail(log, 12)}")


def ended(process: subprocess.Popen, seconds: float) -> int | None:
    """The exit code, waited for at most so long; None while it runs."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(seconds)
    return None


def tail(log: Path, lines: int) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def refuse_changes(folder: Path) -> None:
    """ConfigError unless everything that could decide the result is in a commit; what a replication writes is not."""
    command = ["git", "-C", str(folder), "status", "--porcelain", "--", ".", ":(exclude)results"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise ConfigError(
            f"a replication is of a commit, and git knows none for {folder}; --allow-dirty goes on anyway"
        )
    if found.stdout:
        changed = found.stdout.rstrip()
        raise ConfigError(f"a replication is of a commit; commit these changes first, or --allow-dirty:\n{changed}")


def refuse_other_commit(run: Path) -> None:
    """ConfigError when an unfinished run was begun at another commit than this one."""
    path, now = run / "environment.json", environment()["commit"]
    began = json.loads(path.read_text(encoding="utf-8"))["commit"] if path.is_file() else now
    if began != now:
        raise ConfigError(f"{run} was begun at commit {began}, this is {now}; go back to that one, or empty the folder")


def replicate(plan: Plan, results: Path, train: Callable[[Run], None]) -> list[Finished]:
    """Trains the plan's runs and writes replication.md, replication.json and over_optimisation.svg to `results`."""
    runs = runs_of(plan)
    train_all(runs, train)
    finished = read_runs([(run.world, run.seed, run.variant, run.folder) for run in runs])
    write_results(finished, results)
    return finished


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicate", description=__doc__)
    parser.add_argument("--plan", type=Path, default=ROOT / "benchmarks" / "replication.yaml")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of what is written")
    parser.add_argument("--allow-dirty", action="store_true", help="run with changes that are in no commit")
    options = parser.parse_args(arguments)
    try:
        if not options.allow_dirty:
            refuse_changes(ROOT)
        replicate(Plan.read(options.plan), options.results, child)
    except PitRayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, InfraError) else 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    print(f"written: {options.results / 'replication.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
