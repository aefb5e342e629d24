"""The words of feedback, and what reads as none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.data.tasks.feedback import LONGEST_SEGMENT, fault, read_feedback, write_feedback
from pit_ray.data.verifiers import Fault, Review

END = "The final response is also correct."
TEXTS = {
    f"Check 1: box. Check 2: oven. {END}": (["box", "oven"], Review()),
    f"Check 1: box. {END}": (["box"], Review()),
    "Check 1: box. The final response is wrong. there is no final answer.": (
        ["box"],
        Review((Fault(2, "", "there is no final answer"),)),
    ),
    'Check 1: box. Check 2: 5 + 36 = 41, not "5 + 36 = 42". 5 + 36 is 41.': (
        ["box", "5 + 36 = 42", "7"],
        Review((Fault(2, "5 + 36 = 42", "5 + 36 is 41", "5 + 36 = 41"),)),
    ),
    'Check 1: box, not "oven". box comes before oven.': (
        ["oven", "box"],
        Review((Fault(1, "oven", "box comes before oven", "box"),)),
    ),
    'Check 1: box, not "". there is no step 1.': ([], Review((Fault(1, "", "there is no step 1", "box"),))),
}


@pytest.mark.parametrize("text", TEXTS)
def test_reviews_in_words_and_back(text: str) -> None:
    steps, review = TEXTS[text]
    assert write_feedback(steps, review) == text
    for seen in (text, f"\n{text.replace(' ', '  ')} ", text.replace(".", " .").replace(":", " :")):
        assert read_feedback(seen, steps) == review
    assert read_feedback(text.replace('"', ' " ').replace(",", " ,"), steps) == review


WRONG = 'Check 1: a, not "b". c.'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "good",
        END,
        "Check 1: box.",
        "The final response is wrong. there is no final answer.",
        "Check 1: box. The final response is correct.",
        "Check 1: box. The final response is wrong.",
        f"Check 1: box. Check 1: box. {END}",
        f"Check 0: box. {END}",
        f"Check 2: box. {END}",
        f"Check 1: . {END}",
        'Check 1: box. Check 3: a, not "b". c.',
        WRONG.replace("1", "0"),
        WRONG.replace("1", "2"),
        WRONG.replace("b", "a"),
        WRONG.removesuffix("."),
        WRONG.removesuffix(" c."),
        WRONG.partition(",")[0],
        f"{WRONG} d.",
        f"{WRONG} Check 2: box. {END}",
        f"{WRONG} {WRONG.replace('1', '2')}",
        f"{WRONG} {END}",
        f"{END} {WRONG}",
        f"Check 1: box. {END} {END}",
        "Check 1 is correct. The final response is also correct.",
    ],
)
def test_what_states_no_verdict(text: str) -> None:
    assert read_feedback(text, ["box"]) is None


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert read_feedback(text, ["box"]) is None


def test_a_quotation_ends_before_a_quotation_mark() -> None:
    assert fault(1, '5 + "36" = 42', "x", "y").segment == "5 +"
    assert fault(1, ' "5 + 36', "x", "y").segment == "5 + 36"


@given(st.integers(1, 40), st.text(max_size=200), st.sampled_from(["5 + 36 is 41", "03/06/2019 is -4", "x is missing"]))
def test_any_wrong_words_can_be_quoted(step: int, segment: str, reason: str) -> None:
    found = fault(step, segment, reason, "z")
    assert len(found.segment) <= LONGEST_SEGMENT and found.segment in " ".join(segment.split())
    steps = ["y"] * step
    assert read_feedback(write_feedback(steps, Review((found,))), steps) == Review((found,))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"Check 1: box. Check 2: oven. {END}", (2, "tea", "oven")),
        (f"Check 1: box. {END}", (2, "tea", "the final answer")),
        (f"Check 1: box. Check 2: tea. Check 3: wall. {END}", (3, "", "wall")),
        ('Check 1: coat. Check 2: oven, not "tea". oven comes before tea.', (1, "box", "coat")),
        ('Check 1: box. Check 2: oven, not "tea". oven comes before tea.', (2, "tea", "oven")),
        ("Check 1: box. Check 2: sand. The final response is wrong. it is not.", (2, "tea", "sand")),
    ],
)
def test_what_is_done_otherwise_is_a_fault(text: str, fault: tuple[int, str, str]) -> None:
    review = read_feedback(text, ["box", "tea"])
    assert review is not None
    assert [(f.step, f.segment, f.instead) for f in review.faults] == [fault]
