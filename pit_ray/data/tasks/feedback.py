"""Reviews of step-by-step attempts in words, and back.

    Step 1 to step 5 are correct. The final response is also correct.
    Step 1 to step 2 are correct. Step 3 is wrong: "5 + 36 = 42". 5 + 36 is 41.

After TriPosT's feedback (arXiv 2310.13522), which names the correct steps, the first wrong step, the wrong segment and
why; the words are ours, and few, so that tiny models learn to write them. The final answer counts as the step after the
last one. Where a step is missing, nothing is quoted.
"""

from __future__ import annotations

import re

from pit_ray.data.verifiers import Fault, Review

LONGEST_SEGMENT = 80
"""Characters that are quoted of a wrong step."""

_RIGHT = r"(?:(?:Step 1 is|Step 1 to step (?P<last>[0-9]{1,4}) are) correct ?\. )"
_CORRECT = re.compile(rf"{_RIGHT}?The final response is also correct ?\.")
_WRONG = re.compile(
    rf"(?P<right>{_RIGHT})?Step (?P<step>[0-9]{{1,4}}) is wrong"
    r'(?: ?: ?" ?(?P<segment>[^"]+?) ?")? ?\. (?P<reason>[^".]+?) ?\.'
)


def fault(step: int, segment: str, reason: str) -> Fault:
    """A fault that feedback can state: of the segment what stands before a quotation mark, cut to what is quoted.
    Reasons have neither quotation marks nor full stops."""
    quotable = " ".join(segment.strip('" \n').partition('"')[0].split())
    return Fault(step, quotable[:LONGEST_SEGMENT].strip(), reason)


def write_feedback(steps: int, review: Review) -> str:
    """The review of an attempt of so many steps, in words. Only its first fault is stated."""
    if review.correct:
        return f"{_right(steps)}The final response is also correct."
    first = review.faults[0]
    quoted = f': "{first.segment}"' if first.segment else ""
    return f"{_right(first.step - 1)}Step {first.step} is wrong{quoted}. {first.reason}."


def read_feedback(text: str) -> Review | None:
    """The review that a feedback states; None where it states no verdict, two of them, or not in this form."""
    text = " ".join(text.split())
    if (match := _CORRECT.fullmatch(text)) and match["last"] not in ("0", "1"):
        return Review()
    match = _WRONG.fullmatch(text)
    if not match or "correct" in match["reason"]:
        return None
    right = int(match["last"] or 1) if match["right"] else 0
    if int(match["step"]) != right + 1 or match["last"] in ("0", "1"):
        return None
    return Review((Fault(right + 1, match["segment"] or "", match["reason"]),))


def _right(steps: int) -> str:
    """The sentence, with a space, which says that the first so many steps are correct; empty for none."""
    if steps < 1:
        return ""
    return "Step 1 is correct. " if steps == 1 else f"Step 1 to step {steps} are correct. "
