"""What the API takes, gives and refuses, in which words."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from actors.serve.answers import Question
from actors.serve.errors import unknown
from actors.serve.limits import BODY_BYTES, MOST_ITERATIONS
from tests.actors.serve.stub_answerer import SAID, Client, StubAnswerer, asking, error_of, events_of


def test_a_completion() -> None:
    async def play() -> tuple[httpx.Response, Question]:
        client = Client()
        return await client.chat(temperature=0.5, max_tokens=9, seed=3, iterations=2), client.stub.questions[0]

    answer, question = asyncio.run(play())
    body = answer.json()
    assert body["object"] == "chat.completion" and body["model"] == "pit" and body["seed"] == 3
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "dear anna , bye"}
    assert choice["finish_reason"] == "stop" and choice["index"] == 0
    assert body["usage"] == {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}
    assert question == Question("pit", SAID, None, 2, 3, 0.5, 9)


def test_fields_that_change_nothing_are_let_pass() -> None:
    same = {
        "n": 1, "top_p": 1.0, "presence_penalty": 0, "user": "ann", "stop": None, "tools": [], "store": False,
        "metadata": {"a": "b"}, "response_format": {"type": "text"}, "logprobs": False,
    }  # fmt: skip
    parts = [{"type": "text", "text": "tell anna "}, {"type": "text", "text": "about the lamp"}]
    sent_back = {"role": "assistant", "content": "dear", "refusal": None, "annotations": []}
    messages = [{"role": "user", "content": "hello"}, sent_back, {"role": "user", "content": parts}]

    async def play() -> tuple[httpx.Response, Question]:
        client = Client()
        return await client.chat(**same, messages=messages), client.stub.questions[0]

    answer, question = asyncio.run(play())
    assert answer.status_code == 200, answer.text
    assert [turn["content"] for turn in question.prompt] == ["hello", "dear", SAID[0]["content"]]  # type: ignore[index]
    assert question.iterations is None and question.temperature is None


def test_a_seed_that_is_not_given_is_drawn_anew() -> None:
    async def play() -> list[int]:
        client = Client()
        return [(await client.chat()).json()["seed"] for _ in range(3)]

    assert len(set(asyncio.run(play()))) == 3


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"n": 2}, "n", "n = 2"),
        ({"top_p": 0.9}, "top_p", "not supported"),
        ({"stop": ["."]}, "stop", "not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"tempreature": 0.1}, "tempreature", "not supported"),
        ({"temperature": -0.1}, "temperature", "-0.1"),
        ({"temperature": 3}, "temperature", "3"),
        ({"max_tokens": 0}, "max_tokens", "0"),
        ({"seed": 2**63}, "seed", str(2**63)),
        ({"seed": "x"}, "seed", "'x'"),
        ({"iterations": MOST_ITERATIONS + 1}, "iterations", str(MOST_ITERATIONS)),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": asking(" ")}, "messages", "must end with what the user says"),
        ({"messages": [*SAID, {"role": "assistant", "content": "dear"}]}, "messages", "must end"),
        ({"messages": [{"role": "robot", "content": "x"}, *SAID]}, "messages", "'robot'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing"),
        ({"messages": "hello"}, "messages", "hello"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, None, ""),
        ({"model": 7}, "model", "7"),
        ({"messages": asking("x" * 400), "stop": "y" * 400}, "stop", "…"),
    ],
)
def test_what_is_wrong_with_a_body_is_said(changes: dict[str, Any], param: str | None, words: str) -> None:
    error = error_of(asyncio.run(Client().chat(**changes)), 400)
    assert error["type"] == "invalid_request_error"
    assert words in error["message"] and len(error["message"]) < 250
    assert param is None or error["param"] == param


HALF_A_PAIR = [
    rb'{"model": "pit", "messages": [{"role": "user", "content": "\ud800"}]}',
    rb'{"model": "pit", "messages": [{"role": "user", "content": "x"}], "\ud800": 1}',
]


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"null", b"", b"\xff", b'{"model": "pit"}', b'{"a": 1}' * 10, b"[" * 100_000, *HALF_A_PAIR]
)
def test_what_is_no_body_is_said(body: bytes) -> None:
    async def play() -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        return await Client().http.post("/v1/chat/completions", content=body, headers=headers)

    assert error_of(asyncio.run(play()), 400)["type"] == "invalid_request_error"


def test_a_name_that_cannot_be_written_is_told_all_the_same() -> None:
    """JSON can hold half a surrogate pair, UTF-8 cannot."""
    assert json.loads(unknown("\ud800", ["pit"]).response().body)["error"]["message"].startswith("no model '\\ud800'")


def test_the_statuses_of_refusals() -> None:
    async def play() -> None:
        client = Client()
        assert error_of(await client.chat(model="gpt"), 404)["code"] == "model_not_found"
        error_of(await client.http.get("/v1/models/gpt"), 404)
        error_of(await client.http.get("/nothing/here"), 404)
        error_of(await client.http.get("/improve"), 405)
        large = asking("x" * BODY_BYTES)
        assert error_of(await client.chat(messages=large), 413)["code"] == "request_too_large"
        stranger = await client.http.get("/v1/models", headers={"Authorization": "Bearer no"})
        assert error_of(stranger, 401)["code"] == "invalid_api_key"
        assert stranger.headers["www-authenticate"] == "Bearer"
        lost = await client.chat(messages=asking("lost"))
        assert error_of(lost, 503)["message"].endswith("try again later") and "retry-after" in lost.headers
        assert error_of(await client.chat(messages=asking("bug")), 500)["type"] == "server_error"
        assert error_of(await client.chat(messages=asking("unreadable")), 500)["type"] == "server_error"
        assert client.service.gate.running == 0, "each left the gate"

    asyncio.run(play())


def test_models() -> None:
    async def play() -> tuple[Any, Any]:
        client = Client()
        return (await client.http.get("/v1/models")).json(), (await client.http.get("/v1/models/pit")).json()

    listed, one = asyncio.run(play())
    assert [model["id"] for model in listed["data"]] == ["pit", "policy"] and listed["object"] == "list"
    assert one == listed["data"][0]


def test_improve_tells_every_step() -> None:
    async def play() -> tuple[httpx.Response, Question]:
        client = Client()
        body = {"prompt": "tell anna", "draft": "dear", "improver": None, "iterations": None, "seed": 4}
        return await client.http.post("/improve", json=body), client.stub.questions[0]

    answer, question = asyncio.run(play())
    assert question == Question(None, "tell anna", "dear", None, 4, None, None)
    body = answer.json()
    assert body["steps"] == [{"draft": "dear", "revision": "dear anna , bye", "gap": 0.25, "kept": True}]
    assert body["calls"] == {"model": 2, "scorer": 4}
    assert body["tokens"] == {"prompt": 20, "completion": 7, "scorer": 90}
    assert body["improver"] == "pit" and body["response"] == "dear anna , bye" and body["seed"] == 4


@pytest.mark.parametrize("model", StubAnswerer.names)
def test_a_stream_is_the_completion_in_parts(model: str) -> None:
    async def play() -> tuple[httpx.Response, httpx.Response]:
        client = Client()
        streamed = await client.chat(model=model, stream=True, stream_options={"include_usage": True})
        return streamed, await client.chat(model=model)

    streamed, whole = asyncio.run(play())
    *chunks, counted, done = events_of(streamed)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(texts) == whole.json()["choices"][0]["message"]["content"] and sum(map(bool, texts)) >= 3
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert counted["choices"] == [] and counted["usage"] == whole.json()["usage"]
    assert len({chunk["id"] for chunk in (*chunks, counted)}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in (*chunks, counted))


@pytest.mark.parametrize(("prompt", "kind"), [("lost", "service_unavailable_error"), ("bug", "server_error")])
def test_a_stream_that_fails_says_so_and_ends(prompt: str, kind: str) -> None:
    async def play() -> tuple[httpx.Response, int]:
        client = Client()
        return await client.chat(stream=True, messages=asking(prompt)), client.service.gate.running

    answer, running = asyncio.run(play())
    first, error = events_of(answer)
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert error["error"]["type"] == kind and "secret" not in answer.text
    assert running == 0
