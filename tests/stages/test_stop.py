"""Which metrics stop a run, and that what is saved of the step comes back to the bit."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pit_ray.config.training import Phase, Ppo
from pit_ray.metrics import Metrics
from pit_ray.records import Prompts, Ragged, Rollouts, Scores
from pit_ray.stages.stop import LearnBatch, past_limits, read_stop, save_stop

PPO = Ppo(phases=(Phase(name="policy", drafts="none", steps=1),), token_kl_limit=0.5, entropy_floor=0.1)


def seen(kl: float = 1.0, length: float = 20.0, entropy: float = 1.0) -> Metrics:
    """KL in nats per response of `length` tokens, entropy in nats per token."""
    return Metrics.of(4, objective__kl=kl, objective__entropy=entropy, val__response_length=length)


def test_kl_counts_per_response_token() -> None:
    assert past_limits(PPO, seen(kl=9.9), None) is None
    assert past_limits(PPO, seen(kl=10.1, length=40.0), None) is None
    assert "KL 0.505 nats per response token, past token_kl_limit 0.5" in str(past_limits(PPO, seen(kl=10.1), None))
    assert past_limits(PPO.model_copy(update={"token_kl_limit": None}), seen(kl=1e6), None) is None


def test_entropy_is_held_against_the_first_steps() -> None:
    assert past_limits(PPO, seen(entropy=0.21), 2.0) is None
    found = past_limits(PPO, seen(entropy=0.19), 2.0)
    assert "collapsed: 0.19 nats per token, in the first step 2" in str(found)
    # A model that was sure from the start has not collapsed, and the first step has nothing to be held against.
    assert past_limits(PPO, seen(entropy=0.011), 0.1) is None
    assert past_limits(PPO, seen(entropy=0.0), None) is None
    assert past_limits(PPO.model_copy(update={"entropy_floor": 0.0}), seen(entropy=0.0), 2.0) is None


def assert_same(found: Any, expected: Any) -> None:
    """Equal in every field, number for number, with the same types."""
    if is_dataclass(expected):
        for field in fields(expected):
            assert_same(getattr(found, field.name), getattr(expected, field.name))
    else:
        np.testing.assert_array_equal(found, expected)
        assert getattr(found, "dtype", None) == getattr(expected, "dtype", None)


@pytest.mark.parametrize("bridge", [None, np.array([1, 40], dtype=np.int32)], ids=["policy", "improver"])
def test_a_saved_batch_comes_back_to_the_bit(tmp_path: Path, bridge: np.ndarray | None) -> None:
    drafts = Ragged.of([[5], [6, 7], [8]] if bridge is not None else [[], [], []])
    prompts = Prompts(
        np.array([7, 2**40, 3]), Ragged.of([[2, 3], [4], [5]]), drafts, np.array([1, 2, 3], np.int8), bridge
    )
    response = Ragged.of([[9, 1], [9], [8, 8, 8]])
    rng = np.random.default_rng(0)
    logprobs, reference = (Ragged(rng.normal(size=6).astype(np.float32), response.offsets) for _ in range(2))
    logprobs.values[3] = np.nan
    rollouts = Rollouts(prompts, response, logprobs, np.array([True, False, False]), version=12, temperature=0.7)
    scores = Scores(np.array([np.inf, -1.5, 0.1], np.float32), np.array([0.0, 0.3, -0.2], np.float32))
    batch = LearnBatch(rollouts, scores, reference, kl_coefficient=0.1 + 0.2, seed=2**62 + 1)
    save_stop(tmp_path, 12, batch, "the loss is not finite", Metrics.of(objective__kl=np.nan, lr=0.1))
    found = read_stop(tmp_path, 12)
    assert found is not None
    again, about = found
    assert_same(again, batch)
    assert (about["cause"], about["metrics"]) == ("the loss is not finite", {"objective/kl": None, "lr": 0.1})
    assert read_stop(tmp_path, 11) is None
