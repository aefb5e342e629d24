"""Improvers by their own feedback: when they stop, what they see, which response they keep, what they reject."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest

from pit_ray.data.templates import Renderer
from pit_ray.data.worlds import WORLDS
from pit_ray.improvers.dialogues import Dialogues, Turn
from pit_ray.improvers.feedback import FeedbackImprover, Manner, Reader, free_reader, reader_of
from pit_ray.improvers.interface import Round, improve
from pit_ray.learn.documents import word_tokenizer
from pit_ray.records import Ragged
from tests.improvers.engines import REQUEST, Speaker, asked

FEEDBACK, REFINE = "tell", "improve"
NOTES = WORLDS["notes"]
PROMPT = "tell anna about lamp boat key ; ask for the clock"
GOOD = "dear anna , lamp . boat . key . please send the clock . best wishes"
BAD = "dear anna , um lamp . boat . er key . please send the clock . best wishes"
WORSE = "um lamp . er key . you are a fool ."

Turns = list[tuple[str, str]]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(word_tokenizer(NOTES.vocabulary()), "improve")


def reviewer(text: str, turns: Turns) -> str:
    """Speaks as the world's verifier does, and mends the first fault of what it was shown."""
    if turns[-1][1] == FEEDBACK:
        return NOTES.feedback(turns[-1][0], NOTES.review(text, turns[-1][0]))
    said = turns[-2][0]
    review = NOTES.review(text, said)
    return NOTES.mended(text, said, type(review)(review.faults[:1]))


def improver(
    renderer: Renderer, rule=reviewer, memory: Literal["all", "last"] = "last", keep: Literal["best", "last"] = "last",
    read: Reader | None = None,
) -> FeedbackImprover:  # fmt: skip
    speaker = Speaker(renderer.response_ids, renderer.text, rule)
    manner = Manner(FEEDBACK, REFINE, read or reader_of(NOTES), memory, keep)
    return FeedbackImprover("taught", speaker, manner, renderer.text)


def run(by: FeedbackImprover, renderer: Renderer, *drafts: str, iterations: int) -> list[Round]:
    prompts = asked(*[renderer.response_ids(PROMPT)] * len(drafts))
    ids = Ragged.of(renderer.response_ids(text) for text in drafts)
    return improve(by, prompts, ids, iterations, REQUEST)


def texts(renderer: Renderer, rounds: list[Round]) -> list[list[str]]:
    return [[renderer.text(row) for row in r.responses.rows()] for r in rounds]


def test_a_row_stops_when_its_feedback_finds_no_fault(renderer: Renderer) -> None:
    rounds = run(improver(renderer), renderer, GOOD, BAD, iterations=3)
    half = BAD.replace("um ", "")
    assert texts(renderer, rounds) == [[GOOD, BAD], [GOOD, half], [GOOD, GOOD], [GOOD, GOOD]]
    assert [r.score.tolist() for r in rounds] == [[0, -2], [0, -1], [0, 0], [0, 0]]
    assert [r.revised.tolist() for r in rounds] == [[False, False], [False, True], [False, True], [False, False]]
    # Feedback on each draft; then a refinement and feedback for each row that is revised.
    assert [r.cost.calls.tolist() for r in rounds] == [[1, 1], [0, 2], [0, 2], [0, 0]]
    assert improver(renderer).kept(rounds).tolist() == [3, 3]


def test_feedback_that_cannot_be_read_is_counted_and_the_draft_stays(renderer: Renderer) -> None:
    def rule(text: str, turns: Turns) -> str:
        return "boat boat" if turns[-1][1] == FEEDBACK and "er" in turns[-1][0] else reviewer(text, turns)

    rounds = run(improver(renderer, rule), renderer, BAD, BAD.replace("er ", ""), iterations=2)
    assert texts(renderer, rounds)[2] == [BAD, GOOD]
    unread = [r.unread.tolist() for r in rounds if r.unread is not None]
    assert unread == [[True, False], [False, False], [False, False]]
    assert math.isnan(rounds[0].score[0])


