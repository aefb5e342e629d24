"""The memory plan as a pure function: what must make it larger does, what is shared out gets smaller, and what it says
adds up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from actors.footprint import Footprint, MemoryRecord, resident
from actors.memory import Memory, ModelSize, Parts, memory_plan, needs
from actors.plan import describe_memory
from pit_ray.config import Config, load_config
from pit_ray.evaluate.report_files import MemoryRecord as ReadRecord
from pit_ray.evaluate.report_files import read_file

GIB = 2**30
SMALL = ModelSize(26_000_000, layers=8, hidden=512, vocabulary=2000, intermediate=1376)
LLAMA_8B = ModelSize(8_030_000_000, layers=32, hidden=4096, vocabulary=128_264, intermediate=14_336)
BARE = ModelSize(7_000_000_000, layers=0, hidden=0, vocabulary=0, intermediate=0)
"""Weights without activations."""


def quickstart(*overrides: str) -> Config:
    return load_config("quickstart", overrides)


def learner(size: ModelSize, *overrides: str) -> Parts:
    return memory_plan(quickstart(*overrides), size)["learner"].host


def test_sharding_divides_what_each_stage_says() -> None:
    ranks = "actors.learner.ranks=8"
    zero = [learner(BARE, ranks, f"actors.learner.zero_stage={stage}") for stage in (0, 1, 2, 3)]
    models = 2 * BARE.parameters / GIB  # policy and value model
    assert zero[0].weights == pytest.approx(4 * models)
    # Alone of the stages, 0 keeps no float32 weights beside the model's.
    assert [parts.optimizer for parts in zero] == pytest.approx([8 * models, *[12 / 8 * models] * 3])
    totals = [parts.total for parts in zero]
    assert totals == sorted(totals, reverse=True) and totals[3] < totals[0] / 3


@pytest.mark.parametrize(("dtype", "stage"), [("float32", 0), ("float32", 2), ("bfloat16", 3)])
def test_more_tokens_or_a_larger_model_never_need_less(dtype: str, stage: int) -> None:
    def plan(budget: int, size: ModelSize) -> dict[str, Memory]:
        keys = ("sft", "reward", "gap_reward", "ppo_policy", "ppo_improver")
        budgets = [f"{key}.optimizer.micro_batch_tokens={budget}" for key in keys]
        learners = ["actors.learner.ranks=2", f"actors.learner.zero_stage={stage}", f"model.dtype={dtype}"]
        return memory_plan(quickstart(*budgets, *learners, f"actors.scorer.batch_tokens={budget}"), size)

    wider = dataclasses.replace(SMALL, parameters=2 * SMALL.parameters, hidden=2 * SMALL.hidden)
    few, many, wide = plan(200, SMALL), plan(800, SMALL), plan(200, wider)
    for role in few:
        assert few[role].host.total <= min(many[role].host.total, wide[role].host.total)
    assert few["learner"].host.activations < many["learner"].host.activations


def test_a_step_that_has_fewer_tokens_than_a_micro_batch_may_takes_no_more() -> None:
    budgets = [f"{key}.optimizer.micro_batch_tokens=1000000" for key in ("ppo_policy", "ppo_improver")]
    one, two = (learner(SMALL, *budgets, f"{key}={n}") for key, n in (("seed", 1), ("actors.learner.ranks", 2)))
    assert two.activations == pytest.approx(one.activations / 2)
    few = learner(SMALL, *budgets, "ppo_policy.rollouts_per_step=4", "ppo_improver.rollouts_per_step=4")
    assert few.activations < one.activations / 8


def test_what_is_not_learned_has_neither_gradients_nor_optimizer() -> None:
    all_of_it, some = learner(LLAMA_8B), learner(dataclasses.replace(LLAMA_8B, trainable=LLAMA_8B.parameters // 100))
    assert some.weights == all_of_it.weights and some.activations == all_of_it.activations
    assert some.gradients == pytest.approx(all_of_it.gradients / 100)
    assert some.optimizer == pytest.approx(all_of_it.optimizer / 100)


def test_layers_that_are_computed_again_keep_less() -> None:
    again = learner(LLAMA_8B, "actors.learner.gradient_checkpointing=true")
    assert again.activations < learner(LLAMA_8B).activations / 3


def test_copies_and_updates_do_not_fall_together() -> None:
    assert Parts(1, 2, gradients=3, activations=4, copies=5).total == 1 + 2 + 7
    assert Parts(1, 2, gradients=3, activations=4, copies=8).total == 1 + 2 + 8


def test_gpus_take_what_the_machine_then_need_not_hold() -> None:
    gpus = [f"actors.{role}.gpus=1" for role in ("learner", "rollout", "scorer")]
    for role, memory in memory_plan(quickstart(*gpus), LLAMA_8B).items():
        assert memory.host.activations == memory.host.optimizer == memory.host.kv_cache == 0
        assert (memory.gpu is None) == (role in ("driver", "recorder"))


@pytest.mark.parametrize("recipe", ["quickstart", "hh", "self_evolution"])
def test_the_table_has_every_role_and_adds_up(recipe: str) -> None:
    config = load_config(recipe)
    lines = describe_memory(config, LLAMA_8B).splitlines()
    plan, need = memory_plan(config, LLAMA_8B), needs(config, LLAMA_8B)
    assert len(lines) == 2 + len(plan) + sum(memory.gpu is not None for memory in plan.values())
    assert all(len(line) <= 120 for line in lines)
    for line in lines[2:]:
        role, *cells = line.split()
        imports, weights, gradients, optimizer, kv, workspace, activations, copies, peak = (
            float(cell.replace("–", "0")) for cell in cells[-9:]
        )
        stays = imports + weights + optimizer + kv + workspace
        assert peak == pytest.approx(stays + max(gradients + activations, copies), abs=0.05)
        if "GPU" not in cells and role in need:
            assert peak <= need[role].host + 0.01


def test_a_peak_is_seen_though_it_has_passed(tmp_path: Path) -> None:
    footprint, before = Footprint(), resident()
    block = bytearray(64 * 2**20)
    footprint.look()
    del block
    footprint.look()
    assert 0.06 < footprint.peak - before < 0.2 and footprint.idle <= before + 0.01


def test_the_record_keeps_the_highest_of_all_sessions(tmp_path: Path) -> None:
    for peaks in ((1.0, 2.0), (3.0, 1.0)):
        record = MemoryRecord(tmp_path)
        record.plan(memory_plan(load_config("hh"), LLAMA_8B))
        record.note({f"learner/{i}": {"memory": {"idle": 0.5, "peak": peak}} for i, peak in enumerate(peaks)})
    found = json.loads((tmp_path / "memory.json").read_text())["peaks"]
    assert [found[f"learner/{i}"]["peak"] for i in (0, 1)] == [3.0, 2.0]
    rows = {name: (plan, seen) for name, plan, seen in read_file(tmp_path / "memory.json", ReadRecord).rows()}
    planned, seen = rows["learner/0"]
    assert planned is not None and planned.gpu_peak is not None and seen.peak == 3.0
    assert rows["driver"][1].peak > 0.1
