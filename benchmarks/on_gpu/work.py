"""What the GPU benchmark works on: Llama-shaped models of random weights, sequences, and the arithmetic they cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, PreTrainedModel

from actors.memory import ModelSize
from benchmarks.speed.workloads import SHAPES, ids, response_lengths
from pit_ray.models.load import llama_config
from pit_ray.models.packing import use_packing
from pit_ray.records import Prompts, Ragged, Rollouts

SEQUENCES = {"125m": 256, "1b": 128, "7b": 32, "tiny": 8}
PROMPT = 128
"""Tokens."""
ROUNDS = 5

PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12}
"""Arithmetic a second in bfloat16 with float32 sums, without sparsity, from NVIDIA's data sheets (H200, H100 SXM, PCIe
and NVL, A100); by a part of the device's name, the longest first."""


def peak() -> float | None:
    """Of the device at hand; None where it has none or is not in the list."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((PEAKS[part] for part in sorted(PEAKS, key=len, reverse=True) if part in name), None)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def architecture(size: str) -> LlamaConfig:
    shape = SHAPES[size]
    config = llama_config(shape, shape.vocab_size)
    config.pad_token_id = 0
    return config


def random_model(size: str, scalar: bool = False) -> PreTrainedModel:
    """A model of random weights in bfloat16, on the device, ready for packed rows; with `scalar`, of one score."""
    config = architecture(size)
    kind: Any = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    if scalar:
        config.num_labels = 1
    with torch.device(device()):
        model = kind.from_config(config, dtype=torch.bfloat16)
    model.eval()
    use_packing(model)
    return model


def model_size(size: str) -> ModelSize:
    """For the memory plan."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(architecture(size))
    shape = SHAPES[size]
    parameters = sum(p.numel() for p in empty.parameters())
    return ModelSize(parameters, shape.layers, shape.hidden_size, shape.vocab_size, shape.intermediate_size)


def prompts_of(rows: list[np.ndarray]) -> Prompts:
    """Prompts without drafts."""
    nothing, sources = Ragged.of([[]] * len(rows)), np.zeros(len(rows), dtype=np.int8)
    return Prompts(np.arange(len(rows)), Ragged.of(rows), nothing, sources, None)


def rollouts(size: str) -> Rollouts:
    """Random prompts with random responses, log-normal about 180 tokens, at most 256."""
    count, vocabulary = SEQUENCES[size], SHAPES[size].vocab_size
    prompts = prompts_of(ids(np.full(count, PROMPT), vocabulary, 4))
    responses = Ragged.of(ids(response_lengths(count, 1, middle=180, spread=0.4), vocabulary, 2))
    zeros = Ragged(np.zeros(len(responses.values), dtype=np.float32), responses.offsets)
    return Rollouts(prompts, responses, zeros, np.zeros(count, dtype=bool))


@dataclass(frozen=True)
class Passes:
    """One forward pass of a batch through one model, in multiplications and additions."""

    size: str
    lengths: np.ndarray
    """Tokens of each sequence."""
    read: int
    """Tokens at which something is read; the last layer is hardly computed elsewhere."""
    vocabulary: bool
    """Whether the vocabulary is predicted there, or one score."""

    @property
    def arithmetic(self) -> float:
        """2 for each weight and token, and causal attention's 2 · length² · width a layer (the two products, half of
        each)."""
        shape, whole = SHAPES[self.size], model_size(self.size)
        head = shape.vocab_size * shape.hidden_size
        last = shape.hidden_size * (2 * shape.hidden_size + 3 * shape.intermediate_size)
        weights = 2.0 * (whole.parameters - head) * self.lengths.sum() - 2.0 * last * (self.lengths.sum() - self.read)
        weights += 2.0 * head * self.read * self.vocabulary
        return weights + 2.0 * shape.layers * shape.hidden_size * float(np.square(self.lengths, dtype=np.float64).sum())


TRAINING = 3
"""A forward and a backward pass, in forward passes; layers that are computed again do not count."""


def seconds_of(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median over rounds, after one that does not count."""
    found = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return float(np.median(found[1:]))


def speed(tokens: int, arithmetic: float, seconds: float) -> dict[str, float | None]:
    """Seconds, tokens a second, and the share of peak arithmetic (None without a known peak)."""
    most = peak()
    share = None if most is None else arithmetic / seconds / most
    return {"seconds": seconds, "tokens_per_second": tokens / seconds, "share_of_peak": share}


def allocated_gib() -> float | None:
    """The most that tensors of this process have taken on the device."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
