"""Improvers that first say what is wrong with a draft, then write it again: Self-Refine, SELF's and TriPosT's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from pit_ray.data.randomness import derive_seed
from pit_ray.data.verifiers import Verifier
from pit_ray.improvers.dialogues import Dialogues, Turn, Writer, Written
from pit_ray.improvers.interface import Cost, Round
from pit_ray.records import Prompts, Ragged
from pit_ray.roles import GenerateRequest

SCORE = re.compile(r"score\s*(?:is|=|:)?\s*(\d+(?:\.\d+)?)", re.IGNORECASE)
"""How a feedback in free words gives its score."""


class Reading(NamedTuple):
    """What a feedback says."""

    score: float
    """Of the response, higher is better; NaN where it gives none."""
    stop: bool
    """Whether nothing is to be improved any more."""


Reader = Callable[[str, str], Reading | None]
"""What a feedback says of a response; None where it cannot be read."""


def reader_of(verifier: Verifier) -> Reader:
    """Reads feedback in a verifier's words: a response is the better the fewer faults it lists."""

    def read(text: str, response: str) -> Reading | None:
        review = verifier.read_feedback(text, response)
        return None if review is None else Reading(-float(len(review.faults)), review.correct)

    return read


def free_reader(threshold: float, enough: str) -> Reader:
    """Reads any feedback: its last "Score: N", and whether N reaches `threshold` or the words `enough` stand in it."""

    def read(text: str, response: str) -> Reading:
        found = SCORE.findall(text)
        score = float(found[-1]) if found else np.nan
        return Reading(score, bool(score >= threshold) or enough.lower() in text.lower())

    return read


@dataclass(frozen=True)
class Manner:
    """How an improver gives feedback and what it makes of it."""

    feedback: str
    """The user's turn that asks for feedback on the response above."""
    refine: str
    """The user's turn that asks for the response again, with the feedback above it."""
    read: Reader
    memory: Literal["all", "last"]
    """Whether a revision sees all drafts and feedback so far (Self-Refine, arXiv 2303.17651) or the last (TriPosT,
    arXiv 2310.13522)."""
    keep: Literal["best", "last"]
    """Which response is kept: that with the highest score (Self-Refine), or the last."""


@dataclass(frozen=True)
class FeedbackImprover:
    """(feedback, score) ~ p_fb(· | x, y_t); y_{t+1} ~ p_rf(· | x, y_t, feedback, …), until the feedback says that it is
    enough, cannot be read, or brings nothing new."""

    name: str
    writer: Writer
    manner: Manner
    text: Callable[[np.ndarray], str]
    """Token ids as text, to read a feedback."""

    def begin(self, asked: Prompts, drafts: Ragged, request: GenerateRequest) -> Round:
        n = len(drafts)
        unrevised = Round(drafts, np.ones(n, bool), np.zeros(n, bool), np.full(n, np.nan), Cost.of(n))
        return self._reviewed(unrevised, asked, np.ones(n, bool), None, request)

    def revise(self, asked: Prompts, rounds: Sequence[Round], request: GenerateRequest) -> Round:
        last = rounds[-1]
        assert last.stopped is not None
        rows = np.flatnonzero(~last.stopped)
        n = len(last.responses)
        if not len(rows):
            return replace(last, revised=np.zeros(n, bool), cost=Cost.of(n), unread=np.zeros(n, bool))
        written = self.writer.write(self._to_refine(asked, rounds, rows), request)
        responses, finished = last.responses.rows(), last.finished.copy()
        progress = np.zeros(n, bool)
        for i, row, done in zip(rows, written.responses.rows(), written.finished, strict=True):
            progress[i] = not np.array_equal(row, responses[i])
            responses[i], finished[i] = row, done
        revised = np.zeros(n, bool)
        revised[rows] = True
        cost = Cost.of(len(rows), 1, written.responses.lengths).spread(rows, n)
        unread = np.zeros(n, bool)
        found = replace(
            last, responses=Ragged.of(responses), finished=finished, revised=revised, cost=cost, unread=unread
        )
        return self._reviewed(found, asked, progress, last, request)

    def kept(self, rounds: Sequence[Round]) -> np.ndarray:
        if self.manner.keep == "last":
            return np.full(len(rounds[0].responses), len(rounds) - 1)
        scores = np.stack([np.where(np.isnan(r.score), -np.inf, r.score) for r in rounds])
        # Of equal scores the latest: where none could be read, that is Self-Refine's y_T.
        return len(rounds) - 1 - np.argmax(scores[::-1], axis=0)

    def _to_refine(self, asked: Prompts, rounds: Sequence[Round], rows: np.ndarray) -> Dialogues:
        seen = rounds if self.manner.memory == "all" else rounds[-1:]
        turns: list[Turn] = []
        for r in seen:
            assert r.feedback is not None
            turns.append(Turn(r.responses.take(rows), self.manner.feedback))
            turns.append(Turn(r.feedback.take(rows), self.manner.refine))
        return Dialogues(asked.take(rows), tuple(turns))

    def _reviewed(
        self, found: Round, asked: Prompts, wanted: np.ndarray, last: Round | None, request: GenerateRequest
    ) -> Round:
        """The round with feedback on the `wanted` rows; the others stop, and keep what was said of them."""
        n, rows = len(found.responses), np.flatnonzero(wanted)
        dialogues = Dialogues(asked.take(rows), (Turn(found.responses.take(rows), self.manner.feedback),))
        asking = replace(request, seed=derive_seed(request.seed, "feedback"))
        said = self.writer.write(dialogues, asking) if len(rows) else Written(Ragged.of([]), np.zeros(0, bool))
        feedback = [np.zeros(0, np.int32)] * n if last is None or last.feedback is None else last.feedback.rows()
        score, stopped, unread = found.score.copy(), ~wanted, np.zeros(n, bool)
        for i, words, done in zip(rows, said.responses.rows(), said.finished, strict=True):
            # Cut off, it does not say what it means to.
            reading = self.manner.read(self.text(words), self.text(found.responses[int(i)])) if done else None
            again = last is not None and np.array_equal(words, feedback[i])
            feedback[i] = words
            unread[i] = reading is None
            score[i] = np.nan if reading is None else reading.score
            stopped[i] = reading is None or reading.stop or (again and self.manner.memory == "last")
        return replace(
            found,
            score=score,
            feedback=Ragged.of(feedback),
            stopped=stopped,
            unread=unread,
            cost=found.cost + Cost.of(len(rows), 1, said.responses.lengths).spread(rows, n),
        )
