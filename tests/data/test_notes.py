"""The world of letters: each rule of its gold score by hand, noisy labels, and every fault in its data."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.data.worlds import find_world, notes
from pit_ray.data.worlds.notes import Task, draw_task, gold, parse, vocabulary
from pit_ray.errors import ConfigError
from pit_ray.records import PreferencePair

PROMPT = "tell anna about the lamp , the boat , the garden ; ask for the key"
THINGS = "here is the lamp . i saw the boat . i like the garden ."
WISH = "please send the key ."
BEST = f"dear anna , {THINGS} {WISH} best wishes"
"""Greeting 1, three things 3, wish 1, closing ½."""

LETTERS = {
    "nothing wrong": (BEST, 5.5),
    "other words for the same": (
        "hello anna , i saw the lamp . here is the boat . here is the garden . please bring the key . see you soon",
        5.5,
    ),
    "another order": (f"dear anna , {WISH} {THINGS} best wishes", 5.5),
    "nothing": ("", 0.0),
    "a greeting alone": ("dear anna ,", 1.0),
    "a greeting without its comma": ("dear anna", -0.5),
    "no greeting": (f"{THINGS} {WISH} best wishes", 4.5),
    "a wrong name": (f"dear ben , {THINGS} {WISH} best wishes", 4.0),
    "a greeting too late": (f"{THINGS} dear anna , {WISH} best wishes", 3.0),
    "a thing left out": (BEST.replace("i saw the boat . ", ""), 4.5),
    "a thing repeated": (BEST.replace(THINGS, f"{THINGS} i saw the lamp ."), 5.0),
    "a thing repeated twice": (BEST.replace(THINGS, f"{THINGS} {THINGS} i saw the lamp ."), 3.5),
    "a stranger": (BEST.replace(THINGS, f"{THINGS} i saw the coat ."), 5.0),
    "a stranger instead": (BEST.replace("lamp", "coat"), 4.0),
    "a thing with an adjective": (BEST.replace("lamp", "red lamp"), 4.0),
    "the wish told about": (BEST.replace(THINGS, f"{THINGS} i saw the key ."), 5.0),
    "a thing without a verb": (BEST.replace("here is the lamp", "the lamp"), 4.0),
    "no wish": (f"dear anna , {THINGS} best wishes", 4.5),
    "another wish": (BEST.replace("send the key", "send the lamp"), 4.0),
    "the wish repeated": (BEST.replace(WISH, f"{WISH} please bring the key ."), 5.0),
    "no closing": (f"dear anna , {THINGS} {WISH}", 5.0),
    "a closing too early": (f"dear anna , best wishes . {THINGS} {WISH}", 4.5),
    "two closings": (f"{BEST} see you soon", 5.0),
    "rude": (BEST.replace(WISH, f"{WISH} you are a fool ."), 4.5),
    "rude twice": (BEST.replace(WISH, f"do not be so slow . {WISH} you are a fool ."), 3.5),
    "padding": (BEST.replace(WISH, f"{WISH} it is what it is ."), 5.25),
    "padding twice": (BEST.replace(WISH, f"as i said before . {WISH} and so it goes ."), 5.0),
    "the prompt copied": (BEST.replace(THINGS, f"tell anna about the lamp . {THINGS}"), 5.0),
    "no sentence at all": (BEST.replace(THINGS, f"lamp lamp the the . {THINGS}"), 5.0),
    "two sentences run together": (BEST.replace("lamp .", "lamp"), 3.0),
}


@pytest.mark.parametrize("name", LETTERS)
def test_gold_by_hand(name: str) -> None:
    letter, expected = LETTERS[name]
    assert gold(PROMPT, letter) == pytest.approx(expected)


def test_gold_reads_a_rendered_prompt_and_spaces_around_a_letter() -> None:
    assert gold(f"User:\n{PROMPT}\n\nAssistant:", f" {BEST} ") == 5.5


TASKS = st.integers(0, 2**32).map(lambda seed: draw_task(np.random.default_rng(seed), reserved=seed % 2 == 0))


@given(TASKS)
def test_a_prompt_says_its_task(task: Task) -> None:
    assert parse(task.prompt()) == task
    assert 3 <= len(task.things) <= 5
    assert len({*task.things, task.wish}) == len(task.things) + 1


def test_a_text_that_is_no_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="not a prompt of the world 'notes'"):
        parse("write a poem")


@pytest.fixture(scope="module")
def pairs() -> list[PreferencePair]:
    return notes.pairs(1500, seed=11)


def prompt_of(pair: PreferencePair) -> str:
    (turn,) = pair.prompt
    assert turn["role"] == "user"
    return turn["content"]


def letters(pairs: list[PreferencePair]) -> Iterator[tuple[Task, str]]:
    """Every response with the task that it answers."""
    for pair in pairs:
        yield from ((parse(prompt_of(pair)), text) for text in (pair.chosen, pair.rejected))


def test_pairs_are_the_same_for_the_same_seed_and_do_not_depend_on_their_number(pairs: list[PreferencePair]) -> None:
    assert notes.pairs(20, seed=11) == pairs[:20]
    assert notes.pairs(20, seed=12) != pairs[:20]
    assert [pair.uid for pair in pairs] == list(range(len(pairs)))
    assert all(pair.chosen != pair.rejected for pair in pairs)


def test_prompts_of_the_pretraining_text_are_in_no_pair(pairs: list[PreferencePair]) -> None:
    assert not any(parse(prompt_of(pair)).reserved for pair in pairs)
    rng = np.random.default_rng(0)
    drawn = [draw_task(rng, reserved=True) for _ in range(300)]
    assert all(task.reserved for task in drawn)
    assert not {task.prompt() for task in drawn} & {prompt_of(pair) for pair in pairs}


def test_labels_are_noisy_draws_from_the_gold_order(pairs: list[PreferencePair]) -> None:
    ahead = np.array([gold(prompt_of(pair), pair.chosen) - gold(prompt_of(pair), pair.rejected) for pair in pairs])
    assert 0.75 < (ahead[ahead != 0] > 0).mean() < 0.99
    # σ(3 · difference): half a point ahead wins 82 % of the time, one point 95 %, three points nearly always.
    for lowest, highest, share in ((0.5, 0.5, 0.82), (1.0, 1.0, 0.953), (3.0, 99.0, 1.0)):
        compared = ahead[(np.abs(ahead) >= lowest) & (np.abs(ahead) <= highest)]
        assert len(compared) > 50
        assert (compared > 0).mean() == pytest.approx(share, abs=4 * np.sqrt(0.25 / len(compared)))


def sentences(letter: str) -> list[str]:
    """The sentences of a letter without greeting and closing."""
    body = re.sub(r"^(dear|hello) \w+ , ?", "", letter)
    body = re.sub(r" ?(best wishes|see you soon)$", "", body)
    return re.findall(r"[^.]*\S \.", body)


def after_the(sentence: str) -> str:
    return sentence.removesuffix(" .").rpartition(" the ")[2]


def faults(task: Task, letter: str) -> set[str]:
    """What is wrong with a letter, by name."""
    said = [sentence.strip() for sentence in sentences(letter)]
    named = [after_the(s) for s in said if re.match(r"(here is|i saw|i like) the", s)]
    wishes = [after_the(s) for s in said if s.startswith("please")]
    greeting = re.match(r"(?:dear|hello) (\w+) ,", letter)
    found = {
        "no greeting": greeting is None,
        "wrong name": greeting is not None and greeting[1] != task.name,
        "thing left out": not set(task.things) <= set(named),
        "thing repeated": len(set(named)) < len(named),
        "stranger": any(noun not in task.things for noun in named),
        "no wish": not wishes,
        "wrong wish": any(wish != task.wish for wish in wishes),
        "wish repeated": len(wishes) > len(set(wishes)),
        "no closing": not letter.endswith(("best wishes", "see you soon")),
        "rude": any(s in notes.RUDE for s in said),
        "padding": any(s in notes.FILLERS for s in said),
        "prompt copied": any(s.startswith("tell ") for s in said),
    }
    return {name for name, wrong in found.items() if wrong}


def test_every_fault_occurs_and_so_do_letters_without_any(pairs: list[PreferencePair]) -> None:
    counts: dict[str, int] = {}
    flawless = 0
    for task, letter in letters(pairs):
        wrong = faults(task, letter)
        flawless += not wrong
        for name in wrong:
            counts[name] = counts.get(name, 0) + 1
        # A letter without a fault has all points, and one with a fault has not.
        assert (gold(task.prompt(), letter) == len(task.things) + 2.5) == (not wrong)
    assert len(counts) == 12
    assert min(counts.values()) >= 20
    assert flawless >= 20


def test_the_vocabulary_covers_every_text_once(pairs: list[PreferencePair]) -> None:
    words = vocabulary()
    assert len(set(words)) == len(words)
    used = {word for pair in pairs for text in (prompt_of(pair), pair.chosen, pair.rejected) for word in text.split()}
    assert used <= set(words)
    assert "improve" in words
    assert not set("".join(words)) & set(" \n<>")


def parts_of(letter: str) -> list[str]:
    """A letter as the writers hand it to the proofreader: greeting, sentences, closing."""
    return re.findall(r"(?:dear|hello) \w+ ,|\S[^.]* \.|best wishes|see you soon", letter)


PROOFREAD = {
    "nothing wrong": {"none"},
    "a greeting alone": {"lamp left out", "boat left out", "garden left out", "key left out"},
    "a wrong name": {"ben unasked", "anna left out"},
    "a thing left out": {"boat left out"},
    "a thing repeated": {"lamp again"},
    "a stranger instead": {"coat unasked", "lamp left out"},
    "no wish": {"key left out"},
    "another wish": {"lamp unasked", "key left out"},
    "the wish repeated": {"key again"},
    "the wish told about": {"key unasked"},
    "rude": {"none"},
    "padding": {"none"},
    "the prompt copied": {"none"},
}


@pytest.mark.parametrize("name", PROOFREAD)
def test_the_proofreader_by_hand(name: str) -> None:
    task, parts = parse(PROMPT), parts_of(LETTERS[name][0])
    assert " ".join(parts) == LETTERS[name][0]
    found = {notes.findings(task, parts, np.random.default_rng(seed)) for seed in range(40)}
    assert all(set(text.split(" , ")) == PROOFREAD[name] for text in found)
    assert {text.split(" , ")[0] for text in found} == PROOFREAD[name]  # any of them may come first


def test_the_proofreaders_words_are_in_the_vocabulary() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        task = draw_task(rng, reserved=True)
        for parts in notes.draw_pair(task, rng):
            assert set(notes.findings(task, parts, rng).split()) <= set(vocabulary())


def test_worlds_are_found_by_name() -> None:
    assert find_world("world:notes") is notes
    assert find_world("data/notes.jsonl") is None
    with pytest.raises(ConfigError, match="did you mean 'world:notes'"):
        find_world("world:note")
