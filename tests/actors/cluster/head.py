"""The head of a Ray cluster on the loopback interface, with a token, a dashboard and a job server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from actors.processes import end

START_SECONDS = 60.0
PORTS = range(20001, 30000, 7)
"""Above Ray's ports for workers, below those that the system gives out."""


@dataclass(frozen=True)
class Head:
    address: str
    """Of the dashboard and its job server."""
    environment: dict[str, str]
    """For whoever has the token."""


def free_ports(count: int) -> list[int]:
    found = []
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@contextmanager
def head(home: Path, cpus: int = 4, extra: Mapping[str, str] | None = None) -> Iterator[Head]:
    """A head that runs until the block ends; everything it starts ends with it."""
    token = home / "token"
    token.write_text("a" * 64)
    environment = {
        **os.environ,
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps Ray to the loopback interface
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        **(extra or {}),
    }
    environment.pop("RAY_ADDRESS", None)
    gcs, dashboard, client, agent = free_ports(4)
    # Its sockets lie there, whose paths may have 107 bytes: what pytest names after a test can be too long.
    short = tempfile.mkdtemp(prefix="ray-")
    command = [
        "ray", "start", "--head", "--block", "--disable-usage-stats", f"--num-cpus={cpus}", f"--port={gcs}",
        "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}", f"--temp-dir={short}",
    ]  # fmt: skip
    with (home / "head.log").open("w") as log:
        started = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=home)
    process = psutil.Process(started.pid)
    try:
        _wait_for(started, home / "head.log")
        yield Head(f"http://127.0.0.1:{dashboard}", environment)
    finally:
        end({process, *process.children(recursive=True)})
        started.wait()
        shutil.rmtree(short, ignore_errors=True)


def _wait_for(started: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "Ray runtime started" not in log.read_text():
        assert started.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
