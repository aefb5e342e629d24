"""A plan of a replication: what it means, and what is refused before anything runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.command import ROOT
from benchmarks.replicate import Plan, Run, changes, main, runs_of
from benchmarks.training import refuse_changes
from pit_ray.config import load_config
from pit_ray.errors import ConfigError


def plan(**changes_: object) -> Plan:
    world = {"recipe": "quickstart", "variants": ["full", "on_policy_only"]}
    return Plan.model_validate({"runs": "runs/r", "seeds": [1, 2], "worlds": {"notes": world}} | changes_)


def test_the_shipped_plan_is_the_one_that_was_asked_for() -> None:
    shipped = Plan.read(ROOT / "benchmarks" / "replication.yaml")
    runs = runs_of(shipped)
    assert len(shipped.seeds) >= 3
    for run in runs:
        if run.variant == "full":
            recipe, *overrides = run.arguments()
            config = load_config(recipe, overrides)
            assert config.data.held_out >= 2048 and config.evaluation.iterations == 5


def test_full_comes_before_its_variants() -> None:
    assert [(run.seed, run.variant) for run in runs_of(plan())] == [
        (1, "full"), (1, "on_policy_only"), (2, "full"), (2, "on_policy_only"),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"worlds\.notes\.variants: the first must be full"):
        runs_of(plan(worlds={"notes": {"recipe": "quickstart", "variants": ["difference"]}}))


@pytest.mark.parametrize("variant", ["annotated_only", "on_policy_only"])
def test_a_variant_of_the_curriculum_has_one_phase_as_long_as_all(variant: str) -> None:
    full = load_config("quickstart")
    (phase,) = load_config("quickstart", changes(variant, full)).ppo_improver.phases
    assert phase.drafts == variant.removesuffix("_only")
    assert phase.steps == sum(p.steps for p in full.ppo_improver.phases)


def test_a_variant_is_told_where_the_full_runs_models_are(tmp_path: Path) -> None:
    run = Run(plan(runs=str(tmp_path)), "notes", 2, "difference")
    recipe, *overrides = run.arguments()
    config = load_config(recipe, overrides)
    assert config.gap_reward.variant == "difference" and config.seed == 2
    assert Path(str(config.ready.ppo_policy)).parts[-5:-2] == ("seed-2", "full", "stages")
    assert config.ready.ppo_improver is None


def test_a_plan_that_cannot_be_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("runs: r\nseeds: [1]\nworld: {}\n")
    assert main(["--plan", str(path), "--allow-dirty"]) == 2
    assert "no plan" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="unknown key"):
        runs_of(plan(variant_overrides=["evaluation.iteration=1"]))


def test_changes_in_no_commit_are_refused_but_for_results(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    with pytest.raises(ConfigError, match="git knows none"):
        refuse_changes(tmp_path)
    git("init")
    (tmp_path / "recipe.yaml").write_text("a")
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "replication.md").write_text("new")
    refuse_changes(tmp_path)
    (tmp_path / "world.py").write_text("new")
    with pytest.raises(ConfigError, match=r"world\.py"):
        refuse_changes(tmp_path)
