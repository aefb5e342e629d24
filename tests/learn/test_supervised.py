"""A supervised stage from its job to its written model, also when it is killed on the way."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from pit_ray.config.training import GapReward, Optimizer, Supervised
from pit_ray.config.tree import Config, Model
from pit_ray.data.parquet import write_pairs
from pit_ray.data.templates import Renderer
from pit_ray.errors import DataError, TrainingError
from pit_ray.learn.engine import TorchEngine
from pit_ray.learn.supervised import checkpoints_of, fit, lasting, total_steps
from pit_ray.records import Pairs
from pit_ray.roles import FitJob, FitKind
from pit_ray.store import Store

SECTION = Supervised(
    epochs=2, batch_size=4, checkpoint_every=2, optimizer=Optimizer(lr=1e-2, warmup_steps=0, micro_batch_tokens=200)
)
CONFIG = Config(
    data={"source": "world:notes", "pairs": 12},  # type: ignore[arg-type]
    model=Model(path="unused", dtype="float32"),
    sft=SECTION,
    reward=SECTION,
    gap_reward=GapReward(**SECTION.model_dump()),
)
STEPS = 6


@pytest.fixture
def job(causal: Path, tokenizer: PreTrainedTokenizerFast, pairs: Pairs, tmp_path: Path) -> FitJob:
    """Fits the policy to twelve pairs, two of them seen as validation."""
    write_pairs(pairs, tmp_path / "pairs.parquet")
    write_pairs(pairs.take([0, 1]), tmp_path / "validation.parquet")
    Renderer(copy.deepcopy(tokenizer), "improve").save(tmp_path / "renderer")
    (tmp_path / "stage").mkdir()
    return FitJob(
        stage="sft_policy", kind="sft_policy", config=CONFIG, section=CONFIG.sft, pairs=tmp_path / "pairs.parquet",
        validation=tmp_path / "validation.parquet", model=causal, renderer=tmp_path / "renderer",
        folder=tmp_path / "stage", store=Store(tmp_path),
    )  # fmt: skip


def of_kind(job: FitJob, kind: FitKind) -> FitJob:
    section = CONFIG.sft if kind.startswith("sft") else getattr(CONFIG, kind)
    return replace(job, kind=kind, stage=kind, section=section)


def metrics(job: FitJob) -> list[dict]:
    return [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def weights(job: FitJob, auto: Any = AutoModelForCausalLM) -> dict[str, Tensor]:
    return auto.from_pretrained(str(job.folder / "model")).state_dict()


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("kind", ["sft_policy", "sft_improver"])
def test_sft_writes_a_model_with_its_renderer_that_learned(job: FitJob, causal: Path, kind: FitKind) -> None:
    job = of_kind(job, kind)
    fit(job, TorchEngine)
    seen = metrics(job)
    assert [record["step"] for record in seen] == list(range(STEPS))
    assert seen[-1]["loss/sft"][0] / seen[-1]["loss/sft"][1] < 0.9 * seen[0]["loss/sft"][0] / seen[0]["loss/sft"][1]
    assert not equal(weights(job), AutoModelForCausalLM.from_pretrained(str(causal)).state_dict())
    assert Renderer.load(job.folder / "model").improve_instruction == "improve"


@pytest.mark.parametrize("kind", ["reward", "gap_reward"])
def test_a_reward_model_is_written_for_classifiers_and_checked_on_unseen_pairs(
    job: FitJob, scalar: Path, kind: FitKind
) -> None:
    job = of_kind(job, kind)
    if kind == "gap_reward":
        job = replace(job, model=scalar)
    fit(job, TorchEngine)
    *seen, last = metrics(job)
    assert [record["step"] for record in seen] == list(range(STEPS))
    assert list(last) == ["step", "val/validation_accuracy"]
    assert last["val/validation_accuracy"][1] == 2
    assert weights(job, AutoModelForSequenceClassification)["score.weight"].shape == (1, 32)


def test_the_gap_reward_goes_on_from_a_reward_model_and_its_head(job: FitJob, scalar: Path) -> None:
    with pytest.raises(DataError, match="no trained reward head"):
        fit(of_kind(job, "gap_reward"), TorchEngine)
    slow = job.config.gap_reward.model_copy(update={"optimizer": Optimizer(lr=1e-9)})
    job = replace(of_kind(job, "gap_reward"), model=scalar, section=slow)
    fit(job, TorchEngine)
    before = AutoModelForSequenceClassification.from_pretrained(str(scalar)).state_dict()
    after = weights(job, AutoModelForSequenceClassification)
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in before)


def test_policy_and_improver_learn_different_things_from_the_same_pairs(job: FitJob) -> None:
    fit(job, TorchEngine)
    policy = weights(job)
    improver = replace(of_kind(job, "sft_improver"), folder=job.folder.parent / "improver")
    improver.folder.mkdir()
    fit(improver, TorchEngine)
    assert not equal(weights(improver), policy)


class Killed(Exception):
    """Stands for the death of the process."""


class DyingEngine(TorchEngine):
    """Dies at its fourth update."""

    updates = 0

    def apply(self) -> float:
        self.updates += 1
        if self.updates == 4:
            raise Killed
        return super().apply()


def test_a_killed_stage_goes_on_to_the_same_model_and_metrics(job: FitJob) -> None:
    fit(job, TorchEngine)
    expected, seen = weights(job), metrics(job)
    again = replace(job, folder=job.folder.parent / "again")
    again.folder.mkdir()
    with pytest.raises(Killed):
        fit(again, DyingEngine)
    newest = checkpoints_of(again).newest(pytest.fail)
    assert newest == again.folder / "checkpoints" / "step-000002"
    AutoModelForCausalLM.from_pretrained(str(newest / "model"))
    fit(again, TorchEngine)
    assert equal(weights(again), expected)
    assert metrics(again) == seen


class SickEngine(TorchEngine):
    """Gives a loss that is not a number in its third step."""

    def __call__(self, *args: object) -> Sequence[Tensor]:
        logprobs, entropy = super().__call__(*args)
        return (logprobs * np.nan if self.schedule.last_epoch == 2 else logprobs), entropy


def test_a_loss_that_is_not_finite_names_stage_and_step(job: FitJob) -> None:
    with pytest.raises(TrainingError, match="sft_policy, step 2: the loss is not finite"):
        fit(job, SickEngine)
    assert not (job.folder / "model").exists()


@pytest.mark.parametrize(
    ("epochs", "pairs", "expected"), [(1, 64, 16), (1, 65, 17), (0.5, 64, 8), (0.001, 10, 1), (2, 10, 5)]
)
def test_total_steps(epochs: float, pairs: int, expected: int) -> None:
    assert total_steps(Supervised(epochs=epochs, batch_size=4), pairs) == expected


@given(st.integers(1, 100_000), st.integers(1, 1_000_000), st.integers(1, 4096))
@example(27, 23, 8)  # 27 · 8 / 23 epochs are 28 steps
def test_a_section_lasts_as_many_steps_as_it_is_told(steps: int, pairs: int, batch_size: int) -> None:
    assert total_steps(lasting(Supervised(batch_size=batch_size), steps, pairs), pairs) == steps
