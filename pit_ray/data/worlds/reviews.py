"""Worlds as verifiers: the faults of a response by the rules of its gold score, and how they are put right.

A response is taken apart into an opening, sentences and an ending, in the same way as the gold score reads it. All
signs are words of their own, as the worlds' tokenizers write them. What gold counts is a fault, with one exception: the
verbal tics of a sentence that has to go are no faults of their own, since they go with it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from pit_ray.data.verifiers import Fault, Review
from pit_ray.data.worlds.remarks import (
    AGAIN,
    BEFORE,
    LATE,
    MISSING,
    PADDING,
    RIGHT,
    RUDE,
    TIC,
    UNASKED,
    Grammar,
    read_remarks,
    remarks,
)

_WORD = re.compile(r"\w+")


class Wanted(NamedTuple):
    """What a prompt wants said."""

    name: str
    """Whom or what the opening names."""
    things: tuple[str, ...]
    """Sentences without their stops, all different, in the prompt's order."""
    request: str
    """The word of the request."""


class Role(Enum):
    """What a part of a response is."""

    OPENING = "opening"
    SENTENCE = "sentence"
    ENDING = "ending"
    TRAIL = "trail"
    """Verbal tics after everything else."""


@dataclass
class Part:
    """A part of a response."""

    role: Role
    words: list[str]
    """As they stand, tics and signs included."""
    order: int | None = None
    """Of a sentence that says something wanted for the first time: which thing it is, counted from 0; the request comes
    after the things, the ending after the request."""
    reason: str = ""
    """Why a sentence must go, or stand elsewhere."""


class Finding(NamedTuple):
    """A fault, and what it is found in."""

    fault: Fault
    part: int
    """Which part it is in or, of what is missing, before which it belongs."""
    word: int = -1
    """Which word of that part it is; −1 when it is none."""
    order: int = -1
    """Of what is missing: as in Part, and −1 for the opening."""


