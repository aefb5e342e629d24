"""What a training step needs from whatever owns the parameters: a Protocol, and plain PyTorch as its simplest form."""

from __future__ import annotations

import math
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from pit_ray.config.training import Optimizer
from pit_ray.errors import TrainingError
from pit_ray.models.lora import Pieces, whole_weights
from pit_ray.store import Store

BOOT = Path("/proc/sys/kernel/random/boot_id")

T = TypeVar("T")


class Engine(Protocol):
    """Parameters, gradients and optimizer of one module on one of `world` data-parallel ranks."""

    rank: int
    world: int
    device: torch.device

    def __call__(self, *args: Any) -> Any:
        """The module's forward pass."""

    def accumulate(self, loss: Tensor, last: bool) -> None:
        """Adds the gradient of `loss`. Gradients are averaged over ranks, so a caller whose loss is this rank's part
        of a global mean multiplies it by `world`. `last` marks the step's last micro-batch."""

    def apply(self) -> float:
        """Clips, updates the parameters, clears the gradients; returns the global gradient norm before clipping."""

    def lr(self) -> float:
        """The learning rate of the coming update."""

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in rank order, on every rank."""

    def full_state(self, submodule: str, pieces: Pieces = whole_weights) -> dict[str, Tensor]:
        """The whole weights of a submodule on the CPU, or what else `pieces` makes of it, names relative to it; on
        rank 0, empty elsewhere."""

    def save(self, folder: Path) -> None:
        """Writes what is trained, optimizer and schedule for resuming; every rank calls it with the same folder."""

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote."""


EngineFactory = Callable[[nn.Module, Optimizer, int], Engine]
"""(module, optimizer section, total steps) -> engine."""


def lr_factor(optimizer: Optimizer, total_steps: int) -> Callable[[int], float]:
    """The learning rate of each step as a share of its peak: linear warm-up, then constant or cosine to a tenth."""

    def factor(step: int) -> float:
        if step < optimizer.warmup_steps:
            return (step + 1) / (optimizer.warmup_steps + 1)
        if optimizer.schedule == "constant":
            return 1.0
        progress = min(1.0, (step - optimizer.warmup_steps) / max(1, total_steps - optimizer.warmup_steps))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))

    return factor


def adamw(module: nn.Module, optimizer: Optimizer) -> torch.optim.AdamW:
    """AdamW over a module's parameters but for frozen ones, each read and written once in a step."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=optimizer.lr, weight_decay=optimizer.weight_decay, fused=True)


def micro_steps(engine: Engine, losses: list[Callable[[], Tensor]], count: float) -> float:
    """One optimisation step: Σ of this rank's micro-batch loss sums over the global `count`; returns the gradient norm.

    Dividing by the global count makes the result independent of micro-batching and of the number of ranks.
    Raises TrainingError on a loss that is not finite, before the parameters are touched, and on a gradient that is not.
    """
    for i, loss in enumerate(losses):
        value = loss() / count
        if not torch.isfinite(value):
            raise TrainingError(
                f"the loss is not finite ({value}); lower optimizer.lr, look for bad values in the batch"
            )
        engine.accumulate(value * engine.world, last=i == len(losses) - 1)
    norm = engine.apply()
    if not math.isfinite(norm):
        raise TrainingError(f"the gradient is not finite (norm {norm}); lower optimizer.lr or optimizer.grad_clip")
    return norm


def push_parts(engine: Engine, folder: Path, store: Store) -> None:
    """Puts what the ranks have written to a folder into the store, once for each machine; every rank must call."""
    if _first_here(engine):  # all have written
        store.push(folder)
    engine.gather(None)  # all is there


def clear_mirror(engine: Engine, checkpoints: Path, store: Store) -> None:
    """Drops what each machine has of a stage's checkpoints, which the store keeps: they would fill its disk, and what
    one has of a checkpoint that was never finished must not get into the next of that name; every rank must call."""
    if store.remote:
        if _first_here(engine):
            for path in checkpoints.glob("step-*"):
                shutil.rmtree(path, ignore_errors=True)
        engine.gather(None)


def _first_here(engine: Engine) -> bool:
    """Whether this rank is the lowest on its machine; every rank must call. Hosts may have the same name, containers
    of a host the same boot."""
    machines = engine.gather((socket.gethostname(), BOOT.read_text() if BOOT.exists() else ""))
    return machines.index(machines[engine.rank]) == engine.rank


class TorchEngine:
    """Plain PyTorch in this process, one rank: the reference that the DeepSpeed engine is tested against."""

    rank, world = 0, 1

    def __init__(self, module: nn.Module, optimizer: Optimizer, total_steps: int) -> None:
        self.module = module
        self.device = next(module.parameters()).device
        self.grad_clip = optimizer.grad_clip
        self.optimizer = adamw(module, optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lr_factor(optimizer, total_steps))

    def __call__(self, *args: Any) -> Any:
        return self.module(*args)

    def accumulate(self, loss: Tensor, last: bool) -> None:
        loss.backward()

    def apply(self) -> float:
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.grad_clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def lr(self) -> float:
        return float(self.schedule.get_last_lr()[0])

    def gather(self, value: T) -> list[T]:
        return [value]

    def full_state(self, submodule: str, pieces: Pieces = whole_weights) -> dict[str, Tensor]:
        return {name: make().clone() for name, _, make in pieces(self.module.get_submodule(submodule))}

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        frozen = {name for name, p in self.module.named_parameters(remove_duplicate=False) if not p.requires_grad}
        module = {name: tensor for name, tensor in self.module.state_dict().items() if name not in frozen}
        parts = {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}
        torch.save({"module": module} | parts, folder / "engine.pt")

    def load(self, folder: Path) -> None:
        saved = torch.load(folder / "engine.pt", weights_only=True)
        self.module.load_state_dict(self.module.state_dict() | saved["module"])  # frozen weights are as they were
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
