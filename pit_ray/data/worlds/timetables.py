"""The world "timetables": a day's appointments in order, said back with the hour first.

A prompt names a day, six to nine appointments by the hour and a person to call. Order counts, a verbal tic costs
more than in "notes", what is wrong costs more than what is missing, and the call counts most.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pit_ray.data.worlds.remarks import Grammar
from pit_ray.data.worlds.reviews import Wanted
from pit_ray.data.worlds.slots import Slots, SlotWorld, pick, slot_of

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
HOURS = tuple("six seven eight nine ten eleven noon one two three four five dusk night".split())
PLACES = tuple(
    "bank gym school harbour library bakery museum clinic station hospital theatre park garage hotel church airport "
    "cinema stable forest beach".split()
)
PEOPLE = ("paul", "nina", "emil", "rosa", "karl", "lena", "max", "vera")
HEADINGS = ("on", "for")
CALLS = ("then call", "later phone")
GOODBYES = ("have a good day", "yours truly")
OUTBURSTS = ("what a stupid plan", "nobody cares")
CHATTER = ("time does fly", "a busy day indeed", "so much to do")

TICS = ("maybe", "somehow", "whatever")
SLIPS = {
    "tic": 0.40, "wrong": 0.005, "left out": 0.005,
    "day": 0.02, "no heading": 0.08, "no call": 0.10, "no goodbye": 0.15,
}  # fmt: skip
"""How often a writer slips: the first three at every appointment."""

GRAMMAR = Grammar(
    tics=TICS,
    openings=HEADINGS,
    opening_sign=":",
    stop=";",
    rude=OUTBURSTS,
    padding=CHATTER,
    endings=GOODBYES,
    request=CALLS[0],
    asked="call",
    thing="do",
    again="indeed",
    unasked="much",
    late="later",
    fine="a good plan",
)


@dataclass(frozen=True)
class Day:
    """What a prompt asks for."""

    day: str
    appointments: tuple[tuple[str, str], ...]
    """(hour, place) by the hour; all hours and all places different."""
    person: str

    def prompt(self) -> str:
        listed = " , ".join(f"{place} at {hour}" for hour, place in self.appointments)
        return f"{self.day} : {listed} . call {self.person}"


_PROMPT = re.compile(r"(\w+) : ([^.]+) \. call (\w+)")
_ENTRY = re.compile(r"(\w+) (\w+)$")
_CALL = re.compile(r"(?:then call|later phone) (\w+)$")
_HEADING = re.compile(r"(?:on|for) (\w+) :")


def parse(prompt: str) -> Day:
    """The day behind a prompt's text; ValueError when the text is no prompt of this world."""
    match = _PROMPT.search(prompt)  # a rendered prompt may hold more than the user's turn
    if not match:
        raise ValueError(f"not a prompt of the world 'timetables': {prompt!r}")
    listed = (entry.split(" at ") for entry in match[2].split(" , "))
    return Day(match[1], tuple((hour.strip(), place.strip()) for place, hour in listed), match[3])


class Timetables(SlotWorld[Day]):
    """See the top of this file."""

    name = "timetables"
    grammar = GRAMMAR

    def vocabulary(self) -> list[str]:
        phrases = [*HEADINGS, *CALLS, *GOODBYES, *OUTBURSTS, *CHATTER, ": , ; at . improve"]
        words = [word for phrase in phrases for word in phrase.split()]
        return list(dict.fromkeys([*words, *DAYS, *HOURS, *PLACES, *PEOPLE, *TICS]))

    def any_task(self, rng: np.random.Generator) -> Day:
        count = int(rng.integers(6, 10))
        hours = [HOURS[i] for i in sorted(rng.choice(len(HOURS), size=count, replace=False))]
        places = (str(place) for place in rng.choice(PLACES, size=count, replace=False))
        return Day(pick(DAYS, rng), tuple(zip(hours, places, strict=True)), pick(PEOPLE, rng))

    def gold(self, prompt: str, response: str) -> float:
        """+0.5 for the right heading; each appointment once: +1, or +0.5 after a later one; +1.5 for the call, once;
        +0.5 for a goodbye at the end. −1 for an appointment that is wrong or that nobody asked for, and for an
        outburst; −0.75 for a verbal tic; −0.5 for a wrong heading and for any other part; −0.25 for chatter."""
        day = parse(prompt)
        owed, latest, call_owed = dict(day.appointments), -1, True
        words = response.split()
        score = -0.75 * sum(word in TICS for word in words)
        body = " ".join(word for word in words if word not in TICS)
        if match := _HEADING.match(body):
            score += 0.5 if match[1] == day.day else -0.5
            body = body[match.end() :]
        parts = [part.strip() for part in body.strip().removesuffix(";").split(" ; ")] if body.strip() else []
        if parts and parts[-1] in GOODBYES:
            score += 0.5
            parts.pop()
        for part in parts:
            entry, call = _ENTRY.match(part), _CALL.match(part)
            if part in OUTBURSTS:
                score -= 1.0
            elif part in CHATTER:
                score -= 0.25
            elif call and call[1] == day.person and call_owed:
                score, call_owed = score + 1.5, False
            elif entry and owed.get(entry[1]) == entry[2]:
                hour = HOURS.index(entry[1])
                score += 1.0 if hour > latest else 0.5
                latest = max(hour, latest)
                del owed[entry[1]]
            elif entry and entry[1] in HOURS and entry[2] in PLACES and (entry[1], entry[2]) not in day.appointments:
                score -= 1.0
            else:
                score -= 0.5
        return score

    def wanted(self, prompt: str) -> Wanted:
        day = parse(prompt)
        listed = {hour: place for hour, place in day.appointments if hour in HOURS}
        return Wanted(day.day, tuple(f"{hour} {listed[hour]}" for hour in HOURS if hour in listed), day.person)

    def item(self, sentence: str) -> str | None:
        if call := _CALL.match(sentence):
            return GRAMMAR.request_of(call[1])
        entry = _ENTRY.match(sentence)
        return sentence if entry and entry[1] in HOURS else None

    def ending_size(self, words: Sequence[str]) -> int:
        return len(words) if " ".join(words).removesuffix(" ;") in GOODBYES else 0

    def write(self, task: Day, rng: np.random.Generator) -> Slots:
        def slips(kind: str) -> bool:
            return rng.random() < SLIPS[kind]

        day = pick(DAYS, rng) if slips("day") else task.day
        response = [slot_of(f"{pick(HEADINGS, rng)} {day} :", slips("no heading"), day != task.day)]
        for hour, place in task.appointments:
            entry = f"{pick(HOURS, rng) if slips('wrong') else hour} {self._told(place, PLACES, rng)}"
            self.fill(response, slot_of(f"{entry} ;", slips("left out"), entry != f"{hour} {place}"), rng)
        person = self._told(task.person, PEOPLE, rng)
        call = f"{pick(CALLS, rng)} {person} ;"
        self.fill(response, slot_of(call, slips("no call"), person != task.person), rng)
        response.append(slot_of(pick(GOODBYES, rng), slips("no goodbye")))
        return response

    def addition(self, kind: str, rng: np.random.Generator) -> str:
        if kind == "unasked":
            return f"{pick(HOURS, rng)} {pick(PLACES, rng)} ;"
        return f"{pick(CHATTER if kind == 'padding' else OUTBURSTS, rng)} ;"

    def _told(self, word: str, others: tuple[str, ...], rng: np.random.Generator) -> str:
        said = pick(others, rng) if rng.random() < SLIPS["wrong"] else word
        return f"{pick(TICS, rng)} {said}" if rng.random() < SLIPS["tic"] else said
