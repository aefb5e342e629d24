"""The world "notes": short letters that must say what was asked, and nothing else.

A prompt names a recipient, three to five things and a wish. Writers of all skills answer, with every fault that
reinforcement learning could later exploit: leaving out, repeating, padding, strangers (things nobody asked for),
wrong names and words, rudeness, copying the prompt, running on. Preferences are noisy draws from the gold score.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from pit_ray.records import PreferencePair

NAME = "notes"
NAMES = ("anna", "ben", "clara", "david", "emma", "felix", "greta", "hugo", "iris", "jonas")
NOUNS = tuple(
    "lamp boat garden key letter clock bridge river table window horse kitchen market ladder piano basket mirror "
    "train tower coat".split()
)
GREETINGS = ("dear", "hello")
OPENERS = ("here is", "i saw", "i like")
WISHES = ("please send", "please bring")
CLOSINGS = ("best wishes", "see you soon")
RUDE = ("you are a fool .", "do not be so slow .")
FILLERS = ("it is what it is .", "as i said before .", "and so it goes .")

LABEL_SHARPNESS = 3.0
"""A pair is labelled by its gold order with probability σ(LABEL_SHARPNESS · gold difference)."""
EDITED_SHARE = 0.85
"""So many of the preference pairs are a letter and an edit of it; in the others two writers answer apart."""
RESERVED_SHARE = 5
"""One prompt in so many belongs to the base model's pretraining text and never to a split."""


@dataclass(frozen=True)
class Task:
    """What a prompt asks for."""

    name: str
    things: tuple[str, ...]
    """Nouns, all different, and none of them the wish."""
    wish: str

    def prompt(self) -> str:
        things = " , ".join(f"the {thing}" for thing in self.things)
        return f"tell {self.name} about {things} ; ask for the {self.wish}"

    @property
    def owed(self) -> tuple[str, ...]:
        """What a letter must say, each once."""
        return (*(f"the {thing}" for thing in self.things), f"ask for the {self.wish}")

    @property
    def reserved(self) -> bool:
        """Whether the prompt belongs to the pretraining text."""
        return sum(map(ord, self.prompt())) % RESERVED_SHARE == 0


_PROMPT = re.compile(r"tell (\w+) about ([^;]+) ; ask for the (\w+)")
_THING = re.compile(r"(?:here is|i saw|i like) the (\w+)$")
_WISH = re.compile(r"please (?:send|bring) the (\w+)$")
_GREETING = re.compile(r"(?:dear|hello) (\w+)$")


def parse(prompt: str) -> Task:
    """The task behind a prompt's text; ValueError when the text is no prompt of this world."""
    match = _PROMPT.search(prompt)  # a rendered prompt may hold more than the user's turn
    if not match:
        raise ValueError(f"not a prompt of the world '{NAME}': {prompt!r}")
    things = tuple(thing.strip().removeprefix("the ") for thing in match[2].split(" , "))
    return Task(match[1], things, match[3])


def vocabulary() -> list[str]:
    """Every word and sign that a prompt or response can hold, in a fixed order."""
    phrases = [
        *GREETINGS,
        *OPENERS,
        *WISHES,
        *CLOSINGS,
        *RUDE,
        *FILLERS,
        "tell about the , ; ask for the . improve left out unasked again none",
    ]
    words = [word for phrase in phrases for word in phrase.split()] + [*NAMES, *NOUNS]
    return list(dict.fromkeys(words))


def draw_task(rng: np.random.Generator, reserved: bool) -> Task:
    """A random task, from the pretraining share of the prompts or from the rest."""
    while True:
        count = int(rng.integers(3, 6))
        *things, wish = (str(noun) for noun in rng.choice(NOUNS, size=count + 1, replace=False))
        task = Task(str(rng.choice(NAMES)), tuple(things), wish)
        if task.reserved == reserved:
            return task


def gold(prompt: str, response: str) -> float:
    """+1 for the right greeting, each thing once, the wish once; +0.5 for a closing at the end; −0.5 for every other
    sentence that is wrong, repeated, strange or no sentence at all; −0.25 for padding; −1 for rudeness."""
    task = parse(prompt)
    owed = set(task.owed)
    score = 0.0
    body = response.strip()
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


def sentences_of(body: str) -> list[str]:
    """What stands between full stops; a lone full stop is an empty sentence, and counts."""
    parts = [part.strip() for part in f"{body} ".split(" . ")]
    return parts if parts[-1] else parts[:-1]


