"""Feedback in a world's own words: short, whole or not read at all, and never at odds with itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pit_ray.data.worlds import WORLDS

BEST = {
    "notes": (
        "tell anna about lamp boat garden ; ask for the key",
        "dear anna , lamp . boat . garden . please send the key . best wishes",
    ),
    "timetables": (
        "monday : bank at nine , gym at ten , school at four . call nina",
        "on monday : nine bank ; ten gym ; four school ; then call nina ; have a good day",
    ),
}
"""A prompt and a response with all points."""


@pytest.mark.parametrize("name", WORLDS)
def test_feedback_on_the_worlds_own_responses_is_in_its_vocabulary_and_short(name: str) -> None:
    world = WORLDS[name]
    vocabulary, lengths = set(world.vocabulary()), []
    for pair in world.pairs(150, seed=6):
        review = world.review(pair.prompt[0]["content"], pair.rejected)
        words = world.feedback(pair.rejected, review).split()
        lengths.append(len(words))
        assert set(words) <= vocabulary
        for end in range(len(words)):  # cut off anywhere
            assert world.read_feedback(" ".join(words[:end])) is None
    assert np.mean(lengths) < 25


@pytest.mark.parametrize("name", WORLDS)
def test_responses_with_more_faults_have_less_gold(name: str) -> None:
    world, counts, short = WORLDS[name], [], []
    for pair in world.pairs(150, seed=5):
        prompt = pair.prompt[0]["content"]
        best = world.mended(prompt, "", world.review(prompt, ""))
        for response in (pair.chosen, pair.rejected):
            counts.append(len(world.review(prompt, response).faults))
            short.append(world.gold(prompt, best) - world.gold(prompt, response))
    assert np.corrcoef(counts, short)[0, 1] > 0.9


NO_FEEDBACK = {
    "notes": [
        "", "improve", "so it is", "so it is best improve", "so it is best . improve", "um lamp . so it is best",
        "um lamp .", "um lamp improve", "um um . improve", "um lamp boat . improve", "lamp . improve", "not . improve",
        "before coat coat . improve", "not you are a fool . improve", "tell about zoe . improve",
        "tell about . improve", "tell about lamp . tell about lamp . improve",
        "ask for the key . ask for the lamp . improve",
        "dear anna . dear ben . improve", "dear anna . dear anna for ben . improve", "dear anna for anna . improve",
        "best wishes . best wishes . improve", "before lamp . tell about lamp . improve",
        "before please send the key . ask for the key . improve", "see you soon . improve",
    ],
    "timetables": [
        "maybe bank ;", "so it is best", "a good plan ; improve", "much nobody cares ; improve", "later bank ; improve",
        "later nine bank ; later nine bank ; improve", "later nine bank ; do nine bank ; improve",
        "call nina ; call emil ; improve", "indeed then call nina ; call nina ; improve", "do bank ; improve",
        "do call nina ; improve", "on monday ; on monday ; improve", "maybe bank . improve",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", WORLDS)
def test_texts_that_are_no_feedback_or_contradict_themselves_are_not_read(name: str) -> None:
    texts = [*NO_FEEDBACK[name], BEST[name][1]]
    assert [text for text in texts if WORLDS[name].read_feedback(text) is not None] == []


@pytest.mark.parametrize("name", WORLDS)
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_feedback_is_read_says_what_was_read(name: str, data: st.DataObject) -> None:
    world: Any = WORLDS[name]
    grammar = world.grammar
    pieces = ["lamp", "nine bank", grammar.stop, *grammar.marks, grammar.thing, grammar.asked, *grammar.endings]
    pieces += [f"{grammar.openings[0]} zoe", "for", *grammar.tics, *grammar.rude, grammar.fine, *world.vocabulary()]
    piece = st.sampled_from(pieces)
    remark = st.builds(lambda said: " ".join([*said, grammar.stop]), st.lists(piece, min_size=1, max_size=2))
    words = " ".join([*data.draw(st.lists(st.one_of(remark, remark, piece), max_size=4)), "improve"])
    if (review := world.read_feedback(words)) is not None:
        assert world.feedback("", review) == words
        assert world.mended(*BEST[name], review) == BEST[name][1]  # which has none of these faults
