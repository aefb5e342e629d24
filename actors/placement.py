"""Reserves a plan's resources in Ray, and says what is missing instead of waiting for ever."""

from __future__ import annotations

import time
from typing import Any

import ray
import torch
from ray._private.utils import get_num_cpus
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.plan import Plan, require, shortfall
from pit_ray.errors import InfraError


def reserve(plan: Plan, deadline: float) -> PlacementGroup:
    """A placement group with one bundle per actor. ConfigError when the cluster can never hold the plan; InfraError
    with the shortfall when its resources are not free within `deadline` seconds."""
    require(plan, ray.cluster_resources())
    group = placement_group([bundle.resources() for bundle in plan.bundles], strategy="PACK")
    started = time.monotonic()
    if not group.wait(deadline):
        remove_placement_group(group)
        lacking = shortfall(plan, ray.available_resources()) or "the free resources lie on too many nodes"
        waited = time.monotonic() - started
        raise InfraError(f"the actors could not be placed within {waited:.0f} s (actors.placement_deadline): {lacking}")
    return group


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