def test_the_best_is_kept_and_of_equals_the_latest(renderer: Renderer) -> None:
    """Refining goes: better, spoilt, spoilt in another way."""
    steps = iter([GOOD.replace("boat", "um boat"), WORSE, BAD])

    def rule(text: str, turns: Turns) -> str:
        return reviewer(text, turns) if turns[-1][1] == FEEDBACK else next(steps)

    by = improver(renderer, rule, memory="all", keep="best")
    rounds = run(by, renderer, BAD, iterations=3)
    assert [float(r.score[0]) for r in rounds[:2]] == [-2, -1]
    assert by.kept(rounds).tolist() == [1]
    assert by.kept(rounds[:1]).tolist() == [0]

    def chatter(text: str, turns: Turns) -> str:
        return "boat" if turns[-1][1] == FEEDBACK else f"{turns[-2][0]} boat"

    scoreless = improver(renderer, chatter, "all", "best", free_reader(9, "nothing"))
    assert scoreless.kept(run(scoreless, renderer, GOOD, iterations=2)).tolist() == [2]


@pytest.mark.parametrize(("memory", "seen"), [("all", [1, 2, 1, 4, 1]), ("last", [1, 2, 1, 2, 1])])
def test_a_revision_sees_all_that_was_said_or_the_last_alone(
    renderer: Renderer, memory: Literal["all", "last"], seen: list[int]
) -> None:
    by = improver(renderer, memory=memory)
    run(by, renderer, WORSE, iterations=2)
    assert isinstance(by.writer, Speaker)
    # One turn to be judged; a response and its feedback, or all of them, to be refined.
    assert [len(turns) for turns in by.writer.heard] == seen


def test_a_revision_that_changes_nothing_ends_the_row(renderer: Renderer) -> None:
    by = improver(renderer, lambda x, turns: reviewer(x, turns) if turns[-1][1] == FEEDBACK else turns[-2][0])
    rounds = run(by, renderer, BAD, iterations=3)
    assert [r.revised.tolist() for r in rounds] == [[False], [True], [False], [False]]
    assert rounds[1].stopped is not None
    assert rounds[1].stopped.tolist() == [True]


@pytest.mark.parametrize(
    ("text", "score", "stop"),
    [
        ("Good. Score: 9", 9.0, True),
        ("score 3, then Score: 4.5 of 10", 4.5, False),
        ("There is Nothing To Improve.", math.nan, True),
        ("hm", math.nan, False),
    ],
)
def test_feedback_in_free_words(text: str, score: float, stop: bool) -> None:
    found = free_reader(9, "nothing to improve")(text, "")
    assert found is not None
    assert found.stop == stop
    assert found.score == score or (math.isnan(score) and math.isnan(found.score))


def test_contexts_hold_every_turn_and_lose_the_oldest_where_they_are_too_long(renderer: Renderer) -> None:
    prompts = asked([10, 11], [12])
    turns = tuple(Turn(Ragged.of([[20 + k], [30 + k, 31]]), word) for k, word in enumerate((FEEDBACK, REFINE) * 2))
    dialogues = Dialogues(prompts, turns)
    bridges = [renderer.bridge_to(turn.instruction).tolist() for turn in turns]
    whole = [
        x + [i for turn, bridge in zip(turns, bridges, strict=True) for i in (*turn.said[row].tolist(), *bridge)]
        for row, x in enumerate(([10, 11], [12]))
    ]
    assert [row.tolist() for row in dialogues.contexts(renderer.bridge_to).rows()] == whole
    longest = max(map(len, whole))
    assert [row.tolist() for row in dialogues.contexts(renderer.bridge_to, longest).rows()] == whole
    shorter = [row.tolist() for row in dialogues.contexts(renderer.bridge_to, longest - 1).rows()]
    assert shorter == [row.tolist() for row in Dialogues(prompts, turns[2:]).contexts(renderer.bridge_to).rows()]
    assert np.array_equal(renderer.bridge_to("improve"), renderer.bridge)
