"""The plan of a run's actors as a pure function of its configuration: who, how many, on what, in how much memory."""

from __future__ import annotations

from dataclasses import dataclass

from pit_ray.config import Config
from pit_ray.errors import ConfigError

GIB = 2**30
RUNTIME_GIB = {"driver": 0.6, "rollout": 1.7, "reward": 0.6, "reference": 0.6, "learner": 0.8, "recorder": 0.4}
"""Resident memory of an idle process of each role (imports and engine, no weights), as measured on the CPU builds."""


@dataclass(frozen=True)
class Bundle:
    """The resources of one actor."""

    role: str
    index: int
    cpus: float
    gpus: float

    @property
    def name(self) -> str:
        return f"{self.role}/{self.index}"

    def resources(self) -> dict[str, float]:
        """As Ray's placement groups take them; an actor that reserves nothing still needs a place."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


@dataclass(frozen=True)
class Plan:
    """Every actor of the PPO stages, in placement order."""

    bundles: tuple[Bundle, ...]

    def total(self, resource: str) -> float:
        return sum(bundle.resources().get(resource, 0.0) for bundle in self.bundles)

    def of(self, role: str) -> list[int]:
        """The bundle indices of a role."""
        return [i for i, bundle in enumerate(self.bundles) if bundle.role == role]


def plan_actors(config: Config) -> Plan:
    """Learners first, since they need whole devices together; then engines, scorers and the recorder."""
    actors = config.actors
    learner, rollout, scorer = actors.learner, actors.rollout, actors.scorer
    bundles = [Bundle("learner", i, learner.cpus, learner.gpus) for i in range(learner.ranks)]
    for i in range(rollout.workers):
        gpus = rollout.gpus * rollout.tensor_parallel
        bundles.append(Bundle("rollout", i, rollout.cpus, gpus))
    for role in ("reward", "reference"):
        bundles += [Bundle(role, i, scorer.cpus, scorer.gpus) for i in range(scorer.workers)]
    bundles.append(Bundle("recorder", 0, 0.1, 0.0))
    return Plan(tuple(bundles))


def shortfall(plan: Plan, available: dict[str, float], holder: str = "Ray") -> str | None:
    """What the machines (`holder`, in the message) lack for the plan, with what to change; None when it fits."""
    lines = []
    for resource in ("CPU", "GPU"):
        need, have = plan.total(resource), available.get(resource, 0.0)
        if need > have + 1e-6:
            key = resource.lower() + "s"
            lines.append(
                f"needs {need:g} {resource}s, {holder} has {have:g}; lower actors.rollout.workers, "
                f"actors.learner.ranks, or actors.{{rollout,scorer,learner}}.{key}"
            )
    return "; ".join(lines) or None


def require(plan: Plan, available: dict[str, float], holder: str = "Ray") -> None:
    """ConfigError when the plan cannot fit, before anything waits for it."""
    lacking = shortfall(plan, available, holder)
    if lacking:
        raise ConfigError(f"the actors do not fit: {lacking}")


def memory_gib(config: Config, parameters: int) -> dict[str, float]:
    """GiB of each process at its peak, for a model of so many parameters: weights, gradients and AdamW's two moments
    of policy and value model (with float32 master weights under bfloat16), activations of one micro-batch left out."""
    actors = config.actors
    width = 2 if config.model.dtype == "bfloat16" else 4
    weights = parameters * width / GIB
    optimizer = parameters * (12 if width == 2 else 8) / GIB
    ranks, zero = actors.learner.ranks, actors.learner.zero_stage
    state = (
        weights / (ranks if zero >= 3 else 1)
        + weights / (ranks if zero >= 2 else 1)
        + optimizer / (ranks if zero >= 1 else 1)
    )
    cache = actors.rollout.kv_cache_gib
    need = {"driver": 0.0, "rollout": weights + cache, "reward": weights, "reference": weights, "learner": 2 * state}
    return {role: round(RUNTIME_GIB[role] + need.get(role, 0.0), 2) for role in RUNTIME_GIB}


def describe_plan(config: Config, parameters: int | None) -> str:
    """The actors and their memory as lines for people."""
    plan = plan_actors(config)
    memory = memory_gib(config, parameters) if parameters is not None else {}
    lines = [f"actors ({plan.total('CPU'):g} CPUs, {plan.total('GPU'):g} GPUs):"]
    for bundle in plan.bundles:
        gib = f"{memory[bundle.role]:7.2f} GiB" if memory else ""
        lines.append(f"  {bundle.name:14} {bundle.cpus:5.2f} CPU {bundle.gpus:5.2f} GPU {gib}")
    if parameters is not None:
        total = memory["driver"] + sum(memory[bundle.role] for bundle in plan.bundles)
        lines.append(f"  {'driver':14} {'':22} {memory['driver']:7.2f} GiB")
        lines.append(f"memory plan: {total:.1f} GiB in all, for {parameters / 1e6:.2f} M parameters per model")
    return "\n".join(lines)
