"""Log-probabilities of tokens are those of the plain model on each sequence alone, whatever stands around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from pit_ray.models.logprobs import token_logprobs

CONTEXTS = (3, 1, 6)
RESPONSES = (4, 9, 1)


def sequences(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, 50, (c + r,), generator=generator) for c, r in zip(CONTEXTS, RESPONSES, strict=True)]


def padded(rows: list[Tensor], contexts: tuple[int, ...], width: int, fill: int) -> tuple[Tensor, Tensor]:
    """ids and mask of the rows padded on the right with `fill`."""
    ids = torch.full((len(rows), width), fill)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for i, (row, context) in enumerate(zip(rows, contexts, strict=True)):
        ids[i, : len(row)] = row
        mask[i, context : len(row)] = True
    return ids, mask


@torch.no_grad()
def by_loop(model: PreTrainedModel, temperature: float = 1.0) -> tuple[list[float], list[float]]:
    """Log-probability and entropy of every response token, one sequence and one token at a time."""
    logprobs, entropies = [], []
    for row, context in zip(sequences(), CONTEXTS, strict=True):
        for t in range(context, len(row)):
            logits = model(input_ids=row[None, :t]).logits[0, -1].double() / temperature
            distribution = torch.distributions.Categorical(logits=logits)
            logprobs.append(float(distribution.log_prob(row[t])))
            entropies.append(float(distribution.entropy()))
    return logprobs, entropies


def assert_close(found: Tensor, expected: list[float] | Tensor) -> None:
    torch.testing.assert_close(found.double(), torch.as_tensor(expected).double(), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def model(new_model: Callable[[int], PreTrainedModel]) -> PreTrainedModel:
    return new_model(0)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_a_padded_batch_gives_what_each_sequence_gives_alone(model: PreTrainedModel, temperature: float) -> None:
    expected, entropies = by_loop(model, temperature)
    with torch.no_grad():
        found, entropy = token_logprobs(model, *padded(sequences(), CONTEXTS, 10, 0), temperature)
    assert len(found) == sum(RESPONSES)
    assert_close(found, expected)
    assert_close(entropy, entropies)


def test_neither_padding_nor_what_it_is_filled_with_matters(model: PreTrainedModel) -> None:
    with torch.no_grad():
        tight, _ = token_logprobs(model, *padded(sequences(), CONTEXTS, 10, 0))
        wide, _ = token_logprobs(model, *padded(sequences(), CONTEXTS, 23, 17))
    assert_close(wide, tight)


def test_batch_mates_do_not_matter(model: PreTrainedModel) -> None:
    first, *_ = sequences()
    mates = [first, *sequences(seed=1)[1:]]
    with torch.no_grad():
        found, _ = token_logprobs(model, *padded(sequences(), CONTEXTS, 10, 0))
        other, _ = token_logprobs(model, *padded(mates, CONTEXTS, 10, 0))
    assert_close(other[: RESPONSES[0]], found[: RESPONSES[0]])
    assert not torch.allclose(other[RESPONSES[0] :], found[RESPONSES[0] :])


def test_gradients_reach_the_model_through_logprobs_alone(model: PreTrainedModel) -> None:
    found, entropy = token_logprobs(model, *padded(sequences(), CONTEXTS, 10, 0))
    assert found.requires_grad
    assert not entropy.requires_grad


SMALL: dict[str, Any] = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
USUAL: dict[str, Any] = SMALL | {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
ARCHITECTURES: dict[str, PretrainedConfig] = {
    "gpt2": transformers.GPT2Config(**SMALL, n_embd=32, n_layer=1, n_head=2),
    "qwen3": transformers.Qwen3Config(**USUAL, intermediate_size=32, head_dim=16),
    "gemma2": transformers.Gemma2Config(**USUAL, intermediate_size=32, head_dim=16, final_logit_softcapping=3.0),
    "granite": transformers.GraniteConfig(**USUAL, intermediate_size=32, logits_scaling=4.0),
    "cohere": transformers.CohereConfig(**USUAL, intermediate_size=32, logit_scale=0.25),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_keeps_what_it_does_to_its_logits(name: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(ARCHITECTURES[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
        found, _ = token_logprobs(model, *padded(sequences(), CONTEXTS, 10, 0))
    assert_close(found, by_loop(model)[0])
