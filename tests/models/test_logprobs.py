"""Log-probabilities of tokens are those of the plain model on each sequence alone, whatever stands around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from pit_ray.models import packing
from pit_ray.models.logprobs import token_logprobs
from pit_ray.models.packing import PACKED, Batch, collate, use_packing

CONTEXTS = (3, 1, 6)
RESPONSES = (4, 9, 1)


def sequences(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(2, 50, (c + r,), generator=generator) for c, r in zip(CONTEXTS, RESPONSES, strict=True)]
    rows[2][:5] = rows[0][:5]
    return rows


def batch(rows: list[Tensor]) -> Batch:
    cut = [(row[:c].numpy(), row[c:].numpy()) for row, c in zip(rows, CONTEXTS, strict=True)]
    return collate([context for context, _ in cut], [response for _, response in cut], torch.device("cpu"))


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


@pytest.fixture(scope="module", params=["packed", "padded"])
def model(new_model: Callable[[int], PreTrainedModel], request: pytest.FixtureRequest) -> PreTrainedModel:
    model = new_model(0)
    if request.param == "packed":
        use_packing(model)
        assert model.config._attn_implementation == PACKED
    return model


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_a_batch_gives_what_each_sequence_gives_alone(model: PreTrainedModel, temperature: float) -> None:
    expected, entropies = by_loop(model, temperature)
    with torch.no_grad():
        found, entropy = token_logprobs(model, batch(sequences()), temperature)
    assert len(found) == sum(RESPONSES)
    assert_close(found, expected)
    assert_close(entropy, entropies)


def test_batch_mates_do_not_matter(model: PreTrainedModel) -> None:
    first, *_ = sequences()
    mates = [first, *sequences(seed=1)[1:]]
    with torch.no_grad():
        found, _ = token_logprobs(model, batch(sequences()))
        other, _ = token_logprobs(model, batch(mates))
    assert_close(other[: RESPONSES[0]], found[: RESPONSES[0]])
    assert not torch.allclose(other[RESPONSES[0] :], found[RESPONSES[0] :])


def test_gradients_reach_the_model_through_logprobs_alone(model: PreTrainedModel) -> None:
    found, entropy = token_logprobs(model, batch(sequences()))
    assert found.requires_grad
    assert not entropy.requires_grad


SMALL: dict[str, Any] = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
USUAL: dict[str, Any] = SMALL | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
}
PACKING: dict[str, PretrainedConfig] = {
    "gpt2": transformers.GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=2),
    "qwen3": transformers.Qwen3Config(**USUAL, head_dim=16),
    "gemma2": transformers.Gemma2Config(**USUAL, head_dim=16, final_logit_softcapping=3.0, sliding_window=4),
    "granite": transformers.GraniteConfig(**USUAL, logits_scaling=4.0),
    "cohere": transformers.CohereConfig(**USUAL, logit_scale=0.25),
    "mistral": transformers.MistralConfig(**USUAL, sliding_window=3),
}
PADDED: dict[str, PretrainedConfig] = {
    "bloom": transformers.BloomConfig(**SMALL, hidden_size=32, n_layer=2, n_head=2),
    "lfm2": transformers.Lfm2Config(**USUAL, layer_types=["conv", "full_attention"], block_multiple_of=16),
    "mamba": transformers.MambaConfig(**SMALL, hidden_size=32, num_hidden_layers=2, state_size=4),
}
"""Their tokens meet outside attention, or in one that is not ours to give."""


@pytest.mark.parametrize("name", [*PACKING, *PADDED])
def test_every_architecture_gives_what_it_gives_each_sequence_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LEAST_SHARED", 1)  # so that windows meet a beginning that is shared
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config((PACKING | PADDED)[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
        expected = by_loop(model)[0]
        use_packing(model)
        found, _ = token_logprobs(model, batch(sequences()))
    assert (model.config._attn_implementation == PACKED) == (name in PACKING)
    assert_close(found, expected)
