"""What a verifier says of a response: where it goes wrong and why, as data and as text that a model can learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a response."""

    step: int
    """Which step (of a task) or sentence (of a world) it is in, counted from 1."""
    segment: str
    """The wrong words, as they stand in the response; empty where something is missing."""
    reason: str
    """Why they are wrong, in words."""
    instead: str = ""
    """What would be right there; empty where the verifier does not say."""


@dataclass(frozen=True)
class Review:
    """What is wrong with a response, in its order. A task's verifier stops at the earliest fault, as TriPosT's do
    (arXiv 2310.13522); a world's names them all."""

    faults: tuple[Fault, ...] = ()

    @property
    def correct(self) -> bool:
        return not self.faults


class Verifier(Protocol):
    """Reviews responses to prompts of one world or task. A prompt is the user's words, maybe with what a chat template
    puts around them."""

    def review(self, prompt: str, response: str) -> Review:
        """The faults of a response. ValueError when the prompt is none of this verifier's."""

    def mended(self, prompt: str, response: str, review: Review) -> str:
        """The response with the faults of a review put right: of a task, rewritten from the earliest wrong step on."""

    def feedback(self, response: str, review: Review) -> str:
        """A review in words, as feedback to whoever wrote the response."""

    def read_feedback(self, text: str, response: str) -> Review | None:
        """The review that a feedback on a response states; None where it states none. Reads back what `feedback`
        writes."""
