"""LoRA (Hu et al. 2021, arXiv 2106.09685): a layer computes W x + (alpha / rank) B A x, and only A and B are trained.

peft changes the layers of a transformers model in place, and the model stays of its class. Whoever writes or sends it
takes its weights from here, under the names that they had before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pit_ray.config.training import Lora
from pit_ray.errors import ConfigError, listed, nearest

ADAPTER = "default"
"""peft's name for what it adds."""

Pieces = Callable[[nn.Module], Iterator[tuple[str, list[nn.Parameter], Callable[[], Tensor]]]]
"""Of each weight of a model that is wanted: its name, the parameters that it is made of, and what makes it, once those
are there whole. It may be a parameter's own memory, so whoever keeps it copies it."""


@dataclass(frozen=True)
class Adapter:
    """What a policy has learned, for samplers that hold what it learned it on."""

    base: Path
    """The folder of the model that the adapter belongs to."""
    lora: Lora
    weights: dict[str, Tensor]
    """LAYER.lora_A.weight (rank, in) and LAYER.lora_B.weight (out, rank)."""


def adapt(model: PreTrainedModel, lora: Lora, seed: int) -> None:
    """Freezes a model but for its scalar head, and adds layers that learn: A drawn by `seed`, B zero, so that it
    computes what it did. ConfigError when the model lacks a target."""
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, and few runs need it

    layers = targeted(model, lora)
    with torch.random.fork_rng():
        torch.manual_seed(seed % 2**63)
        alpha: Any = lora.alpha  # typed as a whole number, used as any
        inject_adapter_in_model(LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=layers), model)
    if isinstance(head := getattr(model, "score", None), nn.Module):
        head.requires_grad_(True)
    model.eval()


def targeted(model: PreTrainedModel, lora: Lora) -> list[str]:
    """The layers that get an adapter; ConfigError when a target is none of the model's linear layers."""
    layers = linear_layers(model)
    if lora.targets == "all-linear":
        return layers
    for target in lora.targets:
        if not any(_is(layer, target) for layer in layers):
            kinds = sorted({layer.rpartition(".")[2] for layer in layers})
            raise ConfigError(
                f"model.lora.targets: {target!r} is no linear layer of {type(model).__name__}"
                f"{nearest(target, kinds)}; there are {listed(kinds)}"
            )
    return [layer for layer in layers if any(_is(layer, target) for target in lora.targets)]


def _is(layer: str, target: str) -> bool:
    return layer == target or layer.endswith(f".{target}")


def linear_layers(model: PreTrainedModel) -> list[str]:
    """The linear layers of the backbone, so neither a language model's head nor a scalar one."""
    inside = {id(module) for module in model.base_model.modules()} - {id(model.get_output_embeddings())}
    inside -= {id(getattr(model, "score", None))}
    found = model.named_modules()
    return [name for name, module in found if isinstance(module, nn.Linear | Conv1D) and id(module) in inside]


def adapter_parameters(model: PreTrainedModel, lora: Lora) -> int:
    """How many parameters an adapter adds: rank · (in + out) of each of its layers. The model may be a meta one."""
    weights = (model.get_parameter(f"{name}.weight") for name in targeted(model, lora))
    return lora.rank * sum(sum(weight.shape) for weight in weights)


def whole_weights(model: nn.Module) -> Iterator[tuple[str, list[nn.Parameter], Callable[[], Tensor]]]:
    """The model's weights as they would be without LoRA: W + (alpha / rank) B A of a layer that has an adapter."""
    for name, parameter in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        layer = path.removesuffix(".base_layer")
        if layer == path:
            if f".{ADAPTER}." not in name:
                yield name, [parameter], parameter.detach
        elif leaf == "weight":
            adapted = model.get_submodule(layer)
            yield f"{layer}.weight", [parameter, *_matrices(adapted)], partial(_merged, adapted)
        else:
            yield f"{layer}.{leaf}", [parameter], parameter.detach


def adapter_weights(model: nn.Module) -> Iterator[tuple[str, list[nn.Parameter], Callable[[], Tensor]]]:
    """A and B of each layer that has an adapter."""
    for name, parameter in model.named_parameters():
        if f".{ADAPTER}." in name:
            yield name.replace(f".{ADAPTER}.", "."), [parameter], parameter.detach


def _matrices(layer: Any) -> list[nn.Parameter]:
    return [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]


@torch.no_grad()
def _merged(layer: Any) -> Tensor:
    """In float32, however the weights are kept."""
    weight = layer.base_layer.weight
    a, b = _matrices(layer)
    change = b.float() @ a.float()
    change = (change.T if layer.fan_in_fan_out else change) * layer.scaling[ADAPTER]
    return (weight.float() + change).to(weight.dtype)
