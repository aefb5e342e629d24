"""A stub of an OpenAI-compatible endpoint on the loopback interface, which answers by a rule or misbehaves as told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pit_ray.config.endpoint import Endpoint

SOON = {"retry-after-ms": "5"}
"""Has the client try again at once."""
COMPLETION = "/v1/chat/completions"


@dataclass
class Reply:
    """What goes over the wire for one request."""

    body: Any
    """Sent as JSON, or as it is when bytes."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: dict(SOON))
    before: float = 0.0
    """Seconds until anything is sent."""
    drip: float = 0.0
    """Seconds between bytes."""
    cut: bool = False
    """The connection ends before the body does."""


Rule = Callable[[dict[str, Any]], Reply | str]
"""From a request's body to a reply, or to the text of a completion."""


def completion(text: str | None) -> dict[str, Any]:
    """A chat completion that used 10 tokens of prompt and 3 of answer."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "stub",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
    }


def failure(status: int, message: str, **headers: str) -> Reply:
    """An error as OpenAI writes it; tried again at once unless the headers say otherwise."""
    error = {"message": message, "type": "stub", "param": None, "code": None}
    return Reply({"error": error}, status, headers or dict(SOON))


def last_words(request: dict[str, Any]) -> str:
    """The text of the last turn."""
    return request["messages"][-1]["content"]


class StubEndpoint:
    """Answers requests by `rule`, which may be exchanged while it runs; what it was asked is in `requests`."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.models = ["judge-large", "judge-small"]
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def section(self, **changed: Any) -> Endpoint:
        """The configuration that leads here."""
        return Endpoint(**{"base_url": self.url, "model": "judge-large", "timeout": 10, **changed})

    def reply(self, request: dict[str, Any], key: str | None) -> Reply:
        with self._lock:
            self.requests.append(request)
            self.times.append(time.monotonic())
            self.keys.append(key)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            found = self.rule(request)
            return Reply(completion(found)) if isinstance(found, str) else found
        finally:
            with self._lock:
                self._now -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self._send(Reply({"object": "list", "data": [{"id": name, "object": "model"} for name in stub.models]}))

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path != COMPLETION:
                    return self._send(failure(404, f"no {self.path} here"))
                self._send(stub.reply(request, self.headers["authorization"]))

            def _send(self, reply: Reply) -> None:
                body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                time.sleep(reply.before)
                try:
                    self.send_response(reply.status)
                    for name, value in {"content-type": "application/json", **reply.headers}.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    pieces = [body[i : i + 1] for i in range(len(body))] if reply.drip else [body]
                    for piece in [body[: len(body) // 2]] if reply.cut else pieces:
                        self.wfile.write(piece)
                        time.sleep(reply.drip)
                except OSError:  # the client has gone
                    self.close_connection = True
                if reply.cut:
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

        return Handler


@contextmanager
def stub_endpoint(rule: Rule) -> Iterator[StubEndpoint]:
    """A stub that serves until the block ends."""
    stub = StubEndpoint(rule)
    thread = threading.Thread(target=stub.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.server.shutdown()
        stub.server.server_close()
        thread.join(10)
