"""What the benchmarks work on: models by size, sequences whose lengths spread as in real data."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig

from pit_ray.config.tree import FromScratch
from pit_ray.data.templates import Renderer
from pit_ray.learn.documents import INSTRUCTION, word_tokenizer
from pit_ray.models.load import load_scalar, new_llama

SHAPES = {
    "1m": FromScratch(
        vocab_size=300, hidden_size=128, layers=4, heads=4, intermediate_size=384, max_position_embeddings=512
    ),
    "25m": FromScratch(
        vocab_size=2000, hidden_size=512, layers=8, heads=8, intermediate_size=1376, max_position_embeddings=512
    ),
    "250m": FromScratch(
        vocab_size=2000, hidden_size=1024, layers=19, heads=16, intermediate_size=2816, max_position_embeddings=512
    ),
    # For GPUs, and (tiny) for their rehearsal.
    "tiny": FromScratch(vocab_size=300, hidden_size=64, layers=2, heads=2, intermediate_size=128),
    "125m": FromScratch(vocab_size=32000, hidden_size=768, layers=12, heads=12, intermediate_size=2560),
    "1b": FromScratch(vocab_size=32000, hidden_size=2048, layers=18, heads=16, intermediate_size=5632),
    "7b": FromScratch(vocab_size=32000, hidden_size=4096, layers=32, heads=32, intermediate_size=11008),
}
SHORTEST, LONGEST = 8, 256
"""Tokens of a response."""


def response_lengths(count: int, seed: int, middle: float = 50.0, spread: float = 0.9) -> np.ndarray:
    """Log-normal about `middle`, between SHORTEST and LONGEST."""
    drawn = np.random.default_rng(seed).normal(math.log(middle), spread, count)
    return np.clip(np.exp(drawn), SHORTEST, LONGEST).astype(np.int64)


def ids(lengths: np.ndarray, vocabulary: int, seed: int) -> list[np.ndarray]:
    """Random tokens; none of the first two, which pad and end."""
    rng = np.random.default_rng(seed)
    return [rng.integers(2, vocabulary, size=int(length)).astype(np.int32) for length in lengths]


def vocabulary(folder: Path) -> int:
    """Tokens that a model knows: fewer than its shape has room for."""
    return int(AutoConfig.from_pretrained(folder).vocab_size)


def models(size: str, root: Path) -> dict[str, Path]:
    """The folders of a random policy and of a reward model over it, each with tokenizer and renderer."""
    shape = SHAPES[size]
    words = [f"w{number}" for number in range(shape.vocab_size - 40)]
    renderer = Renderer(word_tokenizer(words), INSTRUCTION)
    made = {"policy": root / f"{size}-policy", "reward": root / f"{size}-reward"}
    new_llama(shape, renderer.tokenizer, seed=1).save_pretrained(made["policy"])
    load_scalar(made["policy"], torch.float32, new_head_seed=2).save_pretrained(made["reward"])
    for folder in made.values():
        renderer.save(folder)
    return made
