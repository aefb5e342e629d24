"""Worlds as verifiers: a review agrees with the gold score, mending does what a review says, and feedback says it in
the world's own words."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pit_ray.data.verifiers import Fault, Review, Verifier
from pit_ray.data.worlds import WORLDS
from pit_ray.data.worlds.slots import text

LETTER = "tell anna about lamp boat garden ; ask for the key"
DAY = "monday : bank at nine , gym at ten , school at four . call nina"
BEST_LETTER = "dear anna , lamp . boat . garden . please send the key . best wishes"
BEST_DAY = "on monday : nine bank ; ten gym ; four school ; then call nina ; have a good day"
BEST = {"notes": (LETTER, BEST_LETTER), "timetables": (DAY, BEST_DAY)}


def of(name: str) -> Verifier:
    return WORLDS[name]


def stated(review: Review | None) -> list[tuple[str, str]] | None:
    """What a review's text can hold."""
    return None if review is None else [(fault.segment, fault.reason) for fault in review.faults]


BY_HAND: list[tuple[str, str, str, list[tuple[int, str, str]], str, str | None]] = [
    ("notes", "nothing wrong", BEST_LETTER, [], "so it is best", None),
    ("notes", "other words, another order", "hello anna , please bring the key . garden . boat . lamp . see you soon",
     [], "so it is best", "hello anna , please bring the key . garden . boat . lamp . see you soon"),
    ("notes", "no stop before the closing", BEST_LETTER.replace(" . best", " best"), [], "so it is best",
     BEST_LETTER.replace(" . best", " best")),
    ("notes", "nothing", "",
     [(1, "", "missing: dear anna"), (1, "", "missing: tell about lamp"), (1, "", "missing: tell about boat"),
      (1, "", "missing: tell about garden"), (1, "", "missing: ask for the key"), (1, "", "missing: best wishes")],
     "dear anna . tell about lamp . tell about boat . tell about garden . ask for the key . best wishes . improve",
     None),
    ("notes", "tics", "er dear anna , lamp . um boat . garden . please send the um er key well . best wishes um",
     [(1, "er", "a verbal tic before dear"), (3, "um", "a verbal tic before boat"),
      (5, "um", "a verbal tic before key"), (5, "er", "a verbal tic before key"), (5, "well", "a verbal tic"),
      (6, "um", "a verbal tic")],
     "er dear . um boat . um key . er key . well . um . improve", None),
    ("notes", "rude and padding",
     "dear anna , lamp . you are a fool . it is what it is . boat . garden . please send the key . best wishes",
     [(3, "you are a fool", "rude"), (4, "it is what it is", "padding")],
     "you are a fool . it is what it is . improve", None),
    ("notes", "again, with a tic",
     "dear anna , lamp . boat . um lamp . garden . please send the key . please bring the key . best wishes",
     [(4, "um lamp", "said before"), (7, "please bring the key", "said before")],
     "before um lamp . before please bring the key . improve", None),
    ("notes", "a stranger instead", "dear anna , lamp . coat . garden . please send the key . best wishes",
     [(3, "coat", "nobody asked for it"), (4, "", "missing: tell about boat")],
     "not coat . tell about boat . improve", None),
    ("notes", "another name", "hello um ben , lamp . boat . garden . please send the key . best wishes",
     [(1, "um", "a verbal tic before ben"), (1, "ben", "it should be: dear anna")],
     "um ben . dear anna for ben . improve", BEST_LETTER.replace("dear", "hello")),
    ("notes", "no greeting, wish and closing", "lamp . boat . garden .",
     [(1, "", "missing: dear anna"), (4, "", "missing: ask for the key"), (4, "", "missing: best wishes")],
     "dear anna . ask for the key . best wishes . improve", None),
    ("notes", "the last sentence not ended", "dear anna , lamp . boat . garden",
     [(5, "", "missing: ask for the key"), (5, "", "missing: best wishes")],
     "ask for the key . best wishes . improve", None),
    ("notes", "cut off", "dear anna , lamp . boat . garden . please send",
     [(5, "please send", "nobody asked for it"), (6, "", "missing: ask for the key"), (6, "", "missing: best wishes")],
     "not please send . ask for the key . best wishes . improve", None),
    ("notes", "a closing too early, and a lone stop",
     "dear anna , see you soon . lamp . . boat . boat . garden . please send the key . best wishes",
     [(2, "see you soon", "nobody asked for it"), (4, ". boat", "nobody asked for it")],
     "not see you soon . not . boat . improve", None),
    ("timetables", "nothing wrong", BEST_DAY, [], "a good plan", None),
    ("timetables", "tics, an outburst, chatter",
     "on monday : nine maybe bank ; nobody cares ; ten gym ; so much to do ; four school ; then call somehow nina ; "
     "have a good day",
     [(2, "maybe", "a verbal tic before bank"), (3, "nobody cares", "rude"), (5, "so much to do", "padding"),
      (7, "somehow", "a verbal tic before nina")],
     "maybe bank ; nobody cares ; so much to do ; somehow nina ; improve", None),
    ("timetables", "another day and hour",
     "on friday : nine bank ; noon gym ; four school ; then call nina ; have a good day ;",
     [(1, "friday", "it should be: on monday"), (3, "noon gym", "nobody asked for it"), (4, "", "missing: do ten gym")],
     "on monday for friday ; much noon gym ; do ten gym ; improve", f"{BEST_DAY} ;"),
    ("timetables", "out of order", "on monday : four school ; nine bank ; then call nina ; ten gym ; have a good day",
     [(3, "nine bank", "stands after a later one"), (5, "ten gym", "stands after a later one")],
     "later nine bank ; later ten gym ; improve", None),
    ("timetables", "again, and another call",
     "on monday : nine bank ; ten gym ; nine bank ; four school ; later phone emil ; have a good day",
     [(4, "nine bank", "said before"), (6, "later phone emil", "nobody asked for it"), (7, "", "missing: call nina")],
     "indeed nine bank ; much later phone emil ; call nina ; improve", None),
    ("timetables", "the call first, and missing things", "then call nina ; ten gym",
     [(1, "", "missing: on monday"), (2, "", "missing: do nine bank"), (3, "", "missing: do four school"),
      (3, "", "missing: have a good day")],
     "on monday ; do nine bank ; do four school ; have a good day ; improve",
     "on monday : then call nina ; nine bank ; ten gym ; four school ; have a good day"),
]  # fmt: skip
"""World, what is tried, response, its faults (step, segment, reason), its feedback and what it is mended to (None: the
best response)."""


