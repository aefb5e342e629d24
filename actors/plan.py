"""The plan of a run's actors as a pure function of its configuration: who, how many, on what."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, fields

from actors.memory import WITHOUT_PPO, ModelSize, Parts, memory_plan, needs
from pit_ray.config import Config
from pit_ray.config.tree import Method
from pit_ray.errors import ConfigError


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
    """Every actor of a run, in placement order."""

    bundles: tuple[Bundle, ...]

    def total(self, resource: str) -> float:
        return sum(bundle.resources().get(resource, 0.0) for bundle in self.bundles)

    def only(self, roles: Container[str]) -> Plan:
        """The plan without other roles."""
        return Plan(tuple(bundle for bundle in self.bundles if bundle.role in roles))

    def of(self, role: str) -> list[int]:
        """The bundle indices of a role."""
        return [i for i, bundle in enumerate(self.bundles) if bundle.role == role]


ROLES = ("learner", "rollout", "reward", "reference", "recorder")


def roles_of(method: Method) -> tuple[str, ...]:
    """The roles whose actors stand while a method runs, but for supervised stages, which have a worker group."""
    return ("rollout",) if method in WITHOUT_PPO else ROLES


def plan_actors(config: Config) -> Plan:
    """Learners first, since they need whole devices together; then engines, scorers and the recorder. Where a method
    has no PPO, the learners' places are those of the worker group of its supervised stages."""
    actors = config.actors
    learner, rollout, scorer = actors.learner, actors.rollout, actors.scorer
    bundles = [Bundle("learner", i, learner.cpus, learner.gpus) for i in range(learner.ranks)]
    for i in range(rollout.workers):
        gpus = rollout.gpus * rollout.tensor_parallel
        bundles.append(Bundle("rollout", i, rollout.cpus, gpus))
    for role in ("reward", "reference"):
        bundles += [Bundle(role, i, scorer.cpus, scorer.gpus) for i in range(scorer.workers)]
    bundles.append(Bundle("recorder", 0, 0.1, 0.0))
    return Plan(tuple(bundles)).only(("learner", *roles_of(config.method)))


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


def describe_plan(config: Config, size: ModelSize) -> str:
    """The actors and their memory as lines for people."""
    plan, need = plan_actors(config), needs(config, size)
    lines = [f"actors ({plan.total('CPU'):g} CPUs, {plan.total('GPU'):g} GPUs):"]
    for bundle in plan.bundles:
        gpu = f" + {need[bundle.role].gpu:7.2f} GiB of GPU memory" if bundle.gpus else ""
        lines.append(
            f"  {bundle.name:14} {bundle.cpus:5.2f} CPU {bundle.gpus:5.2f} GPU {need[bundle.role].host:7.2f} GiB{gpu}"
        )
    lines.append(f"  {'driver':14} {'':20} {need['driver'].host:7.2f} GiB")
    return "\n".join([*lines, describe_memory(config, size)])


def describe_memory(config: Config, size: ModelSize) -> str:
    """What a process of each role is planned to take, and for what, as a table for people."""
    plan, need = plan_actors(config), needs(config, size)
    total = need["driver"].host + sum(need[bundle.role].host for bundle in plan.bundles)
    names = [field.name for field in fields(Parts)]
    widths = [len(name) + 2 for name in names]
    heads = [f"{name.replace('_', ' '):>{width}}" for name, width in zip(names, widths, strict=True)]
    lines = [
        f"memory plan: {total:.1f} GiB in all, for {size.parameters / 1e6:.2f} M parameters per model",
        f"  {'GiB of a process':18}{''.join(heads)}    peak",
    ]
    for role, memory in sorted(memory_plan(config, size).items()):
        count = len(plan.of("learner" if role == "supervised" else role))
        for where, parts in (("", memory.host), (" GPU", memory.gpu)):
            if parts is not None:
                given = [(getattr(parts, name), width) for name, width in zip(names, widths, strict=True)]
                cells = "".join(f"{gib:{width}.2f}" if gib else f"{'–':>{width}}" for gib, width in given)
                several = f" × {count}" if count > 1 else ""
                lines.append(f"  {role + several + where:18}{cells}{parts.total:8.2f}")
    return "\n".join(lines)
