"""Runs with another gap, with models given ready, and with another temperature of later use."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pit_ray.data.parquet import read_pairs
from pit_ray.data.templates import Renderer
from pit_ray.models.load import load_causal
from pit_ray.run_folder import RunFolder
from pit_ray.tracking import read_metrics
from tests.in_process.small_run import (
    CAUSAL,
    PER_STEP,
    REWARDS,
    config_for,
    run_to_the_end,
    summary,
)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose gap is the difference of two rewards."""
    run = tmp_path_factory.mktemp("runs") / "difference"
    return run_to_the_end(config_for(run, gap_reward={"variant": "difference"}))


def test_the_difference_of_rewards_is_above_0_exactly_when_the_pair_is_ordered_rightly(ablation: RunFolder) -> None:
    # R(x, y, y) is 0 by definition, so the whole order holds where r^{wl} > r^{lw}.
    found = summary(ablation)["gap_reward"]
    assert 0 < found["accuracy"] < 1
    assert found["order_holds"] == found["accuracy"]


def test_a_gap_that_is_a_difference_trains_nothing_and_takes_no_time(ablation: RunFolder) -> None:
    assert not ablation.model("gap_reward").exists()
    assert "gap_reward" not in {record["stage"] for record in read_metrics(ablation.path)}
    assert summary(ablation)["seconds"].get("gap_reward", 0) == 0


def test_models_that_are_given_ready_are_used_and_not_trained(finished: RunFolder, tmp_path: Path) -> None:
    given = {stage: str(finished.model(stage)) for stage in (*REWARDS, *CAUSAL)}
    folder = run_to_the_end(config_for(tmp_path / "ready", ready=given))
    assert set(summary(folder)["seconds"]) == {"data", "evaluate"}
    assert read_metrics(folder.path) == []
    # The same models on the same prompts with the same draws.
    assert summary(folder)["comparisons"] == summary(finished)["comparisons"]


def test_a_profiled_run_traces_the_second_update_and_ends_the_same(finished: RunFolder, tmp_path: Path) -> None:
    given = {stage: str(finished.model(stage)) for stage in (*REWARDS, *CAUSAL) if stage != "ppo_improver"}
    folders = [
        run_to_the_end(
            config_for(tmp_path / name, ready=given, tracking={"wandb": False, "profile": name == "profiled"})
        )
        for name in ("plain", "profiled")
    ]
    assert [(folder.path / "profile").is_dir() for folder in folders] == [False, True]
    events = json.loads(gzip.decompress(folders[1].profile("ppo_improver.json.gz").read_bytes()))["traceEvents"]
    names = {event["name"] for event in events}
    assert any("backward" in name.lower() for name in names) and any("adam" in name.lower() for name in names)
    assert summary(folders[0])["comparisons"] == summary(folders[1])["comparisons"]


def test_on_policy_drafts_are_sampled_at_the_temperature_of_later_use(finished: RunFolder, tmp_path: Path) -> None:
    given = {stage: str(finished.model(stage)) for stage in (*REWARDS, *CAUSAL) if stage != "ppo_improver"}
    phase = {"name": "from_policy", "drafts": "on_policy", "steps": 1}
    improver = {"rollouts_per_step": PER_STEP, "shard_size": 4, "phases": [phase]}
    cold = {"temperature": 1e-4, "iterations": 1, "bootstrap": 50, "examples": 1}
    folder = run_to_the_end(config_for(tmp_path / "cold", ready=given, ppo_improver=improver, evaluation=cold))
    table = pq.read_table(folder.path / "rollouts" / "ppo_improver" / "step-000000").to_pydict()
    assert set(table["temperature"]) == {1.0}
    renderer = Renderer.load(finished.stage("data") / "renderer")
    policy: Any = load_causal(finished.model("ppo_policy"), torch.float32)
    pairs = read_pairs(folder.stage("data") / "rl.parquet")
    likeliest = {}
    for prompt in pairs.prompt.rows():
        if (text := renderer.text(prompt)) in table["prompt"]:
            ids = torch.from_numpy(prompt.astype(np.int64))[None]
            written = policy.generate(ids, max_new_tokens=10, do_sample=False)[0, len(prompt) :].numpy()
            likeliest[text] = renderer.text(written[:-1] if written[-1] == renderer.eos else written)
    assert [likeliest[prompt] for prompt in table["prompt"]] == table["draft"]
