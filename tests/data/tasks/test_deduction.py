"""Logical deduction against all orders there are."""

from __future__ import annotations

import re
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.data.tasks import TASKS
from pit_ray.data.tasks.attempts import write_attempt
from pit_ray.data.tasks.deduction import RELATIONS, Statement, derive

TASK = TASKS["logical_deduction"]
COUNT = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
QUESTION = (
    "3 birds sit on a branch: owl, hawk, crow. The owl is left of the crow. The hawk is directly right of the crow. "
    "Which bird is second from the left?"
)


def orders(question: str) -> list[tuple[str, ...]]:
    """Every order that fits all statements of a question."""
    things = re.findall(r"\w+", question.partition(": ")[2].partition(".")[0])
    tests = []
    for said in re.findall(r"The [^.]*(?=\.)", question):
        words = said.replace(" from the left", "").split()
        a, b = words[1], words[-1]
        relation = " ".join(words[3:-2])
        tests.append((a, relation, b))
    return [order for order in permutations(things) if all(fits(order, *test) for test in tests)]


def fits(order: tuple[str, ...], a: str, relation: str, b: str) -> bool:
    here = order.index(a)
    if not relation:
        return here == COUNT.index(b)
    ahead = order.index(b) - here if "left" in relation else here - order.index(b)
    return ahead == 1 if "directly" in relation else ahead > 0


def fault(*steps: str, answer: str = "crow") -> tuple[int, str, str] | None:
    """Step, segment and reason of an attempt's fault."""
    review = TASK.review(QUESTION, write_attempt(steps, answer))
    return None if review.correct else (review.faults[0].step, review.faults[0].segment, review.faults[0].reason)


@pytest.mark.parametrize("seen", [True, False])
def test_each_question_has_one_order_and_the_rationale_gives_it(seen: bool) -> None:
    kinds = set()
    for problem in TASK.problems(60 if seen else 12, seed=4, seen=seen):
        (order,) = orders(problem.question)
        asked = re.search(r"Which \w+ is (\w+) from the left\?", problem.question)
        assert asked and problem.answer == order[COUNT.index(asked[1])]
        placed = dict(re.findall(r"\d: (\w+) is (\w+)", problem.rationale))
        assert placed == {thing: COUNT[i] for i, thing in enumerate(order)}
        assert f"The {problem.answer} is {asked[1]}" not in problem.question
        kinds |= {re.sub(r" the \w+$", "", said) for said in re.findall(r"(?<= is )[^.?]*(?=\.)", problem.question)}
    assert {*RELATIONS} <= kinds and any(kind.endswith(" from") for kind in kinds)


@st.composite
def puzzles(draw: st.DrawFn) -> tuple[list[str], list[Statement]]:
    """Things and true statements about an order of them; too few or too many."""
    things = draw(st.permutations(["a", "b", "c", "d", "e"][: draw(st.integers(2, 5))]))
    statements = []
    for _ in range(draw(st.integers(0, 6))):
        i, j = sorted(draw(st.permutations(range(len(things))))[:2])
        relation = draw(st.sampled_from(["", *RELATIONS]))
        if relation.startswith("directly"):
            j = i + 1
        pair = (things[i], things[j]) if "left" in relation else (things[j], things[i])
        statements.append(Statement(pair[0], relation, pair[1] if relation else j))
    return things, statements


@given(puzzles())
def test_what_is_derived_holds_in_every_order(case: tuple[list[str], list[Statement]]) -> None:
    things, statements = case
    said = [(s.thing, s.relation, COUNT[s.other] if isinstance(s.other, int) else s.other) for s in statements]
    possible = [order for order in permutations(things) if all(fits(order, *test) for test in said)]
    placed = derive(sorted(things), statements)
    for thing, place in placed.items():
        assert {order.index(thing) for order in possible} == {place}
    if len(possible) > 1:
        assert len(placed) < len(things)


def test_the_example_and_faults_by_hand() -> None:
    work = TASK.read(f"<user> {QUESTION} <assistant>")
    assert sorted(work.rest()) == ["crow is second", "hawk is third", "owl is first"] and work.answer == "crow"
    assert fault("hawk is third", "owl is first", "crow is second") is None
    assert fault("crow is second", "hawk is third", "owl is first", answer="the crow") is None
    assert fault("crow is first") == (1, "crow is first", "the owl is left of the crow")
    assert fault("owl is second") == (1, "owl is second", "the hawk is directly right of the crow")
    assert fault("owl is first", "crow is first") == (2, "crow is first", "owl is first")
    assert fault("owl is first", "crow is third")[2] == "the hawk is directly right of the crow"  # type: ignore[index]
    assert fault("owl is first", "owl is first") == (2, "owl is first", "owl stands there twice")
    assert fault("emu is first") == (1, "emu is first", "there is no emu")
    assert fault("owl is fifth")[2] == "the owl is left of the crow"  # type: ignore[index]
    assert fault("owl left") == (1, "owl left", "a step places one thing")
    assert fault("owl is first", "hawk is third") == (3, "", "crow is missing")
    assert fault("owl is first", "hawk is third", "crow is second", answer="owl") == (
        4, "", "the final answer does not follow from the steps"
    )  # fmt: skip


@pytest.mark.parametrize("seen", [True, False])
def test_every_wrong_place_is_a_fault_with_a_true_reason(seen: bool) -> None:
    for problem in TASK.problems(10, seed=8, seen=seen):
        steps = re.findall(r"\d: (\w+ is \w+)", problem.rationale)
        for i, step in enumerate(steps):
            thing, _, right = step.split()
            for place in COUNT[: len(steps)]:
                attempt = write_attempt([*steps[:i], f"{thing} is {place}"], "")
                (found,) = TASK.review(problem.question, attempt).faults
                if place == right:
                    assert found.step == i + 2
                    continue
                assert found.step == i + 1
                told = f"{found.reason[0].upper()}{found.reason[1:]}." in problem.question
                assert told or found.reason in steps[:i] or found.reason == f"{thing} can only be {right}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("The hawk is directly right of the crow. ", ""),
        ("left of the crow", "left of the emu"),
        ("Which bird is second", "Which bird is fourth"),
        ("directly right of", "beside"),
        ("The hawk is directly right of the crow", "The crow is left of the owl"),
    ],
)
def test_questions_without_one_order_are_refused(old: str, new: str) -> None:
    assert old in QUESTION
    with pytest.raises(ValueError):
        TASK.review(QUESTION.replace(old, new), "Step 1: owl is first. The answer is owl.")
