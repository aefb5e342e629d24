"""TriPosT's editing: trajectories are kept as far as the model is right about itself, and put right from there on."""

from __future__ import annotations

import pytest

from pit_ray.data.tasks import TASKS
from pit_ray.data.verifiers import Review
from pit_ray.stages.editing import Edited, agrees, edit

SORTING = TASKS["word_sorting"]
(PROBLEM,) = [p for p in SORTING.problems(40, 3, seen=True) if p.level == "4 words"][:1]
QUESTION, RIGHT = PROBLEM.question, PROBLEM.rationale
ENOUGH = SORTING.feedback(RIGHT, Review())


def steps(*words: str) -> str:
    said = " ".join(f"Step {i}: {word}." for i, word in enumerate(words, 1))
    return f"{said} The answer is {' '.join(words)}."


A, B, C, D = PROBLEM.answer.split()
LATE = steps(A, B, D, C)
"""Wrong at step 3."""
EARLY = steps(B, A, C, D)
"""Wrong at step 1."""


BLIND = SORTING.feedback(LATE, Review())
"""Finds LATE's steps right."""


def verdict(attempt: str) -> str:
    return SORTING.feedback(attempt, SORTING.review(QUESTION, attempt))


def edited(attempts: list[str], feedback: list[str], updates: int = 5) -> Edited:
    return edit(SORTING, QUESTION, attempts, feedback, updates)


def test_a_trajectory_that_is_right_about_itself_is_kept_as_it_is() -> None:
    found = edited([EARLY, LATE, RIGHT], [verdict(EARLY), verdict(LATE), ENOUGH])
    assert found.fate == "own"
    assert [(t.attempt, t.update) for t in found.turns] == [(EARLY, LATE), (LATE, RIGHT), (RIGHT, None)]
    assert [t.feedback for t in found.turns] == [verdict(EARLY), verdict(LATE), ENOUGH]


def test_a_right_attempt_is_told_so_whatever_the_model_thinks() -> None:
    found = edited([RIGHT, EARLY], [verdict(EARLY), ENOUGH])
    assert found.fate == "edited"
    assert [(t.attempt, t.feedback, t.update) for t in found.turns] == [(RIGHT, ENOUGH, None)]


@pytest.mark.parametrize("said", [BLIND, verdict(EARLY), "who knows"], ids=["enough", "another step", "unreadable"])
def test_at_the_first_feedback_that_differs_the_attempt_is_rewritten_from_the_wrong_step_on(said: str) -> None:
    found = edited([LATE, EARLY], [said, verdict(EARLY)])
    assert found.fate == "edited"
    assert [(t.attempt, t.feedback) for t in found.turns] == [(LATE, verdict(LATE)), (RIGHT, ENOUGH)]
    assert found.turns[0].update == RIGHT
    assert RIGHT.startswith(LATE.partition(" Step 3")[0])  # what was right before the wrong step stays


def test_what_the_model_wrote_after_a_substitution_is_dropped() -> None:
    found = edited([EARLY, LATE, steps(D, C, B, A)], [verdict(EARLY), BLIND, ENOUGH])
    assert [(t.attempt, t.update) for t in found.turns] == [(EARLY, LATE), (LATE, RIGHT), (RIGHT, None)]


@pytest.mark.parametrize(
    ("attempts", "fate"),
    [
        (["no idea"], "unparsable"),
        ([""], "unparsable"),
        ([LATE, LATE], "no progress"),
        ([LATE, f"{LATE} "], "the wrong segment persists"),
    ],
)
def test_trajectories_are_rejected_with_the_reason(attempts: list[str], fate: str) -> None:
    found = edited(attempts, [verdict(LATE)] * len(attempts))
    assert (found.fate, found.turns) == (fate, ())


def test_updates_are_limited() -> None:
    attempts = [EARLY, LATE] * 2 + [RIGHT]
    said = [verdict(attempt) for attempt in attempts]
    assert edited(attempts, said).fate == "own"
    assert edited(attempts, said, updates=3).fate == "never correct"


def test_feedback_agrees_by_place_and_segment() -> None:
    review = SORTING.review(QUESTION, LATE)
    assert agrees(SORTING, verdict(LATE), LATE, review)
    assert agrees(SORTING, ENOUGH, LATE, review), "it does step 3 otherwise"
    assert not agrees(SORTING, verdict(EARLY), LATE, review)
    assert not agrees(SORTING, BLIND, LATE, review)
    assert agrees(SORTING, ENOUGH, RIGHT, Review())
