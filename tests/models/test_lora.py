"""LoRA against the model without it, against the merged model, and against a step that is written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

from pit_ray.config.training import Lora, Optimizer
from pit_ray.errors import ConfigError
from pit_ray.learn import reward, sft
from pit_ray.learn.engine import TorchEngine
from pit_ray.learn.modules import Policy, Reward
from pit_ray.models.load import load_causal, load_scalar
from pit_ray.models.logprobs import token_logprobs
from pit_ray.models.lora import (
    adapt,
    adapter_parameters,
    adapter_weights,
    linear_layers,
    targeted,
    whole_weights,
)
from pit_ray.models.packing import Batch, collate, use_packing
from pit_ray.models.scalar_head import rewards
from pit_ray.records import Pairs

EOS = 1
BRIDGE = np.array([1, 40, 41], dtype=np.int32)
OPTIMIZER = Optimizer(lr=1e-2, warmup_steps=0, schedule="constant", weight_decay=0.1, grad_clip=0.3)
COMMON = {"vocab_size": 280, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
GATED = {"num_key_value_heads": 1, "intermediate_size": 48, "pad_token_id": 0}
KINDS = {
    "Llama": COMMON | GATED | {"tie_word_embeddings": True},
    "Qwen2": COMMON | GATED | {"tie_word_embeddings": False},  # biases beside the weights
    "GPT2": {"vocab_size": 280, "n_embd": 32, "n_layer": 2, "n_head": 2},  # matrices the other way round
}


def of_kind(kind: str) -> PreTrainedModel:
    config = getattr(transformers, f"{kind}Config")(**KINDS[kind])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    use_packing(model)
    return model


def stirred(model: PreTrainedModel, seed: int = 3) -> PreTrainedModel:
    """B away from zero, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def batch(pairs: Pairs) -> Batch:
    return collate(pairs.prompt.rows(), pairs.chosen.rows(), torch.device("cpu"))


@torch.no_grad()
def answers(model: PreTrainedModel, pairs: Pairs) -> Tensor:
    return rewards(model, batch(pairs)) if hasattr(model, "score") else token_logprobs(model, batch(pairs))[0]


def merged(model: nn.Module) -> dict[str, Tensor]:
    return {name: make().clone() for name, _, make in whole_weights(model)}


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_an_adapter_changes_nothing_and_only_it_is_trained(kind: str, pairs: Pairs) -> None:
    plain, model = of_kind(kind), of_kind(kind)
    adapt(model, Lora(rank=4), 5)
    assert type(model) is type(plain)
    assert torch.equal(answers(model, pairs), answers(plain, pairs))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    assert len(trained) == 2 * len(linear_layers(plain))


@settings(max_examples=15)
@given(rank=st.integers(1, 40), alpha=st.floats(0.1, 64), kind=st.sampled_from(sorted(KINDS)))
def test_merged_weights_compute_what_the_adapter_does(rank: int, alpha: float, kind: str) -> None:
    rng = np.random.default_rng(rank)
    contexts, responses = ([rng.integers(2, 270, size=n) for n in lengths] for lengths in ((3, 8), (7, 2)))
    seen = collate(contexts, responses, torch.device("cpu"))
    model, plain = of_kind(kind), of_kind(kind)
    adapt(model, Lora(rank=rank, alpha=alpha / rank), rank)
    stirred(model, rank)
    state = merged(model)
    assert state.keys() == dict(plain.named_parameters()).keys()
    with torch.no_grad():
        before = token_logprobs(plain, seen)[0]
        plain.load_state_dict(plain.state_dict() | state)
        found, live = token_logprobs(plain, seen)[0], token_logprobs(model, seen)[0]
    torch.testing.assert_close(found, live, rtol=1e-4, atol=1e-4)
    assert not torch.equal(found, before)


def test_merging_is_exact_but_for_the_last_rounding_of_bfloat16() -> None:
    model = of_kind("Llama").bfloat16()
    adapt(model, Lora(rank=4), 1)
    stirred(model)
    layer: Any = model.get_submodule("model.layers.1.mlp.down_proj")
    w, a, b = (part.weight.double() for part in (layer.base_layer, layer.lora_A["default"], layer.lora_B["default"]))
    found = merged(model)["model.layers.1.mlp.down_proj.weight"]
    torch.testing.assert_close(found, (w + 8.0 * b @ a).bfloat16(), rtol=0, atol=1e-3)
    assert found.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_a_step_changes_adapter_and_head_alone(kind: str, causal: Path, scalar: Path, pairs: Pairs) -> None:
    model = load_causal(causal, torch.float32) if kind == "policy" else load_scalar(scalar, torch.float32)
    adapt(model, Lora(rank=4), 1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = TorchEngine(Policy(model) if kind == "policy" else Reward(model), OPTIMIZER, 3)
    for _ in range(2):  # the first moves B alone, since A's gradient passes through it
        if kind == "policy":
            sft.step(engine, sft.examples(pairs, BRIDGE, EOS), 200)
        else:
            reward.step(engine, pairs, BRIDGE, EOS, 200)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".lora_" in name or name == "score.weight"}