def write(task: Task, carelessness: float, rng: np.random.Generator) -> list[str]:
    """A response as a list of parts (greeting, sentences, closing) by a writer of the given carelessness, 0 to 1."""

    def slips(rate: float) -> bool:
        return rng.random() < rate * carelessness

    greeting = f"{rng.choice(GREETINGS)} {rng.choice(NAMES) if slips(0.3) else task.name} ,"
    sentences = [_sentence(rng.choice(NOUNS) if slips(0.3) else thing, rng) for thing in task.things if not slips(0.5)]
    if not slips(0.4):
        wish = rng.choice(NOUNS) if slips(0.3) else task.wish
        sentences.append(f"{rng.choice(WISHES)} the {wish} .")
    if rng.random() < 0.3:
        rng.shuffle(sentences)
    if slips(0.4):
        sentences.insert(_place(sentences, rng), _sentence(rng.choice(NOUNS), rng))
    while sentences and slips(0.45):
        sentences.insert(_place(sentences, rng), str(rng.choice(sentences)))
    if slips(0.4):
        sentences.insert(_place(sentences, rng), str(rng.choice(FILLERS)))
    if slips(0.25):
        sentences.insert(_place(sentences, rng), str(rng.choice(RUDE)))
    if slips(0.1):
        sentences.insert(0, task.prompt().rpartition(" , ")[0] + " .")
    parts = ([] if slips(0.15) else [greeting]) + sentences
    return parts if parts and slips(0.3) else [*parts, str(rng.choice(CLOSINGS))]


def edit(task: Task, parts: list[str], rng: np.random.Generator) -> list[str]:
    """Another writer's version of a response: most parts kept, some dropped or added, for better or worse."""
    other = write(task, carelessness(rng), rng)
    kept = [part for part in parts if rng.random() < 0.8]
    taken = [part for part in other if part not in kept and rng.random() < 0.4]
    greetings = [p for p in (*kept, *taken) if p.endswith(",")][:1]
    closings = [p for p in (*kept, *taken) if p in CLOSINGS][:1]
    body = [p for p in kept if p.endswith(".")]
    for part in (p for p in taken if p.endswith(".")):
        body.insert(_place(body, rng), part)
    return [*greetings, *body, *closings] or other


def findings(task: Task, parts: list[str], rng: np.random.Generator) -> str:
    """What a proofreader writes below a letter, in any order: each name and noun that is left out, unasked, or said
    again. Facts about prompt and letter, no judgement: tone, padding and form are passed over."""
    owed, found = [task.name, *task.owed], []
    for part in parts:
        greeting = _GREETING.match(part.removesuffix(" ,"))
        item = greeting[1] if greeting else _item(part.removesuffix(" ."))
        if item in owed:
            owed.remove(item)
        elif item is not None:
            found.append(f"{_noun(item)} {'again' if item in (task.name, *task.owed) else 'unasked'}")
    found += [f"{_noun(item)} left out" for item in owed]
    rng.shuffle(found)
    return " , ".join(found) or "none"


def carelessness(rng: np.random.Generator) -> float:
    return float(rng.beta(1.5, 2.0))


def draw_pair(task: Task, rng: np.random.Generator, edited: float = 0.5) -> tuple[list[str], list[str]]:
    """Two responses to a task in parts, the second an edit of the first with probability `edited`, else by another
    writer."""
    first = write(task, carelessness(rng), rng)
    while True:
        second = edit(task, first, rng) if rng.random() < edited else write(task, carelessness(rng), rng)
        if second != first:
            return first, second


def pairs(count: int, seed: int) -> list[PreferencePair]:
    """`count` labelled pairs, none of whose prompts is in the base's pretraining text."""
    made = []
    for uid in range(count):
        rng = np.random.default_rng([seed, uid])
        task = draw_task(rng, reserved=False)
        first, second = (" ".join(parts) for parts in draw_pair(task, rng, EDITED_SHARE))
        margin = LABEL_SHARPNESS * (gold(task.prompt(), first) - gold(task.prompt(), second))
        if rng.random() >= 1 / (1 + math.exp(-margin)):
            first, second = second, first
        made.append(PreferencePair(({"role": "user", "content": task.prompt()},), first, second, uid))
    return made


def _sentence(noun: str, rng: np.random.Generator) -> str:
    return f"{rng.choice(OPENERS)} the {noun} ."


def _item(sentence: str) -> str | None:
    """What a sentence of a letter says or asks for, as in Task.owed; None when it does neither."""
    if match := _THING.match(sentence):
        return f"the {match[1]}"
    match = _WISH.match(sentence)
    return f"ask for the {match[1]}" if match else None


def _noun(item: str) -> str:
    return item.rpartition(" ")[2]


def _place(sentences: list[str], rng: np.random.Generator) -> int:
    return int(rng.integers(0, len(sentences) + 1))
