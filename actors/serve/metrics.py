"""What a service tells Prometheus of itself."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.serve.answers import Answer

ROUTES = ("/v1/chat/completions", "/v1/models", "/improve", "/health", "/metrics")
"""Others are counted together, so that nobody makes series by asking for paths."""
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
CLIENT_GONE = "499"
"""Counted as the status of a request whose client did not wait for the answer."""


class ServiceMetrics:
    """Of one service since its start."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("pit_ray_requests", "Requests.", ("route", "status"), registry=registry)
        self.seconds = Histogram(
            "pit_ray_request_seconds", "From a request to the end of its answer.", ("route",), buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.tokens = Counter(
            "pit_ray_tokens", "Read (prompt) or written (completion) by language models, read by reward models.",
            ("model", "kind"), registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge("pit_ray_in_flight", "Requests being answered.", registry=registry)
        self.waiting = Gauge("pit_ray_waiting", "Requests that wait for room.", registry=registry)
        self.gap = Summary(
            "pit_ray_served_gap", "Gaps of revisions: sum / count is their mean.", ("model",), registry=registry
        )
        self.revisions = Counter("pit_ray_revisions", "Revisions, kept and not.", ("model", "kept"), registry=registry)

    def answered(self, answer: Answer) -> None:
        """Counts what an answer took."""
        used = answer.usage
        for kind, count in (
            ("prompt", used.prompt_tokens), ("completion", used.completion_tokens), ("scorer", used.scorer_tokens),
        ):  # fmt: skip
            self.tokens.labels(answer.name, kind).inc(count)
        for step in answer.steps:
            self.revisions.labels(answer.name, str(step.kept).lower()).inc()
            if answer.measure == "gap" and step.score is not None:
                self.gap.labels(answer.name).observe(step.score)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class Counting:
    """ASGI middleware: counts and times every request, refused ones too."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in ROUTES else "other"
        status, began = CLIENT_GONE, time.monotonic()

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - began)
