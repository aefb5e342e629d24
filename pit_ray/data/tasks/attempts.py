"""Step-by-step attempts as text: `Step 1: … Step 2: … The answer is …`

Read with any white space around their signs, since word-level tokenizers put some there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_MARK = re.compile(r"\bStep\s+([0-9]{1,4})\s*:|\bThe\s+answer\s+is\b")
_SENTENCE_END = re.compile(r"\s*\.(?=\s|\Z)")
_LAST_STOP = re.compile(r"\s*\.\Z")


@dataclass(frozen=True)
class Step:
    """A numbered step of an attempt."""

    number: int
    """As the attempt says, right or not."""
    text: str
    """What it says, without its mark and its full stop; white space as single spaces."""
    end: int
    """Where it ends in the attempt's text, its full stop included."""


@dataclass(frozen=True)
class Attempt:
    """An attempt in its parts."""

    before: str
    """What stands before the first step or answer; empty in a well-formed attempt."""
    steps: tuple[Step, ...]
    """Those before the final answer."""
    answer: str | None
    """What follows `The answer is`, up to the end of the sentence; None where no such sentence stands."""
    after: str
    """What stands after the final answer; empty in a well-formed attempt."""


def read_attempt(text: str) -> Attempt:
    """An attempt in its parts, whatever the text is. A step ends where the next one begins, with or without a full
    stop; the first sentence that begins with `The answer is` is the final answer."""
    marks = list(_MARK.finditer(text))
    steps: list[Step] = []
    for i, mark in enumerate(marks):
        if mark[1] is None:
            end = _SENTENCE_END.search(text, mark.end())
            said = text[mark.end() : end.start() if end else len(text)]
            after = text[end.end() :] if end else ""
            return Attempt(_single_spaced(text[: marks[0].start()]), tuple(steps), *map(_single_spaced, (said, after)))
        ends = marks[i + 1].start() if i + 1 < len(marks) else len(text)
        said = text[mark.end() : ends].rstrip()
        steps.append(Step(int(mark[1]), _single_spaced(_LAST_STOP.sub("", said)), mark.end() + len(said)))
    before = text[: marks[0].start()] if marks else text
    return Attempt(_single_spaced(before), tuple(steps), None, "")


def write_attempt(steps: Sequence[str], answer: str, first: int = 1) -> str:
    """The text of an attempt, from the step with the number `first` on."""
    said = [f"Step {number}: {step}." for number, step in enumerate(steps, first)]
    return " ".join([*said, f"The answer is {answer}."])


def tidy(text: str) -> str:
    """A text with single spaces, and none before . , : ? and around the strokes of a date."""
    return re.sub(r" (?=[.,:?])| ?/ ?", lambda found: found[0].strip(), _single_spaced(text))


def _single_spaced(text: str) -> str:
    return " ".join(text.split())
