"""The world of timetables: each rule of its gold score by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.data.worlds import WORLDS
from pit_ray.data.worlds.slots import text
from pit_ray.data.worlds.timetables import HOURS, parse

WORLD = WORLDS["timetables"]
PROMPT = "monday : bank at nine , gym at ten , school at four . call nina"
ENTRIES = "nine bank ; ten gym ; four school ;"
CALL = "then call nina ;"
BEST = f"on monday : {ENTRIES} {CALL} have a good day"
"""Heading ½, three appointments 3, the call 1½, goodbye ½."""

TIMETABLES = {
    "nothing wrong": (BEST, 5.5),
    "other words for the same": (
        "for monday : nine bank ; ten gym ; four school ; later phone nina ; yours truly",
        5.5,
    ),
    "the call first": (f"on monday : {CALL} {ENTRIES} have a good day", 5.5),
    "nothing": ("", 0.0),
    "a heading alone": ("on monday :", 0.5),
    "no heading": (f"{ENTRIES} {CALL} have a good day", 5.0),
    "a wrong day": (BEST.replace("monday", "friday"), 4.5),
    "one left out": (BEST.replace("ten gym ; ", ""), 4.5),
    "one again": (BEST.replace(ENTRIES, f"{ENTRIES} ten gym ;"), 5.0),
    "two in another order": (BEST.replace(ENTRIES, "ten gym ; nine bank ; four school ;"), 5.0),
    "the last first": (BEST.replace(ENTRIES, "four school ; nine bank ; ten gym ;"), 4.5),
    "a wrong hour": (BEST.replace("ten gym", "noon gym"), 3.5),
    "a wrong place": (BEST.replace("ten gym", "ten park"), 3.5),
    "a stranger": (BEST.replace(ENTRIES, f"{ENTRIES} five park ;"), 4.5),
    "no hour": (BEST.replace("ten gym", "gym"), 4.0),
    "no call": (f"on monday : {ENTRIES} have a good day", 4.0),
    "another call": (BEST.replace("nina", "emil"), 3.5),
    "the call again": (BEST.replace(CALL, f"{CALL} later phone nina ;"), 5.0),
    "no goodbye": (f"on monday : {ENTRIES} {CALL}", 5.0),
    "a goodbye too early": (f"on monday : have a good day ; {ENTRIES} {CALL}", 4.5),
    "an outburst": (BEST.replace(CALL, f"nobody cares ; {CALL}"), 4.5),
    "chatter": (BEST.replace(CALL, f"so much to do ; {CALL}"), 5.25),
    "a tic": (BEST.replace("gym", "maybe gym"), 4.75),
    "two tics": (BEST.replace("bank", "somehow bank").replace("nina", "whatever nina"), 4.0),
    "a tic where something is said again": (BEST.replace(ENTRIES, f"{ENTRIES} ten maybe gym ;"), 4.25),
    "the prompt copied": (PROMPT, -0.5),
}


@pytest.mark.parametrize("name", TIMETABLES)
def test_gold_by_hand(name: str) -> None:
    response, expected = TIMETABLES[name]
    assert WORLD.gold(PROMPT, response) == pytest.approx(expected)


def test_gold_reads_a_rendered_prompt_and_spaces_around_a_response() -> None:
    assert WORLD.gold(f"User:\n{PROMPT}\n\nAssistant:", f" {BEST} ") == 5.5


@given(st.integers(0, 2**32))
def test_a_prompt_says_its_task(seed: int) -> None:
    task = WORLD.any_task(np.random.default_rng(seed))
    assert parse(task.prompt()) == task
    hours, places = zip(*task.appointments, strict=True)
    assert 6 <= len(hours) <= 9 and len(set(places)) == len(places)
    assert [HOURS.index(hour) for hour in hours] == sorted({HOURS.index(hour) for hour in hours})


def test_a_text_that_is_no_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="not a prompt of the world 'timetables'"):
        parse("write a poem")


def test_the_best_response_has_all_points_and_slips_cost() -> None:
    costs = []
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        task = WORLD.any_task(rng)
        entries = " ".join(f"{hour} {place} ;" for hour, place in task.appointments)
        best = f"for {task.day} : {entries} later phone {task.person} ; yours truly"
        assert WORLD.gold(task.prompt(), best) == len(task.appointments) + 2.5
        written = text(WORLD.write(task, rng))
        costs.append(len(task.appointments) + 2.5 - WORLD.gold(task.prompt(), written))
    assert min(costs) == 0 and 2 < np.mean(costs) < 6
