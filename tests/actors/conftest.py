"""A fresh local Ray for the tests of this folder, and a tiny model with everything that belongs to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from filelock import FileLock

from actors.group import Group, Worker
from actors.plan import Bundle
from actors.ray_session import start_ray
from actors.supervisor import Supervisor
from pit_ray.config import Config
from pit_ray.config.actors import Faults
from pit_ray.config.load import parse_config
from pit_ray.config.tree import FromScratch
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds import WORLDS
from pit_ray.learn.documents import INSTRUCTION, word_tokenizer
from pit_ray.models.load import load_scalar, new_llama, torch_dtype
from pit_ray.records import Prompts, Ragged
from tests.disturbed import Disturbed

SHAPE = FromScratch(hidden_size=64, layers=2, heads=2, intermediate_size=64, max_position_embeddings=256)

RECIPE = """
data: {source: "world:notes", pairs: 260, held_out: 24, validation: 16,
       lengths: {prompt: {max_tokens: 40}, draft: {max_tokens: 80}, response: {max_tokens: 80}}}
model: {path: "world:notes", improve_instruction: improve}
sampling: {max_new_tokens: 24}
sft: {batch_size: 20, checkpoint_every: 2}
reward: {batch_size: 20}
gap_reward: {batch_size: 20}
ppo_policy:
  phases: [{name: policy, drafts: none, steps: 3}]
  rollouts_per_step: 16
  shard_size: 8
  checkpoint_every: 2
ppo_improver:
  phases: [{name: annotated, drafts: annotated, steps: 3}, {name: on_policy, drafts: on_policy, steps: 2}]
  rollouts_per_step: 16
  shard_size: 8
  checkpoint_every: 2
evaluation: {iterations: 2, examples: 4}
tracking: {profile: true}
actors:
  address: local
  rollout: {workers: 2, cpus: 0.25, threads: 1, kv_cache_gib: 0.1}
  scorer: {cpus: 0.2, threads: 1}
  learner: {ranks: 2, zero_stage: 3, cpus: 0.4, threads: 1}
"""
"""Every stage on two vLLM workers and two DeepSpeed ranks with ZeRO 3, as short as can be."""


KEPT = "PIT_RAY_TEST_RUN"
"""Environment variable: a folder where the undisturbed run is kept for test commands that follow on the same commit."""


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of a run of the recipe from nothing to its report; beside it, in a .log, what the command said.
    Whichever of pytest's processes comes first makes it, the others wait."""
    own = tmp_path_factory.getbasetemp()
    place = Path(os.environ.get(KEPT) or (own if worker_id == "master" else own.parent))
    with FileLock(place / "undisturbed.lock"):
        run, recipe = place / "undisturbed", place / "undisturbed.yaml"
        if not (run / "report.html").is_file():
            recipe.write_text(RECIPE)
            made = Disturbed(recipe, run)
            made.start()
            assert made.end() == 0, made.said[-4000:]
    return run


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    plain = {
        "run": str(tmp_path_factory.mktemp("runs") / "engines"),
        "data": {"source": "world:notes", "pairs": 100},
        "model": {"path": "world:notes", "dtype": "float32"},
        "actors": {"address": "local"},
    }
    return parse_config(plain, where="test")


@pytest.fixture(scope="module")
def local_ray(config: Config) -> Iterator[None]:
    start_ray(config)
    yield
    ray.shutdown()


def supervised(role: str, create: Callable[[Bundle], Any], count: int) -> Group:
    """Actors of a role that nobody replaces."""
    supervisor = Supervisor(Faults(infrastructure=0), "", Path("stacks.txt"), print, lambda: None, print)
    bundles = [Bundle(role, i, 0.5, 0.0) for i in range(count)]
    supervisor.groups[role] = Group([Worker(b, partial(create, b)) for b in bundles], supervisor)
    supervisor.groups.setdefault("learner", Group([], supervisor))
    supervisor.settle(supervisor.groups[role].workers)
    return supervisor.groups[role]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A policy and a reward model of random weights, each with tokenizer and renderer."""
    root = tmp_path_factory.mktemp("models")
    renderer = Renderer(word_tokenizer(WORLDS["notes"].vocabulary()), INSTRUCTION)
    policy, reward = root / "policy", root / "reward"
    new_llama(SHAPE, renderer.tokenizer, seed=1).save_pretrained(policy)
    load_scalar(policy, torch_dtype("float32"), new_head_seed=2).save_pretrained(reward)
    for folder in (policy, reward):
        renderer.save(folder)
    # Some chat models name several end tokens; ours is the renderer's alone.
    (policy / "generation_config.json").write_text(json.dumps({"eos_token_id": [renderer.eos, *range(5, 25)]}))
    return {"policy": policy, "reward": reward}


@pytest.fixture(scope="session")
def renderer(folders: dict[str, Path]) -> Renderer:
    return Renderer.load(folders["policy"])


@pytest.fixture(scope="session")
def prompts(renderer: Renderer) -> Prompts:
    """24 prompts with drafts, of different lengths."""
    pairs = renderer.tokenise(WORLDS["notes"].pairs(24, 3))
    source = np.ones(len(pairs), dtype=np.int8)
    return Prompts(pairs.uid, pairs.prompt, Ragged.of(pairs.rejected.rows()), source, renderer.bridge)
