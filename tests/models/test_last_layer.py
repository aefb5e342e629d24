"""The last layer passes over the tokens that nobody reads, and what is read stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pit_ray.models.logprobs import token_logprobs
from pit_ray.models.packing import collate, use_packing

CPU = torch.device("cpu")


def batch_of(prompt: int, *responses: int):
    rng = np.random.default_rng(prompt)
    start = rng.integers(2, 40, prompt)
    return collate([start] * len(responses), [rng.integers(2, 40, length) for length in responses], CPU)


def rows_seen(model: PreTrainedModel, layer: int) -> list[int]:
    """Filled with the number of tokens that a layer's feed-forward network is given."""
    seen: list[int] = []
    layers: Any = model.base_model.layers
    layers[layer].mlp.up_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    return seen


def test_the_last_layer_sees_what_is_read_alone(new_model: Callable[[int], PreTrainedModel]) -> None:
    model = new_model(3)
    use_packing(model)
    first, last = rows_seen(model, 0), rows_seen(model, -1)
    batch = batch_of(30, 5, 7)  # the first tokens of both are written after the same one
    token_logprobs(model, batch)
    assert first == [30 + 5 + 7] and last == [1 + 4 + 6]


def test_a_pass_that_names_no_tokens_computes_all(new_model: Callable[[int], PreTrainedModel]) -> None:
    plain, model = new_model(3), new_model(3)
    use_packing(model)
    token_logprobs(model, batch_of(30, 5))
    ids = torch.arange(2, 22)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, plain(ids).logits, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_whole_layer(new_model: Callable[[int], PreTrainedModel]) -> None:
    batch = batch_of(30, 5, 7, 3)
    sparing, whole = new_model(3), new_model(3)
    for model in (sparing, whole):
        use_packing(model)
    for module in whole.modules():
        module._forward_pre_hooks.clear()
        module._forward_hooks.clear()
    for model in (sparing, whole):
        logprobs, _ = token_logprobs(model, batch)
        (logprobs * torch.linspace(1, 2, len(logprobs))).sum().backward()
    found: dict[str, Tensor | None] = {name: p.grad for name, p in sparing.named_parameters()}
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