@pytest.mark.parametrize("case", BY_HAND, ids=lambda case: f"{case[0]}: {case[1]}")
def test_reviews_feedback_and_mending_by_hand(case: Any) -> None:
    name, _, response, faults, feedback, mended = case
    prompt, best = BEST[name]
    review = of(name).review(prompt, response)
    assert [(fault.step, fault.segment, fault.reason) for fault in review.faults] == faults
    assert of(name).feedback(response, review) == feedback
    assert stated(of(name).read_feedback(feedback)) == [fault[1:] for fault in faults]
    assert of(name).mended(prompt, response, review) == (mended or best)


def test_of_equal_faults_the_step_tells_which_is_meant_else_it_is_the_first() -> None:
    once, twice = (BEST_LETTER.replace(place, f"{place} you are a fool .") for place in ("lamp .", "boat ."))
    both = once.replace("boat .", "boat . you are a fool .")
    first, second = of("notes").review(LETTER, both).faults
    for fault, mended in ((first, twice), (second, once), (Fault(1, first.segment, first.reason), twice)):
        assert of("notes").mended(LETTER, both, Review((fault,))) == mended


class Asked(NamedTuple):
    """A random prompt of a world."""

    prompt: str
    best: list[str]
    """The parts of a response with all points, with the forms that mending adds."""
    gold: float


