"""Date understanding against datetime."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.data.tasks import TASKS
from pit_ray.data.tasks.attempts import write_attempt

TASK = TASKS["date_understanding"]
QUESTION = (
    "Yesterday was March 5, 2019. The concert is 3 weeks after today. "
    "What is the date 2 days before the concert in MM/DD/YYYY?"
)
STEPS = (
    "1 day after 03/05/2019 is 03/06/2019",
    "3 weeks after 03/06/2019 is 03/27/2019",
    "2 days before 03/27/2019 is 03/25/2019",
)


def moved(date: datetime, words: str) -> datetime:
    """The date so much before or after; months are gone through one by one."""
    count, unit, side = words.split()
    sign = 1 if side == "after" else -1
    unit = unit.rstrip("s")
    if unit in ("day", "week"):
        return date + sign * timedelta(days=int(count) * (7 if unit == "week" else 1))
    for _ in range(int(count) * (12 if unit == "year" else 1)):
        first = date.replace(day=1)
        other = first + timedelta(days=32) if sign > 0 else first - timedelta(days=1)
        date = other.replace(day=date.day)  # an error where the month has no such day
    return date


def answer_to(question: str) -> str:
    """The answer, told sentence by sentence."""
    known: dict[str, datetime] = {}
    for sentence in re.split(r"(?<=[.?]) ", question):
        if match := re.fullmatch(r"(Today is|Yesterday was|Tomorrow is) (.*)\.", sentence):
            day = {"Today": 0, "Yesterday": 1, "Tomorrow": -1}[match[1].split()[0]]
            known["today"] = datetime.strptime(match[2], "%B %d, %Y") + timedelta(days=day)
        elif match := re.fullmatch(r"(.*) ago it was (.*)\.", sentence):
            known["today"] = moved(datetime.strptime(match[2], "%B %d, %Y"), f"{match[1]} after")
        elif match := re.fullmatch(r"In (.*) it will be (.*)\.", sentence):
            known["today"] = moved(datetime.strptime(match[2], "%B %d, %Y"), f"{match[1]} before")
        elif match := re.fullmatch(r"The (\w+) is (.*) today\.", sentence):
            known[match[1]] = moved(known["today"], match[2])
        else:
            asked = sentence.removeprefix("What is the date ").removesuffix(" in MM/DD/YYYY?")
            known |= {"yesterday": moved(known["today"], "1 day before")}
            known |= {"tomorrow": moved(known["today"], "1 day after")}
            way, _, there = asked.replace("of the ", "").replace(" the ", " ").rpartition(" ")
            return (moved(known[there], way) if way else known[there]).strftime("%m/%d/%Y")
    raise AssertionError(question)


def fault(*steps: str, answer: str = "03/25/2019") -> tuple[int, str, str] | None:
    """Step, segment and reason of an attempt's fault."""
    review = TASK.review(QUESTION, write_attempt(steps, answer))
    return None if review.correct else (review.faults[0].step, review.faults[0].segment, review.faults[0].reason)


@pytest.mark.parametrize("seen", [True, False])
def test_answers_agree_with_datetime(seen: bool) -> None:
    forms = set()
    for problem in TASK.problems(600, seed=2, seen=seen):
        assert problem.answer == answer_to(problem.question)
        forms.add(re.sub(r"[\d/]+|[A-Z][a-z]+ \d+, \d+", "…", problem.question).split(".")[0])
        for step in re.findall(r"\d: ([^.]*)", problem.rationale):
            way, start, end = re.fullmatch(r"(.*) (\S+) is (\S+)", step).groups()  # type: ignore[union-attr]
            assert moved(datetime.strptime(start, "%m/%d/%Y"), way) == datetime.strptime(end, "%m/%d/%Y")
    beginnings = {form.split()[0] for form in forms}
    assert beginnings == {"Yesterday", "Tomorrow", "…", "In"} | ({"Today"} if seen else set())


@given(st.integers(0, 10**6))
def test_no_question_hangs_on_how_long_a_month_is(seed: int) -> None:
    for seen in (True, False):
        for problem in TASK.problems(3, seed=seed, seen=seen):
            for count, day in re.findall(r"(?:month|year)(s?) \w+ \d+/(\d+)/", problem.rationale):
                assert int(day) <= 28, count


def test_the_example_and_faults_by_hand() -> None:
    work = TASK.read(f"User:\n{QUESTION}\n\nAssistant:\n")
    assert tuple(work.rest()) == STEPS and work.answer == "03/25/2019" == answer_to(QUESTION)
    assert fault(*STEPS) is None
    assert fault("24 hours after 03/05/2019 is 03/06/2019")[2] == "a step is one way from a date to a date"  # type: ignore[index]
    wrong = "3 weeks after 03/06/2019 is 03/28/2019"
    assert fault(STEPS[0], wrong) == (2, wrong, "3 weeks after 03/06/2019 is 03/27/2019")
    for other in ("3 weeks before 03/06/2019 is 02/13/2019", "3 weeks after 03/05/2019 is 03/26/2019",
                  "3 months after 03/06/2019 is 06/06/2019", STEPS[0]):  # fmt: skip
        reason = f"{other.partition(' is ')[0]} is not what comes next"
        assert fault(STEPS[0], other) == (2, other, reason)
    assert fault(*STEPS[:2]) == (3, "", "steps are missing")
    beyond = "1 day after 03/25/2019 is 03/26/2019"
    assert fault(*STEPS, beyond) == (4, beyond, "1 day after 03/25/2019 is not what comes next")
    assert fault(STEPS[0], "21 days after 03/06/2019 is 03/27/2019", STEPS[2]) is None  # the same way
    assert fault(*STEPS, answer="3/25/2019") == (
        4, "", "the final answer does not follow from the steps"
    )  # fmt: skip


def test_every_way_to_say_a_day() -> None:
    for said, expected in {
        "Today is January 1, 2000. What is the date today": "01/01/2000",
        "Today is January 1, 2000. What is the date yesterday": "12/31/1999",
        "Today is February 28, 2000. What is the date tomorrow": "02/29/2000",
        "Tomorrow is March 1, 1999. What is the date today": "02/28/1999",
        "2 days ago it was December 30, 2009. What is the date today": "01/01/2010",
        "In 1 year it will be May 5, 2010. What is the date 13 months after today": "06/05/2010",
        "In 2 weeks it will be May 5, 2010. The exam is 1 day before today. What is the date of the exam": "04/20/2010",
    }.items():
        question = f"{said} in MM/DD/YYYY?"
        assert TASK.read(question).answer == expected == answer_to(question)


@pytest.mark.parametrize(
    "said",
    [
        "Today is February 30, 2000. What is the date tomorrow",
        "Today is January 31, 2000. What is the date 1 month after today",
        "Today is January 1, 2000. What is the date of the exam",
        "Today is January 1, 2000. The race is 1 day after today. What is the date of the exam",
    ],
)
def test_questions_without_a_date_for_an_answer_are_refused(said: str) -> None:
    with pytest.raises(ValueError):
        TASK.review(f"{said} in MM/DD/YYYY?", f"Step 1: {STEPS[0]}. The answer is 01/01/2000.")
