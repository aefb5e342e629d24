"""The command `pit-ray serve`. It imports what it needs when it runs, as in actors/cli.py."""

from __future__ import annotations

import os
import secrets
from typing import Annotated

import typer

from pit_ray.errors import ConfigError

KEY_VARIABLE = "PIT_RAY_API_KEY"


def serve(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run: runs/quickstart, /shared/runs/hh, s3://bucket/runs/hh.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    improver: Annotated[
        list[str] | None,
        typer.Option(help="Serve this improver; may be given several times. Default: all that the run has."),
    ] = None,
    max_concurrent: Annotated[int, typer.Option(min=1, help="Requests that are answered at once.")] = 32,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are refused with 429.")] = 64,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take, with waiting.")] = 300.0,
    key_variable: Annotated[
        str, typer.Option(metavar="NAME", help="The environment variable that holds the API key.")
    ] = KEY_VARIABLE,
    no_key: Annotated[bool, typer.Option("--no-key", help="Ask for no key; on the loopback interface alone.")] = False,
) -> None:
    """Serve the improvers of a finished run behind an OpenAI-compatible API.

    Each improver is a model of /v1/chat/completions, the plain policy is the model "policy"; /improve tells every step.
    Ctrl-C ends it.

    \b
    Examples:
      export PIT_RAY_API_KEY=$(openssl rand -hex 24)
      pit-ray serve runs/quickstart
      pit-ray serve runs/mine --improver pit --host 0.0.0.0 --port 8080
      pit-ray serve runs/mine --no-key
    """
    from pit_ray.run_folder import find_run

    find_run(run)
    key_digest = None if no_key else read_key(key_variable)
    check_address(host, port, no_key)
    guard_local_ray(run)
    from actors.serve.limits import Limits
    from actors.serve.running import serve_run

    limits = Limits(max_concurrent, queue, deadline, key_digest)
    serve_run(run, improver or [], host, port, limits, None if no_key else key_variable)


def read_key(variable: str) -> bytes:
    """The digest of the API key, which is taken out of the environment, so that no other process inherits it.
    ConfigError when there is none."""
    from actors.serve.limits import digest

    key = os.environ.pop(variable, "").strip()
    if not key:
        raise ConfigError(
            f"{variable} holds no API key: export {variable}=$(openssl rand -hex 24), or give --no-key to let everyone "
            "on this machine ask"
        )
    return digest(key)


def check_address(host: str, port: int, no_key: bool) -> None:
    """ConfigError when a service without a key would be reached from elsewhere, or the port is taken."""
    import socket

    from actors.serve.limits import is_loopback

    if no_key and not is_loopback(host):
        raise ConfigError(f"--no-key would let everybody ask who reaches {host}; give a key, or --host 127.0.0.1")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise ConfigError(f"{host}:{port} cannot be listened on: {error.strerror}; choose another --port") from error


def guard_local_ray(run: str) -> None:
    """A Ray of our own asks for a token that nobody else has. Ray Serve opens a port of each deployment on all
    interfaces, where pickles are read; the token, which Ray reads from the environment before it starts, closes it."""
    from pit_ray.run_folder import open_existing

    _, config = open_existing(run)
    address = config.actors.address
    ours = address == "local" or (address == "auto" and not os.environ.get("RAY_ADDRESS"))
    if ours and os.environ.get("RAY_AUTH_MODE") != "token":
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
