"""`make replicate` from its plan to its page: real runs in one process, and the same from a child process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from actors.compose import deploy
from benchmarks.replicate import Plan, Run, main, replicate, runs_of
from benchmarks.replication_runs import read_runs
from pit_ray import driver
from pit_ray.config import load_config
from pit_ray.errors import ConfigError, DataError

pytestmark = pytest.mark.slow
VARIANTS = ["full", "annotated_only", "on_policy_only", "difference"]


def plan_file(folder: Path) -> Path:
    """A plan of two seeds and every variant, of runs that take seconds."""
    fast = {"lr": 1e-3, "warmup_steps": 1}
    supervised = {"epochs": 0.5, "batch_size": 8, "optimizer": fast}
    ppo = {"rollouts_per_step": 8, "shard_size": 4, "optimizer": fast}
    scratch = {"vocab_size": 400, "hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 48}
    recipe = {
        "data": {"source": "world:notes", "pairs": 150, "held_out": 12, "validation": 8},
        "model": {"from_scratch": scratch, "dtype": "float32"},
        "sampling": {"max_new_tokens": 10},
        "sft": supervised, "reward": supervised, "gap_reward": supervised,
        "ppo_policy": ppo | {"phases": [{"name": "policy", "drafts": "none", "steps": 4}]},
        "ppo_improver": ppo | {
            "phases": [
                {"name": "annotated", "drafts": "annotated", "steps": 1},
                {"name": "on_policy", "drafts": "on_policy", "steps": 2},
            ]
        },
        "evaluation": {"iterations": 2, "bootstrap": 50, "examples": 1},
        "actors": {"deployment": "in_process"},
        "tracking": {"wandb": False, "console": "plain"},
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    world = {"recipe": str(folder / "tiny.yaml"), "overrides": ["evaluation.examples=2"], "variants": VARIANTS}
    plan = {"runs": str(folder / "runs"), "seeds": [7, 8], "worlds": {"tiny": world}}
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan | {"variant_overrides": ["evaluation.iterations=1"]}))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plan, its finished runs, and what was written about them."""
    folder = tmp_path_factory.mktemp("replication")

    def train(run: Run) -> None:
        recipe, *overrides = run.arguments()
        config = load_config(recipe, overrides)
        driver.train(config, lambda run_folder, note: deploy(config, run_folder, note))

    replicate(Plan.read(plan_file(folder)), folder / "results", train)
    return folder


def test_every_run_is_in_the_json_in_the_summarys_form(place: Path) -> None:
    rows = json.loads((place / "results" / "replication.json").read_text())
    assert {(row["world"], row["seed"], row["variant"]) for row in rows} == {
        ("tiny", seed, variant) for seed in (7, 8) for variant in VARIANTS
    }
    for seed in (7, 8):
        summary = json.loads(
            (place / "runs" / "tiny" / f"seed-{seed}" / "full" / "evaluation/summary.json").read_text()
        )
        of_run = [row for row in rows if (row["seed"], row["variant"]) == (seed, "full")]
        names = ("world", "seed", "variant")
        assert [{k: v for k, v in row.items() if k not in names} for row in of_run] == summary["comparisons"]


def test_variants_differ_from_the_full_run_in_the_improver_alone(place: Path) -> None:
    seed = place / "runs" / "tiny" / "seed-7"
    stages = {}
    for variant in VARIANTS:
        records = [json.loads(line) for line in (seed / variant / "metrics.jsonl").read_text().splitlines()]
        stages[variant] = [(r["stage"], r["phase"]) for r in records if r["stage"].startswith("ppo")]
        assert variant == "full" or {r["stage"] for r in records} == {"ppo_improver"}
    assert (
        stages["full"]
        == [("ppo_policy", "policy")] * 4 + [("ppo_improver", "annotated")] + [("ppo_improver", "on_policy")] * 2
    )
    assert stages["annotated_only"] == [("ppo_improver", "annotated")] * 3
    assert stages["on_policy_only"] == [("ppo_improver", "on_policy")] * 3
    assert stages["difference"] == stages["full"][4:]


def test_the_page_has_every_claim_and_the_plot(place: Path) -> None:
    text = (place / "results" / "replication.md").read_text()
    for words in ("full and annotated_only saw equally many rollouts", "full − Δ on_policy_only", "best of 2"):
        assert words in text
    assert "| it saw at least as many rollouts as the improver | 7: 32, improver 24<br>8: 32, improver 24 |" in text
    assert (place / "results" / "over_optimisation.svg").stat().st_size > 5000


def test_the_command_trains_only_what_is_missing_and_comes_to_the_same(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (place / "results" / "replication.json").read_bytes()
    seed = place / "runs" / "tiny" / "seed-8"
    shutil.rmtree(seed / "annotated_only")
    shutil.rmtree(place / "results")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = ["--plan", str(place / "plan.yaml"), "--results", str(place / "results"), "--allow-dirty"]
    assert main(arguments) == 0
    said = capfd.readouterr().out
    assert said.count("finished before") == 7
    assert "[6/8] tiny, seed 8, annotated_only: training; about" in said
    assert "improver" in (seed / "annotated_only.log").read_text()
    assert (place / "results" / "replication.json").read_bytes() == before


def test_a_run_that_fails_is_told_with_its_last_words(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan = yaml.safe_load((place / "plan.yaml").read_text())
    plan["worlds"]["tiny"]["overrides"] = ["data.held_out=149"]
    plan["runs"] = str(place / "failing")
    (place / "failing.yaml").write_text(yaml.safe_dump(plan))
    assert main(["--plan", str(place / "failing.yaml"), "--results", str(place / "none"), "--allow-dirty"]) == 1
    assert "too few pairs to split" in capfd.readouterr().err
    assert not (place / "none").exists()


def test_runs_with_other_drafts_are_not_paired(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "runs" / "tiny", tmp_path / "tiny")
    path = tmp_path / "tiny" / "seed-7" / "difference" / "evaluation" / "outcomes.parquet"
    table = pq.read_table(path).to_pandas()
    one = table.index[(table["system"] == "policy") & (table["judge"] == "gold")][3]
    table.loc[one, "score"] += 0.5
    pq.write_table(pa.Table.from_pandas(table), path)
    places = [("tiny", 7, variant, tmp_path / "tiny" / "seed-7" / variant) for variant in ("full", "difference")]
    with pytest.raises(DataError, match="seed 7: difference was evaluated on other drafts"):
        read_runs(places)


def test_another_plan_on_the_same_folders_is_refused(place: Path) -> None:
    plan = Plan.read(place / "plan.yaml")
    changed = plan.model_copy(
        update={"worlds": {"tiny": plan.worlds["tiny"].model_copy(update={"overrides": ("evaluation.examples=1",)})}}
    )

    def never(run: Run) -> None:
        raise AssertionError("nothing should be trained")

    with pytest.raises(ConfigError, match="another configuration"):
        replicate(changed, place / "results", never)
    assert len(runs_of(plan)) == 8
