"""Who writes the feedback and refinements that a model is to learn from: a verifier, or a model behind an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from pit_ray.data.tasks import find_questions
from pit_ray.data.verifiers import Verifier
from pit_ray.endpoint import ChatRequest, EndpointClient
from pit_ray.errors import ConfigError, DataError, short
from pit_ray.records import Message, Questions, Ragged
from pit_ray.stages.context import RunContext
from pit_ray.stages.examples import ExampleRows

COUNTS = ("right", "mended", "rejected")


class Annotation(NamedTuple):
    """What is to be said of a response, and the response put right; the same response where nothing is wrong."""

    feedback: str
    refinement: str
    correct: bool


class Annotator(Protocol):
    """Writes annotations of responses, given as texts."""

    def annotate(self, asked: Sequence[str], responses: Sequence[str]) -> list[Annotation]: ...


@dataclass(frozen=True)
class VerifierAnnotator:
    """A world's or task's own verifier."""

    verifier: Verifier

    def annotate(self, asked: Sequence[str], responses: Sequence[str]) -> list[Annotation]:
        found = []
        for prompt, response in zip(asked, responses, strict=True):
            review = self.verifier.review(prompt, response)
            mended = response if review.correct else self.verifier.mended(prompt, response, review)
            found.append(Annotation(self.verifier.feedback(response, review), mended, review.correct))
        return found

    def approval(self, asked: str, response: str) -> str:
        """What it says of a response that it has put right."""
        return self.verifier.feedback(response, self.verifier.review(asked, response))


@dataclass(frozen=True)
class EndpointAnnotator:
    """A stronger model (SELF, arXiv 2310.00533): asked for feedback, then for the response again."""

    client: EndpointClient
    feedback_instruction: str
    refine_instruction: str
    enough: str
    """Words in a feedback that say that nothing is wrong."""

    def annotate(self, asked: Sequence[str], responses: Sequence[str]) -> list[Annotation]:
        dialogues: list[list[Message]] = [
            [_turn("user", x), _turn("assistant", y), _turn("user", self.feedback_instruction)]
            for x, y in zip(asked, responses, strict=True)
        ]
        feedback = [a.text for a in self.client.answer([self._request(d) for d in dialogues])]
        right = [self.enough.lower() in said.lower() for said in feedback]
        again = [
            self._request([*d, _turn("assistant", said), _turn("user", self.refine_instruction)])
            for d, said, done in zip(dialogues, feedback, right, strict=True)
            if not done
        ]
        written = iter(self.client.answer(again))
        return [
            Annotation(said, y if done else next(written).text, done)
            for said, y, done in zip(feedback, responses, right, strict=True)
        ]

    def _request(self, turns: list[Message]) -> ChatRequest:
        settings = self.client.endpoint
        return ChatRequest(tuple(turns), settings.temperature, settings.max_tokens)


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def verifier_annotator(context: RunContext) -> VerifierAnnotator:
    """ConfigError where the data have no verifier."""
    if context.verifier is None:
        raise ConfigError(
            f"data.source: '{short(context.config.data.source)}' has no verifier that could write feedback; take "
            "world:NAME or task:NAME, or an endpoint (self_evolution.annotator=endpoint)"
        )
    return VerifierAnnotator(context.verifier)


def annotated(
    context: RunContext, annotator: Annotator, questions: Questions, responses: Ragged, direct: float
) -> tuple[ExampleRows, dict[str, int]]:
    """Examples of feedback on the responses, of refining the faulty ones, and (weight `direct`) of answering with the
    refinement at once: log p(f|q, r) + log p(r̂|q, r, f) + β log p(r̂|q) (SELF, arXiv 2310.00533); and how many were
    right, mended, or rejected because the refinement contradicts the label.

    DataError when a verifier does: then it, or the label, is wrong.
    """
    renderer, rows = context.renderer, ExampleRows(context)
    text, ids = renderer.text, lambda words: np.array(renderer.response_ids(words), dtype=np.int32)
    asked = [renderer.user_text(x) for x in questions.prompt.rows()]
    notes = annotator.annotate(asked, [text(y) for y in responses.rows()])
    counts = dict.fromkeys(COUNTS, 0)
    for uid, x, y, label, question, note in zip(
        questions.uid, questions.prompt.rows(), responses.rows(), questions.answer.rows(), asked, notes, strict=True
    ):
        if contradiction := contradicts(context, note.refinement, text(label)):
            if isinstance(annotator, VerifierAnnotator):
                raise DataError(f"the verifier contradicts the label of {short(question)!r}: {contradiction}")
            counts["rejected"] += 1
            continue
        said, better = ids(note.feedback), y if note.correct else ids(note.refinement)
        rows.feedback(uid, x, y, said)
        if not note.correct:
            rows.refinement(uid, x, y, said, better)
            if isinstance(annotator, VerifierAnnotator):
                # Else a model whose own responses are seldom right would never learn to find one so.
                rows.feedback(uid, x, better, ids(annotator.approval(question, note.refinement)))
        rows.answer(uid, x, better, direct)
        counts["right" if note.correct else "mended"] += 1
    return rows, counts


def contradicts(context: RunContext, response: str, label: str) -> str | None:
    """How a response's final answer differs from the label's; None where it does not, or nobody can tell."""
    task = find_questions(context.config.data.source)
    if task is None:
        return None
    right = task.answer(label) or ""
    if task.correct(response, right):
        return None
    return f"it takes {short(task.answer(response) or response)!r} for right, the label says {short(right)!r}"
