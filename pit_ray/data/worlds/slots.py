"""What worlds share: responses made of slots, which writers fill and now and then get wrong; labels drawn by gold.

Slips fall in every slot, apart from one another. So a response goes wrong in places and not as a whole, and a second
look can mend the places without writing the rest anew.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from pit_ray.data.worlds.reviews import Reviewer
from pit_ray.records import PreferencePair

LABEL_SHARPNESS = 4.0
"""A pair is labelled by its gold order with probability σ(LABEL_SHARPNESS · gold difference)."""
EDITED_SHARE = 0.85
"""So many of the preference pairs are a response and an edit of it; in the others two writers answer apart."""
KEPT_SHARE, KEPT_SLIPS = 0.9, 0.5
"""So many of a response's slots stay as they are in an edit, of those without and with a slip; the others are written
anew. Whoever looks again sees half of the slips, and now and then adds one."""
ADDED = {"again": 0.005, "unasked": 0.005, "padding": 0.05, "outburst": 0.03}
"""How often a writer adds to a slot what does not belong there."""
RESERVED_SHARE = 5
"""One prompt in so many belongs to the base model's pretraining text and never to a split."""


class Slot(NamedTuple):
    """A place in a response, where one thing is to be said."""

    parts: list[str]
    """Sentences, a greeting, …; none where it was left out."""
    slipped: bool
    """Whether the writer made a mistake here."""


Slots = list[Slot]
"""A response, in order."""


class Task(Protocol):
    """What a prompt asks for."""

    def prompt(self) -> str:
        """The task as text."""


T = TypeVar("T", bound=Task)


class SlotWorld(Reviewer, Generic[T]):
    """A synthetic world with a hidden gold score, and a verifier of its responses."""

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

    def fill(self, said: Slots, slot: Slot, rng: np.random.Generator) -> None:
        """Adds a slot to what is said, and to the slot now and then what does not belong there."""
        parts = list(slot.parts)
        for kind, rate in ADDED.items():
            if rng.random() >= rate:
                continue
            before = [part for other in [*said[1:], slot] for part in other.parts]
            if kind != "again":
                parts.append(self.addition(kind, rng))
            elif before:
                parts.append(pick(before, rng))
        said.append(Slot(parts, slot.slipped or len(parts) > len(slot.parts)))

    def draw_task(self, rng: np.random.Generator, reserved: bool) -> T:
        """A random task, from the pretraining share of the prompts or from the rest."""
        while (sum(map(ord, (task := self.any_task(rng)).prompt())) % RESERVED_SHARE == 0) != reserved:
            pass
        return task

    def draw_pair(self, task: T, rng: np.random.Generator) -> tuple[Slots, Slots]:
        """Two responses to a task, the second mostly an edit of the first, else apart from it."""
        first = self.write(task, rng)
        while True:
            second = self.write(task, rng)
            if rng.random() < EDITED_SHARE:
                second = [edited(old, new, rng) for old, new in zip(first, second, strict=True)]
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
            first, second = (text(response) for response in self.draw_pair(task, rng))
            margin = LABEL_SHARPNESS * (self.gold(prompt, first) - self.gold(prompt, second))
            if rng.random() >= 1 / (1 + math.exp(-margin)):
                first, second = second, first
            made.append(PreferencePair(({"role": "user", "content": prompt},), first, second, uid))
        return made


def pick(options: Sequence[str], rng: np.random.Generator) -> str:
    """One of them; many times faster than rng.choice, which makes an array of them first."""
    return options[int(rng.integers(len(options)))]


def slot_of(part: str, left_out: bool, wrong: bool = False) -> Slot:
    """The slot in which a writer says this part, or leaves it out."""
    return Slot([] if left_out else [part], left_out or wrong)


def edited(old: Slot, new: Slot, rng: np.random.Generator) -> Slot:
    """A slot of an edit: the old one, or what was written anew."""
    return old if rng.random() < (KEPT_SLIPS if old.slipped else KEPT_SHARE) else new


def text(response: Slots) -> str:
    """A response as it is read."""
    return " ".join(part for slot in response for part in slot.parts)


def sentences_of(body: str) -> list[str]:
    """What stands between full stops; a lone full stop is an empty sentence, and counts."""
    parts = [part.strip() for part in f"{body} ".split(" . ")]
    return parts if parts[-1] else parts[:-1]
