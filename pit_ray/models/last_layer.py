"""The last layer, computed at the tokens that are read.

What a model says at a token needs the layers below for all tokens before it, but of the last layer only their keys and
values. Queries, attention's output and the feed-forward network of the last layer are needed where something is read
alone: not at the tokens of a prompt, and for a reward at the last token only.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

READ = "read_T"
"""The argument of a forward pass that names the tokens, each once."""


def read_sparingly(model: PreTrainedModel) -> None:
    """Has a model's last layer skip the tokens that a forward pass of one row does not name; at these its result is of
    no use. A forward pass that names none computes all. Does nothing to a model whose layers are built otherwise."""
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return
    last, read = layers[-1], _Read()
    last.register_forward_pre_hook(read.take, with_kwargs=True)
    attention = getattr(last, "self_attn", None)
    for module in (getattr(attention, "q_proj", None), getattr(attention, "o_proj", None), getattr(last, "mlp", None)):
        if isinstance(module, nn.Module):
            module.register_forward_pre_hook(read.narrow)
            module.register_forward_hook(read.widen)


class _Read:
    """The tokens that the present forward pass reads. They stay until the next, since a layer that is computed again
    for the backward pass is not told once more."""

    at: Tensor | None = None
    tokens = 0

    def take(self, layer: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        self.at = named.get(READ)

    def narrow(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self.at is None:
            return None
        hidden, *others = arguments
        self.tokens = hidden.shape[1]
        return hidden.index_select(1, self.at), *others  # its backward pass is many times as fast as that of [:, at]

    def widen(self, module: nn.Module, arguments: Any, found: Tensor) -> Tensor | None:
        if self.at is None:
            return None
        return found.new_zeros(self.tokens, found.shape[2]).index_copy(0, self.at, found[0])[None]
