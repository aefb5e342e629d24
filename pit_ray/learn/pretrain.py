"""Makes the tiny base model that ships with a world, from a seed: python -m pit_ray.learn.pretrain notes

Its text shares no prompt with any split: the world reserves a part of its prompts for it. A document is a prompt, a
letter by a writer of any skill, and a second letter in no particular order of quality, or what a proofreader finds left
out and not asked for; or a list of words, read back. So the base knows the language, and how to look up and compare
what stands before it, as any pretrained model does, but not what people prefer.
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
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pit_ray.config.tree import FromScratch, Optimizer
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds import base_folder, find_world
from pit_ray.learn.batches import collate, micro_batches
from pit_ray.learn.engine import TorchEngine, micro_steps
from pit_ray.learn.modules import Policy
from pit_ray.models.load import new_llama
from pit_ray.records import Message

SHAPE = FromScratch(hidden_size=128, layers=4, heads=4, intermediate_size=256, max_position_embeddings=512)
BATCH = 96
MICRO_BATCH_TOKENS = 3072
PHASES: tuple[tuple[int, float, dict[str, float]], ...] = (
    (1700, 2e-3, {"two letters": 0.35, "asked findings": 0.4, "read back": 0.25}),
    (500, 1e-3, {"findings": 0.4, "two letters, findings": 0.45, "read back": 0.15}),
)
"""Steps, learning rate and shares of the kinds of documents. A small model learns from lists that are read back to look
things up. In the second phase a proofreader's findings follow the end token itself, where reward models read."""
PROOFREAD = "check"
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


def document(
    world: Any, renderer: Renderer, check: Renderer, kind: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A context's ids, and what the model learns to write after it: one or two letters, with a proofreader's findings
    about the last where the kind says so, asked for or straight after the end token; or a list of words, read back."""
    end = [renderer.eos]
    if kind == "read back":
        words = " ".join(rng.choice(world.vocabulary(), size=rng.integers(6, 24)))
        turns: list[Message] = [{"role": "user", "content": words}]
        return np.array(renderer.prompt_ids(turns)), np.array([*renderer.response_ids(words), *end])
    task = world.draw_task(rng, reserved=True)
    letters = list(world.draw_pair(task, rng))
    rng.shuffle(letters)
    first, second = (renderer.response_ids(" ".join(parts)) for parts in letters)
    found = [renderer.response_ids(world.proofread(task, parts)) for parts in letters]
    written: dict[str, list[Any]] = {
        "two letters": [first, renderer.bridge, second, end],
        "asked findings": [first, check.bridge, found[0], end],
        "findings": [first, end, found[0]],
        "two letters, findings": [first, renderer.bridge, second, end, found[1]],
    }
    return np.array(renderer.prompt_ids([{"role": "user", "content": task.prompt()}])), np.concatenate(written[kind])


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


def train_phase(model: PreTrainedModel, world: Any, renderer: Renderer, phase: int, seed: int) -> None:
    """One phase of pretraining, in place."""
    steps, lr, shares = PHASES[phase]
    check = Renderer(renderer.tokenizer, PROOFREAD)
    engine = TorchEngine(Policy(model), Optimizer(lr=lr, warmup_steps=100, weight_decay=0.01), steps)
    started = time.monotonic()
    for step in range(steps):
        documents = []
        for i in range(BATCH):
            rng = np.random.default_rng([seed, step, i, 1 + phase])
            kind = str(rng.choice(list(shares), p=list(shares.values())))
            documents.append(document(world, renderer, check, kind, rng))
        loss = learn(engine, documents)
        if step % 50 == 0 or step == steps - 1:
            seconds = time.monotonic() - started
            print(f"phase {phase}  step {step:5d}  nats/token {loss:.4f}  {seconds:.0f} s", flush=True)


def pretrain(name: str, seed: int, folder: Path) -> None:
    """Trains the base and writes it to `folder` (safetensors, tokenizer, chat template, renderer)."""
    world: Any = find_world(f"world:{name}")
    renderer = Renderer(word_tokenizer(world.vocabulary()), INSTRUCTION)
    model = new_llama(SHAPE, renderer.tokenizer, seed)
    for phase in range(len(PHASES)):
        train_phase(model, world, renderer, phase, seed)
        model.save_pretrained(str(folder))
        renderer.save(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="default: beside the world's code")
    arguments = parser.parse_args()
    pretrain(arguments.world, arguments.seed, arguments.folder or base_folder(arguments.world))