def asked(name: str, seed: int) -> Asked:
    """The prompt of a seed."""
    task: Any = WORLDS[name].any_task(np.random.default_rng(seed))
    if name == "notes":
        things = [f"{thing} ." for thing in task.things]
        best = [f"dear {task.name} ,", *things, f"please send the {task.wish} .", "best wishes"]
    else:
        things = [f"{hour} {place} ;" for hour, place in task.appointments]
        best = [f"on {task.day} :", *things, f"then call {task.person} ;", "have a good day"]
    return Asked(task.prompt(), best, len(things) + 2.5)


TICS = {"notes": "um", "timetables": "maybe"}
ADDED = {
    "notes": [("do not be so slow .", "rude"), ("and so it goes .", "padding"), ("please .", "nobody asked for it")],
    "timetables": [("nobody cares ;", "rude"), ("time does fly ;", "padding"), ("have ;", "nobody asked for it")],
}


def slipped(name: str, kind: int, at: Asked, rng: np.random.Generator) -> tuple[list[str], Fault]:
    """A perfect response with one slip, and the fault that this is."""
    parts, last = list(at.best), len(at.best) - 1
    i = int(rng.integers(1, last))
    where = f"missing: {'tell about' if name == 'notes' else 'do'} "
    if kind == 0:
        i = int(rng.integers(0, last + 1))
        words = parts[i].split()
        j = int(rng.integers(0, len(words) - (i < last)))
        parts[i] = " ".join([*words[:j], TICS[name], *words[j:]])
        return parts, Fault(i + 1, TICS[name], f"a verbal tic before {words[j]}")
    if kind <= 3:
        added, reason = ADDED[name][kind - 1]
        parts.insert(i, added)
        return parts, Fault(i + 1, added[:-2], reason)
    if kind == 4:
        j = int(rng.integers(i + 1, last + 1))
        parts.insert(j, parts[i])
        return parts, Fault(j + 1, parts[i][:-2], "said before")
    if kind == 5:
        i = int(rng.integers(1, last - 1))
        thing = parts.pop(i)
        return parts, Fault(i + 1, "", where + thing[:-2])
    if kind == 6:
        request = parts.pop(last - 1).split()[-2]
        return parts, Fault(last, "", f"missing: {'ask for the' if name == 'notes' else 'call'} {request}")
    if kind == 7:
        return parts, Fault(last + 1, "", f"missing: {parts.pop()}")
    form, who, _ = parts[0].split()
    if kind == 8:
        return parts[1:], Fault(1, "", f"missing: {form} {who}")
    wrong = "zoe"
    parts[0] = parts[0].replace(who, wrong)
    return parts, Fault(1, wrong, f"it should be: {form} {who}")


