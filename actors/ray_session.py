"""Ray itself: joining the cluster that a job was submitted to, or starting a fresh one on the loopback interface."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from actors.placement import machine_resources
from actors.plan import plan_actors, require
from pit_ray.config import Config
from pit_ray.errors import ConfigError
from pit_ray.store import store_of

START_SECONDS = 60
"""How long one try of Ray Train to start a worker group waits for room."""
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(START_SECONDS),
}  # fmt: skip
"""Ray Train's controller otherwise notices the end of its workers only every two seconds."""
AUTH_MODES = ("token", "disabled")
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="ray")
"""Its thread starts Ray and stays, since the processes of a local Ray end with the thread that started them."""
_begun: Future[None] | None = None
# From another thread than the main one Ray warns that it leaves SIGTERM alone, which is what is wanted.
logging.getLogger("ray._private.worker").addFilter(lambda record: "SIGTERM handler" not in record.getMessage())


def namespace(config: Config) -> str:
    """The names of a run's actors are its own."""
    return f"pit-ray-{Path(config.run).name}"


def check_machines(config: Config) -> None:
    """ConfigError when this machine lacks what a local Ray would have to give, a cluster is to be joined without saying
    whether it wants a token, or a job's run would be lost with the job."""
    if RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ:
        check_run(config)
    if config.actors.deployment != "ray":
        return
    if ray_address(config) == "local":
        require(plan_actors(config), machine_resources(), "this machine")
    else:
        check_auth_mode()


def check_auth_mode() -> None:
    """ConfigError when nobody has said whether the cluster asks for a token."""
    if os.environ.get("RAY_AUTH_MODE") not in AUTH_MODES:
        raise ConfigError(
            "RAY_AUTH_MODE is not set, and without it chance decides whether the cluster asks for a token: export "
            "RAY_AUTH_MODE=token, here and before each ray start (disabled only where nobody else reaches its ports)"
        )


def check_run(config: Config) -> None:
    """ConfigError for a run folder that would go with a job's working folder."""
    if not (store_of(config.run).remote or Path(config.run).is_absolute()):
        raise ConfigError(
            f"run={config.run}: on a cluster a relative folder lies in the job's temporary one and goes with it; give "
            "a path that all nodes share or an object store, for instance run=/shared/runs/hh or run=s3://bucket/runs/hh"
        )


def ray_address(config: Config) -> str:
    """The Ray to use: local, auto (the one that RAY_ADDRESS names), or an address."""
    address = config.actors.address
    return "local" if address == "auto" and not os.environ.get("RAY_ADDRESS") else address


def start_ray(config: Config) -> None:
    """Joins the cluster this job was submitted to, or starts a fresh Ray on the loopback interface, or waits for one
    that was begun."""
    if not ray.is_initialized():
        _begin(config)
    if _begun is not None:
        _begun.result()


@contextmanager
def begun_early(config: Config) -> Iterator[None]:
    """A local Ray starts beside what is done meanwhile, and is gone at the end; other runs start theirs when needed."""
    if config.actors.deployment == "ray" and ray_address(config) == "local":
        _begin(config)
    try:
        yield
    finally:
        stop_ray()


def running() -> bool:
    """Whether Ray can be used."""
    return ray.is_initialized() and (_begun is None or _begun.done())


def stop_ray() -> None:
    """Leaves Ray, once it stands; a local one ends."""
    global _begun
    if _begun is not None:
        wait([_begun])
    ray.shutdown()
    _begun = None


def _begin(config: Config) -> None:
    global _begun
    if _begun is None or _begun.done():
        _begun = _STARTER.submit(_start, config)


def _start(config: Config) -> None:
    check_machines(config)
    options: dict[str, Any] = {"namespace": namespace(config), "log_to_driver": False}
    options["logging_level"] = logging.WARNING
    if config.tracking.console == "json":
        options["logging_config"] = ray.LoggingConfig(encoding="JSON", log_level="WARNING")
    address = ray_address(config)
    if address == "local":
        os.environ.pop("RAY_ADDRESS", None)
        keep_to_loopback()
        # Actors, with environments of their own, never use what Ray keeps ready.
        os.environ["RAY_prestart_worker_first_driver"] = "0"  # noqa: SIM112  so it is spelt
        options |= {"dashboard_host": "127.0.0.1", "include_dashboard": True}
    # Ray's handler would take the place of ours, which waits for a checkpoint.
    ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True
    every_process = {"env_vars": TRAIN_ENVIRONMENT, "worker_process_setup_hook": "actors.start_up.set_up"}
    ray.init(address=address, runtime_env=every_process, **options)
    ray._private.worker._worker_logs_enabled = False  # what an actor's death means, the supervisor tells


def keep_to_loopback() -> None:
    """Lets a local Ray listen on the loopback interface alone. Given 127.0.0.1 as its address, Ray replaces it by that
    of the network and listens everywhere; this switch, which it sets itself on macOS and Windows, keeps it."""
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for Ray's own processes
    ray_constants.ENABLE_RAY_CLUSTER = False  # for this one, which has read the environment
    if os.environ.get("RAY_AUTH_MODE") not in AUTH_MODES:
        # One user, no network: a token would leave a file behind that later commands trip over.
        os.environ["RAY_AUTH_MODE"] = "disabled"
