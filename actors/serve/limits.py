"""What a service puts up with: who may ask, how large a request may be, how many are answered at once."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.serve.errors import Refused

OPEN_PATHS = ("/health",)
"""Answered without a key."""
BODY_BYTES = 2**20
MOST_ITERATIONS = 16
MOST_TEMPERATURE = 2.0
FIRST_GUESS = 5.0
"""Seconds that a request is thought to take before any has been answered."""


@dataclass(frozen=True)
class Limits:
    """Of one service."""

    concurrent: int
    """Requests at work at once."""
    queue: int
    """Requests that wait for one of these to end; more are refused."""
    deadline: float
    """Seconds that a request may take, waiting included."""
    key_digest: bytes | None
    """SHA-256 of the API key. None: whoever reaches the port may ask; it must be on the loopback interface."""


def digest(key: str) -> bytes:
    """All that leaves the command's process of a key."""
    return hashlib.sha256(key.encode()).digest()


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Gate:
    """Lets a number of requests in at once, keeps some waiting in order, and refuses the others."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.running = self.waiting = 0
        self.seconds = FIRST_GUESS
        """That a request takes, the latest counting most."""
        self._room = asyncio.Semaphore(limits.concurrent)

    async def enter(self) -> None:
        """Returns when there is room; `leave` must follow. Refused (429) when too many wait already."""
        if self._room.locked() and self.waiting >= self.limits.queue:
            turns = (self.waiting + 1) / self.limits.concurrent
            raise Refused(
                429,
                f"{self.running} requests are being answered and {self.waiting} wait, which is all that this service "
                "takes; try again later",
                code="overloaded",
                headers={"Retry-After": str(max(1, math.ceil(self.seconds * turns)))},
            )
        self.waiting += 1
        try:
            await self._room.acquire()
        finally:
            self.waiting -= 1
        self.running += 1

    def leave(self, seconds: float) -> None:
        """A request that took so long has ended."""
        self.seconds += (seconds - self.seconds) / 8
        self.running -= 1
        self._room.release()


class Doorkeeper:
    """ASGI middleware: asks for the key, then takes in a body of a bounded size."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            self.admit(scope["path"], headers)
            body = await self.body(headers, receive)
        except Refused as refused:
            await refused.response()(scope, receive, send)
            return
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)

    def admit(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Refused (401) without the key; without one at all, Refused (403) to pages of the web that a browser on this
        machine shows: they reach the loopback interface, but under another host's name."""
        if path in OPEN_PATHS:
            return
        if self.limits.key_digest is None:
            if not is_loopback(_hostname(headers.get(b"host", b""))):
                raise Refused(403, "this service answers under the names of this machine's loopback interface alone")
            return
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        # Digests have one length, and are compared in a time that does not tell where they differ.
        right = hmac.compare_digest(hashlib.sha256(key.strip()).digest(), self.limits.key_digest)
        if scheme.lower() != b"bearer" or not right:
            raise Refused(
                401,
                "no valid API key: send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """All of a request's body. Refused when it is too large (413), or does not come in time (408)."""
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > BODY_BYTES:
            raise _too_large()
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self.limits.deadline):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "the body was not sent to its end")
                    parts.append(message.get("body", b""))
                    size, more = size + len(parts[-1]), message.get("more_body", False)
                    if size > BODY_BYTES:
                        raise _too_large()
        except TimeoutError:
            raise Refused(408, f"the body did not come within {self.limits.deadline:g} s") from None
        return b"".join(parts)


def _hostname(header: bytes) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{header.decode('latin-1')}").hostname or ""
    except ValueError:  # half an IPv6 address
        return ""


def _too_large() -> Refused:
    return Refused(413, f"the request's body has more than {BODY_BYTES} bytes", code="request_too_large")