class ByHand(nn.Module):
    """A linear layer with an adapter beside it."""

    def __init__(self, layer: nn.Linear, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.weight, self.scale = layer.weight.detach(), scale
        self.a, self.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.scale * (x @ self.a.T) @ self.b.T


def by_hand(model: PreTrainedModel, start: dict[str, Tensor], lora: Lora, pairs: Pairs, steps: int) -> dict[str, Any]:
    """Supervised steps on y_w given x, one sequence at a time."""
    layers = {}
    model.requires_grad_(False)
    for name in targeted(model, lora):
        parent, _, leaf = name.rpartition(".")
        a, b = (start[f"{name}.lora_{side}.weight"] for side in "AB")
        layers[name] = ByHand(model.get_submodule(name), a, b, lora.alpha / lora.rank)  # type: ignore[arg-type]
        setattr(model.get_submodule(parent), leaf, layers[name])
    parameters = [matrix for layer in layers.values() for matrix in (layer.a, layer.b)]
    optimizer = torch.optim.AdamW(parameters, lr=OPTIMIZER.lr, weight_decay=OPTIMIZER.weight_decay)
    for _ in range(steps):
        total, count = torch.zeros(()), 0
        for x, y in zip(pairs.prompt.rows(), pairs.chosen.rows(), strict=True):
            ids = torch.from_numpy(np.concatenate([x, y, [EOS]]).astype(np.int64))
            logits = model(input_ids=ids[None]).logits[0, len(x) - 1 : -1]
            total = total + nn.functional.cross_entropy(logits, ids[len(x) :], reduction="sum")
            count += len(y) + 1
        optimizer.zero_grad()
        (total / count).backward()
        nn.utils.clip_grad_norm_(parameters, OPTIMIZER.grad_clip)
        optimizer.step()
    return {f"{name}.lora_{side}.weight": getattr(layers[name], side.lower()) for name in layers for side in "AB"}


@pytest.mark.parametrize("targets", ["all-linear", ("v_proj", "layers.1.mlp.up_proj")])
def test_steps_are_those_of_an_adapter_written_by_hand(
    new_model: Callable[[int], PreTrainedModel], causal: Path, pairs: Pairs, targets: Any
) -> None:
    lora, model = Lora(rank=3, alpha=5.0, targets=targets), load_causal(causal, torch.float32)
    adapt(model, lora, 2)
    start = {name: make().clone() for name, _, make in adapter_weights(model)}
    engine = TorchEngine(Policy(model), OPTIMIZER, 3)
    for _ in range(3):
        sft.step(engine, sft.examples(pairs, None, EOS), 100)
    expected = by_hand(new_model(1), start, lora, pairs, 3)
    found = engine.full_state("model", adapter_weights)
    assert found.keys() == expected.keys() == start.keys()
    for name, matrix in expected.items():
        # Adam divides by a root of squares, so that what is next to nothing may differ.
        torch.testing.assert_close(found[name], matrix.detach(), rtol=1e-3, atol=1e-4)
        assert not torch.equal(found[name], start[name])


def test_a_resumed_engine_goes_on_bit_by_bit_from_what_holds_no_frozen_weights(
    scalar: Path, pairs: Pairs, tmp_path: Path
) -> None:
    def fresh() -> TorchEngine:
        model = load_scalar(scalar, torch.float32)
        adapt(model, Lora(rank=4), 9)
        return TorchEngine(Reward(model), OPTIMIZER, 4)

    undisturbed, stopped, resumed = fresh(), fresh(), fresh()
    for _ in range(4):
        reward.step(undisturbed, pairs, BRIDGE, EOS, 200)
    for _ in range(2):
        reward.step(stopped, pairs, BRIDGE, EOS, 200)
    stopped.save(tmp_path)
    saved = torch.load(tmp_path / "engine.pt", weights_only=True)["module"]
    assert all(".lora_" in name or name == "model.score.weight" for name in saved)
    resumed.load(tmp_path)
    for _ in range(2):
        reward.step(resumed, pairs, BRIDGE, EOS, 200)
    for name, tensor in resumed.module.state_dict().items():
        assert torch.equal(tensor, undisturbed.module.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_a_written_model_is_a_whole_one_without_adapters(
    kind: str, causal: Path, scalar: Path, pairs: Pairs, tmp_path: Path
) -> None:
    load, folder = (load_causal, causal) if kind == "policy" else (load_scalar, scalar)
    model = load(folder, torch.float32)
    adapt(model, Lora(rank=4), 1)
    stirred(model)
    model.save_pretrained(tmp_path, state_dict=merged(model))
    torch.testing.assert_close(answers(load(tmp_path, torch.float32), pairs), answers(model, pairs))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in folder.iterdir())


def test_the_seed_draws_the_adapter_and_leaves_other_draws_alone(causal: Path) -> None:
    def drawn(seed: int) -> Tensor:
        model = load_causal(causal, torch.float32)
        before = torch.random.get_rng_state()
        adapt(model, Lora(rank=4), seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        return next(make().clone() for name, _, make in adapter_weights(model) if "lora_A" in name)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_parameters_is_known_without_weights(kind: str) -> None:
    model, lora = of_kind(kind), Lora(rank=3)
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(model.config)
    adapt(model, lora, 0)
    assert adapter_parameters(empty, lora) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("target", "said"),
    [("q_prj", "no linear layer of LlamaForCausalLM; the nearest is 'q_proj'; there are down_proj, gate_proj"),
     ("lm_head", "'lm_head' is no linear layer"), ("embed_tokens", "'embed_tokens' is no linear layer"), ("proj", "")],
)  # fmt: skip
def test_a_target_that_the_model_lacks_is_refused_with_the_nearest(
    new_model: Callable[[int], PreTrainedModel], target: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=r"model\.lora\.targets") as caught:
        targeted(new_model(1), Lora(targets=("v_proj", target)))
    assert said in str(caught.value)
