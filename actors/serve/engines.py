"""The engines of a service as improvers know them: each call goes to the deployment that holds the model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from actors.refs import translated
from actors.serve.engine import Piece, Writing
from pit_ray.data.randomness import derive_seed
from pit_ray.records import Prompts, Ragged, Rollouts, Scores
from pit_ray.roles import GenerateRequest, Ref, Resolved, RolloutPool, ScoreKind, Scorer

T = TypeVar("T")
ScorerKey = tuple[Path, ScoreKind]


class Stopped(Exception):
    """The request was given up: its client has gone, or its time is over."""


@dataclass
class Work:
    """One request at work: a thread that runs an improver, whose calls of engines are waited for in the event loop, so
    that they can be ended there."""

    loop: asyncio.AbstractEventLoop
    listener: Callable[[Piece], None] | None = None
    """Told of each piece of what is written from now on."""
    calls: int = 0
    """Times that a language model wrote."""
    prompt_tokens: int = 0
    """That it read."""
    completion_tokens: int = 0
    """That it wrote, end tokens counted."""
    _stopped: bool = False
    _waiting: Any = None
    _alone: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """From the thread: what a coroutine gives. Stopped when the request has been given up."""
        with self._alone:
            if self._stopped:
                coroutine.close()
                raise Stopped
            self._waiting = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return cast(T, self._waiting.result())
        except BaseException as error:
            if self._stopped:
                raise Stopped from error
            if isinstance(error, (RayError, RayServeException)):
                raise translated(error, "serve") from error
            raise

    def stop(self) -> None:
        """Gives the request up."""
        with self._alone:
            self._stopped = True
            if self._waiting is not None:
                self._waiting.cancel()


AT_WORK: ContextVar[Work] = ContextVar("the request that a thread is at work on")


@contextmanager
def at_work(work: Work) -> Iterator[None]:
    """Inside, this thread's calls of engines are a request's."""
    token = AT_WORK.set(work)
    try:
        yield
    finally:
        AT_WORK.reset(token)


class ServedEngines:
    """Implements `Engines`, for the request that the calling thread is at work on."""

    def __init__(self, engines: Mapping[Path, Any], scorers: Mapping[ScorerKey, Any]) -> None:
        """Deployment handles, by `place` of their models."""
        self.engines, self.scorers = engines, scorers

    def sampler(self, model: Path) -> RolloutPool:
        return cast(RolloutPool, ServedPool(self.engines[place(model)]))  # nothing is loaded into a served model

    def scorer(self, model: Path, kind: ScoreKind) -> Scorer:
        return cast(Scorer, ServedScorer(self.scorers[place(model), kind]))


def place(model: Path) -> Path:
    """What tells one model folder from another."""
    return Path(model).resolve()


class ServedPool:
    """Generates with one engine; other requests share its batches, so rows are sent one by one."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def generate(self, prompts: Prompts, request: GenerateRequest) -> Resolved[Rollouts]:
        work = AT_WORK.get()
        contexts = prompts.contexts()
        writings = [
            Writing(row.tolist(), request.temperature, request.max_new_tokens, derive_seed(request.seed, int(uid)))
            for row, uid in zip(contexts.rows(), prompts.uid, strict=True)
        ]
        pieces = work.wait(self._written(writings, work.listener))
        work.calls += len(pieces)
        work.prompt_tokens += int(contexts.lengths.sum())
        work.completion_tokens += sum(len(piece.ids) for piece in pieces)
        return Resolved(
            Rollouts(
                prompts,
                Ragged.of(piece.ids for piece in pieces),
                Ragged.of((piece.logprobs for piece in pieces), np.float32),
                np.array([piece.finished for piece in pieces], dtype=bool),
                temperature=request.temperature,
            )
        )

    async def _written(self, writings: list[Writing], listener: Callable[[Piece], None] | None) -> list[Piece]:
        if listener is not None and len(writings) == 1:
            return [await self._told(writings[0], listener)]
        calls = [self.handle.write.remote(writing) for writing in writings]
        try:
            return list(await asyncio.gather(*calls))
        except asyncio.CancelledError:
            for call in calls:
                call.cancel()
            raise

    async def _told(self, writing: Writing, listener: Callable[[Piece], None]) -> Piece:
        ids: list[int] = []
        logprobs: list[float] = []
        finished = False
        call = self.handle.options(stream=True).stream.remote(writing)
        try:
            async for piece in call:
                ids += piece.ids
                logprobs += piece.logprobs
                finished = piece.finished
                listener(piece)
        except asyncio.CancelledError:
            call.cancel()
            raise
        return Piece(ids, logprobs, finished)


class ServedScorer:
    """Scores with one model."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def score(self, rollouts: Ref[Rollouts]) -> Resolved[Scores]:
        work = AT_WORK.get()
        return Resolved(work.wait(self._scored(rollouts.result())))

    async def _scored(self, rollouts: Rollouts) -> Scores:
        call = self.handle.score.remote(rollouts)
        try:
            return await call
        except asyncio.CancelledError:
            call.cancel()
            raise
