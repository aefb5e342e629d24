"""What the tiny base models that ship here are pretrained on, drawn from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pit_ray.config.tree import FromScratch
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds import base_folder, find_world
from pit_ray.data.worlds.slots import text
from pit_ray.records import Message

Document = tuple[np.ndarray, np.ndarray]
"""A prompt's ids, and what the model learns to write after it."""

READ_BACK_SHARE = 0.15
"""Of a world's documents, so many are lists of words, read back; the others are a prompt, a response and a second
one."""
INSTRUCTION = "improve"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<user> ' if message['role'] == 'user' else '<assistant> ' }}{{ message['content'] }}"
    "{{ ' <end> ' if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Documents(Protocol):
    """The pretraining text of one base."""

    renderer: Renderer
    folder: Path
    """Where the base ships."""
    shape: FromScratch
    steps: int
    """Of its pretraining, BATCH documents each."""

    def draw(self, rng: np.random.Generator) -> Document: ...


SHAPE = FromScratch(hidden_size=128, layers=4, heads=4, intermediate_size=256, max_position_embeddings=512)


class WorldDocuments:
    """A world's language: a prompt, a response and a second one, in no particular order of quality; or a list of words,
    read back. The world reserves a part of its prompts for it, so that it shares none with any split."""

    shape, steps = SHAPE, 1600

    def __init__(self, name: str) -> None:
        world: Any = find_world(f"world:{name}")
        self.world = world
        self.renderer = Renderer(word_tokenizer(world.vocabulary()), INSTRUCTION)
        self.folder = base_folder(name)

    def draw(self, rng: np.random.Generator) -> Document:
        ids, end = self.renderer.response_ids, [self.renderer.eos]
        if rng.random() < READ_BACK_SHARE:
            words = " ".join(rng.choice(self.world.vocabulary(), size=rng.integers(6, 24)))
            return asked(self.renderer, words), np.array(ids(words) + end)
        task = self.world.draw_task(rng, reserved=True)
        responses = list(self.world.draw_pair(task, rng))
        rng.shuffle(responses)
        first, second = (ids(text(response)) for response in responses)
        written = np.array([*first, *self.renderer.bridge, *second, *end])
        return asked(self.renderer, task.prompt()), written


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


def asked(renderer: Renderer, content: str) -> np.ndarray:
    turns: list[Message] = [{"role": "user", "content": content}]
    return np.array(renderer.prompt_ids(turns))
