"""Plain PyTorch as an engine: schedules, clipping, what a bad loss does, and resuming bit by bit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pit_ray.config.training import Optimizer
from pit_ray.errors import TrainingError
from pit_ray.learn.engine import TorchEngine, lr_factor, micro_steps


def rates(optimizer: Optimizer, steps: int) -> list[float]:
    """The learning rates that an engine goes through."""
    engine = TorchEngine(nn.Linear(1, 1), optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(engine.lr())
        engine.apply()
    return found


def test_warm_up_rises_in_equal_steps_to_the_peak_and_constant_stays_there() -> None:
    found = rates(Optimizer(lr=0.8, schedule="constant", warmup_steps=3), 6)
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_cosine_falls_from_the_peak_to_a_tenth() -> None:
    factor = lr_factor(Optimizer(schedule="cosine", warmup_steps=2), 12)
    assert [factor(step) for step in (2, 7, 12, 50)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    later = [factor(step) for step in range(2, 13)]
    assert later == sorted(later, reverse=True)
    # Slow at both ends, as a cosine is.
    assert later[0] - later[1] < later[5] - later[6] > later[9] - later[10]


def weighted(engine: TorchEngine, *inputs: float) -> list[Tensor]:
    """A loss for each input: the module's output for it."""
    return [engine(torch.tensor([value])).sum() for value in inputs]


def line() -> nn.Linear:
    """y = 2 x, without a bias."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 2.0)
    return module


def test_micro_steps_divide_by_the_global_count_and_clip_after_measuring() -> None:
    module = line()
    engine = TorchEngine(module, Optimizer(lr=0.01, warmup_steps=0, grad_clip=0.5), 10)
    losses = weighted(engine, 3.0, 5.0)
    # d/dw Σ w·x / 4 = (3 + 5) / 4.
    norm = micro_steps(engine, [lambda loss=loss: loss for loss in losses], 4.0)  # type: ignore[misc]
    assert norm == pytest.approx(2.0)
    # Adam's first step is one learning rate against the sign of the gradient.
    assert module.weight.item() == pytest.approx(2.0 - 0.01, abs=1e-5)
    assert module.weight.grad is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_any_parameter_changes(bad: float) -> None:
    module = line()
    engine = TorchEngine(module, Optimizer(), 10)
    losses = weighted(engine, 3.0, bad)
    with pytest.raises(TrainingError, match="not finite"):
        micro_steps(engine, [lambda loss=loss: loss for loss in losses], 1.0)  # type: ignore[misc]
    assert module.weight.item() == 2.0


def test_a_gradient_that_is_not_finite_stops_although_the_loss_is() -> None:
    engine = TorchEngine(line(), Optimizer(), 10)
    with pytest.raises(TrainingError, match="the gradient is not finite"):
        micro_steps(engine, [lambda: engine(torch.tensor([0.0])).sum().sqrt()], 1.0)


def train(engine: TorchEngine, steps: range) -> None:
    """Each step has data of its own, so that no two are alike."""
    for step in steps:
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        micro_steps(engine, [lambda inputs=inputs: (engine(inputs) ** 2).sum()], 8.0)  # type: ignore[misc]


def fresh() -> TorchEngine:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    return TorchEngine(module, Optimizer(lr=1e-2, warmup_steps=3, weight_decay=0.1), 10)


def test_an_engine_that_was_saved_and_loaded_goes_on_bit_by_bit(tmp_path: Path) -> None:
    undisturbed, stopped = fresh(), fresh()
    train(undisturbed, range(10))
    train(stopped, range(6))
    stopped.save(tmp_path / "new" / "engine")
    resumed = fresh()
    resumed.load(tmp_path / "new" / "engine")
    assert resumed.lr() == stopped.lr() != fresh().lr()
    train(resumed, range(6, 10))
    for ours, theirs in zip(resumed.module.parameters(), undisturbed.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_full_state_is_a_copy_named_from_the_submodule() -> None:
    engine = fresh()
    state = engine.full_state("2")
    assert set(state) == {"weight", "bias"}
    before = state["weight"].clone()
    train(engine, range(2))
    assert torch.equal(state["weight"], before)
    assert not torch.equal(engine.full_state("2")["weight"], before)
