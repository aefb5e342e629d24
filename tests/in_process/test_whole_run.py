"""The whole curriculum in one process, to the report."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from pit_ray import driver
from pit_ray.data.parquet import read_pairs
from pit_ray.data.templates import Renderer
from pit_ray.errors import ConfigError, InfraError
from pit_ray.in_process import InProcess, TorchLearner
from pit_ray.run_folder import RunFolder
from pit_ray.tracking import read_metrics
from tests.disturbed import STAGES
from tests.in_process.small_run import (
    CAUSAL,
    ITERATIONS,
    PER_STEP,
    PPO_STEPS,
    REWARDS,
    config_for,
    deployment,
    summary,
)


def test_every_stage_is_finished_in_the_order_of_the_method(finished: RunFolder) -> None:
    folders = sorted(path.name for path in (finished.path / "stages").iterdir())
    assert folders == [f"{number:02d}-{name}" for number, name in enumerate(STAGES)]
    seconds = {name: finished.seconds(name) for name in STAGES}
    assert all(value is not None and value >= 0 for value in seconds.values())
    assert summary(finished)["seconds"] == seconds
    assert (finished.path / "report.html").stat().st_size > 1000


def test_the_summary_compares_every_system_by_every_judge(finished: RunFolder) -> None:
    rows = summary(finished)["comparisons"]
    found = [(row["name"], row["iterations"], row["stopping_rule"], row["judge"]) for row in rows]
    systems = [
        *(("improver_vs_policy", k, False) for k in range(1, ITERATIONS + 1)),
        *(("improver_vs_policy", k, True) for k in range(1, ITERATIONS + 1)),
        ("sft_improver_vs_policy", 1, False),
        ("policy_vs_sft_policy", 0, False),
        ("best_of_2_vs_policy", 0, False),
        *(("improver_vs_previous", k, rule) for rule in (False, True) for k in range(2, ITERATIONS + 1)),
    ]
    assert found == [(*system, judge) for system in systems for judge in ("gold", "reward")]
    for row in rows:
        assert row["n"] == 12
        low, high = row["ci95"]
        assert -100 <= low <= row["delta"] <= high <= 100
        assert row["delta"] == pytest.approx(row["win"] - row["lose"])


def test_the_summary_has_margin_means_and_the_order_of_gaps(finished: RunFolder) -> None:
    found = summary(finished)
    assert math.isfinite(found["margin"])
    assert (found["world"], found["seed"]) == ("notes", 5)
    assert found["gap_reward"]["n"] == 12
    assert 0 <= found["gap_reward"]["order_holds"] <= found["gap_reward"]["accuracy"] <= 1
    assert set(found["means"]) == {
        "chosen", "rejected", "sft_policy", "policy", "best_of_2", "sft_improver", "improver_1", "improver_2",
        "improver_stopped_1", "improver_stopped",
    }  # fmt: skip
    # The world's letters are better than what a model says after a few steps.
    assert found["means"]["chosen"]["gold"] > found["means"]["rejected"]["gold"] > found["means"]["policy"]["gold"]


def test_the_scores_of_every_prompt_are_those_behind_the_summary(finished: RunFolder) -> None:
    table = pq.read_table(finished.path / "evaluation" / "outcomes.parquet").to_pandas()
    held_out = read_pairs(finished.stage("data") / "held_out.parquet")
    scores = {}
    for (system, judge), rows in table.groupby(["system", "judge"]):
        assert rows["uid"].tolist() == held_out.uid.tolist()
        scores[system, judge] = rows["score"].to_numpy()
    found = summary(finished)
    assert {key: pytest.approx(values.mean()) for key, values in scores.items()} == {
        (system, judge): mean for system, means in found["means"].items() for judge, mean in means.items()
    }
    best = scores["best_of_2", "reward"]
    assert (best >= scores["policy", "reward"]).all() and (best > scores["policy", "reward"]).any()
    # What the rule keeps is the draft or a revision, and with one more allowed, what it kept or one revision more.
    for judge in ("gold", "reward"):
        draft, first, second = (scores[name, judge] for name in ("policy", "improver_1", "improver_2"))
        one, two = scores["improver_stopped_1", judge], scores["improver_stopped", judge]
        assert ((one == draft) | (one == first)).all() and ((two == one) | (two == second)).all()


def test_the_summary_tells_hollow_wins_and_kl(finished: RunFolder) -> None:
    found = summary(finished)
    assert set(found["health"]) == set(found["means"])
    # Nothing ends within ten tokens that untrained models write, and nothing is copied.
    assert found["health"]["policy"]["tokens"] <= 10 and found["health"]["policy"]["copied"] is None
    assert found["health"]["chosen"]["truncated"] is None and found["health"]["improver_1"]["copied"] == 0
    chosen = read_pairs(finished.stage("data") / "held_out.parquet").chosen
    assert found["health"]["chosen"]["tokens"] == pytest.approx(chosen.lengths.mean())
    last = [r["objective/kl"] for r in read_metrics(finished.path) if r["stage"] == "ppo_improver"][-5:]
    assert found["kl"]["ppo_improver"] == pytest.approx(np.mean(last))
    measured = {(m["score"], m["pairs"]): m for m in found["gap_reward"]["measures"]}
    assert measured["five", "annotated"]["accuracy"] == found["gap_reward"]["accuracy"]
    assert set(measured) == {(s, p) for s in ("five", "difference") for p in ("annotated", "written")}
    assert len(found["length_controlled"]) == len([r for r in found["comparisons"] if r["name"].endswith("policy")])


def test_samples_show_each_revision_with_its_gap_and_gold(finished: RunFolder) -> None:
    samples = json.loads((finished.path / "evaluation" / "samples.json").read_text(encoding="utf-8"))
    assert len(samples) == 3
    for sample in samples:
        assert len(sample["revisions"]) == len(sample["gaps"]) == ITERATIONS
        assert len(sample["golds"]) == ITERATIONS + 1
        assert 0 <= sample["kept"] <= ITERATIONS
        assert "ask for the" in sample["prompt"]


@pytest.mark.parametrize("stage", CAUSAL)
def test_language_models_load_with_transformers(finished: RunFolder, stage: str) -> None:
    folder = finished.model(stage)
    loaded: Any = AutoModelForCausalLM.from_pretrained(str(folder), output_loading_info=True)
    model, report = loaded
    assert not report["missing_keys"] and not report["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "tell anna about the lamp"}], add_generation_prompt=True, return_dict=False
    )
    assert ids == Renderer.load(folder).prompt_ids([{"role": "user", "content": "tell anna about the lamp"}])
    written = model.generate(torch.tensor([ids]), max_new_tokens=3, do_sample=False)
    assert written.shape[1] > len(ids)
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize("stage", REWARDS)
def test_reward_models_load_with_transformers(finished: RunFolder, stage: str) -> None:
    model, report = AutoModelForSequenceClassification.from_pretrained(
        str(finished.model(stage)), output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model(input_ids=torch.tensor([[5, 6, 7]])).logits.shape == (1, 1)


def test_training_changed_every_model(finished: RunFolder) -> None:
    models = [load_file(finished.model(stage) / "model.safetensors") for stage in CAUSAL]
    embeddings = [state["model.embed_tokens.weight"] for state in models]
    for i, ours in enumerate(embeddings):
        assert not any(torch.equal(ours, theirs) for theirs in embeddings[:i])


@pytest.mark.parametrize("stage", PPO_STEPS)
def test_the_rollouts_of_each_step_are_on_disk_with_each_uid_once(finished: RunFolder, stage: str) -> None:
    files = sorted((finished.path / "rollouts" / stage).iterdir())
    assert [file.name for file in files] == [f"step-{step:06d}" for step in range(PPO_STEPS[stage])]
    uids: list[int] = []
    for step, file in enumerate(files):
        table = pq.read_table(file).to_pydict()
        uids += table["uid"]
        assert table["policy_version"] == [step] * PER_STEP
        assert table["length"] == [len(ids) for ids in table["response_ids"]] == list(map(len, table["logprobs"]))
        assert all(logprob <= 0 for row in table["logprobs"] for logprob in row)
        assert all("ask for the" in prompt for prompt in table["prompt"])
        assert np.isfinite(table["score"]).all() and np.isfinite(table["gold"]).all()
    assert sorted(uids) == list(range(PPO_STEPS[stage] * PER_STEP))


def test_each_phase_takes_its_drafts_from_its_source(finished: RunFolder) -> None:
    sources, texts = [], []
    for step in range(PPO_STEPS["ppo_improver"]):
        table = pq.read_table(finished.path / "rollouts" / "ppo_improver" / f"step-{step:06d}").to_pydict()
        sources.append(sorted(set(table["draft_source"])))
        texts.append((table["prompt"], table["draft"], table["response"]))
        if step < 2:
            assert table["draft_source"].count("chosen") == PER_STEP / 2
    assert sources == [["chosen", "rejected"]] * 2 + [["policy"]] * 3 + [["improver"]] * 2
    renderer, pairs = (
        Renderer.load(finished.stage("data") / "renderer"),
        read_pairs(finished.stage("data") / "rl.parquet"),
    )
    annotated = {
        (renderer.text(x), renderer.text(y))
        for column in (pairs.chosen, pairs.rejected)
        for x, y in zip(pairs.prompt.rows(), column.rows(), strict=True)
    }
    for prompts, drafts, _ in texts[:2]:
        assert set(zip(prompts, drafts, strict=True)) <= annotated


def test_metrics_are_finite_and_complete(finished: RunFolder) -> None:
    records = read_metrics(finished.path)
    for record in records:
        numbers = [value for name, value in record.items() if name not in ("stage", "phase")]
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in numbers), record
    steps = {stage: [r["step"] for r in records if r["stage"] == stage] for stage in STAGES}
    assert {stage: steps[stage] for stage in PPO_STEPS} == {s: list(range(n)) for s, n in PPO_STEPS.items()}
    # 130 pairs in thirds, half an epoch of batches of 8; reward models add a record for unseen pairs.
    assert {stage: len(steps[stage]) for stage in ("sft_policy", "sft_improver", "reward", "gap_reward")} == {
        "sft_policy": 3, "sft_improver": 3, "reward": 4, "gap_reward": 4,
    }  # fmt: skip
    improver = [r for r in records if r["stage"] == "ppo_improver"]
    assert [r["phase"] for r in improver] == ["from_data"] * 2 + ["from_policy"] * 3 + ["from_itself"] * 2
    for record in improver:
        assert {"objective/kl", "objective/gold", "loss/policy_avg", "val/ratio", "time/step"} <= set(record)
        # Sampler and learner hold the same weights, so they agree on every token.
        assert record["val/sampler_mismatch_max"] < 1e-3


def test_step_metrics_are_those_of_the_recorded_samples(finished: RunFolder) -> None:
    for record in read_metrics(finished.path):
        stage = record["stage"]
        if stage not in PPO_STEPS:
            continue
        rows = pq.read_table(finished.path / "rollouts" / stage / f"step-{record['step']:06d}").to_pandas()
        assert record["val/response_length"] == pytest.approx(rows["length"].mean())
        assert record["val/eos_rate"] == pytest.approx(rows["finished"].mean())
        assert record["objective/gold"] == pytest.approx(rows["gold"].mean())
        # No response that goes on to the limit keeps its whole score.
        assert record["objective/score"] == pytest.approx((rows["score"] - 1.0 * ~rows["finished"]).mean(), abs=1e-5)
        if stage == "ppo_improver":
            assert record["objective/gap"] == pytest.approx(rows["score"].mean(), abs=1e-5)
            assert record["pit/win_rate"] == pytest.approx((rows["score"] > 0).mean())
            assert record["pit/copied"] == pytest.approx((rows["response"] == rows["draft"]).mean())
            assert record["pit/gold_gain"] == pytest.approx((rows["gold"] - rows["draft_gold"]).mean())


def test_kl_starts_at_0_and_its_coefficient_is_steered(finished: RunFolder) -> None:
    improver = [r for r in read_metrics(finished.path) if r["stage"] == "ppo_improver"]
    assert improver[0]["objective/kl"] == pytest.approx(0, abs=1e-3)
    assert improver[-1]["objective/kl_k3_token"] > improver[0]["objective/kl_k3_token"]
    coefficients = [r["objective/kl_coefficient"] for r in improver]
    assert coefficients[0] == pytest.approx(0.05)
    assert coefficients[1] == pytest.approx(0.05 * (1 - 0.2 * PER_STEP / 100), rel=1e-6)


def test_a_finished_run_does_nothing_again(finished: RunFolder) -> None:
    class Idle(InProcess):
        def learner(self) -> TorchLearner:
            raise InfraError("nothing should be learned again")

    before = {path: path.stat().st_mtime_ns for path in (finished.path / "stages").rglob("*") if path.is_file()}
    config = config_for(finished.path)
    driver.train(config, deployment(config, Idle))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_configuration_on_the_same_folder_is_refused_with_the_difference(finished: RunFolder) -> None:
    before = (finished.path / "metrics.jsonl").read_bytes()
    config = config_for(finished.path, seed=6)
    with pytest.raises(ConfigError, match=r"another configuration: seed: 5 in the run, 6 now;"):
        driver.train(config, deployment(config))
    assert (finished.path / "metrics.jsonl").read_bytes() == before
