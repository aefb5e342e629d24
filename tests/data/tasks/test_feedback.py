"""The words of feedback, and what reads as none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.data.tasks.feedback import LONGEST_SEGMENT, fault, read_feedback, write_feedback
from pit_ray.data.verifiers import Fault, Review

TEXTS = {
    "Step 1 to step 5 are correct. The final response is also correct.": (5, Review()),
    "Step 1 is correct. The final response is also correct.": (1, Review()),
    'Step 1 to step 2 are correct. Step 3 is wrong: "5 + 36 = 42". 5 + 36 is 41.': (
        4,
        Review((Fault(3, "5 + 36 = 42", "5 + 36 is 41"),)),
    ),
    'Step 1 is correct. Step 2 is wrong: "oven". box comes before oven.': (
        3,
        Review((Fault(2, "oven", "box comes before oven"),)),
    ),
    'Step 1 is wrong: "oven". box comes before oven.': (3, Review((Fault(1, "oven", "box comes before oven"),))),
    "Step 1 is wrong. there is no step 1.": (0, Review((Fault(1, "", "there is no step 1"),))),
}


@pytest.mark.parametrize("text", TEXTS)
def test_reviews_in_words_and_back(text: str) -> None:
    steps, review = TEXTS[text]
    assert write_feedback(steps, review) == text
    for seen in (text, f"\n{text.replace(' ', '  ')} ", text.replace(".", " .").replace(":", " :")):
        assert read_feedback(seen) == review
    assert read_feedback(text.replace('"', ' " ')) == review


@pytest.mark.parametrize(
    "text",
    [
        "",
        "good",
        "Step 1 is correct.",
        "Step 1 to step 2 are correct.",
        "The final response is correct.",
        "Step 1 to step 1 are correct. The final response is also correct.",
        "Step 1 to step 0 are correct. The final response is also correct.",
        "Step 1 to step 3 are correct. Step 3 is wrong. it is not.",
        'Step 1 is correct. Step 3 is wrong: "a". b.',
        'Step 2 is wrong: "a". b.',
        'Step 0 is wrong: "a". b.',
        'Step 1 is wrong: "a". b',
        'Step 1 is wrong: "a".',
        'Step 1 is wrong: "a',
        'Step 1 is wrong: "". b.',
        "Step 1 is wrong.",
        'Step 1 is wrong: "a". b. Step 2 is wrong: "c". d.',
        'Step 1 is wrong: "a". b. The final response is also correct.',
        'Step 1 is wrong: "a". The final response is also correct.',
        'The final response is also correct. Step 1 is wrong: "a". b.',
        "The final response is also correct. The final response is also correct.",
        "Step 1 to step 99999 are correct. The final response is also correct.",
    ],
)
def test_what_states_no_verdict(text: str) -> None:
    assert read_feedback(text) is None


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert read_feedback(text) is None


def test_a_quotation_ends_before_a_quotation_mark() -> None:
    assert fault(1, '5 + "36" = 42', "x").segment == "5 +"
    assert fault(1, ' "5 + 36', "x").segment == "5 + 36"


@given(st.integers(1, 40), st.text(max_size=200), st.sampled_from(["5 + 36 is 41", "03/06/2019 is -4", "x is missing"]))
def test_any_wrong_words_can_be_quoted(step: int, segment: str, reason: str) -> None:
    found = fault(step, segment, reason)
    assert len(found.segment) <= LONGEST_SEGMENT and found.segment in " ".join(segment.split())
    assert read_feedback(write_feedback(step, Review((found,)))) == Review((found,))
