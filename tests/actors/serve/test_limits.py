"""Who is let in, and how many at once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.serve.errors import Refused
from actors.serve.limits import BODY_BYTES, Doorkeeper, Gate, Limits, digest, is_loopback
from tests.actors.serve.conftest import KEY, LIMITS

OPEN = Limits(concurrent=1, queue=0, deadline=1.0, key_digest=None)
COMES = st.lists(st.sampled_from(["come", "go", "give up"]), max_size=40)


@given(COMES, st.integers(1, 3), st.integers(0, 3))
def test_the_gate_never_holds_more_than_it_may(moves: list[str], concurrent: int, queue: int) -> None:
    async def play() -> None:
        gate = Gate(Limits(concurrent, queue, 1.0, None))
        inside: list[int] = []
        tasks: dict[int, asyncio.Task[None]] = {}

        async def come(number: int) -> None:
            await gate.enter()
            inside.append(number)

        for number, move in enumerate(moves):
            waiting = [n for n, task in tasks.items() if not task.done()]
            if move == "come":
                full = len(inside) == concurrent and len(waiting) == queue
                tasks[number] = asyncio.create_task(come(number))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                refused = tasks[number].done() and tasks[number].exception() is not None
                assert refused == full
            elif move == "go" and inside:
                inside.pop(0)
                gate.leave(1.0)
            elif move == "give up" and waiting:
                tasks[waiting[-1]].cancel()
            for _ in range(4):
                await asyncio.sleep(0)
            waiting = [n for n, task in tasks.items() if not task.done()]
            assert gate.running == len(inside) <= concurrent
            assert gate.waiting == len(waiting) <= queue
            assert not waiting or len(inside) == concurrent, "nobody waits beside a free place"
        for task in tasks.values():
            task.cancel()

    asyncio.run(play())


def test_those_who_wait_come_in_in_order() -> None:
    async def play() -> list[int]:
        gate, order = Gate(Limits(1, 5, 1.0, None)), list[int]()

        async def visit(number: int) -> None:
            await gate.enter()
            order.append(number)
            await asyncio.sleep(0)
            gate.leave(0.1)

        await asyncio.gather(*(visit(n) for n in range(5)))
        return order

    assert asyncio.run(play()) == [0, 1, 2, 3, 4]


def test_the_refused_are_told_when_to_come_again() -> None:
    async def play() -> Refused:
        gate = Gate(Limits(1, 0, 1.0, None))
        for _ in range(100):
            await gate.enter()
            gate.leave(seconds=12.0)
        await gate.enter()
        with pytest.raises(Refused) as refused:
            await gate.enter()
        return refused.value

    refused = asyncio.run(play())
    assert refused.status == 429 and refused.body()["error"]["code"] == "overloaded"
    assert refused.headers == {"Retry-After": "12"}, "as long as the latest requests took"


@pytest.mark.parametrize(
    ("header", "admitted"),
    [
        (f"Bearer {KEY}", True),
        (f"bearer {KEY}", True),
        (f"Bearer {KEY}x", False),
        (f"Bearer {KEY[:-1]}", False),
        (f"Basic {KEY}", False),
        (KEY, False),
        ("Bearer", False),
        ("", False),
    ],
)
def test_only_the_key_lets_in(header: str, admitted: bool) -> None:
    keeper = Doorkeeper(None, LIMITS)  # type: ignore[arg-type]
    headers = {b"authorization": header.encode()} if header else {}
    keeper.admit("/health", headers)
    if admitted:
        keeper.admit("/improve", headers)
    else:
        with pytest.raises(Refused) as refused:
            keeper.admit("/improve", headers)
        assert refused.value.status == 401 and KEY not in refused.value.message


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        ("127.0.0.1:8000", True), ("localhost:8000", True), ("[::1]:8000", True), ("localhost", True),
        ("evil.example:8000", False), ("127.0.0.1.evil.example", False), ("[::1", False), ("", False),
    ],
)  # fmt: skip
def test_without_a_key_other_names_of_this_machine_are_refused(host: str, admitted: bool) -> None:
    """A page of the web can have its own name point at the loopback interface."""
    keeper = Doorkeeper(None, OPEN)  # type: ignore[arg-type]
    if admitted:
        keeper.admit("/improve", {b"host": host.encode()})
    else:
        with pytest.raises(Refused) as refused:
            keeper.admit("/improve", {b"host": host.encode()})
        assert refused.value.status == 403


async def body_of(limits: Limits, headers: dict[bytes, bytes], *parts: bytes | None) -> bytes:
    """What the doorkeeper takes in of a body that comes in parts; None: the client goes."""
    left = list(parts)

    async def receive() -> dict:
        if not left:
            await asyncio.sleep(3600)
        part = left.pop(0)
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(left) or part == b"more"}

    return await Doorkeeper(None, limits).body(headers, receive)  # type: ignore[arg-type]


def test_bodies_are_bounded_by_what_is_said_and_by_what_comes() -> None:
    half = b"x" * (BODY_BYTES // 2)
    assert asyncio.run(body_of(LIMITS, {}, half, half)) == half + half
    for headers, parts in (({b"content-length": b"%d" % (BODY_BYTES + 1)}, ()), ({}, (half, half, b"x", b"more"))):
        with pytest.raises(Refused) as refused:
            asyncio.run(body_of(LIMITS, headers, *parts))
        assert refused.value.status == 413 and str(BODY_BYTES) in refused.value.message


def test_bodies_that_do_not_come_are_not_waited_for_for_ever() -> None:
    with pytest.raises(Refused) as refused:
        asyncio.run(body_of(Limits(1, 0, 0.05, None), {}, b"more"))
    assert refused.value.status == 408
    with pytest.raises(Refused) as refused:
        asyncio.run(body_of(LIMITS, {}, b"more", None))
    assert refused.value.status == 400


def test_loopback_is_told_from_the_world() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.example.org", "")))


def test_a_digest_does_not_hold_the_key() -> None:
    assert len(digest(KEY)) == 32 and KEY.encode() not in digest(KEY) and digest(KEY) != digest(KEY + "x")