@pytest.mark.parametrize("name", WORLDS)
@given(st.integers(0, 2**32), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_a_single_slip_is_found_at_its_place_and_nothing_else_is(name: str, seed: int, kind: int) -> None:
    at = asked(name, seed)
    parts, fault = slipped(name, kind, at, np.random.default_rng(seed))
    response = " ".join(parts)
    review = of(name).review(at.prompt, response)
    assert review.faults == (fault,)
    assert of(name).mended(at.prompt, response, review) == " ".join(at.best)


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_an_appointment_behind_a_later_one_is_found_and_moved(seed: int) -> None:
    at = asked("timetables", seed)
    i, j = sorted(np.random.default_rng(seed).choice(np.arange(1, len(at.best) - 2), size=2, replace=False))
    parts = list(at.best)
    moved = parts.pop(i)
    parts.insert(j, moved)
    review = of("timetables").review(at.prompt, " ".join(parts))
    assert review.faults == (Fault(j + 1, moved[:-2], "stands after a later one"),)
    assert of("timetables").mended(at.prompt, " ".join(parts), review) == " ".join(at.best)


@st.composite
def responses(draw: st.DrawFn, name: str) -> tuple[Asked, str]:
    """A prompt and a response to it: a writer's, cut up and mixed with other words, or pieces of all kinds."""
    world, seed = WORLDS[name], draw(st.integers(0, 2**32))
    rng, at = np.random.default_rng(seed), asked(name, seed)
    vocabulary = [*world.vocabulary(), *TICS.values(), ".", ";", ",", ":", "zoe"]
    pieces = [*at.best, *(piece for piece, _ in ADDED[name]), *at.prompt.split(), TICS[name], ".", ";", "dear ben ,"]
    if draw(st.booleans()):
        task = world.any_task(np.random.default_rng(seed))
        words = text(world.write(task, rng)).split()
    else:
        words = " ".join(draw(st.lists(st.sampled_from([*pieces, *vocabulary]), max_size=20))).split()
    for edit in draw(st.lists(st.sampled_from(["cut", "add", "say", "swap", "again", "end"]), max_size=6)):
        i, j = sorted(int(k) for k in rng.integers(0, len(words) + 1, size=2))
        if edit == "cut":
            del words[i : min(j, i + 3)]
        elif edit == "add":
            words.insert(i, vocabulary[int(rng.integers(len(vocabulary)))])
        elif edit == "say":
            words[i:i] = pieces[int(rng.integers(len(pieces)))].split()
        elif edit == "again":
            words[j:j] = words[i : i + 4]
        elif edit == "end":
            del words[max(j, 3) :]
        elif j < len(words):
            words[i], words[j] = words[j], words[i]
    return at, " ".join(words)


@pytest.mark.parametrize("name", WORLDS)
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_is_written_its_review_agrees_with_gold_and_is_said_and_mended(name: str, data: st.DataObject) -> None:
    at, response = data.draw(responses(name))
    gold, world = WORLDS[name].gold, of(name)
    review = world.review(at.prompt, response)
    assert review.correct == (gold(at.prompt, response) == at.gold)
    assert [fault.step for fault in review.faults] == sorted(fault.step for fault in review.faults)

    mended = world.mended(at.prompt, response, review)
    assert gold(at.prompt, mended) == at.gold
    assert world.review(at.prompt, mended).correct
    assert world.mended(at.prompt, mended, Review()) == mended
    assert world.mended(at.prompt, response, Review()) == response
    for i in range(len(review.faults)):  # each is there for something
        others = Review(review.faults[:i] + review.faults[i + 1 :])
        assert gold(at.prompt, world.mended(at.prompt, response, others)) < at.gold

    feedback = world.feedback(response, review)
    read = world.read_feedback(feedback)
    assert stated(read) == stated(review)
    assert read is not None and [fault.step for fault in read.faults] == list(range(1, len(review.faults) + 1))
    assert world.mended(at.prompt, response, read) == mended
    assert set(feedback.split()) <= {*WORLDS[name].vocabulary(), *response.split()}


@pytest.mark.parametrize("name", WORLDS)
def test_faults_are_mended_one_by_one(name: str) -> None:
    world, gold = of(name), WORLDS[name].gold
    for pair in WORLDS[name].pairs(100, seed=5):
        prompt = pair.prompt[0]["content"]
        for response in (pair.chosen, pair.rejected):
            review = world.review(prompt, response)
            for i, fault in enumerate(review.faults):
                others = review.faults[:i] + review.faults[i + 1 :]
                alone = world.mended(prompt, response, Review((fault,)))
                assert gold(prompt, alone) > gold(prompt, response)
                assert sorted(stated(world.review(prompt, alone)) or []) == sorted(stated(Review(others)) or [])
                left = world.review(prompt, world.mended(prompt, response, Review(others)))
                assert stated(left) == [(fault.segment, fault.reason)]


@given(st.text(max_size=60), st.sampled_from(sorted(WORLDS)))
@example("dear anna ,lamp .best wishes", "notes")
@settings(deadline=None)
def test_any_text_is_reviewed_and_read(words: str, name: str) -> None:
    prompt, _ = BEST[name]
    review = of(name).review(f"User:\n{prompt}\n\nAssistant:", words)
    assert WORLDS[name].gold(prompt, of(name).mended(prompt, words, review)) == 5.5
    of(name).read_feedback(words)


@pytest.mark.parametrize("name", WORLDS)
def test_a_text_that_is_no_prompt_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"not a prompt of the world '{name}'"):
        of(name).review("write a poem", "")
