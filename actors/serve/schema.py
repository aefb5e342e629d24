"""The bodies that the API takes, and what it gives back, as OpenAI's clients know them."""

from __future__ import annotations

import secrets
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from actors.requests import check_row
from actors.serve.answers import Answer, Question, Usage
from actors.serve.errors import Refused
from actors.serve.limits import MOST_ITERATIONS, MOST_TEMPERATURE
from pit_ray.errors import DataError

INDIFFERENT = ("user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier")
"""Fields of OpenAI's that change no answer."""
NEUTRAL: dict[str, Any] = {
    "n": 1, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "logprobs": False, "stop": [], "tools": [],
    "tool_choice": "none", "response_format": {"type": "text"}, "logit_bias": {}, "modalities": ["text"],
    "parallel_tool_calls": True,
}  # fmt: skip
"""Fields that may be given with the value that changes nothing; with another they are refused, not ignored."""
SEEDS = 2**63

Temperature = Field(None, ge=0, le=MOST_TEMPERATURE)
Iterations = Field(None, ge=1, le=MOST_ITERATIONS)
Seed = Field(None, ge=-SEEDS, lt=SEEDS)


class Body(BaseModel):
    """Knows all its fields, and refuses others."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Body):
    """A part of a message; no other kind is taken."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A turn. Clients send back what they were sent, so other fields are let pass."""

    role: str
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content]
        return {"role": self.role, "content": "".join(parts)}


class StreamOptions(Body):
    """What goes with a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(Body):
    """POST /v1/chat/completions."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    temperature: float | None = Temperature
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = Seed
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    iterations: int | None = Iterations
    """Ours: revise so often and keep the last. null: up to evaluation.iterations, by the improver's own rule."""

    @model_validator(mode="before")
    @classmethod
    def _what_matters(cls, plain: Any) -> Any:
        if not isinstance(plain, dict):
            return plain
        return {
            name: value
            for name, value in plain.items()
            if value is not None and name not in INDIFFERENT and not (name in NEUTRAL and value == NEUTRAL[name])
        }

    def question(self) -> Question:
        """Refused (400) when the messages are no prompt."""
        messages = [message.plain() for message in self.messages]
        _check({"prompt": messages}, "messages")
        return Question(
            name=self.model,
            prompt=messages,
            draft=None,
            iterations=self.iterations,
            seed=secrets.randbelow(SEEDS) if self.seed is None else self.seed,
            temperature=self.temperature,
            max_tokens=min(filter(None, (self.max_tokens, self.max_completion_tokens)), default=None),
        )


class ImproveBody(Body):
    """POST /improve."""

    prompt: str | list[ChatMessage]
    draft: str | None = None
    """null: the run's policy writes one."""
    improver: str | None = None
    """null: that of the run's method."""
    iterations: int | None = Iterations
    seed: int | None = Seed
    temperature: float | None = Temperature
    max_tokens: int | None = Field(None, ge=1)

    def question(self) -> Question:
        """Refused (400) when the prompt is none."""
        prompt = self.prompt if isinstance(self.prompt, str) else [message.plain() for message in self.prompt]
        _check({"prompt": prompt, "draft": self.draft}, "prompt")
        return Question(
            name=self.improver,
            prompt=prompt,
            draft=self.draft,
            iterations=self.iterations,
            seed=secrets.randbelow(SEEDS) if self.seed is None else self.seed,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
        )


def _check(row: dict[str, Any], param: str) -> None:
    try:
        check_row(row, param)
    except DataError as error:
        raise Refused(400, str(error), param=param) from error


def usage(used: Usage) -> dict[str, int]:
    """Of all calls of language models behind an answer; end tokens count."""
    prompt, completion = used.prompt_tokens, used.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion(head: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """An answer as a chat completion; `head` holds its id, time and model."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer.response},
        "logprobs": None,
        "finish_reason": answer.finish_reason,
    }
    return head | {"object": "chat.completion", "choices": [choice], "usage": usage(answer.usage), "seed": answer.seed}


def chunk(head: dict[str, Any], delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    """A part of a streamed chat completion."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return head | {"object": "chat.completion.chunk", "choices": [choice]}


def improvement(answer: Answer) -> dict[str, Any]:
    """An answer with every step on the way; a step that was not kept is marked."""
    steps = []
    for step in answer.steps:
        feedback = {} if step.feedback is None else {"feedback": step.feedback}
        steps.append(
            {"draft": step.draft, **feedback, "revision": step.revision, answer.measure: step.score, "kept": step.kept}
        )
    used = answer.usage
    return {
        "improver": answer.name,
        "response": answer.response,
        "finish_reason": answer.finish_reason,
        "steps": steps,
        "seed": answer.seed,
        "calls": {"model": used.calls, "scorer": used.scorer_calls},
        "tokens": {
            "prompt": used.prompt_tokens, "completion": used.completion_tokens, "scorer": used.scorer_tokens,
        },
    }  # fmt: skip
