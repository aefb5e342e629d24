"""Makes the tiny base model that ships with a world, from a seed: python -m pit_ray.learn.pretrain notes

Its text shares no prompt with any split: the world reserves a part of its prompts for it. A document is a prompt, a
response and a second one, in no particular order of quality; or a list of words, read back. So the base knows the
language, and how to look up what stands before it, as any pretrained model does, but not what people prefer.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pit_ray.config.tree import FromScratch
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds import base_folder, find_world
from pit_ray.data.worlds.slots import text
from pit_ray.learn.batches import collate, micro_batches
from pit_ray.learn.modules import Policy
from pit_ray.models.load import new_llama
from pit_ray.records import Message

SHAPE = FromScratch(hidden_size=128, layers=4, heads=4, intermediate_size=256, max_position_embeddings=512)
STEPS = 1600
WARMUP, DECAY = 50, 0.4
"""Steps of linear warm-up, and the share of all steps over which the rate falls linearly to a fiftieth."""
BATCH = 64
MICRO_BATCH_TOKENS = 4096
MATRIX_LR, OTHER_LR = 0.02, 3e-3
"""Of Muon, for the matrices inside the layers, and of AdamW, for embeddings and norms."""
READ_BACK_SHARE = 0.15
"""So many documents are lists of words, read back; the others are a prompt, a response and a second one."""
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


def document(world: Any, renderer: Renderer, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A prompt's ids, and what the model learns to write after it."""
    ids, end = renderer.response_ids, [renderer.eos]
    if rng.random() < READ_BACK_SHARE:
        words = " ".join(rng.choice(world.vocabulary(), size=rng.integers(6, 24)))
        return np.array(_prompt(renderer, words)), np.array(ids(words) + end)
    task = world.draw_task(rng, reserved=True)
    responses = list(world.draw_pair(task, rng))
    rng.shuffle(responses)
    first, second = (ids(text(response)) for response in responses)
    return np.array(_prompt(renderer, task.prompt())), np.array([*first, *renderer.bridge, *second, *end])


def _prompt(renderer: Renderer, content: str) -> list[int]:
    turns: list[Message] = [{"role": "user", "content": content}]
    return renderer.prompt_ids(turns)


def optimizers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=MATRIX_LR, weight_decay=0.01),
        torch.optim.AdamW(others, lr=OTHER_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def lr_factor(step: int) -> float:
    """The learning rates of a step as a share of their peaks."""
    return min((step + 1) / WARMUP, 1.0, max(0.02, (STEPS - step) / (DECAY * STEPS)))


def gradients(policy: Policy, documents: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Adds the gradient of the loss in nats per written token, and returns that loss."""
    lengths = np.array([len(context) + len(written) for context, written in documents])
    count = sum(len(written) for _, written in documents)
    loss = 0.0
    for rows in micro_batches(lengths, 0, 1, MICRO_BATCH_TOKENS):
        batch = collate([documents[i][0] for i in rows], [documents[i][1] for i in rows], torch.device("cpu"))
        part = -policy(*batch)[0].sum() / count
        part.backward()
        loss += part.item()
    return loss


def pretrain(name: str, seed: int, folder: Path) -> None:
    """Trains the base and writes it to `folder` (safetensors, tokenizer, chat template, renderer)."""
    world: Any = find_world(f"world:{name}")
    renderer = Renderer(word_tokenizer(world.vocabulary()), INSTRUCTION)
    model = new_llama(SHAPE, renderer.tokenizer, seed)
    policy, both = Policy(model), optimizers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor) for optimizer in both]
    started, losses = time.monotonic(), []
    for step in range(STEPS):
        documents = []
        for i in range(BATCH):
            rng = np.random.default_rng([seed, step, i])
            documents.append(document(world, renderer, rng))
        losses.append(gradients(policy, documents))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(both, schedules, strict=True):
            optimizer.step()
            schedule.step()
        model.zero_grad(set_to_none=True)
        if (step + 1) % 50 == 0:
            print(
                f"step {step + 1:5d}  nats/token {np.mean(losses[-50:]):.4f}  {time.monotonic() - started:.0f} s",
                flush=True,
            )
    model.save_pretrained(str(folder))
    renderer.save(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="default: beside the world's code")
    arguments = parser.parse_args()
    pretrain(arguments.world, arguments.seed, arguments.folder or base_folder(arguments.world))
