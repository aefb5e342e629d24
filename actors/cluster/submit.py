"""`pit-ray submit`: a run as a job of a cluster, checked before anything is uploaded, and followed to its end."""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_nodes

from actors.cluster.package import Package
from actors.plan import plan_actors, shortfall
from pit_ray.config import Config
from pit_ray.errors import ConfigError, InfraError, cause
from pit_ray.run_folder import COMMIT, environment

AT_WORK = (JobStatus.PENDING, JobStatus.RUNNING)
AGAIN_SECONDS = 5.0
TRIES = 60
"""How often in a row a connection to the cluster may fail."""
STOP_WAIT = {"RAY_JOB_STOP_WAIT_TIME_S": "600"}
"""Ray's default are three seconds from SIGTERM to SIGKILL, too few to finish a step and write a checkpoint."""


def connect(address: str) -> JobSubmissionClient:
    """The cluster's job server. InfraError when nobody answers, ConfigError when it wants another token or has another
    version of Ray."""
    logging.getLogger("ray").setLevel(logging.WARNING)  # it tells of every package and socket
    try:
        client = JobSubmissionClient(address)
        theirs = client._server_ray_version
    except AuthenticationError as error:
        raise ConfigError(
            f"{address} refuses the token: export RAY_AUTH_MODE=token, with the cluster's token in ~/.ray/auth_token "
            f"or RAY_AUTH_TOKEN ({cause(error)})"
        ) from error
    except (ConnectionError, RuntimeError) as error:
        raise InfraError(
            f"no cluster answers at {address}; open the way with `ray dashboard FILE` or `kubectl port-forward`, or "
            f"give --address ({cause(error)})"
        ) from error
    if theirs != ray.__version__:
        raise ConfigError(
            f"{address} runs Ray {theirs}, this machine Ray {ray.__version__}; both take theirs from requirements/: "
            "start the cluster again from this checkout, or check out the commit that it was started from"
        )
    return client


@dataclass(frozen=True)
class Room:
    """What the nodes of a cluster hold that are up, whoever uses it."""

    nodes: int
    resources: dict[str, float]

    def __str__(self) -> str:
        return f"{self.nodes} nodes, {self.resources['CPU']:g} CPUs, {self.resources['GPU']:g} GPUs"


def find_room(address: str) -> Room:
    up = [node for node in list_nodes(address=address, limit=10_000) if node.state == "ALIVE"]
    have = {name: sum((node.resources_total or {}).get(name, 0.0) for node in up) for name in ("CPU", "GPU")}
    return Room(len(up), have)


def check_room(config: Config, room: Room) -> None:
    """ConfigError when the nodes that are up cannot hold the run's actors, were they all free."""
    if lacking := shortfall(plan_actors(config), room.resources, f"the cluster with its {room.nodes} nodes"):
        raise ConfigError(f"the actors do not fit: {lacking}; or give --grow where the cluster starts nodes by itself")


def check_alone(client: JobSubmissionClient, run: str) -> None:
    """ConfigError when a job of the cluster is at work on this run."""
    for job in client.list_jobs():
        if job.status in AT_WORK and (job.metadata or {}).get("run") == run:
            raise ConfigError(
                f"run={run} is being worked on by job {job.submission_id}; follow it with `ray job logs -f "
                f"{job.submission_id}`, end it with `ray job stop {job.submission_id}`, or give another run"
            )


def submit(client: JobSubmissionClient, package: Package, arguments: Sequence[str], config: Config) -> str:
    """Uploads the package and starts `pit-ray train` with these arguments; the job's id."""
    here = environment()
    metadata = {"run": config.run, "commit": here["commit"] or "unknown", "lock": here["lock"] or "unknown"}
    with package.folder() as folder:
        return client.submit_job(
            entrypoint=shlex.join(["python", "-m", "actors.cli", "train", *arguments]),
            runtime_env={"working_dir": str(folder), "env_vars": {COMMIT: metadata["commit"], **STOP_WAIT}},
            metadata=metadata,
        )


def follow(client: JobSubmissionClient, job: str, show: Callable[[str], Any]) -> int:
    """Shows the job's log to its end; the driver's exit code. A connection that breaks is taken up again."""
    log, failed = Log(show), 0
    while True:
        try:
            asyncio.run(log.follow(client, job))
            info = client.get_job_info(job)
            failed = 0
        except (OSError, RuntimeError, ClientError) as error:
            failed += 1
            if failed > TRIES:
                raise InfraError(f"job {job} can no longer be followed, but may go on: {cause(error)}") from error
            show(f"(the log is interrupted: {cause(error)})\n")
            time.sleep(AGAIN_SECONDS)
            continue
        if info.status.is_terminal():
            if info.driver_exit_code is None:
                raise InfraError(f"job {job} {info.status.lower()}: {info.message}")
            return info.driver_exit_code
        time.sleep(AGAIN_SECONDS)


class Log:
    """A job's log, of which each part is shown once, however often the connection breaks."""

    def __init__(self, show: Callable[[str], Any]) -> None:
        self.show, self.shown = show, 0

    async def follow(self, client: JobSubmissionClient, job: str) -> None:
        seen = 0
        async for text in client.tail_job_logs(job):
            fresh = text[max(0, self.shown - seen) :]
            seen += len(text)
            if fresh:
                self.show(fresh)
                self.shown = max(self.shown, seen)
