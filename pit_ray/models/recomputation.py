"""Memory for time: of each layer only its input is kept, and the layer is computed again in the backward pass."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from pit_ray.errors import ConfigError


def recompute_layers(module: nn.Module) -> None:
    """Has a module's layers computed twice (Chen et al. 2016); the gradients stay the same. ConfigError when it has
    none that transformers holds fit for it."""
    # transformers' own switch works in training mode alone, which would switch dropout on.
    layers = [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError("actors.learner.gradient_checkpointing: this model has no layers that can be computed again")
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
