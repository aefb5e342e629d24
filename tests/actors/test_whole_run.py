"""A whole run on the real engines: Ray, two vLLM workers, two DeepSpeed ranks with ZeRO 3; then its improver in use."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

pytestmark = pytest.mark.slow


def pit_ray(*arguments: str, cwd: Path) -> str:
    """What the command prints; fails with its output when it fails."""
    command = [sys.executable, "-m", "actors.cli", *arguments]
    environment = os.environ | {"WANDB_MODE": "offline"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


EACH_TWICE = ("learner", "rollout", "supervised")


def read(path: Path) -> str:
    return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()


def test_two_workers_two_ranks_zero_3(recipe: Path, undisturbed: Path, tmp_path: Path) -> None:
    run, said = undisturbed, undisturbed.with_name("undisturbed.log").read_text(encoding="utf-8")
    assert "improver vs policy" in said and "report.html" in said
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    names = {comparison["name"] for comparison in summary["comparisons"]}
    rivals = {"sft_improver_vs_policy", "policy_vs_sft_policy", "best_of_2_vs_policy"}
    assert names == rivals | {"improver_vs_policy", "improver_vs_previous"}
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in metrics if record["stage"].startswith("ppo")]
    assert [record["phase"] for record in steps] == ["policy"] * 3 + ["annotated"] * 3 + ["on_policy"] * 2
    for name in ("val/sampler_mismatch_max", "val/canary_difference"):
        assert all(record[name] < 1e-4 for record in steps), "vLLM holds other weights than DeepSpeed"
    table = pq.read_table(run / "rollouts" / "ppo_improver" / "step-000003")
    assert table.num_rows == 16 == len(set(table["uid"].to_pylist()))
    assert set(table["policy_version"].to_pylist()) == {3} and set(table["draft_source"].to_pylist()) == {"policy"}
    traces = {path.name: json.loads(read(path)) for path in (run / "profile").iterdir()}
    assert traces.keys() == {"ppo_policy.json.gz", "ppo_improver.json.gz", "ray.json"}
    for stage in ("ppo_policy", "ppo_improver"):
        assert "scaled_dot_product" in str({event["name"] for event in traces[f"{stage}.json.gz"]["traceEvents"]})
    assert "learn" in str({event["name"] for event in traces["ray.json"]})
    memory = json.loads((run / "memory.json").read_text())
    processes = {"driver", "recorder/0", "reference/0", "reward/0"}
    assert memory["peaks"].keys() == processes | {f"{role}/{i}" for role in EACH_TWICE for i in (0, 1)}
    for name, seen in memory["peaks"].items():
        planned = memory["plan"][name.partition("/")[0]]["peak"]
        assert 0.1 < seen["idle"] <= seen["peak"] < 1.5 * planned, f"{name}: {seen}, planned {planned}"
    assert "memory plan" in said and "supervised/1" in (run / "report.html").read_text()
    (improver,) = run.glob("stages/*-ppo_improver/model")
    (reward,) = run.glob("stages/*-gap_reward/model")
    for folder in (improver, improver.parent / "checkpoints" / "best" / "model"):
        AutoModelForCausalLM.from_pretrained(folder)
    assert AutoModelForSequenceClassification.from_pretrained(reward).num_labels == 1

    before = (run / "metrics.jsonl").read_text()
    pit_ray("train", str(recipe), f"run={run}", cwd=tmp_path)
    assert (run / "metrics.jsonl").read_text() == before, "a finished run must not train again"

    assert "ppo_improver, step 2: all 2" in pit_ray("replay", str(run), "2", cwd=tmp_path)
    assert (run / "metrics.jsonl").read_text() == before

    prompt = "tell anna about lamp boat clock train desk candle coat piano ; ask for the key"
    rows = [{"prompt": prompt, "draft": "dear anna .", "id": 1}, {"prompt": prompt, "id": 2}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pit_ray("improve", str(run), "--file", "in.jsonl", "--output", "out.jsonl", "--iterations", "2", cwd=tmp_path)
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[0]["steps"][0]["draft"] == "dear anna ."
    assert all(answer["response"] == answer["steps"][1]["revision"] for answer in answers)
