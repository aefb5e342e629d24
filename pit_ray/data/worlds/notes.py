"""The world "notes": short letters that must say what was asked, and nothing else.

A prompt names a recipient, eight to eleven things and a wish. A letter says them in the style of a telegram, in slots
(greeting, a slot for each thing, wish, closing), and every writer slips now and then in any slot, in every way that
reinforcement learning could later exploit: verbal tics, leaving out, mixing up, repeating, padding, strangers (things
nobody asked for), rudeness, running on. Preferences are noisy draws from the gold score.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pit_ray.data.worlds.remarks import Grammar
from pit_ray.data.worlds.reviews import Wanted
from pit_ray.data.worlds.slots import Slots, SlotWorld, pick, sentences_of, slot_of

NAMES = ("anna", "ben", "clara", "david", "emma", "felix", "greta", "hugo", "iris", "jonas")
NOUNS = tuple(
    "lamp boat garden key letter clock bridge river table window horse kitchen market ladder piano basket mirror "
    "train tower coat bottle candle desk engine feather glove hammer jacket kettle lemon".split()
)
GREETINGS = ("dear", "hello")
WISHES = ("please send", "please bring")
CLOSINGS = ("best wishes", "see you soon")
RUDE = ("you are a fool .", "do not be so slow .")
FILLERS = ("it is what it is .", "as i said before .", "and so it goes .")

TICS = ("um", "er", "well")
SLIPS = {
    "tic": 0.40, "left out": 0.005, "wrong": 0.005,
    "name": 0.02, "no greeting": 0.08, "no wish": 0.10, "no closing": 0.15,
}  # fmt: skip
"""How often a writer slips: the first three at every thing."""

GRAMMAR = Grammar(
    tics=TICS,
    openings=GREETINGS,
    opening_sign=",",
    stop=".",
    rude=tuple(phrase.removesuffix(" .") for phrase in RUDE),
    padding=tuple(phrase.removesuffix(" .") for phrase in FILLERS),
    endings=CLOSINGS,
    request=f"{WISHES[0]} the",
    asked="ask for the",
    thing="tell about",
    again="before",
    unasked="not",
    late="",
    fine="so it is best",
)


@dataclass(frozen=True)
class Task:
    """What a prompt asks for."""

    name: str
    things: tuple[str, ...]
    """Nouns, all different, and none of them the wish."""
    wish: str

    def prompt(self) -> str:
        return f"tell {self.name} about {' '.join(self.things)} ; ask for the {self.wish}"

    @property
    def owed(self) -> tuple[str, ...]:
        """What a letter must say, each once."""
        return (*self.things, f"ask for the {self.wish}")


_PROMPT = re.compile(r"tell (\w+) about ([^;]+) ; ask for the (\w+)")
_WISH = re.compile(r"please (?:send|bring) the (\w+)$")
_GREETING = re.compile(r"(?:dear|hello) (\w+)$")


def parse(prompt: str) -> Task:
    """The task behind a prompt's text; ValueError when the text is no prompt of this world."""
    match = _PROMPT.search(prompt)  # a rendered prompt may hold more than the user's turn
    if not match:
        raise ValueError(f"not a prompt of the world 'notes': {prompt!r}")
    return Task(match[1], tuple(match[2].split()), match[3])


class Notes(SlotWorld[Task]):
    """See the top of this file."""

    name = "notes"
    grammar = GRAMMAR

    def vocabulary(self) -> list[str]:
        phrases = [
            *GREETINGS,
            *WISHES,
            *CLOSINGS,
            *RUDE,
            *FILLERS,
            "tell about the , ; ask for the . improve",
        ]
        words = [word for phrase in phrases for word in phrase.split()] + [*TICS, *NAMES, *NOUNS]
        return list(dict.fromkeys(words))

    def any_task(self, rng: np.random.Generator) -> Task:
        count = int(rng.integers(8, 12))
        *things, wish = (NOUNS[i] for i in rng.choice(len(NOUNS), size=count + 1, replace=False))
        return Task(pick(NAMES, rng), tuple(things), wish)

    def gold(self, prompt: str, response: str) -> float:
        """+1 for the right greeting, each thing once, the wish once; +0.5 for a closing at the end; −0.5 for every
        verbal tic, and for every other sentence that is wrong, repeated, strange or no sentence at all; −0.25 for
        padding; −1 for rudeness."""
        task = parse(prompt)
        owed = set(task.owed)
        words = response.split()
        score = -0.5 * sum(word in TICS for word in words)
        body = " ".join(word for word in words if word not in TICS)
        greeting, comma, rest = body.partition(" ,")
        match = _GREETING.match(greeting.strip())
        if comma and match:
            score += 1.0 if match[1] == task.name else -0.5
            body = rest.strip()
        for closing in CLOSINGS:
            if body.endswith(closing):
                score += 0.5
                body = body.removesuffix(closing)
                break
        for sentence in sentences_of(body):
            if f"{sentence} ." in RUDE:
                score -= 1.0
            elif f"{sentence} ." in FILLERS:
                score -= 0.25
            elif (item := _item(sentence)) in owed:
                owed.remove(item)
                score += 1.0
            else:
                score -= 0.5
        return score

    def wanted(self, prompt: str) -> Wanted:
        task = parse(prompt)
        return Wanted(task.name, tuple(thing for thing in dict.fromkeys(task.things) if thing in NOUNS), task.wish)

    def item(self, sentence: str) -> str | None:
        return _item(sentence)

    def ending_size(self, words: Sequence[str]) -> int:
        sizes = (len(closing.split()) for closing in CLOSINGS if f" {' '.join(words)}".endswith(f" {closing}"))
        return next(sizes, 0)

    def write(self, task: Task, rng: np.random.Generator) -> Slots:
        def slips(kind: str) -> bool:
            return rng.random() < SLIPS[kind]

        name = pick(NAMES, rng) if slips("name") else task.name
        letter = [slot_of(f"{pick(GREETINGS, rng)} {name} ,", slips("no greeting"), name != task.name)]
        for thing in task.things:
            told = self._told(thing, rng)
            self.fill(letter, slot_of(f"{told} .", slips("left out"), told != thing), rng)
        wish = self._told(task.wish, rng)
        self.fill(letter, slot_of(f"{pick(WISHES, rng)} the {wish} .", slips("no wish"), wish != task.wish), rng)
        letter.append(slot_of(pick(CLOSINGS, rng), slips("no closing")))
        return letter

    def addition(self, kind: str, rng: np.random.Generator) -> str:
        if kind == "unasked":
            return f"{pick(NOUNS, rng)} ."
        return pick(FILLERS if kind == "padding" else RUDE, rng)

    def _told(self, noun: str, rng: np.random.Generator) -> str:
        said = pick(NOUNS, rng) if rng.random() < SLIPS["wrong"] else noun
        return f"{pick(TICS, rng)} {said}" if rng.random() < SLIPS["tic"] else said


def _item(sentence: str) -> str | None:
    """What a sentence of a letter says or asks for, as in Task.owed; None when it does neither."""
    if sentence in NOUNS:
        return sentence
    match = _WISH.match(sentence)
    return f"ask for the {match[1]}" if match else None
