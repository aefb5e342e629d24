"""The plan of actors: pure, complete, and clear about what does not fit."""

from __future__ import annotations

import pytest

from actors.compose import check
from actors.plan import plan_actors, require, shortfall
from pit_ray.config import Config, load_config
from pit_ray.errors import ConfigError


def quickstart(*overrides: str) -> Config:
    return load_config("quickstart", overrides)


def test_every_role_has_its_actors() -> None:
    plan = plan_actors(quickstart("actors.rollout.workers=3", "actors.learner.ranks=2", "actors.scorer.workers=2"))
    names = [bundle.name for bundle in plan.bundles]
    assert names == [
        "learner/0", "learner/1", "rollout/0", "rollout/1", "rollout/2",
        "reward/0", "reward/1", "reference/0", "reference/1", "recorder/0",
    ]  # fmt: skip
    assert [plan.bundles[i].name for i in plan.of("reward")] == ["reward/0", "reward/1"]


def test_quickstart_fits_two_cores() -> None:
    assert shortfall(plan_actors(quickstart()), {"CPU": 2.0}) is None


def test_what_does_not_fit_is_named_before_anything_waits() -> None:
    with pytest.raises(ConfigError, match=r"needs 4\.\d+ CPUs, Ray has 2"):
        require(plan_actors(quickstart("actors.rollout.workers=7")), {"CPU": 2.0})
    with pytest.raises(ConfigError, match="needs 2 GPUs, Ray has 0"):
        require(plan_actors(quickstart("actors.rollout.gpus=1", "actors.rollout.tensor_parallel=2")), {"CPU": 64.0})


def test_a_head_size_without_a_cpu_kernel_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"size 16 .* the nearest is 32"):
        check(load_config("hh-smoke", ["model.from_scratch.heads=4"]))


def test_a_sequence_that_the_model_has_no_positions_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="the model has 512 positions"):
        check(quickstart("data.lengths.prompt.max_tokens=500"))
