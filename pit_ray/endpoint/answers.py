"""Requests to an endpoint, and the answers that are kept on disk so that none is paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pit_ray.records import Message
from pit_ray.run_folder import writing


@dataclass(frozen=True)
class ChatRequest:
    """One request for a chat completion."""

    messages: tuple[Message, ...]
    temperature: float
    max_tokens: int
    """Longest answer, in tokens."""
    seed: int | None = None
    """Two requests that differ in it alone are two requests: the second is not answered from what is kept."""

    def key(self, base_url: str, model: str) -> str:
        """SHA-256 of everything that decides the answer."""
        whole = json.dumps([base_url.rstrip("/"), model, asdict(self)], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()


class Answer(NamedTuple):
    """What an endpoint answered."""

    text: str
    """Empty where the model wrote nothing, for instance when it thought until `max_tokens`."""
    prompt_tokens: int
    completion_tokens: int
    cached: bool
    """Whether it was kept from before, or from an equal request of the same call."""
    refused: str | None = None
    """Why the endpoint will not answer this request, though it answers others: too long for the model, or a content
    filter. Such an answer is not kept."""


class KeptAnswers:
    """A JSONL file of answers by the key of their request, appended to as they come.

    A line that cannot be read, as the last one of a process that was killed may be, is as good as not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Answer] = {}
        self.requests = 0
        """Requests it took: one for each answer, and those that gave none."""
        self._torn = False

    def read(self) -> None:
        """Takes in what the file holds now, also by other processes."""
        self.answers, self.requests, self._torn = {}, 0, False
        if not self.path.exists():
            return
        with writing(self.path), self.path.open("rb") as file:
            line = b"\n"
            for line in file:
                self._take(line)
        self._torn = not line.endswith(b"\n")

    def add(self, key: str, answer: Answer) -> None:
        """InfraError when the disk does not take it."""
        text, prompt, completion = answer[:3]
        self._append({"key": key, "text": text, "prompt_tokens": prompt, "completion_tokens": completion})
        self.answers[key] = answer._replace(cached=True)
        self.requests += 1

    def add_unanswered(self, requests: int) -> None:
        """Notes requests that were sent and gave no answer to keep."""
        if requests > 0:
            self._append({"unanswered": requests})
            self.requests += requests

    def _append(self, record: Mapping[str, Any]) -> None:
        line = b"\n" * self._torn + json.dumps(record).encode() + b"\n"
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # One write in append mode, so that the lines of two processes do not mix.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        self._torn = False

    def _take(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            if "unanswered" in record:
                self.requests += int(record["unanswered"])
                return
            counts = int(record["prompt_tokens"]), int(record["completion_tokens"])
            self.answers[str(record["key"])] = Answer(str(record["text"]), *counts, cached=True)
            self.requests += 1
        except (ValueError, KeyError, TypeError):
            return
