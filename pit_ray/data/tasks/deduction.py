"""Logical deduction: in which order things stand, after the idea of BIG-bench's task of this name; wording ours.

`3 birds sit on a branch: owl, hawk, crow. The owl is left of the crow. … Which bird is second from the left?` Each
question has one order, which can be derived without guessing. As in TriPosT (arXiv 2310.13522), 3 and 5 things are
seen and 7 are not. A step places a thing: `owl is first`. The rationale places all of them, each where the statements
and the things placed before leave it no other place. The verifier takes the placements in any order; one that
contradicts the statements is wrong. TriPosT verifies this task by a large language model; since our statements are
generated, a script can.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pit_ray.data.tasks.attempts import tidy
from pit_ray.data.tasks.problem import Task, Work, WrongStep

PLACES = tuple("first second third fourth fifth sixth seventh".split())
SCENES = {
    "birds sit on a branch": tuple("crow dove eagle finch hawk heron lark owl raven robin wren".split()),
    "fruits lie on a shelf": tuple("apple banana cherry fig grape lemon mango melon orange peach plum".split()),
    "animals stand in a row": tuple("bear cat cow deer dog fox goat horse lion mouse pig".split()),
}

_EVERY = range(len(PLACES))
RELATIONS: dict[str, list[set[int]]] = {
    "left of": [{b for b in _EVERY if a < b} for a in _EVERY],
    "right of": [{b for b in _EVERY if a > b} for a in _EVERY],
    "directly left of": [{a + 1} for a in _EVERY],
    "directly right of": [{a - 1} for a in _EVERY],
}
"""The places that the other thing may have, by the place of the thing."""

_PLACE = f"(?:{'|'.join(PLACES)})"
_STATEMENT = re.compile(rf"The ([a-z]+) is (?:({'|'.join(RELATIONS)}) the ([a-z]+)|({_PLACE}) from the left)")
_QUESTION = re.compile(
    rf"[0-9]+ (?:{'|'.join(SCENES)}): (?P<things>[a-z]+(?:, [a-z]+){{1,6}})\. "
    rf"(?P<statements>(?:The [a-z ]+\. )+)Which [a-z]+ is (?P<asked>{_PLACE}) from the left\?"
)
_STEP = re.compile(rf"([a-z]+) is ({_PLACE})")

Domains = dict[str, set[int]]
"""The places, counted from 0, that a thing may still have."""


@dataclass(frozen=True)
class Statement:
    """Where a thing is: in relation to another, or at a place counted from 0."""

    thing: str
    relation: str
    """Of RELATIONS; empty for a place."""
    other: str | int

    def __str__(self) -> str:
        if isinstance(self.other, int):
            return f"the {self.thing} is {PLACES[self.other]} from the left"
        return f"the {self.thing} is {self.relation} the {self.other}"

    def narrow(self, domains: Domains) -> None:
        """Takes from the domains every place that this statement alone rules out."""
        if isinstance(self.other, int):
            domains[self.thing] &= {self.other}
            return
        others, there = RELATIONS[self.relation], domains[self.other]
        here = {a for a in domains[self.thing] if not others[a].isdisjoint(there)}
        domains[self.thing], domains[self.other] = here, there.intersection(set().union(*(others[a] for a in here)))


def derive(things: Sequence[str], statements: Sequence[Statement]) -> dict[str, int]:
    """The place of each thing that can be derived, in the order of derivation. Derived is what follows from one
    statement at a time, and from every thing having a place of its own; so all things are in it only where the
    statements allow one order."""
    domains: Domains = {thing: set(range(len(things))) for thing in things}
    placed: dict[str, int] = {}
    before = None
    while before != domains:
        before = {thing: set(places) for thing, places in domains.items()}
        for statement in statements:
            statement.narrow(domains)
        for place in range(len(things)):
            if len(fitting := [thing for thing in things if place in domains[thing]]) == 1:
                domains[fitting[0]] &= {place}
        for thing in things:
            if len(domains[thing]) == 1 and thing not in placed:
                (placed[thing],) = domains[thing]
                for other in things:
                    if other != thing:
                        domains[other] = domains[other] - {placed[thing]}
    return placed


@dataclass(frozen=True)
class _Order(Work):
    statements: tuple[Statement, ...]
    places: dict[str, int]
    """The one solution, in the order of derivation."""
    asked: int
    placed: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        return next(thing for thing, place in self.places.items() if place == self.asked)

    def after(self, step: str) -> _Order:
        match = _STEP.fullmatch(tidy(step))
        if not match:
            raise WrongStep("a step places one thing")
        thing, place = match[1], PLACES.index(match[2])
        if thing not in self.places:
            raise WrongStep(f"there is no {thing}")
        if thing in self.placed:
            raise WrongStep(f"{thing} stands there twice")
        if self.places[thing] != place:
            raise WrongStep(self._contradiction(thing, place))
        return _Order(self.statements, self.places, self.asked, (*self.placed, thing))

    def rest(self) -> list[str]:
        return [f"{thing} is {PLACES[place]}" for thing, place in self.places.items() if thing not in self.placed]

    def missing(self) -> str:
        return f"{next(thing for thing in self.places if thing not in self.placed)} is missing"

    def _contradiction(self, thing: str, place: int) -> str:
        """A reason why the thing cannot be there: a thing that is there, a single statement, or all of them."""
        known = {other: self.places[other] for other in self.placed}
        for other in self.placed:
            if known[other] == place:
                return f"{other} is {PLACES[place]}"
        free = set(range(len(self.places))) - {place, *known.values()}
        for statement in self.statements:
            domains = {other: {known[other]} if other in known else set(free) for other in self.places}
            domains[thing] = {place}
            statement.narrow(domains)
            if not all(domains.values()):
                return str(statement)
        return f"{thing} can only be {PLACES[self.places[thing]]}"


class LogicalDeduction(Task):
    """See the top of this file."""

    name = "logical_deduction"

    def draw(self, rng: np.random.Generator, seen: bool) -> tuple[str, str]:
        size = int(rng.choice((3, 5))) if seen else 7
        scene = list(SCENES)[int(rng.integers(len(SCENES)))]
        order = [SCENES[scene][i] for i in rng.choice(len(SCENES[scene]), size=size, replace=False)]
        listed = [order[i] for i in rng.permutation(size)]
        statements = _draw_statements(order, rng)
        told = {statement.thing for statement in statements if isinstance(statement.other, int)}
        asked = [place for place, thing in enumerate(order) if thing not in told]
        kind, _, where = scene.partition("s ")
        text = f"{size} {kind}s {where}: {', '.join(listed)}."
        for statement in statements:
            text = f"{text} {str(statement).capitalize()}."
        place = PLACES[asked[int(rng.integers(len(asked)))]]
        return f"{text} Which {kind} is {place} from the left?", f"{size} things"

    def read(self, prompt: str) -> Work:
        match = self.find(_QUESTION, tidy(prompt))
        things, asked = match["things"].split(", "), PLACES.index(match["asked"])
        statements = tuple(map(_read_statement, match["statements"].split(".")[:-1]))
        named = {name for said in statements for name in (said.thing, said.other) if isinstance(name, str)}
        if not named <= set(things) or asked >= len(things):
            raise ValueError(f"not a prompt of the task '{self.name}': it speaks of what is not there")
        places = derive(things, statements)
        if sorted(places.values()) != list(range(len(things))):
            raise ValueError(f"not a prompt of the task '{self.name}': no single order can be derived")
        return _Order(statements, places, asked)

    def normalised(self, answer: str) -> str:
        return " ".join(answer.split()).removeprefix("the ")


def _read_statement(text: str) -> Statement:
    match = _STATEMENT.fullmatch(text.strip())
    if not match:
        raise ValueError(f"not a statement about an order: {text!r}")
    thing, relation, other, place = match.groups()
    return Statement(thing, relation or "", other or PLACES.index(place))


def _draw_statements(order: Sequence[str], rng: np.random.Generator) -> list[Statement]:
    """True statements about an order, from which it can be derived, and from no part of them."""
    statements: list[Statement] = []
    placing = bool(rng.integers(2))  # whether one of them may name a place
    while len(derive(order, statements)) < len(order):
        if placing and not statements:
            place = int(rng.integers(len(order)))
            statements.append(Statement(order[place], "", place))
            continue
        direct = rng.random() < 0.4
        a, b = sorted(int(i) for i in rng.choice(len(order), size=2, replace=False))
        b = a + 1 if direct else b
        kind = "directly " if direct else ""
        turned = bool(rng.integers(2))
        pair = (order[b], f"{kind}right of", order[a]) if turned else (order[a], f"{kind}left of", order[b])
        statements.append(Statement(*pair))
    for statement in [statements[i] for i in rng.permutation(len(statements))]:
        fewer = [other for other in statements if other is not statement]
        if len(derive(order, fewer)) == len(order):
            statements = fewer
    return [statements[i] for i in rng.permutation(len(statements))]
