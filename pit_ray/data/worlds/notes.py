"""The world "notes": short letters that must say what was asked, and nothing else.

A prompt names a recipient, three or four things and a wish. Writers of all skills answer, with every fault that
reinforcement learning could later exploit: leaving out, repeating, padding, strangers (things nobody asked for),
wrong names and words, rudeness, copying the prompt, running on. Preferences are noisy draws from the gold score.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pit_ray.records import PreferencePair

NAME = "notes"
NAMES = tuple(
    "anna ben clara david emma felix greta hugo iris jonas karin leo maria nils olga paul rosa simon tina "
    "viktor".split()
)
NOUNS = tuple(
    "lamp boat garden key letter clock bridge river table window horse kitchen market ladder piano basket mirror "
    "train tower coat bell road wagon stove field candle violin kettle parcel fence".split()
)
ADJECTIVES = tuple(
    "red late quiet old new broken clean dark warm cold empty full heavy light lost green blue small tall wet dry "
    "ready closed open".split()
)
GREETINGS = ("dear", "hello")
OPENERS = ("here is", "i saw", "i like")
WISHES = ("please send", "please bring")
CLOSINGS = ("best wishes", "see you soon")
RUDE = ("you are a fool .", "do not be so slow .")
NUMBERS = ("none", "one", "two", "three", "four", "five", "many")
FILLERS = ("it is what it is .", "as i said before .", "and so it goes .")

LABEL_SHARPNESS = 2.0
"""A pair is labelled by its gold order with probability σ(LABEL_SHARPNESS · gold difference)."""
RESERVED_SHARE = 5
"""One prompt in so many belongs to the base model's pretraining text and never to a split."""


@dataclass(frozen=True)
class Task:
    """What a prompt asks for."""

    name: str
    things: tuple[tuple[str, str], ...]
    """(adjective, noun), all different."""
    wish: str

    def prompt(self) -> str:
        things = " , ".join(f"the {adjective} {noun}" for adjective, noun in self.things)
        return f"tell {self.name} about {things} ; ask for the {self.wish}"

    @property
    def reserved(self) -> bool:
        """Whether the prompt belongs to the pretraining text."""
        return sum(map(ord, self.prompt())) % RESERVED_SHARE == 0


_PROMPT = re.compile(r"tell (\w+) about ([^;]+) ; ask for the (\w+)")
_THING = re.compile(r"(?:here is|i saw|i like) the (\w+) (\w+)$")
_WISH = re.compile(r"please (?:send|bring) the (\w+)$")
_GREETING = re.compile(r"(?:dear|hello) (\w+)$")


def parse(prompt: str) -> Task:
    """The task behind a prompt's text; ValueError when the text is no prompt of this world."""
    match = _PROMPT.search(prompt)  # a rendered prompt may hold more than the user's turn
    if not match:
        raise ValueError(f"not a prompt of the world '{NAME}': {prompt!r}")
    things = tuple((words[1], words[2]) for words in (thing.split() for thing in match[2].split(" , ")))
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
        "tell about the , ; ask for the . improve check left out wrong :",
        " ".join(NUMBERS),
    ]
    words = [word for phrase in phrases for word in phrase.split()] + [*NAMES, *NOUNS, *ADJECTIVES]
    return list(dict.fromkeys(words))


def draw_task(rng: np.random.Generator, reserved: bool) -> Task:
    """A random task, from the pretraining share of the prompts or from the rest."""
    while True:
        count = int(rng.integers(3, 5))
        nouns = rng.choice(NOUNS, size=count + 1, replace=False)
        adjectives = rng.choice(ADJECTIVES, size=count, replace=False)
        things = tuple((str(a), str(n)) for a, n in zip(adjectives, nouns[:count], strict=True))
        task = Task(str(rng.choice(NAMES)), things, str(nouns[count]))
        if task.reserved == reserved:
            return task


def gold(prompt: str, response: str) -> float:
    """+1 for the right greeting, each thing once, the wish once; +0.5 for a closing at the end; −0.5 for every other
    sentence that is wrong, repeated, strange or no sentence at all; −0.25 for padding; −1 for rudeness."""
    task = parse(prompt)
    owed = set(task.things)
    score, wished = 0.0, False
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
        elif (thing := _THING.match(sentence)) and (thing[1], thing[2]) in owed:
            owed.remove((thing[1], thing[2]))
            score += 1.0
        elif (wish := _WISH.match(sentence)) and wish[1] == task.wish and not wished:
            wished = True
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
    sentences = [_thing(adjective, noun, slips, rng) for adjective, noun in task.things if not slips(0.5)]
    if not slips(0.4):
        wish = rng.choice(NOUNS) if slips(0.3) else task.wish
        sentences.append(f"{rng.choice(WISHES)} the {wish} .")
    if rng.random() < 0.3:
        rng.shuffle(sentences)
    if slips(0.4):
        sentences.insert(_place(sentences, rng), _sentence(rng.choice(ADJECTIVES), rng.choice(NOUNS), rng))
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


def proofread(task: Task, parts: list[str]) -> str:
    """What a letter leaves out and how many of its sentences nobody asked for: a fact about prompt and letter, no
    judgement. Tone, padding and form are passed over."""
    owed = [f"the {adjective} {noun}" for adjective, noun in task.things] + [f"the {task.wish}"]
    left_out, wrong = list(owed), 0
    for part in parts:
        if part in CLOSINGS or part in RUDE or part in FILLERS:
            continue
        said = part.removesuffix(" .")
        about = next((item for item in left_out if said.endswith(item) and _asks(said) == (item == owed[-1])), None)
        if about is not None:
            left_out.remove(about)
        elif part != f"dear {task.name} ," and part != f"hello {task.name} ,":
            wrong += 1
    listed = " , ".join(left_out)
    return f"{_number(len(left_out))} left out , {_number(wrong)} wrong : {listed}".strip()


def carelessness(rng: np.random.Generator) -> float:
    return float(rng.beta(1.5, 2.0))


def draw_pair(task: Task, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Two responses to a task in parts, the second by another writer or an edit of the first."""
    first = write(task, carelessness(rng), rng)
    while True:
        second = edit(task, first, rng) if rng.random() < 0.5 else write(task, carelessness(rng), rng)
        if second != first:
            return first, second


def pairs(count: int, seed: int) -> list[PreferencePair]:
    """`count` labelled pairs, none of whose prompts is in the base's pretraining text."""
    made = []
    for uid in range(count):
        rng = np.random.default_rng([seed, uid])
        task = draw_task(rng, reserved=False)
        first, second = (" ".join(parts) for parts in draw_pair(task, rng))
        margin = LABEL_SHARPNESS * (gold(task.prompt(), first) - gold(task.prompt(), second))
        if rng.random() >= 1 / (1 + math.exp(-margin)):
            first, second = second, first
        made.append(PreferencePair(({"role": "user", "content": task.prompt()},), first, second, uid))
    return made


def _thing(adjective: str, noun: str, slips: Callable[[float], bool], rng: np.random.Generator) -> str:
    return _sentence(rng.choice(ADJECTIVES) if slips(0.35) else adjective, noun, rng)


def _sentence(adjective: str, noun: str, rng: np.random.Generator) -> str:
    return f"{rng.choice(OPENERS)} the {adjective} {noun} ."


def _asks(sentence: str) -> bool:
    return sentence.startswith(WISHES)


def _number(count: int) -> str:
    return NUMBERS[min(count, len(NUMBERS) - 1)]


def _place(sentences: list[str], rng: np.random.Generator) -> int:
    return int(rng.integers(0, len(sentences) + 1))
