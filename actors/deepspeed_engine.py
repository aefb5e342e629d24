"""The learning engine on DeepSpeed: ZeRO 0 to 3, on CUDA with nccl or on CPUs with gloo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pit_ray.config.training import Optimizer
from pit_ray.learn.engine import EngineFactory, adamw, lr_factor
from pit_ray.models.lora import Pieces, whole_weights
from pit_ray.models.recomputation import recompute_layers

T = TypeVar("T")
TAG = "state"


def init_distributed(backend: str | None = None) -> None:
    """Joins the process group that the environment describes, or takes the one that stands."""
    # On CPUs DeepSpeed would first compile its shared-memory collectives, half a minute on a fresh machine; gloo does.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def engine_factory(zero_stage: int, dtype: torch.dtype, recompute: bool = False) -> EngineFactory:
    """Makes engines of one ZeRO stage; the process group must stand. `recompute`: see `recompute_layers`."""

    def made(module: nn.Module, optimizer: Optimizer, steps: int) -> DeepSpeedEngine:
        if recompute:
            recompute_layers(module)
        return DeepSpeedEngine(module, optimizer, steps, zero_stage, dtype)

    return made


class DeepSpeedEngine:
    """One rank's share of a module under ZeRO; see `Engine`."""

    def __init__(
        self, module: nn.Module, optimizer: Optimizer, total_steps: int, zero_stage: int, dtype: torch.dtype
    ) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.zero_stage = zero_stage
        base = adamw(module, optimizer)
        self.engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=base,
            lr_scheduler=lambda wrapped: torch.optim.lr_scheduler.LambdaLR(wrapped, lr_factor(optimizer, total_steps)),
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "zero_optimization": {"stage": zero_stage},
                "zero_allow_untested_optimizer": True,
                "gradient_clipping": optimizer.grad_clip,
                "bf16": {"enabled": dtype == torch.bfloat16},
                "steps_per_print": 10**9,
            },
        )
        # Alone, a rank would still copy all its gradients into one tensor to reduce them with nobody.
        self.engine.enable_backward_allreduce = zero_stage > 0 or self.world > 1
        self.device = self.engine.device
        self.frozen = not all(parameter.requires_grad for parameter in module.parameters())

    def __call__(self, *args: Any) -> Any:
        return self.engine(*args)

    def accumulate(self, loss: Tensor, last: bool) -> None:
        # Micro-batches differ in number from step to step, so the boundary is ours to say.
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss)
        if not last:
            self.engine.step()

    def apply(self) -> float:
        # Without ZeRO in float32, DeepSpeed clips but does not say what the norm was.
        gradients = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients)) if self.zero_stage == 0 else float("nan")
        self.engine.step()
        reported = self.engine.get_global_grad_norm()
        return norm if reported is None else float(reported)

    def lr(self) -> float:
        return float(self.engine.get_lr()[0])

    def gather(self, value: T) -> list[T]:
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def full_state(self, submodule: str, pieces: Pieces = whole_weights) -> dict[str, Tensor]:
        return {name: tensor.cpu().clone() for name, tensor in self.whole(submodule, pieces) if self.rank == 0}

    def whole(self, submodule: str, pieces: Pieces = whole_weights) -> Iterator[tuple[str, Tensor]]:
        """Each weight of a submodule, whole and on its device; every rank must iterate."""
        # One weight at a time, so that no rank ever holds more than its share and one whole tensor.
        for name, parameters, make in pieces(self.engine.module.get_submodule(submodule)):
            with deepspeed.zero.GatheredParameters(parameters, enabled=self.zero_stage == 3):
                yield name, make()

    def shapes(self, submodule: str) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Name, dtype and whole shape of what `whole` gives, without gathering anything."""
        pieces = whole_weights(self.engine.module.get_submodule(submodule))
        return [(name, of.dtype, tuple(getattr(of, "ds_shape", of.shape))) for name, (of, *_), _ in pieces]

    def save(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        self.engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=not self.frozen)
