"""`make replicate`: trains every world, seed and variant of a plan, one after another, and writes what came of it.

A variant uses the models of the full run of its world and seed, all but the improver that it trains. Runs lie in
RUNS/WORLD/seed-N/VARIANT; what is finished is not trained again. usage: python -m benchmarks.replicate --help
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.command import run_command
from benchmarks.replication_page import write_results
from benchmarks.replication_runs import Finished, read_runs
from benchmarks.training import child, train_all
from pit_ray.config import Config, load_config
from pit_ray.errors import ConfigError
from pit_ray.run_folder import RunFolder

READY = ("sft_policy", "sft_improver", "reward", "gap_reward", "ppo_policy")
"""What a variant takes over from the full run."""

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
    def kind(self) -> str:
        return "full" if self.variant == "full" else "variant"

    @property
    def given(self) -> Path | None:
        return None if self.variant == "full" else self._folder_of("full")

    def arguments(self) -> list[str]:
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


def replicate(plan: Plan, results: Path, train: Callable[[Run], None]) -> list[Finished]:
    """Trains the plan's runs and writes replication.md, replication.json and over_optimisation.svg to `results`."""
    runs = runs_of(plan)
    train_all(runs, train)
    finished = read_runs([(run.world, run.seed, run.variant, run.folder) for run in runs])
    write_results(finished, results)
    return finished


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicate", description=__doc__)

    def work(options: argparse.Namespace) -> None:
        replicate(Plan.read(options.plan), options.results, child)
        print(f"written: {options.results / 'replication.md'}")

    return run_command(parser, "replication.yaml", work, arguments)


if __name__ == "__main__":
    sys.exit(main())
