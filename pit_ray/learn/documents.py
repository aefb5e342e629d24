"""What the tiny base models that ship here are pretrained on, drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pit_ray.config.tree import FromScratch
from pit_ray.data.tasks import BASE_FOLDER, TASKS
from pit_ray.data.tasks.sorting import WORDS
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds import base_folder, find_world
from pit_ray.data.worlds.slots import text
from pit_ray.models.load import EOS, PAD
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
TASK_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<user>' if message['role'] == 'user' else '<assistant>' }}{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TASK_VOCABULARY = 1200
SAMPLED = 300
"""Problems of each task that the tokenizer is trained on."""
OPERATIONS = (np.add, np.subtract, np.multiply)


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
            return _asked(self.renderer, words), np.array(ids(words) + end)
        task = self.world.draw_task(rng, reserved=True)
        responses = list(self.world.draw_pair(task, rng))
        rng.shuffle(responses)
        first, second = (ids(text(response)) for response in responses)
        written = np.array([*first, *self.renderer.bridge, *second, *end])
        return _asked(self.renderer, task.prompt()), written


class TaskDocuments:
    """What the tasks take for granted, and no problem of theirs: sums and products, the order of words, numbered steps,
    lists read back."""

    shape, steps = SHAPE.model_copy(update={"max_position_embeddings": 768}), 2400

    def __init__(self) -> None:
        self.renderer, self.folder = Renderer(task_tokenizer(), INSTRUCTION), BASE_FOLDER

    def draw(self, rng: np.random.Generator) -> Document:
        kinds = (self._sums, self._first_word, self._order, self._numbered, self._read_back)
        asked, said = kinds[rng.choice(len(kinds), p=[0.35, 0.12, 0.13, 0.15, 0.25])](rng)
        return _asked(self.renderer, asked), np.array([*self.renderer.response_ids(said), self.renderer.eos])

    def _sums(self, rng: np.random.Generator) -> tuple[str, str]:
        sums = [_sum(rng) for _ in range(int(rng.integers(3, 9)))]
        return f"Work out: {', '.join(left for left, _ in sums)}.", " ".join(f"{left} = {is_}." for left, is_ in sums)

    def _first_word(self, rng: np.random.Generator) -> tuple[str, str]:
        words = _words(rng, int(rng.integers(2, 13)))
        return f"Which comes first: {' '.join(words)}?", f"{min(words)}."

    def _order(self, rng: np.random.Generator) -> tuple[str, str]:
        pairs = [_words(rng, 2) for _ in range(int(rng.integers(3, 9)))]
        said = " ".join(f"{min(pair)} comes before {max(pair)}." for pair in pairs)
        return f"Put in order: {', '.join(' '.join(pair) for pair in pairs)}.", said

    def _numbered(self, rng: np.random.Generator) -> tuple[str, str]:
        words = _words(rng, int(rng.integers(2, 13)))
        return f"Number these: {' '.join(words)}.", " ".join(f"Step {i}: {word}." for i, word in enumerate(words, 1))

    def _read_back(self, rng: np.random.Generator) -> tuple[str, str]:
        things = [pick[0] if rng.random() < 0.5 else pick[1] for pick in self._things(rng)]
        return f"Read back: {' '.join(things)}.", f"{' '.join(things)}."

    def _things(self, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
        for word in _words(rng, int(rng.integers(3, 16))):
            yield word, _sum(rng)[0]


def documents_of(name: str) -> Documents:
    """The pretraining text of the base `name`: a world's, or `tasks`."""
    return TaskDocuments() if name == "tasks" else WorldDocuments(name)


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


def task_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over the words of the tasks, each digit a token of its own; every text encodes, and decodes to
    itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(" ?[0-9]"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, EOS, "<user>", "<assistant>"]
    trainer = trainers.BpeTrainer(
        vocab_size=TASK_VOCABULARY, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(_task_texts(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, additional_special_tokens=special[2:]
    )
    fast.chat_template = TASK_TEMPLATE
    return fast


def _task_texts() -> Iterator[str]:
    """Words in equal number, and texts that tell which of the other words are frequent."""
    for _ in range(200):
        yield from (f" {word}" for word in WORDS)

    for task in TASKS.values():
        for problem in task.problems(SAMPLED, 0, seen=True):
            yield problem.question
            yield problem.rationale
            yield task.feedback(problem.rationale, task.review(problem.question, problem.rationale))
            shorter = problem.rationale.rpartition("Step")[0]
            yield task.feedback(shorter, task.review(problem.question, shorter))


def _sum(rng: np.random.Generator) -> tuple[str, int]:
    """Two numbers with a sign between them, and what comes of it: no number beyond 99 in size."""
    while True:
        operation = int(rng.integers(3))
        largest = 9 if operation == 2 else 20 if rng.random() < 0.5 else 99
        least = 0 if operation == 2 or rng.random() < 0.4 else -largest
        a, b = (int(n) for n in rng.integers(least, largest + 1, size=2))
        found = int(OPERATIONS[operation](a, b))
        if abs(found) <= 99:
            return f"{a} {'+-*'[operation]} {b}", found


def _words(rng: np.random.Generator, count: int) -> list[str]:
    return [WORDS[i] for i in rng.choice(len(WORDS), size=count, replace=False)]


def _asked(renderer: Renderer, content: str) -> np.ndarray:
    turns: list[Message] = [{"role": "user", "content": content}]
    return np.array(renderer.prompt_ids(turns))
