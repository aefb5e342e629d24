"""The plan of the experiments holds together, and a page can be made of finished runs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest
import torch

from benchmarks.command import ROOT
from benchmarks.experiments import Plan, run_of, runs_of
from benchmarks.experiments_page import write_experiment
from benchmarks.experiments_runs import Finished, between
from benchmarks.training import train_all
from pit_ray import driver
from pit_ray.config import load_config
from pit_ray.errors import ConfigError, DataError, InfraError
from pit_ray.methods import check_method
from tests.in_process.scripted import scripted, task_config

PLAN = ROOT / "benchmarks" / "experiments.yaml"


def test_every_run_of_the_plan_is_a_configuration_that_suits_its_method() -> None:
    plan = Plan.read(PLAN)
    for experiment in plan.experiments:
        for run in runs_of(plan, experiment):
            variant = run.about
            assert variant.recipe is not None
            config = load_config(variant.recipe, [*variant.overrides, f"seed={run.seed}"])
            check_method(config)
            if variant.models is not None:
                other = run_of(plan, run.experiment, run.seed, variant.models).about
                assert other.recipe is not None
                given = load_config(other.recipe, other.overrides)
                assert (config.data, config.model.path) == (given.data, given.model.path), (
                    "other drafts than the models'"
                )


def test_a_variant_of_another_experiment_is_the_same_run() -> None:
    plan = Plan.read(PLAN)
    assert run_of(plan, "distill", 301, "pit") == run_of(plan, "self_refine", 301, "pit")
    assert run_of(plan, "distill", 301, "distill").given == run_of(plan, "self_refine", 301, "pit").folder


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("{one: {recipe: quickstart, models: two}, two: {recipe: quickstart}}", "builds on e.two"),
        ("{one: {of: other}}", "builds on other.one"),
        ("{one: {recipe: quickstart, of: other}}", "a variant has a recipe, or is a run `of` another"),
        ("{one: {of: other, overrides: [seed=1]}}", "a variant has a recipe, or is a run `of` another"),
        ("{one: {}}", "a variant has a recipe, or is a run `of` another"),
        ("{one: {recip: quickstart}}", "recip"),
    ],
)
def test_a_plan_that_cannot_run_is_refused(variants: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(f"runs: runs\nseeds: [1]\nexperiments: {{e: {{title: t, variants: {variants}}}}}\n")
    with pytest.raises(ConfigError, match=message):
        Plan.read(path)


@dataclass(frozen=True)
class Toy:
    name: str
    folder: Path
    given: Path | None = None
    kind = "toy"

    def arguments(self) -> list[str]:
        return ["quickstart"]


def test_runs_wait_for_the_models_they_are_given_and_no_other(tmp_path: Path) -> None:
    first, second = Toy("first", tmp_path / "1"), Toy("second", tmp_path / "2", given=tmp_path / "1")
    other = Toy("other", tmp_path / "3")
    said: list[str] = []
    may_end = Event()

    def train(run: Toy) -> None:
        if run is first:
            assert may_end.wait(20)
        said.append(run.name)
        if run is other:
            may_end.set()

    train_all([first, other, second], train, jobs=2)
    assert said == ["other", "first", "second"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_after_a_run_that_fails_none_is_begun(jobs: int, tmp_path: Path) -> None:
    runs = [Toy(str(n), tmp_path / str(n)) for n in range(4)]
    said: list[str] = []
    other = Event()

    def train(run: Toy) -> None:
        said.append(run.name)
        if run is runs[0]:
            assert jobs == 1 or other.wait(20)
            raise InfraError(f"{run.name} failed")
        other.set()
        time.sleep(0.5)  # so that the first fails while it is under way

    with pytest.raises(InfraError, match="0 failed"):
        train_all(runs, train, jobs)
    assert sorted(said) == [str(n) for n in range(jobs)]


def test_a_page_is_made_of_finished_runs(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = task_config(tmp_path / "run", "tripost")
    driver.train(config, scripted(config))
    places = [(seed, "word_sorting", tmp_path / "run") for seed in (1, 2)]
    page = write_experiment("tripost", "TriPosT", places, tmp_path / "results").read_text(encoding="utf-8")
    assert "| word_sorting, unseen: corrected answers against sft_lmsi: points |" in page
    assert "largest gain over both rationale baselines" in page
    assert "edit_1" in page
    rows = json.loads((tmp_path / "results" / "tripost.json").read_text())
    assert {(row["seed"], row["split"]) for row in rows} == {(s, p) for s in (1, 2) for p in ("held_out", "unseen")}
    assert {"name", "judge", "n", "win", "lose", "delta", "ci95"} <= rows[0].keys()


def test_the_filter_of_self_is_measured_on_and_off(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    places = []
    for variant, changes in (("filtered", {}), ("unfiltered", {"filter": False})):
        section = task_config("unused", "self_evolution").self_evolution.model_copy(update=changes)
        config = task_config(tmp_path / variant, "self_evolution", self_evolution=section)
        driver.train(config, scripted(config))
        places.append((1, variant, tmp_path / variant))
    page = write_experiment("self_evolution", "SELF", places, tmp_path / "results").read_text(encoding="utf-8")
    for against in ("sft_meta", "sft_qa", "sft_qa_long"):
        assert f"| unseen: round 2, direct answers, against {against}: points |" in page
    assert "| `filtered` against `unfiltered`, round 2, direct answers: points |" in page
    other = task_config(tmp_path / "other", "self_evolution", seed=2)
    driver.train(other, scripted(other))
    runs = [[Finished(1, name, tmp_path / name)] for name in ("filtered", "other")]
    with pytest.raises(DataError, match="other prompts"):
        between(*runs, "sft_qa", "verifier")
