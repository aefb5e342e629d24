"""The routes of the API; what they take and give is in schema.py."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from actors.serve.answers import Answer, Asked
from actors.serve.errors import Refused, failed, unknown
from actors.serve.limits import Doorkeeper
from actors.serve.metrics import Counting
from actors.serve.schema import ChatRequest, ImproveBody, chunk, completion, improvement, usage
from actors.serve.service import Service

log = logging.getLogger("ray.serve")
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
LONGEST_INPUT = 60
"""Characters that an error repeats of what is wrong."""


def build_app(service: Service, run: str) -> ASGIApp:
    """The API over a service; `run` is the run's name."""
    app = FastAPI(title=f"pit-ray: {run}", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unforeseen)
    started = int(time.time())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = service.answerer.names
        return {"object": "list", "data": [_model(name, started) for name in names]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        if name not in service.answerer.names:
            raise unknown(name, service.answerer.names)
        return _model(name, started)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        asked = await service.read(body.question())
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.name}
        if not body.stream:
            return JSONResponse(completion(head, await _unless_gone(service, asked, request)))
        events = _events(head, await service.stream(asked), body.stream_options.include_usage)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    @app.post("/improve")
    async def improve(body: ImproveBody, request: Request) -> Response:
        asked = await service.read(body.question())
        return JSONResponse(improvement(await _unless_gone(service, asked, request)))

    @app.get("/health")
    async def health() -> Response:
        found = await service.health()
        return JSONResponse({"engines": found}, 200 if all(found.values()) else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=PROMETHEUS)

    return Counting(Logged(Doorkeeper(app, service.limits)), service.metrics)


async def _unless_gone(service: Service, asked: Asked, request: Request) -> Answer:
    """The answer; given up when the client goes."""
    task = asyncio.create_task(service.answer(asked))
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused(499, "the client has gone")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(head: dict[str, Any], parts: AsyncIterator[str | Answer | Refused], with_usage: bool) -> Any:
    """A stream of chat completion chunks as server-sent events. Text that was not told while it grew comes in words
    when it is decided."""
    yield _event(chunk(head, {"role": "assistant", "content": ""}))
    told = ""
    async for part in parts:
        if isinstance(part, str):
            told += part
            yield _event(chunk(head, {"content": part}))
        elif isinstance(part, Refused):
            yield _event(part.body())
        else:
            for word in _words(part.response) if not told else ():
                yield _event(chunk(head, {"content": word}))
            yield _event(chunk(head, {}, part.finish_reason))
            if with_usage:
                yield _event(head | {"object": "chat.completion.chunk", "choices": [], "usage": usage(part.usage)})
            yield "data: [DONE]\n\n"


def _words(text: str) -> list[str]:
    """A text in parts that end after spaces."""
    parts = text.split(" ")
    return [f"{part} " for part in parts[:-1]] + parts[-1:]


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "pit-ray"}


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response()


async def _unforeseen(request: Request, error: Exception) -> Response:
    return failed().response()


async def _http(request: Request, error: Exception) -> Response:
    """No such path, or no such method there."""
    assert isinstance(error, HTTPException)
    words = {404: "no such path", 405: "no such method here"}.get(error.status_code, str(error.detail))
    refused = Refused(error.status_code, f"{request.method} {request.url.path:.80}: {words}", headers=error.headers)
    return refused.response()


async def _invalid(request: Request, error: Exception) -> Response:
    """What is wrong with a body, of several faults the first."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return Refused(400, "the body is not JSON").response()
    param = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    shown = repr(first.get("input"))
    shown = shown if len(shown) <= LONGEST_INPUT else f"{shown[:LONGEST_INPUT]}…"
    if first["type"] == "missing":
        message = f"{param} is missing"
    elif first["type"] == "extra_forbidden":
        message = f"{param} = {shown} is not supported"
    else:
        message = f"{param}: {first['msg']}; it is {shown}"
    return Refused(400, message, param=param).response()


class Logged:
    """ASGI middleware: what was raised besides the answer that tells of it goes into the log, and no further."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception:
            log.exception("a request failed")
