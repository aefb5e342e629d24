"""Reserves a plan's resources in Ray, and says what is missing instead of waiting for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray._private.utils import get_num_cpus
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # made by a compiler
from ray.core.generated.autoscaler_pb2 import AutoscalingState, GetClusterStatusReply  # type: ignore[attr-defined]
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.plan import Plan, require, shortfall
from pit_ray.errors import InfraError

LOOK_SECONDS = 5.0
TELL_SECONDS = 30.0


def reserve(plan: Plan, deadline: float, note: Callable[[str], None]) -> PlacementGroup:
    """A placement group with one bundle per actor. ConfigError when the autoscaler says that no machine it may start
    would do; InfraError with the shortfall when the resources are not free within `deadline` seconds. `note` tells the
    user what is waited for."""
    group = placement_group([bundle.resources() for bundle in plan.bundles], strategy="PACK")
    started = time.monotonic()
    told = started - TELL_SECONDS
    while not group.wait(LOOK_SECONDS):
        state = _autoscaling()
        # On a cluster that others use it says so, too, of what fits once they are done.
        refused = any(group.id.hex() in request.details for request in state.infeasible_gang_resource_requests)
        if refused and _idle():
            remove_placement_group(group)
            require(plan, ray.cluster_resources(), "the cluster, to which no machine can be added,")
            raise InfraError(
                "the actors do not fit: each machine of the cluster is too small for what is left to place"
            )
        lacking = shortfall(plan, ray.available_resources()) or "the free resources lie on too many nodes"
        waited = time.monotonic() - started
        if waited > deadline:
            remove_placement_group(group)
            limit = "actors.placement_deadline"
            raise InfraError(f"the actors could not be placed within {waited:.0f} s ({limit}): {lacking}")
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            note(f"waiting for room: {lacking}{_coming(state)}")
    return group


class RoomWatch:
    """Tells, each time it is called but at most every TELL_SECONDS, what the cluster has come to lack."""

    def __init__(self, plan: Plan, note: Callable[[str], None]) -> None:
        self.plan, self.note, self.looked = plan, note, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self.looked > TELL_SECONDS:
            self.looked = time.monotonic()
            if lacking := shortfall(self.plan, ray.cluster_resources()):
                self.note(f"waiting for room: {lacking}{_coming(_autoscaling())}")


def machine_resources() -> dict[str, float]:
    """What a local Ray would find on this machine, without starting it."""
    return {"CPU": get_num_cpus(override_docker_cpu_warning=True), "GPU": float(torch.cuda.device_count())}


def options(plan: Plan, group: PlacementGroup, index: int, environment: dict[str, str]) -> dict[str, Any]:
    """Ray options of the actor that stands in a bundle: its name, resources, place and environment."""
    bundle = plan.bundles[index]
    return {
        "name": bundle.name,
        "num_cpus": bundle.cpus,
        "num_gpus": bundle.gpus,
        "max_restarts": 0,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        "runtime_env": {"env_vars": environment},
    }


def _autoscaling() -> AutoscalingState:
    """What Ray's autoscaler last reported; empty where there is none, or the older one, which reports nothing."""
    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(address=ray.get_runtime_context().gcs_address).get_cluster_status())
    return reply.autoscaling_state


def _idle() -> bool:
    total, free = ray.cluster_resources(), ray.available_resources()
    return all(free.get(kind, 0.0) >= total.get(kind, 0.0) - 1e-6 for kind in ("CPU", "GPU"))


def _coming(state: AutoscalingState) -> str:
    """The machines that the autoscaler is starting, and those it could not have, in words."""
    coming = [f"{request.count} × {request.ray_node_type_name}" for request in state.pending_instance_requests]
    coming += [f"{instance.ray_node_type_name} ({instance.details})" for instance in state.pending_instances]
    failed = [
        f"{request.count} × {request.ray_node_type_name} ({request.reason})"
        for request in state.failed_instance_requests
    ]
    words = [("starting", coming), ("could not be started", failed)]
    return "".join(f"; {what}: {', '.join(machines)}" for what, machines in words if machines)
