"""Word sorting against Python's sort."""

from __future__ import annotations

import pytest

from pit_ray.data.tasks import TASKS
from pit_ray.data.tasks.attempts import write_attempt
from pit_ray.data.tasks.sorting import WORDS

TASK = TASKS["word_sorting"]
QUESTION = "Sort the words alphabetically: oven apple box."


def fault(*steps: str, answer: str = "apple box oven") -> tuple[int, str, str] | None:
    """Step, segment and reason of an attempt's fault."""
    review = TASK.review(QUESTION, write_attempt(steps, answer))
    return None if review.correct else (review.faults[0].step, review.faults[0].segment, review.faults[0].reason)


@pytest.mark.parametrize("seen", [True, False])
def test_answers_agree_with_sorted(seen: bool) -> None:
    lengths = set()
    for problem in TASK.problems(300, seed=1, seen=seen):
        words = problem.question.removeprefix("Sort the words alphabetically: ").removesuffix(".").split()
        assert problem.answer.split() == sorted(words)
        assert len(set(words)) == len(words) and set(words) <= set(WORDS)
        lengths.add(len(words))
    assert lengths == set(range(2, 8) if seen else range(8, 13))


def test_the_words_are_different_and_plain() -> None:
    assert len(set(WORDS)) == len(WORDS) >= 200
    assert all(word.isascii() and word.isalpha() and word.islower() for word in WORDS)


def test_the_example_and_faults_by_hand() -> None:
    work = TASK.read(f"<user> {QUESTION} improve <assistant>")
    assert write_attempt(work.rest(), work.answer) == (
        "Step 1: apple. Step 2: box. Step 3: oven. The answer is apple box oven."
    )
    assert fault("apple", "box", "oven") is None
    assert fault("apple", "oven") == (2, "oven", "box comes before oven")
    assert fault("apple", "lamp") == (2, "lamp", "lamp is not in the list")
    assert fault("apple", "apple") == (2, "apple", "apple stands there twice")
    assert fault("apple", "box") == (3, "", "oven is missing")
    assert fault("apple box") == (1, "apple box", "a step names one word")
    assert fault("apple", "box", "oven", "oven") == (4, "oven", "oven stands there twice")
    assert fault("apple", "box", "oven", answer="apple oven box") == (
        4,
        "",
        "the final answer does not follow from the steps",
    )
