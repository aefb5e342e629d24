"""Date understanding: `Yesterday was March 5, 2019. The concert is 3 weeks after today. What is the date 2 days before
the concert in MM/DD/YYYY?`, after the idea of BIG-bench's task of this name; wording and ranges are ours.

A question takes up to three inferences: what today is, when an event is, and which date is asked for. One or two are
seen, as in TriPosT (arXiv 2310.13522); three are not. A step is one inference: `1 day after 03/05/2019 is 03/06/2019`.
TriPosT verifies this task by a large language model; since our questions are generated, a script can.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

import numpy as np

from pit_ray.data.tasks.attempts import tidy
from pit_ray.data.tasks.problem import Task, Work, WrongStep

FIRST, LAST = datetime.date(1990, 1, 1), datetime.date(2029, 12, 31)
LONGEST = {"day": 30, "week": 8, "month": 11, "year": 9}
"""The units of a shift, and the most of each that a question has."""
EVENTS = tuple("concert exam game holiday meeting parade party race trip wedding".split())
MONTHS = tuple("January February March April May June July August September October November December".split())

_UNITS, _NAMES = "|".join(LONGEST), "|".join(MONTHS)
_SPAN = rf"[0-9]{{1,3}} (?:{_UNITS})s?"
_SHIFT = rf"{_SPAN} (?:after|before)"
_DATE = r"[0-9]{2}/[0-9]{2}/[0-9]{4}"
_QUESTION = re.compile(
    rf"(?P<known>Today is|Yesterday was|Tomorrow is|{_SPAN} ago it was|In {_SPAN} it will be) "
    rf"(?P<month>{_NAMES}) (?P<day>[0-9]{{1,2}}), (?P<year>(?:19|20)[0-9]{{2}})\."
    rf"(?: The (?P<event>[a-z]+) is (?P<to_event>{_SHIFT}) today\.)? "
    rf"What is the date (?P<asked>today|tomorrow|yesterday|of the [a-z]+|{_SHIFT} (?:today|the [a-z]+)) in MM/DD/YYYY\?"
)
_STEP = re.compile(rf"({_SHIFT}) ({_DATE}) is ({_DATE})")
_A_DAY = {
    "Yesterday was": "1 day after",
    "Tomorrow is": "1 day before",
    "tomorrow": "1 day after",
    "yesterday": "1 day before",
}
"""What these words of a question mean as shifts: of the date to today, and of today to the date asked for."""


@dataclass(frozen=True)
class Shift:
    """A way in the calendar."""

    count: int
    unit: str
    back: bool

    @classmethod
    def read(cls, text: str) -> Shift:
        count, unit, side = text.split()
        return cls(int(count), unit.removesuffix("s"), side == "before")

    @property
    def span(self) -> str:
        return f"{self.count} {self.unit}{'s' if self.count != 1 else ''}"

    @property
    def is_a_day(self) -> bool:
        return self.count == 1 and self.unit == "day"

    def __str__(self) -> str:
        return f"{self.span} {'before' if self.back else 'after'}"

    def same_as(self, other: Shift) -> bool:
        """Whether both lead to the same date from everywhere, as three weeks and 21 days do."""
        return self._days_and_months() == other._days_and_months()

    def applied(self, date: datetime.date) -> datetime.date:
        """The date there; ValueError where the month has no such day."""
        days, months = self._days_and_months()
        year, month = divmod(date.year * 12 + date.month - 1 + months, 12)
        return date.replace(year=year, month=month + 1) + datetime.timedelta(days=days)

    def _days_and_months(self) -> tuple[int, int]:
        count = -self.count if self.back else self.count
        days, months = {"day": (1, 0), "week": (7, 0), "month": (0, 1), "year": (0, 12)}[self.unit]
        return count * days, count * months


@dataclass(frozen=True)
class _Way(Work):
    date: datetime.date
    shifts: tuple[Shift, ...]
    """Still to go."""

    @property
    def answer(self) -> str:
        date = self.date
        for shift in self.shifts:
            date = shift.applied(date)
        return _written(date)

    def after(self, step: str) -> _Way:
        match = _STEP.fullmatch(tidy(step))
        if not match:
            raise WrongStep("a step is one way from a date to a date")
        said, start, end = match.groups()
        if not self.shifts or start != _written(self.date) or not Shift.read(said).same_as(self.shifts[0]):
            raise WrongStep(f"{said} {start} is not what comes next")
        right = self.shifts[0].applied(self.date)
        if end != _written(right):
            raise WrongStep(f"{said} {start} is {_written(right)}")
        return _Way(right, self.shifts[1:])

    def rest(self) -> list[str]:
        steps, date = [], self.date
        for shift in self.shifts:
            there = shift.applied(date)
            steps.append(f"{shift} {_written(date)} is {_written(there)}")
            date = there
        return steps


class DateUnderstanding(Task):
    """See the top of this file."""

    name = "date_understanding"

    def draw(self, rng: np.random.Generator, seen: bool) -> tuple[str, str]:
        steps = int(rng.integers(1, 3)) if seen else 3
        which = np.isin(np.arange(3), rng.choice(3, size=steps, replace=False))
        while True:
            start = FIRST + datetime.timedelta(days=int(rng.integers((LAST - FIRST).days + 1)))
            shifts = [_draw_shift(rng) if wanted else None for wanted in which]
            if _clear(start, [shift for shift in shifts if shift]):
                event = EVENTS[int(rng.integers(len(EVENTS)))]
                return _asked(start, shifts, event), "1 step" if steps == 1 else f"{steps} steps"

    def read(self, prompt: str) -> Work:
        match = self.find(_QUESTION, tidy(prompt))
        known, asked, event = match["known"], match["asked"], match["event"]
        shifts = [_A_DAY[words] for words in (known,) if words in _A_DAY]
        if span := re.search(_SPAN, known):
            shifts.append(f"{span[0]} {'after' if known.endswith('ago it was') else 'before'}")
        if "the" in asked.split():
            if asked.split()[-1] != event:
                raise ValueError(f"not a prompt of the task '{self.name}': it does not say when the other event is")
            shifts.append(match["to_event"])
        if shift := re.match(_SHIFT, _A_DAY.get(asked, asked)):
            shifts.append(shift[0])
        date = datetime.date(int(match["year"]), MONTHS.index(match["month"]) + 1, int(match["day"]))
        work = _Way(date, tuple(map(Shift.read, shifts)))
        work.rest()  # ValueError where a month has no such day
        return work

    def normalised(self, answer: str) -> str:
        return tidy(answer)


def _draw_shift(rng: np.random.Generator) -> Shift:
    unit = list(LONGEST)[int(rng.integers(len(LONGEST)))]
    if rng.random() < 0.2:
        return Shift(1, "day", bool(rng.integers(2)))  # which a question says in words of its own
    return Shift(int(rng.integers(1, LONGEST[unit] + 1)), unit, bool(rng.integers(2)))


def _clear(date: datetime.date, shifts: list[Shift]) -> bool:
    """Whether no shift by months or years starts late in a month: what 1 month after January 31 is, people disagree."""
    for shift in shifts:
        if shift.unit in ("month", "year") and date.day > 28:
            return False
        date = shift.applied(date)
    return True


def _asked(start: datetime.date, shifts: list[Shift | None], event: str) -> str:
    """The question with these shifts to today, from there to the event, and from there to the date that is asked."""
    to_today, to_event, to_asked = shifts
    date = f"{MONTHS[start.month - 1]} {start.day}, {start.year}"
    if to_today is None:
        said = f"Today is {date}."
    elif to_today.is_a_day:
        said = f"{'Tomorrow is' if to_today.back else 'Yesterday was'} {date}."
    else:
        said = f"In {to_today.span} it will be {date}." if to_today.back else f"{to_today.span} ago it was {date}."
    if to_event:
        said = f"{said} The {event} is {to_event} today."
    there = f"the {event}" if to_event else "today"
    if to_asked is None:
        asked = f"of {there}" if to_event else "today"
    elif not to_event and to_asked.is_a_day:
        asked = "yesterday" if to_asked.back else "tomorrow"
    else:
        asked = f"{to_asked} {there}"
    return f"{said} What is the date {asked} in MM/DD/YYYY?"


def _written(date: datetime.date) -> str:
    return f"{date.month:02}/{date.day:02}/{date.year:04}"
