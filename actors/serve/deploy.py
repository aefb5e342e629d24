"""The application: which deployments it has, how it is started, and how it ends."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus, LoggingConfig

from actors.ray_session import check_auth_mode, ray_address, start_ray
from actors.serve.engine import Engine
from actors.serve.ingress import Ingress
from actors.serve.limits import Limits
from actors.serve.scorer import Scorer
from actors.serve.served_run import Needs
from actors.weights import engine_environment
from pit_ray.config import Config
from pit_ray.errors import ConfigError, InfraError
from pit_ray.stages.context import RunContext

INGRESS_CPUS = 0.2
SPARE_CALLS = 32
"""Calls beyond those of requests at work that a deployment takes: health checks, and requests to be refused."""
DRAIN_SECONDS = 10.0
"""That requests at work are given when the service ends."""
LOOK_SECONDS = 0.5
RAISED = re.compile(r"[\w.]+(Error|Exception|Exit|Interrupt)\b")
"""How the line of a traceback begins that says what was raised."""
LOGGING = LoggingConfig(log_level="WARNING", enable_access_log=False)


@dataclass(frozen=True)
class Address:
    """Where the service is reached."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True)
class Room:
    """What Ray reserves for each process of the service."""

    engine: tuple[float, float]
    """CPUs and GPUs."""
    scorer: tuple[float, float]
    ingress: tuple[float, float]


def join_ray(config: Config, needs: Needs) -> Room:
    """Ray as the run's configuration says, and what the service is to reserve there. ConfigError when there are too few
    GPUs, or on a cluster too few CPUs. Those of a Ray of our own nobody else wants, so there they are shared out."""
    local = ray_address(config) == "local"
    if not local:
        check_auth_mode()
    # What training would need does not matter here.
    actors = config.actors.model_copy(update={"deployment": "in_process"})
    start_ray(config.model_copy(update={"actors": actors}))
    rollout, scorer, here = config.actors.rollout, config.actors.scorer, ray.cluster_resources()
    engines, scorers = len(needs.models), len(needs.scorers)
    cpus = engines * rollout.cpus + scorers * scorer.cpus + INGRESS_CPUS
    gpus = engines * rollout.gpus * rollout.tensor_parallel + scorers * scorer.gpus
    scale = min(1.0, here.get("CPU", 0.0) / cpus) if local else 1.0
    for need, kind in ((scale * cpus, "CPU"), (gpus, "GPU")):
        if need > (have := here.get(kind, 0.0)) + 1e-6:
            raise ConfigError(
                f"{engines} engines and {scorers} reward models need {need:g} {kind}s, Ray has {have:g}: "
                "serve fewer with --improver"
            )
    return Room(
        (scale * rollout.cpus, rollout.gpus * rollout.tensor_parallel),
        (scale * scorer.cpus, scorer.gpus),
        (scale * INGRESS_CPUS, 0.0),
    )


def application(
    context: RunContext, needs: Needs, names: tuple[str, ...], limits: Limits, room: Room
) -> serve.Application:
    """The deployments, each with one model, and the ingress that knows them."""
    config, store, eos = context.config, context.folder.store, context.renderer.eos
    engines: dict[Path, Any] = {}
    scorers: dict[Any, Any] = {}
    labels: dict[str, Any] = {}
    for model in needs.models:
        name = _label("engine", model, labels)
        resources = _resources(room.engine, engine_environment(config.actors.rollout))
        engine = _deployment(Engine, name, resources, limits.concurrent)
        engines[model] = labels[name] = engine.bind(model, config, store, eos, context.longest)
    for model, kind in needs.scorers:
        name = _label(kind, model, labels)
        resources = _resources(room.scorer, {"OMP_NUM_THREADS": str(config.actors.scorer.threads)})
        judge = _deployment(Scorer, name, resources, limits.concurrent)
        scorers[model, kind] = labels[name] = judge.bind(model, kind, config, store, eos)
    resources = _resources(room.ingress, {"OMP_NUM_THREADS": "1"})
    ingress = _deployment(Ingress, "ingress", resources, limits.concurrent + limits.queue)
    return ingress.bind(config.run, names, limits, engines, scorers, labels)


def _deployment(kind: type, name: str, resources: dict[str, Any], calls: int) -> serve.Deployment:
    """One replica that takes so many calls at once, and some to spare."""
    served: serve.Deployment = serve.deployment(kind)  # type: ignore[assignment]
    return served.options(
        name=name,
        ray_actor_options=resources,
        max_ongoing_requests=calls + SPARE_CALLS,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        graceful_shutdown_wait_loop_s=LOOK_SECONDS,
        max_constructor_retry_count=1,
    )


def check_unused() -> None:
    """ConfigError where Serve is in use already: its address is the whole cluster's, and ending it would end both."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    found = serve.status()
    if found.applications or found.proxies:
        raise ConfigError("Ray Serve is in use on this cluster already; end that first (serve status, serve shutdown)")


def start(app: serve.Application, name: str, address: Address, deadline: float, note: Callable[[str], None]) -> None:
    """Returns when the application answers; InfraError when it does not come up within `deadline` seconds, or fails."""
    options = {"host": address.host, "port": address.port}
    serve.start(proxy_location="HeadOnly", http_options=options, logging_config=LOGGING)
    target = serve.RunTarget(target=app, name=name, route_prefix="/", logging_config=LOGGING)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    began, standing = time.monotonic(), set[str]()
    while (found := serve.status().applications[name]).status != ApplicationStatus.RUNNING:
        if found.status == ApplicationStatus.DEPLOY_FAILED:
            raise InfraError(f"the service does not start: {_reason(found)}")
        if time.monotonic() - began > deadline:
            raise InfraError(f"the service did not start within {deadline:g} s (actors.deadlines.start)")
        healthy = {deployment for deployment, status in found.deployments.items() if status.status == "HEALTHY"}
        for deployment in sorted(healthy - standing):
            note(f"{deployment} is up")
        standing |= healthy
        time.sleep(LOOK_SECONDS)


def _reason(found: Any) -> str:
    """What the first deployment that failed says of itself, in a line."""
    messages = [status.message for status in found.deployments.values() if status.status == "DEPLOY_FAILED"]
    lines = [line.strip() for line in (messages or [found.message])[0].splitlines() if line.strip()]
    raised = [i for i, line in enumerate(lines) if RAISED.match(line)]
    return " ".join(lines[raised[-1] : raised[-1] + 2]) if raised else lines[-1]


def _label(kind: str, model: Path, taken: dict[str, Any]) -> str:
    """A deployment's name: what it does, and which model it holds (stages/NN-NAME/model goes by NAME)."""
    folder = model.parent.name.partition("-")[2] if model.name == "model" else model.name
    name = f"{kind}-{''.join(c if c.isalnum() or c in '_-' else '_' for c in folder)}"
    return name if name not in taken else f"{name}-{len(taken)}"


def _resources(room: tuple[float, float], environment: dict[str, str]) -> dict[str, Any]:
    variables = environment | {"TOKENIZERS_PARALLELISM": "false"}
    return {"num_cpus": room[0], "num_gpus": room[1], "runtime_env": {"env_vars": variables}}
