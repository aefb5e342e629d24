"""Where the actors of a plan come to stand on given nodes, before any of these exist: a pure function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.memory import Need
from actors.plan import Bundle, Plan, shortfall
from pit_ray.errors import ConfigError

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Node:
    """A machine and what Ray may give away of it."""

    name: str
    cpus: float
    gpus: float = 0.0
    memory_gib: float | None = None
    """None: not known, so not checked."""
    gpu_gib: float | None = None
    """Memory of one of its GPUs. None: not known, so not checked."""


def lay_out(plan: Plan, nodes: Sequence[Node]) -> dict[str, list[Bundle]]:
    """The bundles on each node by its name, as Ray's placement strategy PACK puts them: those that want most first,
    and on each node as many as it can hold. ConfigError with the shortfall when they do not fit."""
    waiting = sorted(plan.bundles, key=lambda bundle: (-bundle.gpus, -bundle.cpus))  # equals stay in the plan's order
    standing: dict[str, list[Bundle]] = {node.name: [] for node in nodes}
    unused = list(nodes)
    while waiting:
        node = next((node for node in unused if _fits(waiting[0], node.cpus, node.gpus)), None)
        if node is None:
            raise ConfigError(f"the actors do not fit: {_why_not(plan, waiting[0], nodes)}")
        unused.remove(node)
        cpus, gpus, left = node.cpus, node.gpus, []
        for bundle in waiting:
            if _fits(bundle, cpus, gpus):
                standing[node.name].append(bundle)
                cpus, gpus = cpus - bundle.cpus, gpus - bundle.gpus
            else:
                left.append(bundle)
        waiting = left
    return standing


def memory_faults(nodes: Sequence[Node], standing: Mapping[str, list[Bundle]], needs: Mapping[str, Need]) -> list[str]:
    """What does not fit in memory, each fault once per role or node, with what to change."""
    faults: dict[str, None] = {}
    for node in nodes:
        bundles = standing[node.name]
        host = sum(needs[bundle.role].host for bundle in bundles)
        if node.memory_gib is not None and host > node.memory_gib:
            names = ", ".join(bundle.name for bundle in bundles)
            faults[f"{node.name} has {node.memory_gib:g} GiB, and {names} need {host:.1f}"] = None
        for bundle in bundles if node.gpu_gib is not None else ():
            need, have = needs[bundle.role].gpu, bundle.gpus * (node.gpu_gib or 0.0)
            if bundle.gpus and need > have:
                faults[
                    f"a {bundle.role} actor needs {need:.1f} GiB of GPU memory, and {bundle.gpus:g} GPUs of "
                    f"{node.name} have {have:g}; {REMEDIES[bundle.role]}"
                ] = None
    return list(faults)


REMEDIES = {
    "learner": "raise actors.learner.ranks or zero_stage, lower ppo_*.optimizer.micro_batch_tokens, or take a larger "
    "GPU",
    "rollout": "raise actors.rollout.tensor_parallel or gpu_memory_utilization, or take a larger GPU",
    "reward": "raise actors.scorer.gpus, or take a larger GPU",
    "reference": "raise actors.scorer.gpus, lower actors.scorer.batch_tokens, or take a larger GPU",
}


def describe_layout(
    nodes: Sequence[Node], standing: Mapping[str, list[Bundle]] | None, needs: Mapping[str, Need]
) -> str:
    """The nodes and who stands on them (None: nobody yet), as lines for people; nodes that stand alike are told
    together."""
    if standing is None:
        return "\n".join(f"  {_names(group)}: {_has(group[0])}" for group in _alike(nodes, {}))
    lines = []
    for group in _alike(nodes, standing):
        first, bundles = group[0], standing[group[0].name]
        cpus, gpus = sum(b.cpus for b in bundles), sum(b.gpus for b in bundles)
        lines.append(f"  {_names(group)}: {cpus:g} of {first.cpus:g} CPUs, {gpus:g} of {first.gpus:g} GPUs")
        for role in dict.fromkeys(bundle.role for bundle in bundles):
            alike = [bundle for node in group for bundle in standing[node.name] if bundle.role == role]
            lines.append(f"    {_span(alike):24}{_each(alike[0], needs.get(role), first)}")
    return "\n".join(lines)


def _names(group: Sequence[Node]) -> str:
    return group[0].name if len(group) == 1 else f"{group[0].name} … {group[-1].name} ({len(group)} nodes)"


def _has(node: Node) -> str:
    memory = f", {node.memory_gib:g} GiB" if node.memory_gib is not None else ""
    gpu = f" of {node.gpu_gib:g} GiB" if node.gpu_gib is not None else ""
    return f"{node.cpus:g} CPUs{memory}, {node.gpus:g} GPUs{gpu}"


def _each(bundle: Bundle, need: Need | None, node: Node) -> str:
    found = f"{bundle.cpus:g} CPU" + (f", {bundle.gpus:g} GPU" if bundle.gpus else "") + " each"
    if need is None:
        return found
    found += f", {need.host:.1f} GiB"
    if bundle.gpus:
        have = f" of {bundle.gpus * node.gpu_gib:g}" if node.gpu_gib is not None else ""
        found += f", {need.gpu:.1f}{have} GiB of GPU memory"
    return found


def _alike(nodes: Sequence[Node], standing: Mapping[str, list[Bundle]]) -> list[list[Node]]:
    """Runs of nodes of one kind that hold as many actors of each role."""
    groups: list[list[Node]] = []
    before: object = None
    for node in nodes:
        roles = sorted(bundle.role for bundle in standing.get(node.name, ()))
        kind = (node.cpus, node.gpus, node.memory_gib, node.gpu_gib, roles)
        if kind == before:
            groups[-1].append(node)
        else:
            groups.append([node])
        before = kind
    return groups


def _span(bundles: Sequence[Bundle]) -> str:
    indices = [bundle.index for bundle in bundles]
    role, first, last = bundles[0].role, min(indices), max(indices)
    if len(indices) == 1:
        return f"{role}/{first}"
    dense = last - first + 1 == len(indices)
    return f"{role}/{first} … {last}" if dense else f"{role}/{first} … {last} ({len(indices)})"


def _fits(bundle: Bundle, cpus: float, gpus: float) -> bool:
    return bundle.cpus <= cpus + TOLERANCE and bundle.gpus <= gpus + TOLERANCE


def _why_not(plan: Plan, bundle: Bundle, nodes: Sequence[Node]) -> str:
    have = {"CPU": sum(node.cpus for node in nodes), "GPU": sum(node.gpus for node in nodes)}
    lacking = shortfall(plan, have, "the cluster")
    if lacking:
        return lacking
    largest = max((node.gpus for node in nodes), default=0.0)
    return (
        f"{bundle.name} needs {bundle.cpus:g} CPUs and {bundle.gpus:g} GPUs on one node, and what is left of the "
        f"nodes does not have that (the largest has {largest:g} GPUs); lower actors.{_section(bundle.role)}.cpus or "
        f"actors.rollout.tensor_parallel"
    )


def _section(role: str) -> str:
    return role if role in ("learner", "rollout") else "scorer"
