"""Requests from their coming to their end: room and time are kept, and what nobody waits for any more is given up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from actors.serve.answers import Answer, Asked, Question
from actors.serve.engines import Stopped, Work
from actors.serve.errors import Refused, failed, unavailable
from actors.serve.limits import Gate, Limits
from actors.serve.metrics import ServiceMetrics
from pit_ray.errors import PitRayError

log = logging.getLogger("ray.serve")
HEALTH_SECONDS = 10.0
"""That an engine may take to say that it is well."""


class Answering(Protocol):
    """Whoever reads and answers requests, in threads."""

    @property
    def names(self) -> list[str]: ...

    def read(self, question: Question) -> Asked: ...

    def streams(self, asked: Asked) -> bool: ...

    def answer(self, asked: Asked, work: Work, tell: Callable[[str], None] | None = None) -> Answer: ...


class Service:
    """Answers requests within limits. One thread runs one request's improver; all its waiting is done in this event
    loop, where engines see the calls of all requests together."""

    def __init__(self, answerer: Answering, limits: Limits, engines: Mapping[str, Callable[[], Any]]) -> None:
        """`engines`: by name, a call that gives something to await, which raises where the engine is not well."""
        self.answerer, self.limits, self.engines = answerer, limits, dict(engines)
        self.gate, self.metrics = Gate(limits), ServiceMetrics()
        self.metrics.in_flight.set_function(lambda: self.gate.running)
        self.metrics.waiting.set_function(lambda: self.gate.waiting)
        self.threads = ThreadPoolExecutor(limits.concurrent, thread_name_prefix="request")

    async def read(self, question: Question) -> Asked:
        """What is asked, as token ids; Refused where it cannot be answered."""
        return await asyncio.to_thread(self.answerer.read, question)

    async def answer(self, asked: Asked) -> Answer:
        """Refused when there is no room (429) or it takes too long (504)."""
        began = time.monotonic()
        await self._enter(began)
        return await self._answered(asked, began, None)

    async def stream(self, asked: Asked) -> AsyncIterator[str | Answer | Refused]:
        """Once there is room, the parts of the response's text as they are certain, then the answer; or, at the end,
        why there is none."""
        began = time.monotonic()
        await self._enter(began)
        parts: asyncio.Queue[str | Answer | Refused] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(part: str) -> None:
            loop.call_soon_threadsafe(parts.put_nowait, part)

        async def work() -> None:
            try:
                found: Answer | Refused = await self._answered(asked, began, tell)
            except Refused as refused:
                found = refused
            parts.put_nowait(found)

        # It goes on, and so leaves the gate at its end, also where nobody ever asks for the first part.
        return _parts(asyncio.create_task(work()), parts)

    async def health(self) -> dict[str, bool]:
        """Engine -> whether it answered just now."""

        async def well(ask: Callable[[], Any]) -> bool:
            try:
                async with asyncio.timeout(HEALTH_SECONDS):
                    await ask()
            except Exception:  # whatever it is, the engine cannot be used
                return False
            return True

        found = await asyncio.gather(*(well(ask) for ask in self.engines.values()))
        return dict(zip(self.engines, found, strict=True))

    async def _enter(self, began: float) -> None:
        try:
            async with asyncio.timeout(self._left(began)):
                await self.gate.enter()
        except TimeoutError:
            raise self._late() from None

    async def _answered(self, asked: Asked, began: float, tell: Callable[[str], None] | None) -> Answer:
        """The answer of a request that has entered the gate, which it leaves."""
        loop, entered = asyncio.get_running_loop(), time.monotonic()
        work = Work(loop)
        try:
            async with asyncio.timeout(self._left(began)):
                answer = await loop.run_in_executor(self.threads, self.answerer.answer, asked, work, tell)
        except TimeoutError:
            raise self._late() from None
        except Stopped:
            raise unavailable() from None
        except PitRayError as error:
            log.error("%s: %s", asked.name, error)
            raise unavailable() from error
        except Exception as error:
            log.exception("%s: a request failed", asked.name)
            raise failed() from error
        finally:
            work.stop()  # where the thread is still at it, its next call of an engine ends it
            self.gate.leave(time.monotonic() - entered)
        self.metrics.answered(answer)
        return answer

    def _left(self, began: float) -> float:
        return self.limits.deadline - (time.monotonic() - began)

    def _late(self) -> Refused:
        return Refused(504, f"no answer within {self.limits.deadline:g} s", code="deadline_exceeded")


async def _parts(
    task: asyncio.Task[None], parts: asyncio.Queue[str | Answer | Refused]
) -> AsyncIterator[str | Answer | Refused]:
    try:
        while True:
            part = await parts.get()
            yield part
            if not isinstance(part, str):
                return
    finally:
        task.cancel()
