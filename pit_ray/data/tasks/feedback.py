"""Reviews of step-by-step attempts in words, and back.

    Check 1: box. Check 2: oven. The final response is also correct.

    Check 1: 4 * 9 = 36. Check 2: 5 + 36 = 41, not "5 + 36 = 42". 5 + 36 is 41.

After TriPosT's feedback (arXiv 2310.13522), which names the correct steps, the first wrong step, the wrong segment and
why. The words are ours: feedback does each step again, so that a tiny model learns from it how to answer as well; where
it only said which steps are correct, models learned to find every step correct. Its steps have a mark of their own, or
models end their updates as they end their feedback. The final answer counts as the step after the last one, and is not
quoted. Where a step is missing, or what can be quoted of it is right, the quotation is empty.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest

from pit_ray.data.verifiers import Fault, Review

LONGEST_SEGMENT = 120
"""Characters that are quoted of a wrong step."""

_STEP = re.compile(r'Check (?P<number>[0-9]{1,4}) ?: (?P<right>[^".]+?)(?: ?, not ?" ?(?P<said>[^"]*?) ?")? ?\. ')
_END = re.compile(r"The final response is (?P<verdict>also correct|wrong) ?\. ?")
_REASON = re.compile(r'[^".]+?(?= ?\.\Z)')


def fault(step: int, segment: str, reason: str, instead: str) -> Fault:
    """A fault of a step that feedback can state: of the segment what stands before a quotation mark, cut to what is
    quoted. Reasons and what should stand there have neither quotation marks nor full stops."""
    quotable = " ".join(segment.strip('" \n').partition('"')[0].split())[:LONGEST_SEGMENT].strip()
    right = "".join(quotable.split()) == "".join(instead.split())
    return Fault(step, "" if right else quotable, reason, instead)


def write_feedback(steps: Sequence[str], review: Review) -> str:
    """The review of an attempt in words, from what its steps say. Only the first fault is stated."""
    wrong = review.faults[0] if review.faults else None
    right = steps if wrong is None else steps[: wrong.step - 1]
    said = [f"Check {number}: {step}." for number, step in enumerate(right, 1)]
    if wrong is None:
        said.append("The final response is also correct.")
    elif wrong.instead:
        said.append(f'Check {wrong.step}: {wrong.instead}, not "{wrong.segment}". {wrong.reason}.')
    else:
        said.append(f"The final response is wrong. {wrong.reason}.")
    return " ".join(said)


def read_feedback(text: str, steps: Sequence[str]) -> Review | None:
    """The review that a feedback on an attempt with these steps states; None where it states no verdict, or has not
    this form. Where it does a step otherwise than the attempt it finds fault with that step, whether it says so or
    not."""
    text, at, again = " ".join(text.split()), 0, list[str]()
    while match := _STEP.match(text, at):
        at = match.end()
        if int(match["number"]) != len(again) + 1:
            return None
        if match["said"] is not None:
            if match["said"].split() == match["right"].split():
                return None
            stated = _wrong(len(again) + 1, match["said"], match["right"], text, at)
            return stated and (_otherwise(steps[: len(again)], again) or stated)
        again.append(match["right"])
    end = _END.match(text, at)
    if not end or not again:
        return None
    wrong = end["verdict"] == "wrong"
    stated = _wrong(len(again) + 1, "", "", text, end.end()) if wrong else Review() if end.end() == len(text) else None
    return stated and (_otherwise(steps, again) or stated)


def _wrong(step: int, segment: str, instead: str, text: str, at: int) -> Review | None:
    """With the reason that stands at the end of the text, behind `at`; None without one."""
    reason = _REASON.match(text, at)
    return Review((Fault(step, segment, reason[0], instead),)) if reason else None


def _otherwise(steps: Sequence[str], again: Sequence[str]) -> Review | None:
    """Fault with the first step that was done otherwise again; None without one."""
    for number, (own, other) in enumerate(zip_longest(steps, again, fillvalue=""), 1):
        if own.split() != other.split():
            return Review((fault(number, own, "done again it is otherwise", other or "the final answer"),))
    return None
