"""The API over a stub that answers at once, never, or wrongly, without an engine behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, ClassVar

import httpx
import numpy as np
from starlette.types import ASGIApp

from actors.serve.answers import Answer, Asked, Question, Step, Usage
from actors.serve.app import build_app
from actors.serve.engines import Work
from actors.serve.errors import Refused
from actors.serve.limits import Limits
from actors.serve.service import Service
from pit_ray.errors import InfraError
from pit_ray.roles import GenerateRequest
from tests.actors.serve.conftest import KEY, LIMITS

AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
SAID = [{"role": "user", "content": "tell anna about the lamp"}]
CHAT = {"model": "pit", "messages": SAID}


class StubAnswerer:
    """Answers "dear anna , bye" to everything, as its prompt says: at once, after an event, or with an error."""

    names: ClassVar[list[str]] = ["pit", "policy"]

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.begun, self.stopped = 0, 0
        self.release = asyncio.Event()

    def read(self, question: Question) -> Asked:
        if question.name not in (*self.names, None):
            raise Refused(404, "no such model", param="model", code="model_not_found")
        if "unreadable" in json.dumps(question.prompt):
            raise ZeroDivisionError("secret")
        self.questions.append(question)
        request = GenerateRequest(1.0, 10, question.seed, 1)
        return Asked(question.name or "pit", np.zeros(1, np.int32), None, question.iterations, request, question.seed)

    def streams(self, asked: Asked) -> bool:
        return asked.name == "policy"

    def answer(self, asked: Asked, work: Work, tell: Callable[[str], None] | None = None) -> Answer:
        self.begun += 1
        wanted = json.dumps(self.questions[-1].prompt)
        if "wait" in wanted:
            try:
                work.wait(self.release.wait())
            except BaseException:
                self.stopped += 1
                raise
        if "lost" in wanted:
            raise InfraError("engine-0 on 10.0.0.7 died: /secret/place")
        if "bug" in wanted:
            raise ZeroDivisionError("secret")
        if tell and self.streams(asked):
            for part in ("dear", " anna", " , bye"):
                tell(part)
        step = Step("dear", "dear anna , bye", 0.25, None, True)
        return Answer(asked.name, "dear anna , bye", "stop", Usage(2, 20, 7, 4, 90), asked.seed, (step,), "gap")


class Client:
    """The API in this event loop."""

    def __init__(self, limits: Limits = LIMITS, engines: dict[str, Callable[[], Any]] | None = None) -> None:
        self.stub = StubAnswerer()
        self.service = Service(self.stub, limits, engines or {})
        self.app: ASGIApp = build_app(self.service, "run")
        transport = httpx.ASGITransport(app=self.app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=AUTHORIZED, timeout=60)

    async def chat(self, **changes: Any) -> httpx.Response:
        return await self.http.post("/v1/chat/completions", json=CHAT | changes)


def asking(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer, which must be as OpenAI writes them and tell nothing of our insides."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and "Traceback" not in answer.text and "secret" not in answer.text
    return error


def events_of(answer: httpx.Response) -> list[Any]:
    """The data of a stream of server-sent events."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.split("\n\n")
    assert lines.pop() == "" and all(line.startswith("data: ") for line in lines)
    found = [line.removeprefix("data: ") for line in lines]
    return [event if event == "[DONE]" else json.loads(event) for event in found]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)
