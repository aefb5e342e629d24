"""`make experiments`: the comparisons of PIT, Self-Refine, SELF, TriPosT and distillation over seeds, from one plan.

Runs lie in RUNS/EXPERIMENT/seed-N/VARIANT; what is finished is not trained again. Each experiment writes NAME.md and
NAME.json. usage: python -m benchmarks.experiments --help
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from pydantic import Field, PositiveInt, ValidationError, model_validator

from benchmarks.command import run_command
from benchmarks.experiments_curves import IMPROVERS, Sweep
from benchmarks.experiments_page import write_experiment
from benchmarks.training import Task, child, run_child, side_by_side, train_all
from pit_ray.config import load_config
from pit_ray.config.section import Section
from pit_ray.errors import ConfigError
from pit_ray.run_folder import RunFolder

SHARED = ("sft_policy", "sft_improver", "reward", "gap_reward", "ppo_policy", "ppo_improver")
"""What a variant is given of another's models."""


class Variant(Section):
    """One configuration of an experiment, or (`of`) a run of an experiment before it."""

    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    models: str | None = None
    """The variant whose models it is given, so that both have the same drafts; it comes before."""
    stages: tuple[str, ...] = SHARED
    """Those whose models it is given."""
    of: str | None = None
    """The experiment whose run of this name it is; it comes before."""

    @model_validator(mode="after")
    def _either(self) -> Variant:
        if (self.recipe is None) == (self.of is None) or (self.of is not None and self.model_fields_set != {"of"}):
            raise ValueError("a variant has a recipe, or is a run `of` another experiment and nothing else")
        return self


class Experiment(Section):
    """What one page tells."""

    title: str
    variants: dict[str, Variant] = Field(min_length=1)
    sweep: Sweep | None = None


class Plan(Section):
    """What is run."""

    runs: Path
    seeds: tuple[int, ...] = Field(min_length=1)
    jobs: PositiveInt = 1
    """Runs at a time."""
    overrides: tuple[str, ...] = ()
    """Of every variant."""
    experiments: dict[str, Experiment] = Field(min_length=1)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """ConfigError when the file does not hold a plan, or a variant builds on one that does not come before it."""
        try:
            plan = cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError, ValidationError) as error:
            raise ConfigError(f"{path}: no plan: {error}") from error
        seen: set[tuple[str, str]] = set()
        for name, experiment in plan.experiments.items():
            for variant, about in experiment.variants.items():
                wanted = [(about.of, variant)] if about.of else []
                wanted += [(name, about.models)] if about.models else []
                for place in wanted:
                    if place not in seen:
                        raise ConfigError(
                            f"{path}: {name}.{variant} builds on {'.'.join(place)}, which comes before none"
                        )
                seen.add((name, variant))
        return plan


@dataclass(frozen=True)
class Run:
    """One training run of a plan."""

    plan: Plan
    experiment: str
    seed: int
    variant: str

    @property
    def about(self) -> Variant:
        return self.plan.experiments[self.experiment].variants[self.variant]

    @property
    def name(self) -> str:
        return f"{self.experiment}, seed {self.seed}, {self.variant}"

    @property
    def kind(self) -> str:
        return f"{self.experiment}/{self.variant}"

    @property
    def folder(self) -> Path:
        return self.plan.runs / self.experiment / f"seed-{self.seed}" / self.variant

    @property
    def given(self) -> Path | None:
        models = self.about.models
        return run_of(self.plan, self.experiment, self.seed, models).folder if models else None

    def arguments(self) -> list[str]:
        about = self.about
        assert about.recipe is not None
        common = [*self.plan.overrides, *about.overrides, f"seed={self.seed}", f"run={self.folder}"]
        if self.given is None:
            return [about.recipe, *common]
        given, config = RunFolder(self.given), load_config(about.recipe, common)
        ready = [f"ready.{stage}={getattr(config.ready, stage) or given.model(stage)}" for stage in about.stages]
        return [about.recipe, *common, *ready]


def runs_of(plan: Plan, experiment: str) -> list[Run]:
    """Every run of an experiment; a variant's seeds together, since runs of different seeds need not wait for each
    other."""
    variants = plan.experiments[experiment].variants
    return [run_of(plan, experiment, seed, variant) for variant in variants for seed in plan.seeds]


def run_of(plan: Plan, experiment: str, seed: int, variant: str) -> Run:
    """A run of an experiment, which may be one of another."""
    return Run(plan, plan.experiments[experiment].variants[variant].of or experiment, seed, variant)


def sweep_all(runs: Sequence[Run], sweep: Sweep, jobs: int) -> None:
    """Evaluates the runs that have both improvers at every temperature; what is there already stays as it is."""
    values = [f"{value:g}" for value in sweep.temperatures]

    def one(run: Run) -> None:
        print(f"{run.name}: temperatures {', '.join(values)}", flush=True)
        arguments = ["sweep", str(run.folder), "temperature", *values, "--iterations", str(sweep.iterations)]
        chosen = [f"--improver={name}" for name in IMPROVERS]
        run_child(f"{run.name}, sweep", run.folder.with_suffix(".sweep.log"), [*arguments, *chosen])

    side_by_side([Task(run.folder, None, partial(one, run)) for run in runs], jobs)


def experiments(plan: Plan, names: Sequence[str], results: Path) -> None:
    """Trains what is missing of some experiments, all when none is named, and writes their pages."""
    if unknown := [name for name in names if name not in plan.experiments]:
        raise ConfigError(f"no experiment '{unknown[0]}'; there are {', '.join(plan.experiments)}")
    for name in names or plan.experiments:
        runs, experiment = runs_of(plan, name), plan.experiments[name]
        train_all(runs, child, plan.jobs)
        if experiment.sweep:
            sweep_all(runs, experiment.sweep, plan.jobs)
        folders = [(run.seed, run.variant, run.folder) for run in runs]
        print(f"written: {write_experiment(name, experiment.title, folders, results, experiment.sweep)}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    parser.add_argument("names", nargs="*", help="experiments of the plan; all when none is named")

    def work(options: argparse.Namespace) -> None:
        experiments(Plan.read(options.plan), options.names, options.results)

    return run_command(parser, "experiments.yaml", work, arguments)


if __name__ == "__main__":
    sys.exit(main())
