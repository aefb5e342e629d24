"""Makes the tiny base model that ships with a world, from a seed: python -m pit_ray.learn.pretrain notes

Its text shares no prompt with any split: the world reserves a part of its prompts for it. A document is a prompt, a
letter by a writer of any skill, a second letter in no particular order of quality, and what a proofreader notes below
the last; or a list of words, read back. So the base knows the language, and how to look up and compare what stands
before it, as any pretrained model does, but not what people prefer.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pit_ray.config.tree import FromScratch, Optimizer
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds import base_folder, find_world
from pit_ray.learn.batches import collate, micro_batches
from pit_ray.learn.engine import TorchEngine, micro_steps
from pit_ray.learn.modules import Policy
from pit_ray.models.load import new_llama
from pit_ray.records import Message

SHAPE = FromScratch(hidden_size=128, layers=4, heads=4, intermediate_size=256, max_position_embeddings=512)
STEPS = 3000
BATCH = 64
MICRO_BATCH_TOKENS = 3072
OPTIMIZER = Optimizer(lr=2e-3, warmup_steps=100, weight_decay=0.01)
SHARES = {"letter, letter": 0.15, "letter, findings": 0.35, "letter, letter, findings": 0.35, "read back": 0.15}
"""Kinds of documents and their shares of a batch."""
INSTRUCTION = "improve"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<user> ' if message['role'] == 'user' else '<assistant> ' }}{{ message['content'] }}"
    "{{ ' <end> ' if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def word_tokenizer(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    """One id per word; unknown words map to <unknown>."""
    special = ["<pad>", "<end>", "<unknown>", "<user>", "<assistant>"]
    ids = {word: i for i, word in enumerate([*special, *vocabulary])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unknown>",
        additional_special_tokens=["<user>", "<assistant>"],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def document(world: Any, renderer: Renderer, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A context's ids, and what the model learns to write after it."""
    ids, end = renderer.response_ids, [renderer.eos]
    if kind == "read back":
        words = " ".join(rng.choice(world.vocabulary(), size=rng.integers(6, 24)))
        return np.array(_prompt(renderer, words)), np.array(ids(words) + end)
    task = world.draw_task(rng, reserved=True)
    letters = list(world.draw_pair(task, rng))
    rng.shuffle(letters)
    prompt, bridge = _prompt(renderer, task.prompt()), renderer.bridge.tolist()
    first, second = (ids(" ".join(parts)) for parts in letters)
    found = [ids(world.findings(task, parts, rng)) for parts in letters]
    context, written = {
        "letter, letter": (prompt, first + bridge + second + end),
        "letter, findings": (prompt + first + end, found[0]),
        "letter, letter, findings": (prompt + first + bridge + second + end, found[1]),
    }[kind]
    return np.array(context), np.array(written)


def _prompt(renderer: Renderer, text: str) -> list[int]:
    turns: list[Message] = [{"role": "user", "content": text}]
    return renderer.prompt_ids(turns)


def learn(engine: TorchEngine, documents: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """One optimisation step; returns the loss in nats per written token."""
    losses: list[float] = []

    def loss(rows: np.ndarray) -> torch.Tensor:
        batch = collate([documents[i][0] for i in rows], [documents[i][1] for i in rows], engine.device)
        total = -engine(*batch)[0].sum()
        losses.append(float(total.detach()))
        return total

    lengths = np.array([len(context) + len(written) for context, written in documents])
    count = float(sum(len(written) for _, written in documents))
    micro_steps(engine, [partial(loss, rows) for rows in micro_batches(lengths, 0, 1, MICRO_BATCH_TOKENS)], count)
    return sum(losses) / count


def pretrain(name: str, seed: int, folder: Path) -> None:
    """Trains the base and writes it to `folder` (safetensors, tokenizer, chat template, renderer)."""
    world: Any = find_world(f"world:{name}")
    renderer = Renderer(word_tokenizer(world.vocabulary()), INSTRUCTION)
    model = new_llama(SHAPE, renderer.tokenizer, seed)
    engine = TorchEngine(Policy(model), OPTIMIZER, STEPS)
    started = time.monotonic()
    for step in range(STEPS):
        documents = []
        for i in range(BATCH):
            rng = np.random.default_rng([seed, step, i])
            documents.append(document(world, renderer, str(rng.choice(list(SHARES), p=list(SHARES.values()))), rng))
        loss = learn(engine, documents)
        if step % 50 == 0 or step == STEPS - 1:
            print(f"step {step:5d}  nats/token {loss:.4f}  {time.monotonic() - started:.0f} s", flush=True)
    model.save_pretrained(str(folder))
    renderer.save(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="default: beside the world's code")
    arguments = parser.parse_args()
    pretrain(arguments.world, arguments.seed, arguments.folder or base_folder(arguments.world))
