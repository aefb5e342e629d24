"""The other methods on the real engines: stages that sample and stages that learn take turns on the same machine."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pit_ray.evaluate.evaluation_folder import read_evaluation
from tests.actors.test_whole_run import pit_ray

pytestmark = pytest.mark.slow

ONE_EACH = ("actors.rollout.workers=1", "actors.learner.ranks=1", "actors.learner.zero_stage=0")


def test_pit_is_distilled_into_its_policy_and_compared(recipe: Path, undisturbed: Path, tmp_path: Path) -> None:
    models = {path.parent.name[3:]: path for path in undisturbed.glob("stages/*/model")}
    ready = [f"ready.{stage}={path}" for stage, path in models.items()]
    run = tmp_path / "distilled"
    rounds = ("method=distill", "distill.rounds=1", "distill.prompts=32", "distill.keep=1", "evaluation.iterations=1")
    pit_ray("train", str(recipe), f"run={run}", *rounds, *ONE_EACH, *ready, cwd=tmp_path)
    counts = json.loads(next(run.glob("stages/*-improved_1/counts.json")).read_text())
    assert counts["drafts"] == 32 >= counts["kept"] > 0
    assert next(run.glob("stages/*-sft_distilled_1/model/model.safetensors")).is_file()
    found = read_evaluation(run / "evaluation")
    assert {"policy", "sft_distilled_1", "pit_1", "sft_distilled_1_pit_1"} <= set(found.systems)

    pit_ray("evaluate", str(run), "--improver", "pit", "--improver", "self_refine", "--name", "two", cwd=tmp_path)
    two = read_evaluation(run / "evaluations" / "two")
    assert two.texts("policy") == found.texts("policy")
    assert two.texts("pit_1") == found.texts("pit_1")
    said = pit_ray("compare", str(run), str(run / "evaluations" / "two"), "--output", "compared", cwd=tmp_path)
    assert "self_refine_1" in said and (tmp_path / "compared" / "compare.html").is_file()


def test_tripost_learns_from_edited_trajectories(tmp_path: Path) -> None:
    overrides = (
        "data.pairs=464", "data.held_out=16", "data.validation=8", "tripost.iterations=1", "tripost.questions=96",
        "tripost.rationale.epochs=4", "tripost.rationale.batch_size=16", "tripost.sft.epochs=1",
        "tripost.lmsi_samples=0", "evaluation.iterations=1", "evaluation.bootstrap=50",
    )  # fmt: skip
    run = tmp_path / "tripost"
    pit_ray("train", "tripost", f"run={run}", *overrides, *ONE_EACH, cwd=tmp_path)
    counts = json.loads(next(run.glob("stages/*-edit_1/counts.json")).read_text())
    assert counts["trajectories"] == 96 and counts["improving"] > 0 and counts["stating"] > 0
    rows = pq.read_table(next(run.glob("stages/*-edit_1/examples_text.parquet"))).to_pylist()
    assert {row["kind"] for row in rows} == {"answer", "feedback", "refinement"}
    assert {row["weight"] for row in rows if row["kind"] != "answer"} == {1.5}
    for place in (run / "evaluation", run / "evaluation" / "unseen"):
        found = read_evaluation(place)
        assert len(found.uids) == 16
        assert {"sft_rationale", "sft_tripost_1", "sft_tripost_1_corrected_1"} <= set(found.systems)
