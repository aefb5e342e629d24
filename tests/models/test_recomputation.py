"""Layers that are computed again in the backward pass, over packed rows that share beginnings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from pit_ray.config.tree import FromScratch
from pit_ray.errors import ConfigError
from pit_ray.learn.modules import ActorCritic
from pit_ray.models.load import llama_config
from pit_ray.models.packing import Batch, collate, use_packing
from pit_ray.models.recomputation import recompute_layers

SHAPE = FromScratch(vocab_size=300, hidden_size=32, layers=3, heads=2, intermediate_size=64)
DROPOUT = 0.5
"""In attention; models here stand in evaluation mode, so it must never show."""


class Head(nn.Module):
    """A value model for `ActorCritic`."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.base_model, self.config = model.model, model.config
        self.score = nn.Linear(SHAPE.hidden_size, 1, bias=False)


def made() -> ActorCritic:
    config = llama_config(SHAPE, SHAPE.vocab_size)
    config.attention_dropout = DROPOUT
    torch.manual_seed(0)
    policy, value = (LlamaForCausalLM(config).eval() for _ in range(2))
    for model in (policy, value):
        use_packing(model)
    return ActorCritic(policy, Head(value).eval())  # type: ignore[arg-type]


def batch() -> Batch:
    rng = np.random.default_rng(1)
    prompt = rng.integers(2, 300, 20)
    contexts = [prompt, prompt, rng.integers(2, 300, 9)]
    return collate(contexts, [rng.integers(2, 300, size) for size in (7, 30, 12)], torch.device("cpu"))


def loss_and_kept(module: ActorCritic, given: Batch) -> tuple[Tensor, int]:
    """The loss with its gradients in place, and the bytes that were kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs_N, _, values_N = module(given, 0.7)
        loss = -logprobs_N.mean() + values_N.square().mean()
    loss.backward()
    return loss.detach(), sum(kept.values())


def test_gradients_are_the_same_and_less_is_kept() -> None:
    plain, again, given = made(), made(), batch()
    recompute_layers(again)
    one, kept_by_plain = loss_and_kept(plain, given)
    other, kept = loss_and_kept(again, given)
    assert torch.equal(one, other)
    gradients = [{name: p.grad for name, p in module.named_parameters()} for module in (plain, again)]
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.norm() > 0, name
        assert torch.equal(gradient, gradients[1][name]), name  # type: ignore[arg-type]
    assert kept < kept_by_plain / 2
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(plain(given), again(given), strict=True))


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="gradient_checkpointing: this model has no layers that can be"):
        recompute_layers(nn.Linear(2, 2))
