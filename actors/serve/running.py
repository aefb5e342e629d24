"""A service from its start to its end: everything that it started ends with it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil
import ray
import typer
from ray import serve

from actors.processes import end
from actors.ray_session import namespace
from actors.serve.deploy import Address, application, check_unused, join_ray, start
from actors.serve.limits import Limits
from actors.serve.served_run import POLICY, Needs, check_models, needs_of, open_run, policy_of, served_names
from pit_ray.interrupts import Interrupts
from pit_ray.stages.context import RunContext

WATCH_SECONDS = 3600.0


def serve_run(
    run: str, improvers: Sequence[str], host: str, port: int, limits: Limits, key_variable: str | None
) -> None:
    """Serves until SIGINT or SIGTERM. ConfigError when the run lacks an improver; InfraError when the service does not
    start. `key_variable` is the environment variable that users know the key by."""
    context = open_run(run)
    names = served_names(context, improvers)
    needs, address = needs_of(context, names), Address(host, port)
    check_models(context, needs)
    with Interrupts(), suppress(KeyboardInterrupt), ray_left():
        room = join_ray(context.config, needs)
        check_unused()
        with serve_ended():
            app = application(context, needs, names, limits, room)
            start(app, namespace(context.config), address, context.config.actors.deadlines.start, typer.echo)
            typer.echo(introduction(context, needs, names, address, key_variable))
            while True:
                time.sleep(WATCH_SECONDS)


@contextmanager
def serve_ended() -> Iterator[None]:
    """Ends Serve, which must be ours alone, after the block."""
    try:
        yield
    finally:
        typer.echo("ending; requests at work have a few seconds")
        serve.shutdown()


@contextmanager
def ray_left() -> Iterator[None]:
    """Leaves Ray after the block; one of our own ends, with every process that was started here."""
    try:
        yield
    finally:
        started = psutil.Process().children(recursive=True)
        try:
            ray.shutdown()
        finally:
            end(dict.fromkeys([*started, *psutil.Process().children(recursive=True)]))


def introduction(
    context: RunContext, needs: Needs, names: Sequence[str], address: Address, key_variable: str | None
) -> str:
    """What is served where, and how it is asked, as lines for people."""
    models = [*names, *([POLICY] if policy_of(context) is not None else [])]
    key = "" if key_variable is None else f' -H "Authorization: Bearer ${key_variable}"'
    body = f'{{"model": "{names[0]}", "messages": [{{"role": "user", "content": "..."}}]}}'
    engines = f"{len(needs.models)} engines, {len(needs.scorers)} reward models"
    return "\n".join(
        [
            f"serving {context.config.run} at {address}/v1 ({engines})",
            f"models: {', '.join(models)}",
            "try it:",
            f"  curl {address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'",
            "every step of an improvement: POST /improve; also GET /health and /metrics; Ctrl-C ends it",
        ]
    )