class Reviewer(ABC):
    """What makes a world a Verifier: its review names every fault, in the order of the response."""

    grammar: Grammar

    @abstractmethod
    def wanted(self, prompt: str) -> Wanted:
        """What a prompt wants said, as far as the world's words can say it; ValueError when it is no prompt of this
        world."""

    @abstractmethod
    def item(self, sentence: str) -> str | None:
        """What a sentence (no tics, no stop) says: a thing as in Wanted, or the request as in Grammar.request_of; None
        when neither."""

    @abstractmethod
    def ending_size(self, words: Sequence[str]) -> int:
        """How many of the last words of a response's last sentence (no tics) are its ending, a stop included."""

    def review(self, prompt: str, response: str) -> Review:
        """Every fault, in the order of the response; none exactly when no response to this prompt has a higher gold.
        Steps count the parts of the response: opening, sentences, ending. Segments are without the stop. The step of
        what is missing is the one that it would have by itself: it belongs right before the part that has it now."""
        wanted = self.wanted(prompt)
        return Review(tuple(finding.fault for finding in self._findings(wanted, self._judged(wanted, response))))

    def feedback(self, response: str, review: Review) -> str:
        """A review in words of the world's vocabulary and of the response; see remarks.py for the grammar."""
        return remarks(self.grammar, review)

    def read_feedback(self, text: str, response: str = "") -> Review | None:
        """The review that a feedback states, on whatever response: faults with their segments and reasons. Sentences
        have no numbers in the worlds' words, so the step is the fault's own number, counted from 1. None when the text
        is no whole feedback or contradicts itself."""
        return read_remarks(self.grammar, self.item, text)

    def mended(self, prompt: str, response: str, review: Review) -> str:
        """The response with exactly the faults of a review put right, its other parts as they are. Faults that the
        response does not have change nothing; of equal ones, those with the review's step, else the first, are meant.
        """
        wanted = self.wanted(prompt)
        parts = self._judged(wanted, response)
        gone: set[int] = set()
        placed: list[Part] = []
        for finding in reversed(_chosen(self._findings(wanted, parts), review)):  # words keep their numbers
            if not finding.fault.segment:
                placed.append(self._added(wanted, finding.order))
                continue
            part = parts[finding.part]
            if finding.word < 0:
                gone.add(finding.part)
                placed += [part] if part.reason == LATE else []
            elif part.words[finding.word] in self.grammar.tics:
                del part.words[finding.word]
            else:
                part.words[finding.word] = wanted.name
        kept = [part for i, part in enumerate(parts) if i not in gone]
        for part in placed:
            self._put(wanted, kept, part)
        return " ".join(word for part in kept for word in part.words)

    def _judged(self, wanted: Wanted, response: str) -> list[Part]:
        """The parts of a response, each sentence with what it says or why it is wrong."""
        parts = self._taken_apart(response)
        owed = {item: i for i, item in enumerate([*wanted.things, self.grammar.request_of(wanted.request)])}
        said: set[str] = set()
        latest = -1
        for part in parts:
            if part.role is not Role.SENTENCE:
                continue
            sentence = " ".join(self._plain(part.words))
            item = self.item(sentence)
            if sentence in self.grammar.rude:
                part.reason = RUDE
            elif sentence in self.grammar.padding:
                part.reason = PADDING
            elif item is None or item not in owed:
                part.reason = UNASKED
            elif item in said:
                part.reason = AGAIN
            else:
                said.add(item)
                part.order = owed[item]
                if part.order < len(wanted.things):
                    part.reason = LATE if self.grammar.late and part.order < latest else ""
                    latest = max(latest, part.order)
        return parts

    def _taken_apart(self, response: str) -> list[Part]:
        words, tics = response.split(), self.grammar.tics
        parts = []
        first = [i for i, word in enumerate(words) if word not in tics][:3]
        if len(first) == 3 and self._opens(*(words[i] for i in first)):
            parts.append(Part(Role.OPENING, words[: first[2] + 1]))
            words = words[first[2] + 1 :]
        sentences: list[list[str]] = [[]]
        for word in words:
            # A stop that nothing stands before is read as a word of the sentence.
            ends = word == self.grammar.stop and any(before not in tics for before in sentences[-1])
            sentences[-1].append(word)
            sentences += [[]] if ends else []
        trail = sentences.pop() if all(word in tics for word in sentences[-1]) else []
        last = sentences.pop() if sentences else []
        said = [i for i, word in enumerate(last) if word not in tics]
        size = self.ending_size([last[i] for i in said])
        cut = len(last) if not size else 0 if size == len(said) else said[-size - 1] + 1
        parts += [Part(Role.SENTENCE, sentence) for sentence in [*sentences, last[:cut]] if sentence]
        return parts + [Part(role, rest) for role, rest in ((Role.ENDING, last[cut:]), (Role.TRAIL, trail)) if rest]

    def _opens(self, form: str, name: str, sign: str) -> bool:
        named = _WORD.fullmatch(name) is not None
        return form in self.grammar.openings and named and sign == self.grammar.opening_sign

    def _plain(self, words: Sequence[str]) -> list[str]:
        """The words of a sentence without its tics and its stop."""
        said = [word for word in words if word not in self.grammar.tics]
        return said[:-1] if self._stopped(words) else said

    def _stopped(self, words: Sequence[str]) -> bool:
        said = [word for word in words if word not in self.grammar.tics]
        return len(said) > 1 and words[-1] == self.grammar.stop

    def _findings(self, wanted: Wanted, parts: list[Part]) -> list[Finding]:
        """Every fault, in the order of the response."""
        found = [finding for i, part in enumerate(parts) for finding in self._wrong(wanted, i, part)]
        return sorted([*self._missing(wanted, parts), *found], key=lambda finding: (finding.part, finding.word))

    def _wrong(self, wanted: Wanted, number: int, part: Part) -> Iterator[Finding]:
        """What is wrong with one part."""
        step, words = number + 1, part.words
        if part.reason:
            segment = " ".join(words[:-1] if self._stopped(words) else words)
            yield Finding(Fault(step, segment, part.reason), number)
        if part.reason and part.order is None:
            return
        said = [i for i, word in enumerate(words) if word not in self.grammar.tics]
        for i, word in enumerate(words):
            after = next((words[j] for j in said if j > i and words[j] != self.grammar.stop), "")
            if i not in said:
                yield Finding(Fault(step, word, f"{TIC}{BEFORE}{after}" if after else TIC), number, i)
            elif part.role is Role.OPENING and i == said[1] and word != wanted.name:
                yield Finding(Fault(step, word, f"{RIGHT}{self.grammar.openings[0]} {wanted.name}"), number, i)

    def _missing(self, wanted: Wanted, parts: list[Part]) -> Iterator[Finding]:
        """What is missing, in the order in which it is wanted."""
        request = len(wanted.things)
        remarks = [f"{self.grammar.thing} {thing}" for thing in wanted.things]
        remarks += [self.grammar.request_of(wanted.request), self.grammar.endings[0]]
        there = {part.order for part in parts} | {request + 1 for part in parts if part.role is Role.ENDING}
        if not any(part.role is Role.OPENING for part in parts):
            yield Finding(Fault(1, "", f"{MISSING}{self.grammar.openings[0]} {wanted.name}"), 0)
        for order, remark in enumerate(remarks):
            if order not in there:
                place = _place(parts, order, request)
                yield Finding(Fault(place + 1, "", MISSING + remark), place, order=order)

    def _added(self, wanted: Wanted, order: int) -> Part:
        """What was missing, in the words that we choose for it."""
        request, grammar = len(wanted.things), self.grammar
        if order < 0:
            return Part(Role.OPENING, [grammar.openings[0], wanted.name, grammar.opening_sign], order)
        if order > request:
            return Part(Role.ENDING, grammar.endings[0].split(), order)
        said = wanted.things[order] if order < request else f"{grammar.request} {wanted.request}"
        return Part(Role.SENTENCE, [*said.split(), grammar.stop], order)

    def _put(self, wanted: Wanted, parts: list[Part], part: Part) -> None:
        """Puts a part where it belongs among others, and stops where they are needed now."""
        place = 0 if part.role is Role.OPENING else _place(parts, part.order or 0, len(wanted.things))
        parts.insert(place, part)
        for other in parts[max(place - 1, 0) : place + 1]:
            if other.role is Role.SENTENCE and not self._stopped(other.words):
                other.words.append(self.grammar.stop)


def _place(parts: list[Part], order: int, request: int) -> int:
    """Before which part something wanted belongs: a thing before the first that comes after it, else behind the last
    one; the request and the ending behind all sentences."""
    if order >= request:
        return sum(part.role in (Role.OPENING, Role.SENTENCE) for part in parts)
    things = [(i, part.order) for i, part in enumerate(parts) if part.order is not None and 0 <= part.order < request]
    behind = things[-1][0] + 1 if things else sum(part.role is Role.OPENING for part in parts)
    return next((i for i, other in things if other > order), behind)


def _chosen(findings: list[Finding], review: Review) -> list[Finding]:
    """Those that a review names: by step, segment and reason; what is not found so, by segment and reason."""
    left = list(review.faults)
    chosen: set[int] = set()
    for i, finding in enumerate(findings):
        if finding.fault in left:
            left.remove(finding.fault)
            chosen.add(i)
    named = [(fault.segment, fault.reason) for fault in left]
    for i, finding in enumerate(findings):
        if i not in chosen and (key := (finding.fault.segment, finding.fault.reason)) in named:
            named.remove(key)
            chosen.add(i)
    return [finding for i, finding in enumerate(findings) if i in chosen]
