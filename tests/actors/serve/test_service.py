"""Requests that are too many, too slow or not waited for; health and metrics."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from actors.serve.limits import Limits
from pit_ray.errors import InfraError
from tests.actors.serve.conftest import LIMITS
from tests.actors.serve.stub_answerer import AUTHORIZED, CHAT, Client, asking, error_of, events_of, until


@pytest.mark.parametrize("stream", [False, True])
def test_what_takes_too_long_is_given_up(stream: bool) -> None:
    async def play() -> tuple[httpx.Response, Client]:
        client = Client(Limits(1, 0, 0.2, LIMITS.key_digest))
        answer = await client.chat(messages=asking("wait"), stream=stream)
        await until(lambda: client.stub.stopped == 1)
        return answer, client

    answer, client = asyncio.run(play())
    error = events_of(answer)[-1]["error"] if stream else error_of(answer, 504)
    assert error["code"] == "deadline_exceeded" and "0.2 s" in error["message"]
    assert client.service.gate.running == 0


def test_more_than_may_wait_are_refused_and_the_others_answered() -> None:
    async def play() -> tuple[list[httpx.Response], list[httpx.Response], str]:
        client = Client()
        asked = [asyncio.create_task(client.chat(messages=asking("wait"))) for _ in range(3)]
        await until(lambda: client.service.gate.running == 2 and client.service.gate.waiting == 1)
        refused = [await client.chat(stream=stream) for stream in (False, True)]
        metrics = (await client.http.get("/metrics")).text
        client.stub.release.set()
        return refused, await asyncio.gather(*asked), metrics

    refused, answered, metrics = asyncio.run(play())
    for answer in refused:
        assert error_of(answer, 429)["type"] == "rate_limit_error"
        assert int(answer.headers["retry-after"]) >= 1
    assert [answer.status_code for answer in answered] == [200] * 3
    assert "pit_ray_in_flight 2.0" in metrics and "pit_ray_waiting 1.0" in metrics


def test_waiting_counts_towards_the_deadline() -> None:
    async def play() -> tuple[httpx.Response, Client]:
        client = Client(Limits(1, 1, 0.3, LIMITS.key_digest))
        first = asyncio.create_task(client.chat(messages=asking("wait")))
        await until(lambda: client.service.gate.running == 1)
        second = await client.chat(messages=asking("wait"))
        await first
        return second, client

    second, client = asyncio.run(play())
    error_of(second, 504)
    assert client.service.gate.running == client.service.gate.waiting == 0


@pytest.mark.parametrize("stream", [False, True])
def test_what_nobody_waits_for_is_given_up(stream: bool) -> None:
    """A client that goes is told by the server as ASGI has it."""

    async def play() -> tuple[Client, int]:
        client = Client(Limits(1, 0, 60.0, LIMITS.key_digest))
        body = json.dumps(CHAT | {"messages": asking("wait"), "stream": stream}).encode()
        headers = [(b"authorization", AUTHORIZED["Authorization"].encode()), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions",
            "headers": headers, "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "",
            "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 9), "asgi": {"version": "3.0", "spec_version": "2.3"},
        }  # fmt: skip
        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}
            await until(lambda: client.stub.begun == 1)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        await client.app(scope, receive, send)
        await until(lambda: client.stub.stopped == 1 and client.service.gate.running == 0)
        return client, (await client.chat()).status_code

    client, after = asyncio.run(play())
    assert client.stub.begun == 2 and after == 200, "its room is free again"


@pytest.mark.parametrize(("second", "status"), [("well", 200), ("dead", 503), ("silent", 503)])
def test_health_asks_every_engine(second: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.serve.service.HEALTH_SECONDS", 0.1)

    async def well() -> bool:
        return True

    async def dead() -> bool:
        raise InfraError("dead")

    async def silent() -> bool:
        return await asyncio.sleep(3600, True)

    async def play() -> httpx.Response:
        client = Client(engines={"first": well, "second": {"well": well, "dead": dead, "silent": silent}[second]})
        return await client.http.get("/health", headers={"Authorization": ""})

    answer = asyncio.run(play())
    assert answer.status_code == status
    assert answer.json() == {"engines": {"first": True, "second": second == "well"}}


def test_metrics_count_what_was_asked_and_answered() -> None:
    async def play() -> tuple[str, int]:
        client = Client()
        for _ in range(2):
            await client.chat()
        await client.chat(n=2)
        await client.http.get("/made/up/42")
        stranger = await client.http.get("/metrics", headers={"Authorization": ""})
        return (await client.http.get("/metrics")).text, stranger.status_code

    text, stranger = asyncio.run(play())
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert stranger == 401
    assert samples['pit_ray_requests_total{route="/v1/chat/completions",status="200"}'] == "2.0"
    assert samples['pit_ray_requests_total{route="/v1/chat/completions",status="400"}'] == "1.0"
    assert samples['pit_ray_requests_total{route="other",status="404"}'] == "1.0"
    assert samples['pit_ray_requests_total{route="/metrics",status="401"}'] == "1.0"
    assert samples['pit_ray_request_seconds_count{route="/v1/chat/completions"}'] == "3.0"
    assert samples['pit_ray_tokens_total{kind="completion",model="pit"}'] == "14.0"
    assert samples['pit_ray_served_gap_sum{model="pit"}'] == "0.5"
    assert samples['pit_ray_served_gap_count{model="pit"}'] == "2.0"
    assert "/made/up/42" not in text
