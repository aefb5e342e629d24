"""What all tasks share: problems by seed, seen and unseen apart, and a verifier that finds the earliest fault."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.data.tasks import TASKS, find_task
from pit_ray.data.tasks.attempts import read_attempt, write_attempt
from pit_ray.data.tasks.problem import Problem, Task, Work
from pit_ray.data.verifiers import Review, Verifier
from pit_ray.errors import ConfigError

NAMES = sorted(TASKS)
PROBLEMS = {(name, seen): TASKS[name].problems(40, seed=5, seen=seen) for name in NAMES for seen in (True, False)}


def day_off(step: str) -> str:
    """A date step that ends on another day of the same month."""
    start, day, year = step.rpartition(" ")[0], *step[-7:].split("/")
    return f"{start} {step[-10:-7]}{1 + int(day) % 28:02}/{year}"


WRONG: dict[str, Callable[[list[str], int], str]] = {
    "multistep_arithmetic": lambda steps, i: re.sub(r"-?\d+$", lambda n: str(int(n[0]) + 1), steps[i]),
    "word_sorting": lambda steps, i: steps[i + 1] if i + 1 < len(steps) else "zzz",
    "date_understanding": lambda steps, i: day_off(steps[i]),
    "logical_deduction": lambda steps, i: f"{steps[i].split()[0]} is {steps[i - 1].split()[-1]}",
}
"""What a step becomes so that it is wrong for certain."""


@st.composite
def posed(draw: st.DrawFn) -> tuple[Task, Problem]:
    name, seen = draw(st.sampled_from(NAMES)), draw(st.booleans())
    return TASKS[name], draw(st.sampled_from(PROBLEMS[name, seen]))


def steps_of(problem: Problem) -> list[str]:
    return [step.text for step in read_attempt(problem.rationale).steps]


def check(task: Task, problem: Problem, response: str) -> Review:
    """The review of a response, after the checks that hold for every response."""
    review = task.review(problem.question, response)
    assert len(review.faults) <= 1
    stated = task.feedback(response, review)
    assert task.read_feedback(stated, response) == review
    assert faulted(task.read_feedback(spaced(stated), spaced(response))) == faulted(review)
    assert not review.correct or task.correct(response, problem.answer)
    mended = task.mended(problem.question, response, review)
    assert task.review(problem.question, mended).correct
    if review.correct:
        assert mended == response
    else:
        kept = read_attempt(response).steps[: review.faults[0].step - 1]
        assert not kept or mended.startswith(response[: kept[-1].end])
        assert review.faults[0].segment in " ".join(response.split())
        if (instead := review.faults[0].instead) not in ("", "the final answer"):
            assert f"Step {review.faults[0].step}: {instead}." in mended
    return review


def faulted(review: Review | None) -> list[int]:
    """The steps with a fault."""
    assert review is not None
    return [fault.step for fault in review.faults]


def spaced(text: str) -> str:
    """A text as a tokenizer of words and signs decodes it."""
    return " ".join(re.findall(r"\w+|[^\w\s]", text))


def test_tasks_are_found_by_name() -> None:
    assert find_task("task:word_sorting") is TASKS["word_sorting"]
    assert find_task("data/word_sorting.jsonl") is None
    with pytest.raises(ConfigError, match=r"data\.source: no task 'word_sort'; did you mean 'task:word_sorting'"):
        find_task("task:word_sort")
    verifier: Verifier = TASKS["word_sorting"]
    assert verifier.read_feedback("", "") is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seen", [True, False])
def test_problems_are_the_same_for_the_same_seed_and_do_not_depend_on_their_number(name: str, seen: bool) -> None:
    task, problems = TASKS[name], PROBLEMS[name, seen]
    assert task.problems(10, seed=5, seen=seen) == problems[:10]
    assert task.problems(10, seed=6, seen=seen) != problems[:10]
    assert [problem.uid for problem in problems] == list(range(len(problems)))
    assert len({problem.question for problem in problems}) == len(problems)
    assert all(problem.seen == seen for problem in problems)


LEVELS = {
    "multistep_arithmetic": ({f"length {n}, depth 2" for n in (3, 4)},
                             {f"length {n}, depth {d}" for n, d in ((5, 2), (6, 2), (3, 3), (4, 3))}),
    "word_sorting": ({f"{n} words" for n in range(2, 8)}, {f"{n} words" for n in range(8, 13)}),
    "date_understanding": ({"1 step", "2 steps"}, {"3 steps"}),
    "logical_deduction": ({"3 things", "5 things"}, {"7 things"}),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_seen_and_unseen_problems_never_meet(name: str) -> None:
    found = tuple({problem.level for problem in PROBLEMS[name, seen]} for seen in (True, False))
    assert found == LEVELS[name]
    # Levels are told from the questions alone, so that no question can be of both kinds.
    measure: dict[str, Callable[[Problem], str]] = {
        "multistep_arithmetic": lambda p: str((p.question.count("("), len(re.findall(r"\d", p.question)))),
        "word_sorting": lambda p: str(len(p.question.split())),
        "date_understanding": lambda p: str(len(steps_of(p))),
        "logical_deduction": lambda p: p.question[0],
    }
    seen, unseen = ({measure[name](problem) for problem in PROBLEMS[name, kind]} for kind in (True, False))
    assert not seen & unseen


class Coin(Task):
    """A task with two problems."""

    name = "coin"

    def draw(self, rng: np.random.Generator, seen: bool) -> tuple[str, str]:
        return f"Sort the words alphabetically: {('b a', 'd c')[int(rng.integers(2))]}.", "2 words"

    def read(self, prompt: str) -> Work:
        return TASKS["word_sorting"].read(prompt)


def test_a_task_with_fewer_problems_than_asked_for_says_so() -> None:
    assert {problem.answer for problem in Coin().problems(2, seed=0, seen=True)} == {"a b", "c d"}
    with pytest.raises(ConfigError, match="coin: 3 different seen problems asked for, but it has about 2"):
        Coin().problems(3, seed=0, seen=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seen", [True, False])
def test_rationales_are_correct_however_they_are_spaced(name: str, seen: bool) -> None:
    task = TASKS[name]
    for problem in PROBLEMS[name, seen]:
        rationale = problem.rationale
        assert check(task, problem, rationale).correct
        for response in (spaced(rationale), rationale.replace(". ", ".\n"), f" {rationale}\n"):
            assert task.review(f"<user> {spaced(problem.question)} <assistant>", response).correct
            assert task.answer(response) == problem.answer
        assert (
            task.feedback(rationale, Review()) == f"{all_right(steps_of(problem))}The final response is also correct."
        )


@given(posed(), st.data())
def test_a_wrong_step_is_found_where_it_is(case: tuple[Task, Problem], data: st.DataObject) -> None:
    task, problem = case
    steps = steps_of(problem)
    i = data.draw(st.integers(0, len(steps) - 1))
    wrong = WRONG[task.name](steps, i)
    response = write_attempt([*steps[:i], wrong, *steps[i + 1 :]], problem.answer)
    review = check(task, problem, response)
    assert [(fault.step, fault.segment) for fault in review.faults] == [(i + 1, wrong)]
    assert task.mended(problem.question, response, review) == problem.rationale
    assert task.answer(response) == problem.answer  # which is why the steps have to be looked at


@given(posed(), st.data())
def test_steps_that_are_left_out_are_missed(case: tuple[Task, Problem], data: st.DataObject) -> None:
    task, problem = case
    steps = steps_of(problem)
    kept = data.draw(st.integers(0, len(steps) - 1))
    for response in (write_attempt(steps[:kept], problem.answer), write_attempt(steps[:kept], "")[:-15]):
        (fault,) = check(task, problem, response).faults
        assert (fault.step, fault.segment) == (kept + 1, "")
        if not kept:
            assert fault.reason == "there is no step 1"
        else:
            assert fault.reason.endswith(("is missing", "are missing"))


@given(posed(), st.data())
def test_a_step_is_not_quoted_where_what_can_be_quoted_of_it_is_right(
    case: tuple[Task, Problem], data: st.DataObject
) -> None:
    task, problem = case
    steps = steps_of(problem)
    i = data.draw(st.integers(0, len(steps) - 1))
    for wrong in (f'{steps[i]}" twice', f'{steps[i].replace(" ", "  ")}" twice'):
        (fault,) = check(task, problem, write_attempt([*steps[:i], wrong, *steps[i + 1 :]], problem.answer)).faults
        assert (fault.step, fault.segment) == (i + 1, "")


@given(posed())
def test_final_answers_are_compared(case: tuple[Task, Problem]) -> None:
    task, problem = case
    last = len(steps_of(problem)) + 1
    endings = {
        "": "there is no final answer",
        "The answer is 12345.": "the final answer does not follow from the steps",
        "The answer is .": "the final answer does not follow from the steps",
        f"The answer is {problem.answer}. Or not?": "the response goes on after the final answer",
    }
    start = problem.rationale[: read_attempt(problem.rationale).steps[-1].end]
    for ending, reason in endings.items():
        (fault,) = check(task, problem, f"{start} {ending}").faults
        assert (fault.step, fault.segment, fault.reason) == (last, "", reason)
    assert check(task, problem, f"{start} The answer is {problem.answer}").correct  # only the full stop is missing


@given(posed(), st.data())
def test_numbers_out_of_order_and_words_before_the_first_step_are_faults(
    case: tuple[Task, Problem], data: st.DataObject
) -> None:
    task, problem = case
    i = data.draw(st.integers(1, len(steps_of(problem))))
    (fault,) = check(task, problem, problem.rationale.replace(f"Step {i}:", f"Step {i + 1}:")).faults
    assert (fault.step, fault.segment, fault.reason) == (i, "", f"there is no step {i}")
    (fault,) = check(task, problem, f"I think. {problem.rationale}").faults
    assert (fault.step, fault.segment) == (1, "I think.")
    for nothing in ("", " \n", "no idea", "Feedback: Step 1 is correct.", f"The answer is {problem.answer}."):
        (fault,) = check(task, problem, nothing).faults
        assert (fault.step, fault.segment, fault.reason) == (1, "", "there is no step 1")


def all_right(steps: list[str]) -> str:
    """What feedback says of right steps, with a space behind."""
    return "".join(f"Check {number}: {step}. " for number, step in enumerate(steps, 1))


PIECES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        'Step 1: Step 2: Step 3 : The_answer_is . " = - 9_*_4 36 apple owl_is_first 99999999999999999999_+_1_=_2 '
        "02/30/2019 1_day_after_01/01/2000_is_99/99/0000 owl_is_seventh ٣_+_٤_=_٧".replace("_", "\u00a0").split(" ")
    ),
)


@given(posed(), st.lists(PIECES, max_size=12), st.integers(0, 300), st.integers(0, 300))
def test_whatever_a_model_writes_is_reviewed(case: tuple[Task, Problem], pieces: list[str], a: int, b: int) -> None:
    task, problem = case
    noise = " ".join(pieces).replace("\u00a0", " ")
    check(task, problem, noise)
    check(task, problem, problem.rationale[:a] + noise + problem.rationale[b:])


@given(posed(), st.integers(1, 20))
def test_a_response_is_mended_from_where_a_model_faults_it(case: tuple[Task, Problem], step: int) -> None:
    task, problem = case
    said, response = ["x"] * (step - 1), write_attempt(["x"] * step, "x")
    review = task.read_feedback(f'{all_right(said)}Check {step}: x, not "y". it is not.', response)
    assert review is not None
    assert task.mended(problem.question, problem.rationale, review) == problem.rationale
    # A wrong step before the one that the review names is not kept.
    wrong = WRONG[task.name](steps_of(problem), 0)
    response = problem.rationale.replace(steps_of(problem)[0], wrong, 1)
    assert task.mended(problem.question, response, review) == problem.rationale


@given(posed())
def test_a_response_that_is_cut_off_is_mended_with_its_full_stop(case: tuple[Task, Problem]) -> None:
    task, problem = case
    response = problem.rationale[: read_attempt(problem.rationale).steps[0].end - 1]
    assert task.mended(problem.question, response, check(task, problem, response)) == problem.rationale


@pytest.mark.parametrize("name", NAMES)
def test_prompts_of_others_are_refused(name: str) -> None:
    others = [PROBLEMS[other, True][0].question for other in NAMES if other != name]
    for prompt in ("", "write a poem", "(hello) =", *others):
        with pytest.raises(ValueError, match=f"not a prompt of the task '{name}'"):
            TASKS[name].review(prompt, "Step 1: a. The answer is a.")
