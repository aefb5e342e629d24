"""What tasks share: problems drawn from a seed, and the verifier that walks an attempt step by step.

A task says how a problem is drawn (`draw`), how its question is read (`read`), and what a step does to the work that
is left (`Work`). Seen and unseen problems are of different difficulty, as in TriPosT (arXiv 2310.13522).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from pit_ray.data.randomness import generator
from pit_ray.data.tasks.attempts import read_attempt, write_attempt
from pit_ray.data.tasks.feedback import fault, read_feedback, write_feedback
from pit_ray.data.verifiers import Fault, Review
from pit_ray.errors import ConfigError

TRIES = 2000
"""So many draws in a row that are all known already mean that a task has no further problems."""


@dataclass(frozen=True)
class Problem:
    """A question with its answer."""

    uid: int
    question: str
    answer: str
    rationale: str
    """A right attempt, step by step."""
    level: str
    """How difficult it is, in the task's words."""
    seen: bool
    """Whether it is of the difficulty that models are trained on."""


class WrongStep(Exception):
    """A step is wrong; the message is the reason."""


class Work(ABC):
    """A problem, partly solved. Never changed: a step makes a new one."""

    @property
    @abstractmethod
    def answer(self) -> str:
        """The problem's right final answer."""

    @abstractmethod
    def after(self, step: str) -> Work:
        """The work after a step, given without its number. WrongStep says why it is wrong."""

    @abstractmethod
    def rest(self) -> list[str]:
        """The steps to the end in the canonical order; none when all is done."""

    def next(self) -> str:
        """The canonical next step; that it should end where none is left."""
        return next(iter(self.rest()), "the final answer")

    def missing(self) -> str:
        """Why an attempt may not stop here, where `rest` is not empty."""
        return "steps are missing"


class Answered(ABC):
    """Questions with one right final answer each."""

    name: str

    @abstractmethod
    def answer(self, attempt: str) -> str | None:
        """The final answer of an attempt, normalised; None where it gives none."""

    @abstractmethod
    def normalised(self, answer: str) -> str:
        """An answer in the one way of writing it."""

    def correct(self, attempt: str, answer: str) -> bool:
        """Whether an attempt's final answer is the right one, whatever its steps are."""
        found = self.answer(attempt)
        return found is not None and found == self.normalised(answer)


class Task(Answered):
    """A task with a scripted verifier (pit_ray.data.verifiers.Verifier) that needs no gold answer."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, seen: bool) -> tuple[str, str]:
        """A random problem's question and level."""

    @abstractmethod
    def read(self, prompt: str) -> Work:
        """The problem that a prompt asks, not yet begun. ValueError when the prompt is none of this task's."""

    def find(self, question: re.Pattern[str], prompt: str) -> re.Match[str]:
        """The first question in a prompt, which may hold more than the user's words; ValueError without any."""
        match = question.search(prompt)
        if not match:
            raise ValueError(f"not a prompt of the task '{self.name}': {prompt!r}")
        return match

    def answer(self, attempt: str) -> str | None:
        said = read_attempt(attempt).answer
        return None if said is None else self.normalised(said)

    def normalised(self, answer: str) -> str:
        return " ".join(answer.split())

    def problems(self, count: int, seed: int, seen: bool) -> list[Problem]:
        """`count` problems with different questions, uids 0 to count − 1; which one a uid names does not depend on
        `count`. ConfigError when the task has fewer."""
        made: list[Problem] = []
        known: set[str] = set()
        kind = "seen" if seen else "unseen"
        for uid in range(count):
            rng = generator(seed, self.name, kind, uid)
            draws = (self.draw(rng, seen) for _ in range(TRIES))
            question, level = next((drawn for drawn in draws if drawn[0] not in known), ("", ""))
            if not question:
                raise ConfigError(f"{self.name}: {count} different {kind} problems asked for, but it has about {uid}")
            known.add(question)
            work = self.read(question)
            rationale = write_attempt(work.rest(), work.answer)
            made.append(Problem(uid, question, work.answer, rationale, level, seen))
        return made

    def review(self, prompt: str, response: str) -> Review:
        """The earliest fault of a response; any order of steps is right in which each follows. ValueError when the
        prompt is none of this task's."""
        found = self._earliest_fault(self.read(prompt), response)
        return Review((found,) if found else ())

    def mended(self, prompt: str, response: str, review: Review) -> str:
        """The response up to the first step that is wrong, in truth or by the review, and a right end from there on;
        as it is when the review finds it correct."""
        if review.correct:
            return response
        work = self.read(prompt)
        wrong = [found.step for found in (review.faults[0], self._earliest_fault(work, response)) if found]
        kept = read_attempt(response).steps[: min(wrong) - 1]
        for step in kept:
            work = work.after(step.text)
        rest = write_attempt(work.rest(), work.answer, first=len(kept) + 1)
        if not kept:
            return rest
        start = response[: kept[-1].end]
        return f"{start} {rest}" if start.endswith(".") else f"{start}. {rest}"

    def feedback(self, response: str, review: Review) -> str:
        """A review in words, as in pit_ray/data/tasks/feedback.py."""
        return write_feedback([step.text for step in read_attempt(response).steps], review)

    def read_feedback(self, text: str, response: str) -> Review | None:
        """The review that a feedback on a response states; None where it states none, or not in the form of
        `feedback`."""
        return read_feedback(text, [step.text for step in read_attempt(response).steps])

    def _earliest_fault(self, work: Work, response: str) -> Fault | None:
        attempt = read_attempt(response)
        if attempt.steps and attempt.before:
            return fault(1, attempt.before, "the response does not begin with step 1", work.next())
        for number, step in enumerate(attempt.steps, 1):
            if step.number != number:
                return fault(number, "", f"there is no step {number}", work.next())
            try:
                work = work.after(step.text)
            except WrongStep as wrong:
                return fault(number, step.text, str(wrong), work.next())
        last = len(attempt.steps) + 1
        if not attempt.steps:
            return fault(1, "", "there is no step 1", work.next())
        if work.rest():
            return fault(last, "", work.missing(), work.next())
        if attempt.answer is None:
            return Fault(last, "", "there is no final answer")
        if self.normalised(attempt.answer) != self.normalised(work.answer):
            return Fault(last, "", "the final answer does not follow from the steps")
        return Fault(last, "", "the response goes on after the final answer") if attempt.after else None
