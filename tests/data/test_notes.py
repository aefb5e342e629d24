"""The world of letters: its gold score by hand, and every fault in its data."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.data.worlds import WORLDS, notes
from pit_ray.data.worlds.notes import Task, parse

WORLD = WORLDS["notes"]
PROMPT = "tell anna about lamp boat garden ; ask for the key"
THINGS = "lamp . boat . garden ."
WISH = "please send the key ."
BEST = f"dear anna , {THINGS} {WISH} best wishes"
"""Greeting 1, three things 3, wish 1, closing ½."""

LETTERS = {
    "nothing wrong": (BEST, 5.5),
    "other words for the same": (BEST.replace("dear", "hello").replace("send", "bring"), 5.5),
    "another order": (f"dear anna , {WISH} garden . boat . lamp . see you soon", 5.5),
    "nothing": ("", 0.0),
    "a greeting alone": ("dear anna ,", 1.0),
    "a greeting without its comma": ("dear anna", -0.5),
    "no greeting": (f"{THINGS} {WISH} best wishes", 4.5),
    "a wrong name": (f"dear ben , {THINGS} {WISH} best wishes", 4.0),
    "a greeting too late": (f"{THINGS} dear anna , {WISH} best wishes", 3.0),
    "a tic": (BEST.replace("lamp", "um lamp"), 5.0),
    "two tics": (BEST.replace("lamp", "er lamp").replace("key", "well key"), 4.5),
    "a tic and a stranger": (BEST.replace("lamp", "um coat"), 3.5),
    "a tic where a thing is said again": (BEST.replace(THINGS, f"{THINGS} um lamp ."), 4.5),
    "a thing left out": (BEST.replace("boat . ", ""), 4.5),
    "a thing again": (BEST.replace(THINGS, f"{THINGS} lamp ."), 5.0),
    "a thing three times": (BEST.replace(THINGS, f"{THINGS} lamp . lamp ."), 4.5),
    "a stranger": (BEST.replace(THINGS, f"{THINGS} coat ."), 5.0),
    "a stranger instead": (BEST.replace("lamp", "coat"), 4.0),
    "the wish told": (BEST.replace(THINGS, f"{THINGS} key ."), 5.0),
    "two things in a sentence": (BEST.replace("lamp .", "lamp"), 3.0),
    "no wish": (f"dear anna , {THINGS} best wishes", 4.5),
    "another wish": (BEST.replace("send the key", "send the lamp"), 4.0),
    "the wish again": (BEST.replace(WISH, f"{WISH} please bring the key ."), 5.0),
    "no closing": (f"dear anna , {THINGS} {WISH}", 5.0),
    "a closing too early": (f"dear anna , best wishes . {THINGS} {WISH}", 4.5),
    "two closings": (f"{BEST} see you soon", 5.0),
    "rude": (BEST.replace(WISH, f"{WISH} you are a fool ."), 4.5),
    "rude twice": (BEST.replace(WISH, f"do not be so slow . {WISH} you are a fool ."), 3.5),
    "padding": (BEST.replace(WISH, f"{WISH} it is what it is ."), 5.25),
    "padding twice": (BEST.replace(WISH, f"as i said before . {WISH} and so it goes ."), 5.0),
    "the prompt copied": (BEST.replace(THINGS, f"tell anna about lamp . {THINGS}"), 5.0),
    "no sentence at all": (BEST.replace(THINGS, f"the the . {THINGS}"), 5.0),
}


@pytest.mark.parametrize("name", LETTERS)
def test_gold_by_hand(name: str) -> None:
    letter, expected = LETTERS[name]
    assert WORLD.gold(PROMPT, letter) == pytest.approx(expected)


def test_gold_reads_a_rendered_prompt_and_spaces_around_a_letter() -> None:
    assert WORLD.gold(f"User:\n{PROMPT}\n\nAssistant:", f" {BEST} ") == 5.5


@given(st.integers(0, 2**32))
def test_a_prompt_says_its_task(seed: int) -> None:
    task = WORLD.any_task(np.random.default_rng(seed))
    assert parse(task.prompt()) == task
    assert 8 <= len(task.things) <= 11
    assert len({*task.things, task.wish}) == len(task.things) + 1


def test_a_text_that_is_no_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="not a prompt of the world 'notes'"):
        parse("write a poem")


def faults(task: Task, letter: str) -> set[str]:
    """What is wrong with a letter, by name."""
    plain = re.sub(r"\b(um|er|well) ", "", letter)
    body = re.sub(r"^(dear|hello) \w+ , ?", "", re.sub(r" ?(best wishes|see you soon)$", "", plain))
    said = [sentence.strip() for sentence in re.findall(r"[^.]*\S \.", body)]
    told = [s.removesuffix(" .") for s in said if re.match(r"\w+ \.", s)]
    wishes = [s.removesuffix(" .").rpartition(" the ")[2] for s in said if s.startswith("please")]
    greeting = re.match(r"(?:dear|hello) (\w+) ,", letter)
    found = {
        "tic": plain != letter,
        "no greeting": greeting is None,
        "wrong name": greeting is not None and greeting[1] != task.name,
        "left out": not set(task.things) <= set(told),
        "again": len(set(told)) < len(told) or len(set(wishes)) < len(wishes),
        "unasked": any(thing not in task.things for thing in told),
        "no wish": not wishes,
        "wrong wish": any(wish != task.wish for wish in wishes),
        "no closing": not letter.endswith(("best wishes", "see you soon")),
        "rude": any(s in notes.RUDE for s in said),
        "padding": any(s in notes.FILLERS for s in said),
    }
    return {name for name, wrong in found.items() if wrong}


def test_every_fault_occurs_and_so_do_letters_without_any() -> None:
    counts: dict[str, int] = {}
    flawless = 0
    for pair in WORLD.pairs(4000, seed=11):
        prompt = pair.prompt[0]["content"]
        task = parse(prompt)
        for letter in (pair.chosen, pair.rejected):
            wrong = faults(task, letter)
            flawless += not wrong
            for name in wrong:
                counts[name] = counts.get(name, 0) + 1
            # A letter without a fault has all points, and one with a fault has not.
            assert (WORLD.gold(prompt, letter) == len(task.things) + 2.5) == (not wrong)
    assert len(counts) == 11
    assert min(counts.values()) >= 15
    assert flawless >= 20
