"""A fresh local Ray for the tests of this folder, and a tiny model with everything that belongs to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from actors.compose import start_ray
from pit_ray.config import Config
from pit_ray.config.load import parse_config
from pit_ray.config.tree import FromScratch
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds import notes
from pit_ray.learn.pretrain import INSTRUCTION, word_tokenizer
from pit_ray.models.load import load_scalar, new_llama, torch_dtype
from pit_ray.records import Prompts, Ragged

SHAPE = FromScratch(hidden_size=64, layers=2, heads=2, intermediate_size=64, max_position_embeddings=256)


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    plain = {
        "run": str(tmp_path_factory.mktemp("runs") / "engines"),
        "data": {"source": "world:notes", "pairs": 100},
        "model": {"path": "world:notes", "dtype": "float32"},
        "actors": {"address": "local"},
    }
    return parse_config(plain, where="test")


@pytest.fixture(scope="session")
def local_ray(config: Config) -> Iterator[None]:
    start_ray(config)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A policy and a reward model of random weights, each with tokenizer and renderer."""
    root = tmp_path_factory.mktemp("models")
    renderer = Renderer(word_tokenizer(notes.vocabulary()), INSTRUCTION)
    policy, reward = root / "policy", root / "reward"
    new_llama(SHAPE, renderer.tokenizer, seed=1).save_pretrained(policy)
    load_scalar(policy, torch_dtype("float32"), new_head_seed=2).save_pretrained(reward)
    for folder in (policy, reward):
        renderer.save(folder)
    return {"policy": policy, "reward": reward}


@pytest.fixture(scope="session")
def renderer(folders: dict[str, Path]) -> Renderer:
    return Renderer.load(folders["policy"])


@pytest.fixture(scope="session")
def prompts(renderer: Renderer) -> Prompts:
    """24 prompts with drafts, of different lengths."""
    pairs = renderer.tokenise(notes.pairs(24, 3))
    source = np.ones(len(pairs), dtype=np.int8)
    return Prompts(pairs.uid, pairs.prompt, Ragged.of(pairs.rejected.rows()), source, renderer.bridge)
