"""What the tiny base for tasks is pretrained on, and its tokenizer."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pit_ray.data.tasks import BASE_FOLDER, TASKS
from pit_ray.data.tasks.arithmetic import LARGEST
from pit_ray.data.tasks.sorting import WORDS
from pit_ray.data.templates import Renderer
from pit_ray.learn.documents import INSTRUCTION, SHAPE, Document, asked
from pit_ray.models.load import EOS, PAD

TASK_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<user>' if message['role'] == 'user' else '<assistant>' }}{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TASK_VOCABULARY = 1200
SAMPLED = 300
"""Problems of each task that the tokenizer is trained on."""
MOST = 4
"""Things that are asked at once, of the tasks' base."""
WRONG_SHARE = 0.3
"""Of what is to be checked."""
OFF = (-10, -2, -1, 1, 2, 10)
"""How far wrong sums are off."""
OPERATIONS = (operator.add, operator.sub, operator.mul)


class TaskDocuments:
    """What the tasks take for granted, and no problem of theirs: sums and products, which of them comes first in a row
    of numbers without brackets, the order of words, numbered steps, lists written and read back; and which of several
    sums, next words or rows are wrong. Several are asked at once, so that an answer is often far from its question."""

    shape, steps = SHAPE.model_copy(update={"max_position_embeddings": 768}), 1500

    def __init__(self) -> None:
        self.renderer, self.folder = Renderer(task_tokenizer(), INSTRUCTION), BASE_FOLDER

    def draw(self, rng: np.random.Generator) -> Document:
        kinds = (
            (self._sums, 0.14), (self._shorter, 0.14), (self._checked_sums, 0.09), (self._next_words, 0.17),
            (self._checked_next_words, 0.11), (self._first_word, 0.03), (self._order, 0.03), (self._numbered, 0.05),
            (self._in_a_row, 0.09), (self._checked_row, 0.07), (self._read_back, 0.08),
        )  # fmt: skip
        shares, count = [share for _, share in kinds], int(rng.integers(1, MOST + 1))
        drawn = [kinds[i][0](rng) for i in rng.choice(len(kinds), size=count, p=shares)]
        question, said = (" ".join(parts) for parts in zip(*drawn, strict=True))
        return asked(self.renderer, question), np.array([*self.renderer.response_ids(said), self.renderer.eos])

    def _sums(self, rng: np.random.Generator) -> tuple[str, str]:
        sums = [_sum(rng) for _ in range(int(rng.integers(3, 9)))]
        return f"Work out: {', '.join(left for left, _ in sums)}.", " ".join(f"{left} = {is_}." for left, is_ in sums)

    def _checked_sums(self, rng: np.random.Generator) -> tuple[str, str]:
        sums = [_sum(rng) for _ in range(int(rng.integers(2, 7)))]
        shown = [found + (int(rng.choice(OFF)) if rng.random() < WRONG_SHARE else 0) for _, found in sums]
        right = [f"{left} = {found}" for left, found in sums]
        return _check(right, [f"{left} = {number}" for (left, _), number in zip(sums, shown, strict=True)])

    def _checked_next_words(self, rng: np.random.Generator) -> tuple[str, str]:
        words, before, after = _next(rng)
        shown = [str(rng.choice(words)) if rng.random() < WRONG_SHARE else word for word in after]
        asked, said = _check(after, shown)
        return f"{asked} Each comes after {', '.join(before)}: {' '.join(words)}.", said

    def _in_a_row(self, rng: np.random.Generator) -> tuple[str, str]:
        words = _words(rng, int(rng.integers(2, 13)))
        return f"Write in a row: {_steps(words)}", f"{' '.join(words)}."

    def _checked_row(self, rng: np.random.Generator) -> tuple[str, str]:
        asked, said = [], []
        for _ in range(int(rng.integers(1, 4))):
            words = _words(rng, int(rng.integers(2, 8)))
            row = list(words)
            if wrong := rng.random() < 0.5:
                _spoil(row, rng)
            asked.append(f"{_steps(words)} In a row: {' '.join(row)}.")
            said.append("wrong." if wrong else "correct.")
        return f"Check: {' '.join(asked)}", " ".join(said)

    def _shorter(self, rng: np.random.Generator) -> tuple[str, str]:
        while True:
            count = int(rng.integers(2, 6))
            signs = ["+-*"[i] for i in rng.choice(3, size=count - 1, p=[0.35, 0.35, 0.3])]
            numbers = [int(n) for n in rng.integers(-9 if rng.random() < 0.3 else 0, 10, size=count)]
            rows = list(_reduced(numbers, signs))
            if max(abs(number) for row, _ in rows for number in row) <= LARGEST:
                shown = [" ".join(map(str, _row(*row))) for row in rows]
                return f"Make shorter: {shown[0]}.", " ".join(f"{row}." for row in shown[1:])

    def _first_word(self, rng: np.random.Generator) -> tuple[str, str]:
        words = _words(rng, int(rng.integers(2, 13)))
        return f"Which comes first: {' '.join(words)}?", f"{min(words)}."

    def _next_words(self, rng: np.random.Generator) -> tuple[str, str]:
        words, before, after = _next(rng)
        said = " ".join(f"after {one} comes {next_}." for one, next_ in zip(before, after, strict=True))
        return f"What comes after {', '.join(before)}: {' '.join(words)}?", said

    def _order(self, rng: np.random.Generator) -> tuple[str, str]:
        pairs = [_words(rng, 2) for _ in range(int(rng.integers(3, 9)))]
        said = " ".join(f"{min(pair)} comes before {max(pair)}." for pair in pairs)
        return f"Put in order: {', '.join(' '.join(pair) for pair in pairs)}.", said

    def _numbered(self, rng: np.random.Generator) -> tuple[str, str]:
        words = _words(rng, int(rng.integers(2, 13)))
        return f"Number these: {' '.join(words)}.", _steps(words)

    def _read_back(self, rng: np.random.Generator) -> tuple[str, str]:
        things = [pick[0] if rng.random() < 0.5 else pick[1] for pick in self._things(rng)]
        return f"Read back: {' '.join(things)}.", f"{' '.join(things)}."

    def _things(self, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
        for word in _words(rng, int(rng.integers(3, 16))):
            yield word, _sum(rng)[0]


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
    """Two numbers with a sign between them, and what comes of it: no number beyond LARGEST in size."""
    while True:
        operation = int(rng.integers(3))
        largest = 9 if operation == 2 else 20 if rng.random() < 0.5 else LARGEST
        least = 0 if operation == 2 or rng.random() < 0.4 else -largest
        a, b = (int(n) for n in rng.integers(least, largest + 1, size=2))
        found = int(OPERATIONS[operation](a, b))
        if abs(found) <= LARGEST:
            return f"{a} {'+-*'[operation]} {b}", found


def _next(rng: np.random.Generator) -> tuple[list[str], list[str], list[str]]:
    """A list, some words of it, and what comes after each in the order of words."""
    words = _words(rng, int(rng.integers(2, 13)))
    before = [words[i] for i in rng.permutation(len(words))[:6]]
    return words, before, [min((word for word in words if word > each), default="none") for each in before]


def _check(right: Sequence[str], shown: Sequence[str]) -> tuple[str, str]:
    """What is to be checked, and what is to be said of it, one by one."""
    said = [
        f"Check {number}: {true}." if given == true else f'Check {number}: {true}, not "{given}".'
        for number, (true, given) in enumerate(zip(right, shown, strict=True), 1)
    ]
    return f"Check these: {', '.join(f'{i}: {given}' for i, given in enumerate(shown, 1))}.", " ".join(said)


def _steps(words: Sequence[str]) -> str:
    return " ".join(f"Step {number}: {word}." for number, word in enumerate(words, 1))


def _spoil(row: list[str], rng: np.random.Generator) -> None:
    """One word of a row, at least two long, is another, missing, there twice, or in another's place."""
    at, kind = int(rng.integers(len(row))), int(rng.integers(4))
    if kind == 0:
        row[at] = next(word for word in _words(rng, len(row) + 1) if word not in row)
    elif kind == 1:
        del row[at]
    elif kind == 2:
        row.insert(at, row[at])
    else:
        row[at - 1], row[at] = row[at], row[at - 1]


def _reduced(numbers: list[int], signs: list[str]) -> Iterator[tuple[list[int], list[str]]]:
    """A row of numbers and the signs between them, and what is left of it after each sum: * first, then from the
    left."""
    yield numbers, signs
    while signs:
        i = signs.index("*") if "*" in signs else 0
        found = OPERATIONS["+-*".index(signs[i])](*numbers[i : i + 2])
        numbers, signs = [*numbers[:i], found, *numbers[i + 2 :]], [*signs[:i], *signs[i + 1 :]]
        yield numbers, signs


def _row(numbers: list[int], signs: list[str]) -> Iterator[int | str]:
    yield numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        yield from (sign, number)


def _words(rng: np.random.Generator, count: int) -> list[str]:
    return [WORDS[i] for i in rng.choice(len(WORDS), size=count, replace=False)]
