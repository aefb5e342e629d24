"""Asks an OpenAI-compatible endpoint: each request once, whatever interrupts it, within a budget, the cost counted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pit_ray.config.endpoint import Endpoint
from pit_ray.endpoint.answers import Answer, ChatRequest, KeptAnswers
from pit_ray.errors import ConfigError

FILE = "answers.jsonl"


@dataclass
class Spent:
    """What a client has used so far."""

    requests: int = 0
    """Sent by this client, repeated ones included."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    price: float = 0.0
    """Of these tokens, in the currency of the configured prices."""
    cached: int = 0
    """Answers that cost nothing: kept from before, or to a request equal to another of the same call."""


class EndpointClient:
    """Asks `endpoint`; answers are kept in `folder`/answers.jsonl, which several clients may share."""

    def __init__(self, endpoint: Endpoint, folder: Path) -> None:
        self.endpoint = endpoint
        self.spent = Spent()
        self._kept = KeptAnswers(folder / FILE)

    def answer(
        self, requests: Sequence[ChatRequest], progress: Callable[[int, int], None] | None = None
    ) -> list[Answer]:
        """The answers in the order of the requests, equal requests being asked once; `progress` is called with how
        many of the distinct requests are answered, and their number.

        InfraError names the endpoint and what came back when it goes on failing after the configured retries, or when
        the budget is spent; requests in flight are awaited first. ConfigError when it demands a key and none is set.
        Answers that came are kept, so the next call, also of another process, asks only for the rest. Must not be
        called from a running event loop.
        """
        keys = [request.key(self.endpoint.base_url, self.endpoint.model) for request in requests]
        self._kept.read()
        found = {key: self._kept.answers[key] for key in keys if key in self._kept.answers}
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in found}
        total = len(found) + len(missing)

        def report() -> None:
            if progress is not None:
                progress(len(found), total)

        report()
        if missing:
            asyncio.run(self._ask(missing, found, report))
        answers, seen = [], set()
        for key in keys:
            answers.append(found[key]._replace(cached=found[key].cached or key in seen))
            seen.add(key)
        self.spent.cached += sum(answer.cached for answer in answers)
        return answers

    async def _ask(
        self, missing: Mapping[str, ChatRequest], found: dict[str, Answer], report: Callable[[], None]
    ) -> None:
        """Adds to `found` the answers to what is missing, as they come."""
        from pit_ray.endpoint.connection import Connection

        limit, todo = self.endpoint.max_requests, iter(missing.items())
        left = None if limit is None else limit - self._kept.requests
        before = len(self._kept.answers)
        failures: list[Exception] = []

        async def work() -> None:
            for key, request in todo:  # one iterator for all, so that each request is asked by one of them
                try:
                    found[key] = answer = await connection.ask(request)
                    self._keep(key, answer)
                    report()
                except Exception as error:
                    failures.append(error)
                if failures:  # what is in flight elsewhere comes to its end, since it is paid for
                    return

        async with Connection(self.endpoint, self._key(), left) as connection:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.endpoint.concurrency, len(missing))):
                        group.create_task(work())
            finally:
                self.spent.requests += connection.sent
                self._kept.add_unanswered(connection.sent - (len(self._kept.answers) - before))
            if failures:
                kept = f"{len(self._kept.answers)} answers are kept in {self._kept.path}"
                raise await connection.explained(failures[0], kept) from None

    def _keep(self, key: str, answer: Answer) -> None:
        if answer.refused is not None:
            return
        self._kept.add(key, answer)
        self.spent.prompt_tokens += answer.prompt_tokens
        self.spent.completion_tokens += answer.completion_tokens
        of_requests = answer.prompt_tokens * self.endpoint.input_price
        self.spent.price += (of_requests + answer.completion_tokens * self.endpoint.output_price) / 1e6

    def _key(self) -> str | None:
        variable = self.endpoint.key_variable
        key = os.environ.get(variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(f"the environment variable {variable} holds characters that no key has")
        return key or None
