"""Conversations that go on: an answer, what the user says to it, the next answer; and who writes the next one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from pit_ray.data.randomness import derive_seed
from pit_ray.data.templates import Renderer
from pit_ray.endpoint import ChatRequest, EndpointClient
from pit_ray.improve import without_end
from pit_ray.improvers.interface import Engines
from pit_ray.records import Prompts, Ragged
from pit_ray.roles import GenerateRequest


@dataclass(frozen=True)
class Turn:
    """What the assistant said in each of n conversations, and what the user says to it."""

    said: Ragged
    """Without end tokens."""
    instruction: str
    """The same for all."""


@dataclass(frozen=True)
class Dialogues:
    """n conversations with the same instructions: a prompt, then turns, oldest first."""

    asked: Prompts
    """x alone."""
    turns: tuple[Turn, ...]

    def contexts(self, bridge_to: Callable[[str], np.ndarray], longest: int | None = None) -> Ragged:
        """x ‖ answer ‖ bridge ‖ answer ‖ bridge …; where that is longer than `longest` tokens for some row, without the
        oldest two turns (an answer and its feedback), and so on, for all rows."""
        parts = [(turn.said.rows(), bridge_to(turn.instruction)) for turn in self.turns]
        rows = Ragged.of(
            np.concatenate([x, *(piece for said, bridge in parts for piece in (said[i], bridge))])
            for i, x in enumerate(self.asked.prompt.rows())
        )
        if longest is None or len(self.turns) <= 2 or not len(rows) or rows.lengths.max() <= longest:
            return rows
        return replace(self, turns=self.turns[2:]).contexts(bridge_to, longest)


@dataclass(frozen=True)
class Written:
    """The next answers."""

    responses: Ragged
    """Without end tokens."""
    finished: np.ndarray


class Writer(Protocol):
    """Whoever writes the next answer of conversations: a model in our engines, or one behind an endpoint."""

    def write(self, dialogues: Dialogues, request: GenerateRequest) -> Written: ...


@dataclass(frozen=True)
class EndpointWriter:
    """A model behind an OpenAI-compatible endpoint, which is sent texts."""

    client: EndpointClient
    renderer: Renderer

    def write(self, dialogues: Dialogues, request: GenerateRequest) -> Written:
        turns = [(turn.said.rows(), turn.instruction) for turn in dialogues.turns]
        requests = []
        for i, (uid, x) in enumerate(zip(dialogues.asked.uid, dialogues.asked.prompt.rows(), strict=True)):
            messages = [{"role": "user", "content": self.renderer.user_text(x)}]
            for said, instruction in turns:
                messages.append({"role": "assistant", "content": self.renderer.text(said[i])})
                messages.append({"role": "user", "content": instruction})
            seed = derive_seed(request.seed, int(uid)) % 2**31
            requests.append(ChatRequest(tuple(messages), request.temperature, request.max_new_tokens, seed))
        answers = [self.renderer.response_ids(answer.text) for answer in self.client.answer(requests)]
        return Written(Ragged.of(answers), np.ones(len(answers), dtype=bool))


@dataclass(frozen=True)
class LocalWriter:
    """A model in our own engines."""

    engines: Engines
    model: Path
    bridge_to: Callable[[str], np.ndarray]
    longest: int
    """Tokens of the longest sequence that the engines take."""

    def write(self, dialogues: Dialogues, request: GenerateRequest) -> Written:
        contexts = dialogues.contexts(self.bridge_to, self.longest - request.max_new_tokens)
        prompts = replace(dialogues.asked, prompt=contexts)
        written = self.engines.sampler(self.model).generate(prompts, request).result()
        return Written(without_end(written), written.finished)
