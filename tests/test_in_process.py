"""The whole curriculum in one process: to the report, and to the same result when it is interrupted on the way."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from actors.cli import app
from pit_ray import driver
from pit_ray.config.tree import Config
from pit_ray.curriculum import plain_prompts
from pit_ray.data.parquet import read_pairs
from pit_ray.data.templates import Renderer
from pit_ray.errors import ConfigError, DataError, InfraError, TrainingError
from pit_ray.in_process import InProcess, TorchLearner, TorchRollout, TorchScorer
from pit_ray.metrics import Metrics
from pit_ray.models.load import load_causal
from pit_ray.records import Prompts, Ragged, Rollouts, Scores
from pit_ray.replay import replay
from pit_ray.roles import GenerateRequest, LearnerSpec, Ref, Resolved
from pit_ray.run_folder import RunFolder, write_json
from pit_ray.stages import supervised
from pit_ray.stages.context import RunContext
from pit_ray.stages.stop import read_stop
from pit_ray.tracking import Tracker, read_metrics

STAGES = ("data", "sft_policy", "sft_improver", "reward", "gap_reward", "ppo_policy", "ppo_improver", "evaluate")
CAUSAL = ("sft_policy", "sft_improver", "ppo_policy", "ppo_improver")
REWARDS = ("reward", "gap_reward")
PER_STEP = 8
PPO_STEPS = {"ppo_policy": 2, "ppo_improver": 7}
ITERATIONS = 2


def config_for(run: Path, **changes: Any) -> Config:
    """A run of every stage that takes seconds."""
    fast = {"lr": 1e-3, "warmup_steps": 1}
    supervised = {"epochs": 0.5, "batch_size": 8, "checkpoint_every": 2, "optimizer": fast}
    ppo = {"rollouts_per_step": PER_STEP, "shard_size": 4, "checkpoint_every": 2, "optimizer": fast | {"lr": 2e-2}}
    plain: dict[str, Any] = {
        "run": str(run),
        "seed": 5,
        "data": {"source": "world:notes", "pairs": 150, "held_out": 12, "validation": 8},
        "model": {
            "from_scratch": {
                "vocab_size": 400, "hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 48,
                "max_position_embeddings": 512,
            },
            "dtype": "float32",
            "improve_instruction": "improve",
        },
        "sampling": {"max_new_tokens": 10},
        "sft": supervised,
        "reward": supervised,
        "gap_reward": supervised,
        "ppo_policy": ppo | {"phases": [{"name": "policy", "drafts": "none", "steps": PPO_STEPS["ppo_policy"]}]},
        "ppo_improver": ppo
        | {
            "phases": [
                {"name": "from_data", "drafts": "annotated", "steps": 2},
                {"name": "from_policy", "drafts": "on_policy", "steps": 3},
                {"name": "from_itself", "drafts": "self", "steps": 2},
            ],
            "kl": {"controller": "adaptive", "target": 0.01, "horizon": 100},
        },
        "evaluation": {"iterations": ITERATIONS, "bootstrap": 50, "examples": 3},
        "actors": {"deployment": "in_process"},
        "tracking": {"wandb": False, "console": "plain"},
    }  # fmt: skip
    return Config.model_validate(plain | changes)


def deployment(config: Config, kind: type[InProcess] = InProcess, **options: Any) -> Callable[[RunFolder], InProcess]:
    """What the driver is given to deploy the roles of a run folder."""

    def deploy(folder: RunFolder) -> InProcess:
        data = folder.stage("data")
        return kind(
            config,
            lambda: Path((data / "base.txt").read_text(encoding="utf-8").strip()),
            data / "renderer",
            lambda: Renderer.load(data / "renderer").eos,
            **options,
        )

    return deploy


def run_to_the_end(config: Config) -> RunFolder:
    torch.set_num_threads(1)
    driver.train(config, deployment(config))
    return RunFolder(config.run)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run from nothing to its report, undisturbed."""
    return run_to_the_end(config_for(tmp_path_factory.mktemp("runs") / "undisturbed"))


def summary(folder: RunFolder) -> dict[str, Any]:
    return json.loads((folder.path / "evaluation" / "summary.json").read_text(encoding="utf-8"))


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
    assert (
        found["health"]["chosen"]["tokens"]
        == read_pairs(finished.stage("data") / "held_out.parquet").chosen.lengths.mean()
    )
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
    assert [file.name for file in files] == [f"step-{step:06d}.parquet" for step in range(PPO_STEPS[stage])]
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
        table = pq.read_table(finished.path / "rollouts" / "ppo_improver" / f"step-{step:06d}.parquet").to_pydict()
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
        rows = pq.read_table(finished.path / "rollouts" / stage / f"step-{record['step']:06d}.parquet").to_pandas()
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


