"""What worlds share: responses made of slots, which writers fill and now and then get wrong; labels drawn by gold.

Slips fall in every slot, apart from one another. So a response goes wrong in places and not as a whole, and a second
look can mend the places without writing the rest anew.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from pit_ray.records import PreferencePair

LABEL_SHARPNESS = 4.0
"""A pair is labelled by its gold order with probability σ(LABEL_SHARPNESS · gold difference)."""
EDITED_SHARE = 0.85
"""So many of the preference pairs are a response and an edit of it; in the others two writers answer apart."""
KEPT_SHARE = 0.75
"""So many of a response's slots stay as they are in an edit; the others are written anew."""
ADDED = {"again": 0.01, "unasked": 0.01, "padding": 0.05, "outburst": 0.03}
"""How often a writer adds to a slot what does not belong there."""
RESERVED_SHARE = 5
"""One prompt in so many belongs to the base model's pretraining text and never to a split."""

Slots = list[list[str]]
"""A response: the parts (sentences, greetings, …) of each slot, in order."""


class Task(Protocol):
    """What a prompt asks for."""

    def prompt(self) -> str:
        """The task as text."""


T = TypeVar("T", bound=Task)


class SlotWorld(ABC, Generic[T]):
    """A synthetic world with a hidden gold score."""

    name: str

    @abstractmethod
    def vocabulary(self) -> list[str]:
        """Every word and sign that a prompt or response can hold, in a fixed order."""

    @abstractmethod
    def any_task(self, rng: np.random.Generator) -> T:
        """A random task."""

    @abstractmethod
    def write(self, task: T, rng: np.random.Generator) -> Slots:
        """A response by a writer who slips now and then; the same number of slots for the same task."""

    @abstractmethod
    def addition(self, kind: str, rng: np.random.Generator) -> str:
        """A part of one of the kinds of ADDED, `again` excepted."""

    @abstractmethod
    def gold(self, prompt: str, response: str) -> float:
        """The hidden true quality of a response; used for labelling and for evaluation, never in training."""

    def fill(self, said: Slots, parts: list[str], rng: np.random.Generator) -> None:
        """Adds a slot with these parts to what is said, and now and then what does not belong there."""
        slot = list(parts)
        for kind in (kind for kind, rate in ADDED.items() if rng.random() < rate):
            before = [part for other in [*said[1:], parts] for part in other]
            if kind != "again":
                slot.append(self.addition(kind, rng))
            elif before:
                slot.append(pick(before, rng))
        said.append(slot)

    def draw_task(self, rng: np.random.Generator, reserved: bool) -> T:
        """A random task, from the pretraining share of the prompts or from the rest."""
        while (sum(map(ord, (task := self.any_task(rng)).prompt())) % RESERVED_SHARE == 0) != reserved:
            pass
        return task

    def draw_pair(self, task: T, rng: np.random.Generator, edited: float = 0.5) -> tuple[Slots, Slots]:
        """Two responses to a task, the second an edit of the first with probability `edited`, else apart from it."""
        first = self.write(task, rng)
        while True:
            second = self.write(task, rng)
            if rng.random() < edited:
                second = [old if rng.random() < KEPT_SHARE else new for old, new in zip(first, second, strict=True)]
            if text(second) != text(first):
                return first, second

    def pairs(self, count: int, seed: int) -> list[PreferencePair]:
        """`count` pairs labelled by noisy draws from the gold score, uids 0 to count − 1; none of their prompts is in
        the base's pretraining text."""
        made = []
        for uid in range(count):
            rng = np.random.default_rng([seed, uid])
            task = self.draw_task(rng, reserved=False)
            prompt = task.prompt()
            first, second = (text(response) for response in self.draw_pair(task, rng, EDITED_SHARE))
            margin = LABEL_SHARPNESS * (self.gold(prompt, first) - self.gold(prompt, second))
            if rng.random() >= 1 / (1 + math.exp(-margin)):
                first, second = second, first
            made.append(PreferencePair(({"role": "user", "content": prompt},), first, second, uid))
        return made


def pick(options: Sequence[str], rng: np.random.Generator) -> str:
    """One of them; many times faster than rng.choice, which makes an array of them first."""
    return options[int(rng.integers(len(options)))]


def text(response: Slots) -> str:
    """A response as it is read."""
    return " ".join(part for slot in response for part in slot)


def sentences_of(body: str) -> list[str]:
    """What stands between full stops; a lone full stop is an empty sentence, and counts."""
    parts = [part.strip() for part in f"{body} ".split(" . ")]
    return parts if parts[-1] else parts[:-1]
