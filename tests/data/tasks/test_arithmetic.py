"""Multistep arithmetic against Python's own arithmetic."""

from __future__ import annotations

import ast
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.data.tasks import TASKS
from pit_ray.data.tasks.attempts import write_attempt

TASK = TASKS["multistep_arithmetic"]
PROBLEMS = {seen: TASK.problems(300, seed=3, seen=seen) for seen in (True, False)}
QUESTION = "((5 + 9 * 4) - (3 + 2 + 8)) ="
RATIONALE = (
    "Step 1: 9 * 4 = 36. Step 2: 5 + 36 = 41. Step 3: 3 + 2 = 5. Step 4: 5 + 8 = 13. Step 5: 41 - 13 = 28. "
    "The answer is 28."
)


def python(expression: str) -> int:
    return int(eval(expression))


def fault(*steps: str, question: str = QUESTION, answer: str = "28") -> tuple[int, str, str] | None:
    """Step, segment and reason of an attempt's fault."""
    review = TASK.review(question, write_attempt(steps, answer))
    return None if review.correct else (review.faults[0].step, review.faults[0].segment, review.faults[0].reason)


@pytest.mark.parametrize("seen", [True, False])
def test_answers_and_steps_agree_with_python(seen: bool) -> None:
    signs = set()
    for problem in PROBLEMS[seen]:
        assert int(problem.answer) == python(problem.question.removesuffix("="))
        assert set(re.findall(r"\d+", problem.question)) <= set("0123456789")
        for group in re.findall(r"\([^()]*\)", problem.question):
            assert group.count("*") <= 1
        for step in re.findall(r"\d: ([^.]*)", problem.rationale):
            left, right = step.split(" = ")
            assert python(left) == int(right)
            assert all(abs(int(number)) <= 50 for number in re.findall(r"\d+", step))
            signs.add(left.split()[1])
    assert signs == {"+", "-", "*"}


def test_the_rationale_of_the_example() -> None:
    steps = re.findall(r"\d: ([^.]*)", RATIONALE)
    work = TASK.read(QUESTION)
    assert work.rest() == steps and work.answer == "28"
    deeper = TASK.read("(((5 - 2 + 9 * 4) - (1 + 1)) + ((3 + 2) - (2 * 2))) =").rest()
    assert [step.partition(" = ")[0] for step in deeper] == [
        "9 * 4", "5 - 2", "3 + 36", "1 + 1", "39 - 2", "3 + 2", "2 * 2", "5 - 4", "37 + 1"
    ]  # fmt: skip
    assert TASK.review(f"User:\n{QUESTION}\n\nAssistant:\n", RATIONALE).correct


def reduced_anywhere(expression: str, rng: random.Random) -> list[str]:
    """Steps in a random order that Python's syntax tree allows: any operation on two numbers may come next."""
    tree = ast.parse(expression, mode="eval")
    steps = []
    while isinstance(tree.body, ast.BinOp):
        operations = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp)]
        ready = [n for n in operations if isinstance(n.left, ast.Constant) and isinstance(n.right, ast.Constant)]
        chosen = rng.choice(ready)
        sign = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}[type(chosen.op)]
        a, b = chosen.left.value, chosen.right.value  # type: ignore[attr-defined]
        value = python(f"({a}) {sign} ({b})")
        steps.append(f"{a} {sign} {b} = {value}")

        class Replace(ast.NodeTransformer):
            def visit_BinOp(self, node: ast.BinOp, chosen: ast.BinOp = chosen, value: int = value) -> ast.AST:
                return ast.Constant(value) if node is chosen else self.generic_visit(node)

        tree = Replace().visit(tree)
    return steps


@given(st.booleans(), st.integers(0, 299), st.randoms(use_true_random=False))
def test_any_order_is_right(seen: bool, uid: int, rng: random.Random) -> None:
    problem = PROBLEMS[seen][uid]
    steps = reduced_anywhere(problem.question.removesuffix("=").strip(), rng)
    assert fault(*steps, question=problem.question, answer=problem.answer) is None


@given(st.booleans(), st.integers(0, 299))
def test_a_reduction_that_changes_the_value_is_wrong(seen: bool, uid: int) -> None:
    question = PROBLEMS[seen][uid].question
    expression = question.removesuffix("=")
    pairs = list(re.finditer(r"(?=(\d [+*-] \d))", expression))
    for pair in {match[1] for match in pairs}:
        places = [match.start() for match in pairs if match[1] == pair]
        kept = [python(f"{expression[:i]}({pair}){expression[i + len(pair) :]}") == python(expression) for i in places]
        if not any(kept):
            step = f"{pair} = {python(pair)}"
            assert fault(step, question=question) == (1, step, f"{pair} is not a part of what is left")


def test_sums_may_be_grouped_anew() -> None:
    question = "((5 + 6 - 2) - (3 - 2 + 1)) ="
    assert fault("6 - 2 = 4", "5 + 4 = 9", "3 - 2 = 1", "1 + 1 = 2", "9 - 2 = 7", question=question, answer="7") is None
    assert fault("2 + 1 = 3", question=question) == (1, "2 + 1 = 3", "2 + 1 is not a part of what is left")
    # The first step may mean either place; each way of going on is right.
    question = "((2 + 3 + 2 + 3) + (1 + 1 + 1)) ="
    for middle in (("5 + 2 = 7", "7 + 3 = 10"), ("2 + 3 = 5", "5 + 5 = 10"), ("3 + 5 = 8", "2 + 8 = 10")):
        steps = ("2 + 3 = 5", *middle, "1 + 1 = 2", "2 + 1 = 3", "10 + 3 = 13")
        assert fault(*steps, question=question, answer="13") is None


def test_faults_by_hand() -> None:
    assert fault("9 * 4 = 36", "5 + 36 = 42") == (2, "5 + 36 = 42", "5 + 36 is 41")
    assert fault("9 * 4 = 36", "7 + 8 = 15") == (2, "7 + 8 = 15", "7 + 8 is not a part of what is left")
    assert fault("5 + 9 = 14") == (1, "5 + 9 = 14", "5 + 9 is not a part of what is left")
    assert fault("9 * 4 = 36", "9 * 4 = 36") == (2, "9 * 4 = 36", "9 * 4 is not a part of what is left")
    assert fault("9 * 4 = 36") == (2, "", "steps are missing")
    assert fault("9 * 4") == (1, "9 * 4", "a step reduces two numbers to one")
    steps = [step[3:] for step in re.findall(r"\d: [^.]*", RATIONALE)]
    assert fault(*steps, answer="29") == (6, "", "the final answer does not follow from the steps")
    assert fault(*steps, "28 + 0 = 28") == (6, "28 + 0 = 28", "28 + 0 is not a part of what is left")


def test_answers_are_compared_as_numbers() -> None:
    for said in ("-3", "- 3", " -3 ", "-03"):
        assert TASK.correct(f"The answer is {said}.", "-3")
    for said in ("3", "-30", "-3 or 4", "minus three", "--3"):
        assert not TASK.correct(f"The answer is {said}.", "-3")
    assert not TASK.correct("-3", "-3")
    assert TASK.answer("So it is -3.") is None


@pytest.mark.parametrize("question", ["(3) =", "(3 + ) =", "(3 4) =", "((1 + 2) =", "(1 + 2)) =", "(+ 3 2) =", "() ="])
def test_broken_expressions_are_refused(question: str) -> None:
    with pytest.raises(ValueError):
        TASK.review(question, "Step 1: 1 + 2 = 3. The answer is 3.")