def test_on_policy_drafts_are_sampled_at_the_temperature_of_later_use(finished: RunFolder, tmp_path: Path) -> None:
    given = {stage: str(finished.model(stage)) for stage in (*REWARDS, *CAUSAL) if stage != "ppo_improver"}
    phase = {"name": "from_policy", "drafts": "on_policy", "steps": 1}
    improver = {"rollouts_per_step": PER_STEP, "shard_size": 4, "phases": [phase]}
    cold = {"temperature": 1e-4, "iterations": 1, "bootstrap": 50, "examples": 1}
    folder = run_to_the_end(config_for(tmp_path / "cold", ready=given, ppo_improver=improver, evaluation=cold))
    table = pq.read_table(folder.path / "rollouts" / "ppo_improver" / "step-000000.parquet").to_pydict()
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


Act = Callable[[], None]


def die() -> None:
    raise InfraError("learner/0 died")


def stop_by(number: int) -> Act:
    """What `kill -NUMBER` does to the driver."""
    return lambda: os.kill(os.getpid(), number)


class DisturbedRollout(TorchRollout):
    """Acts when it is asked for revisions for the time given, counted from 0."""

    calls, act, at = 0, staticmethod(die), -1

    def generate(self, prompts: Prompts, request: GenerateRequest) -> Resolved[Rollouts]:
        if prompts.bridge is not None:
            self.calls += 1
            if self.calls > self.at >= 0:
                self.act()
        return super().generate(prompts, request)


class DisturbedLearner(TorchLearner):
    """Acts when it is asked to learn from drafts for the time given, counted from 0."""

    calls, act, at = 0, staticmethod(die), -1

    def start(self, spec: LearnerSpec, resume: Path | None) -> Resolved[None]:
        self.improving = spec.ppo.phases[0].drafts != "none"
        return super().start(spec, resume)

    def learn(
        self, rollouts: Ref[Rollouts], scores: Ref[Scores], reference: Ref[Ragged], kl_coefficient: float, seed: int
    ) -> Resolved[Metrics]:
        if self.improving:
            self.calls += 1
            if self.calls > self.at >= 0:
                self.act()
        return super().learn(rollouts, scores, reference, kl_coefficient, seed)


class Disturbed(InProcess):
    """A deployment in which something happens in the improver's step that comes after `at` others."""

    def __init__(self, *arguments: Any, while_doing: str, at: int, act: Act) -> None:
        super().__init__(*arguments)
        self.where, self.at, self.act = while_doing, at, act

    def learner(self) -> TorchLearner:
        return self._once("learner", lambda: self._disturbed(DisturbedLearner(), "learn"))

    def rollout(self) -> TorchRollout:
        return self._once("rollout", lambda: self._disturbed(DisturbedRollout(self.base(), self.eos()), "generate"))

    def _disturbed(self, role: Any, where: str) -> Any:
        if where == self.where:
            role.at, role.act = self.at, self.act
        return role


def without_time(folder: RunFolder) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in record.items() if not name.startswith("time")}
        for record in read_metrics(folder.path)
    ]


def rollout_tables(folder: RunFolder) -> dict[str, dict[str, list[Any]]]:
    files = sorted((folder.path / "rollouts").rglob("*.parquet"))
    return {str(file.relative_to(folder.path)): pq.read_table(file).to_pydict() for file in files}


def test_a_run_that_died_and_was_stopped_ends_as_if_it_had_not(finished: RunFolder, tmp_path: Path) -> None:
    config = config_for(tmp_path / "disturbed")
    folder = RunFolder(config.run)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for while_doing, at, act, ends_in, checkpoint in (
        ("learn", 3, die, InfraError, "step-000002-1"),  # the second phase, after a step that no checkpoint holds
        ("generate", 1, stop_by(signal.SIGTERM), 143, "step-000003-1"),  # the step is given up
        ("learn", 0, stop_by(signal.SIGINT), 130, "step-000004-1"),  # the step is finished
        ("learn", 2, die, InfraError, "step-000006-2"),  # between the last two steps of the third phase
    ):
        with pytest.raises(SystemExit if isinstance(ends_in, int) else ends_in) as end:
            driver.train(config, deployment(config, Disturbed, while_doing=while_doing, at=at, act=act))
        assert not isinstance(end.value, SystemExit) or end.value.code == ends_in
        assert max((folder.stage("ppo_improver") / "checkpoints").glob("step-*")).name == checkpoint
        assert folder.seconds("ppo_policy") is not None
        assert folder.seconds("ppo_improver") is None
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    run_to_the_end(config)
    for stage in CAUSAL + REWARDS:
        ours, theirs = (load_file(f.model(stage) / "model.safetensors") for f in (folder, finished))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), stage
    assert without_time(folder) == without_time(finished)
    assert rollout_tables(folder) == rollout_tables(finished)
    ours, theirs = summary(folder), summary(finished)
    assert ours | {"seconds": None} == theirs | {"seconds": None}


class PoisonedScorer(TorchScorer):
    """A reward model that gives one response of its second step no number."""

    calls = 0

    def score(self, rollouts: Ref[Rollouts]) -> Resolved[Scores]:
        scores = super().score(rollouts).result()
        self.calls += 1
        if self.calls == 2:
            scores.score[3] = np.nan
        return Resolved(scores)


class Poisoned(InProcess):
    """A deployment with that scorer."""

    def reward(self) -> TorchScorer:
        return self._once("reward", lambda: PoisonedScorer(self.config))


class ForgetfulRollout(TorchRollout):
    """Takes the first weights that it is sent and no more."""

    def sync(self, weights: Ref[Any], version: int) -> Resolved[None]:
        return super().sync(weights, version) if version == 0 else Resolved(None)


class Forgetful(InProcess):
    """A deployment with those rollout workers."""

    def rollout(self) -> TorchRollout:
        return self._once("rollout", lambda: ForgetfulRollout(self.base(), self.eos()))


def stamps(run: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder of a run, and what stands beside it, with size and time of change."""
    found = {str(path): path.lstat() for path in [*run.parent.iterdir(), *run.rglob("*")]}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def replayed(config: Config, stage: str, step: int) -> bool:
    """Replays with sound roles; the run must stay as it is."""
    before = stamps(Path(config.run))
    same = replay(config, RunFolder(config.run), stage, step, deployment(config))
    assert stamps(Path(config.run)) == before
    return same


def test_a_step_that_is_replayed_comes_out_as_recorded(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    # From a checkpoint inside a phase of own drafts.
    assert replayed(config_for(finished.path), "ppo_improver", 6)
    assert "ppo_improver, step 6: all 2" in capsys.readouterr().out


def test_the_command_replays_from_the_stages_start_where_no_checkpoint_is_that_early(finished: RunFolder) -> None:
    said = CliRunner().invoke(app, ["replay", str(finished.path), "1", "--stage", "ppo_policy"])
    assert (said.exit_code, said.output.count("step 1: all 2")) == (0, 1), said.output


def test_a_record_that_does_not_fit_is_shown(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.path, tmp_path / "copy")
    records = read_metrics(finished.path)
    for record in records:
        if (record["stage"], record["step"]) == ("ppo_policy", 0):
            record["objective/score"] += 1
    (tmp_path / "copy" / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert not replayed(config_for(tmp_path / "copy"), "ppo_policy", 0)
    said = capsys.readouterr().out
    assert "step 0: 1 of" in said and "objective/score" in said


def test_only_recorded_steps_of_ppo_can_be_replayed(finished: RunFolder, tmp_path: Path) -> None:
    config = config_for(finished.path)
    with pytest.raises(DataError, match=r"no record of step 7 of ppo_improver; recorded are 0 to 6"):
        replayed(config, "ppo_improver", 7)
    with pytest.raises(ConfigError, match=r"--stage reward: .* ppo_policy and ppo_improver"):
        replayed(config, "reward", 0)
    (tmp_path / "new").mkdir()
    with pytest.raises(DataError, match="ppo_policy has no record"):
        replayed(config_for(tmp_path / "new"), "ppo_policy", 0)


def policy_run(finished: RunFolder, run: Path, **ppo: Any) -> Config:
    """A run that tunes the policy alone, from finished models, with some settings changed."""
    given = {stage: str(finished.model(stage)) for stage in (*REWARDS, *CAUSAL) if stage != "ppo_policy"}
    plain = config_for(run, ready=given).model_dump()
    return Config.model_validate(plain | {"ppo_policy": plain["ppo_policy"] | ppo})


def test_a_step_that_fails_is_saved_and_fails_again_in_its_replay(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = policy_run(finished, tmp_path / "poisoned", checkpoint_every=1)
    folder = RunFolder(config.run)
    said = (
        r"ppo_policy, step 1: the loss is not finite.*good checkpoint: .*step-000001-0; .*pit-ray replay .* 1 --stage"
    )
    with pytest.raises(TrainingError, match=said):
        driver.train(config, deployment(config, Poisoned))
    assert [record["step"] for record in read_metrics(folder.path)] == [0]
    stage = folder.stage("ppo_policy")
    assert [path.name for path in (stage / "checkpoints").glob("step-*")] == ["step-000001-0"]
    found = read_stop(stage, 1)
    assert found is not None
    assert np.isnan(found[0].scores.score).tolist() == [i == 3 for i in range(PER_STEP)]
    assert found[0].rollouts.version == 1
    recorded = pq.read_table(folder.path / "rollouts" / "ppo_policy" / "step-000001.parquet")
    assert [row.tolist() for row in found[0].rollouts.response.rows()] == recorded["response_ids"].to_pylist()
    # These roles score every response, so that the fault can only come from what was saved.
    assert replayed(config, "ppo_policy", 1)
    assert "step 1 stops the run: the loss is not finite" in capsys.readouterr().out
    # What went before is sound, and so is the run once its scores are.
    assert replayed(config, "ppo_policy", 0)
    driver.train(config, deployment(config))
    assert folder.seconds("ppo_policy") is not None


def test_a_policy_that_left_its_reference_is_stopped_before_it_is_kept(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = policy_run(finished, tmp_path / "far", token_kl_limit=0.1, checkpoint_every=1)
    # The checkpoint of step 1 holds what was found wanting in that step.
    said = r"ppo_policy, step 1: the policy has left its reference: KL .* token_kl_limit 0\.1; .*good checkpoint: none"
    with pytest.raises(TrainingError, match=said):
        driver.train(config, deployment(config))
    assert replayed(config, "ppo_policy", 1)
    said = capsys.readouterr().out
    assert "stops the run: the policy has left its reference" in said and "values as recorded" in said


def test_a_policy_that_has_become_too_sure_is_stopped(finished: RunFolder, tmp_path: Path) -> None:
    # One step at this rate leaves large weights, and so a policy that is sure of whatever it says.
    leap = {"lr": 0.5, "warmup_steps": 0}
    config = policy_run(finished, tmp_path / "sure", entropy_floor=0.9, token_kl_limit=None, optimizer=leap)
    with pytest.raises(TrainingError, match="ppo_policy, step 1: the policy's entropy has collapsed"):
        driver.train(config, deployment(config))


def test_a_sync_that_did_not_happen_stops_the_run(finished: RunFolder, tmp_path: Path) -> None:
    config = policy_run(finished, tmp_path / "forgetful")
    with pytest.raises(TrainingError, match=r"rollout/0 and the learner disagree .* policy version 1: .*stale weights"):
        driver.train(config, deployment(config, Forgetful))
    assert read_metrics(RunFolder(config.run).path) == []


def before(stage: str, finished: RunFolder, run: Path) -> RunFolder:
    """A copy of the finished run as it was when `stage` began."""
    shutil.copytree(finished.path, run)
    folder, later = RunFolder(run), STAGES[STAGES.index(stage) :]
    for name in later:
        shutil.rmtree(folder.stage(name))
        shutil.rmtree(run / "rollouts" / name, ignore_errors=True)
    shutil.rmtree(run / "evaluation")
    (run / "report.html").unlink()
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["stage"] not in later))
    return folder


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def contents(folder: RunFolder) -> dict[str, bytes]:
    return {str(p.relative_to(folder.path)): p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("stage", "size", "named"),
    [
        ("ppo_policy", 100_000, "checkpoints/.part"),
        ("evaluate", 2_000, "evaluation/outcomes.parquet"),
        ("evaluate", 20_000, "report.html"),
    ],
)
def test_a_full_disk_is_one_error_and_what_is_there_stays(
    finished: RunFolder, tmp_path: Path, stage: str, size: int, named: str
) -> None:
    folder = before(stage, finished, tmp_path / "run")
    config = config_for(folder.path)
    there = contents(folder)
    with pytest.raises(InfraError, match=rf"{folder.path}/.*{named}\S* cannot be written: "), largest_file(size):
        driver.train(config, deployment(config))
    now = contents(folder)
    assert all(now[name].startswith(content) for name, content in there.items())
    assert not [name for name in now if "part" in name]
    run_to_the_end(config)
    assert without_time(folder) == without_time(finished)
    assert summary(folder) | {"seconds": None} == summary(finished) | {"seconds": None}


def test_a_report_that_cannot_be_written_is_named_and_all_else_is_there(finished: RunFolder, tmp_path: Path) -> None:
    folder = before("evaluate", finished, tmp_path / "run")
    (folder.path / "report.html").mkdir()
    with pytest.raises(InfraError, match=rf"{folder.path}/report.html cannot be written: Is a directory"):
        run_to_the_end(config_for(folder.path))
    assert summary(folder) | {"seconds": None} == summary(finished) | {"seconds": None}
    assert folder.seconds("evaluate") is not None


class Restarted:
    """A worker group that dies in its third step, goes on from a checkpoint after the first, and finishes."""

    def __init__(self, folder: Path) -> None:
        lines = [json.dumps({"step": step, "loss/sft": [step, 1.0]}) + "\n" for step in range(4)]
        self.folder = folder
        self.written = iter([lines[:2], lines[:1], lines[:1], lines[:3], lines])

    def result(self, timeout: float | None = None) -> None:
        lines = next(self.written, None)
        if lines is None:
            write_json(self.folder / "finished.json", {"seconds": 1.0})
        else:
            (self.folder / "metrics.jsonl").write_text("".join(lines))


def test_steps_that_a_worker_group_does_again_are_recorded_once(finished: RunFolder, tmp_path: Path) -> None:
    folder = before("sft_policy", finished, tmp_path / "run")
    config = config_for(folder.path)
    tracker = Tracker(folder.path, config.tracking, {})
    context = RunContext(config, folder, deployment(config)(folder), tracker)
    item = supervised.job(context, "sft_policy")
    supervised.follow(context, item, Restarted(item.folder))
    assert [record["step"] for record in read_metrics(folder.path)] == [0, 1, 2, 3]


def generated(
    folder: RunFolder, shard_size: int, seed: int = 1, temperature: float = 0.8, longest: int = 12
) -> Rollouts:
    """Sixteen responses of the tuned policy."""
    pool = TorchRollout(folder.model("ppo_policy"), Renderer.load(folder.stage("data") / "renderer").eos)
    prompts = plain_prompts(read_pairs(folder.stage("data") / "rl.parquet"), np.arange(16), 100)
    request = GenerateRequest(temperature=temperature, max_new_tokens=longest, seed=seed, shard_size=shard_size)
    return pool.generate(prompts, request).result()


def test_sampled_logprobs_are_the_models_at_the_temperature(finished: RunFolder) -> None:
    rollouts = generated(finished, shard_size=5)
    model = load_causal(finished.model("ppo_policy"), torch.float32)
    for i in range(16):
        context, response = rollouts.prompts.prompt[i], rollouts.response[i]
        ids = torch.from_numpy(np.concatenate([context, response]).astype(np.int64))[None]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(context) - 1 : -1] / 0.8
        expected = torch.log_softmax(logits, -1)[range(len(response)), response]
        np.testing.assert_allclose(rollouts.logprobs[i], expected.numpy(), atol=1e-4)


def test_a_response_ends_with_the_end_token_exactly_when_it_finished(finished: RunFolder) -> None:
    # Long and at a high temperature, so that an untrained model ends some responses and not others.
    rollouts = generated(finished, shard_size=16, temperature=5.0, longest=200)
    eos = Renderer.load(finished.stage("data") / "renderer").eos
    assert 0 < rollouts.finished.sum() < 16
    for row, done in zip(rollouts.response.rows(), rollouts.finished, strict=True):
        assert (row[-1] == eos) == done
        assert eos not in row[:-1]
        assert done or len(row) == 200
    assert rollouts.prompts.uid.tolist() == list(range(100, 116))


def test_draws_depend_on_seed_and_shard_alone(finished: RunFolder) -> None:
    torch.manual_seed(0)
    first = generated(finished, shard_size=8)
    torch.manual_seed(1)
    again, other = generated(finished, shard_size=8), generated(finished, shard_size=8, seed=2)
    assert again.response.values.tolist() == first.response.values.tolist()
    assert other.response.values.tolist() != first.response.values.tolist()
    # A shard draws the same with or without the others.
    pool = TorchRollout(finished.model("ppo_policy"), Renderer.load(finished.stage("data") / "renderer").eos)
    request = GenerateRequest(temperature=0.8, max_new_tokens=12, seed=1, shard_size=8)
    second = pool.generate(first.prompts.take(np.arange(8, 16)), request).result()
    assert second.response.values.tolist() == first.take(np.arange(8, 16)).response.values.tolist()
