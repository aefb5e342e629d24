"""What a run will do, in lines for people, before it does anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pit_ray.config.training import Ppo, Supervised
from pit_ray.config.tree import Config
from pit_ray.learn.supervised import total_steps


@dataclass(frozen=True)
class FoundData:
    """What was found of the data without tokenising all of it."""

    description: str
    """Rows, form, what was skipped and why."""
    sizes: dict[str, int]
    """Pairs of each split, before `data.lengths`; empty where only the run can tell."""


def outlook(config: Config, found: FoundData, stages: Sequence[tuple[str, str]]) -> str:
    """The data, the splits, and what each of the stages (name, description) does, its steps where there is none; what
    looks like a mistake is said."""
    lines = [found.description]
    if found.sizes:
        lines.append("splits: " + ", ".join(f"{name} {size}" for name, size in found.sizes.items()))
    lines.append("stages:")
    width = max(len(name) for name, _ in stages)
    for name, about in stages:
        given = getattr(config.ready, name, None)
        said = f"given: {given}" if given else about or work(config, name, found.sizes)
        lines.append(f"  {name:{width}} {said}")
    return "\n".join(lines)


def work(config: Config, stage: str, sizes: dict[str, int]) -> str:
    """The steps of a stage that is trained on pairs or by PPO, and what the evaluation does."""
    if stage == "evaluate":
        return f"{config.data.held_out} held-out prompts, up to {config.evaluation.iterations} revisions"
    section: Ppo | Supervised = getattr(config, "sft" if stage.startswith("sft") else stage)
    if isinstance(section, Ppo):
        size, batch = sizes.get("rl"), section.rollouts_per_step
        phases = ", ".join(f"{phase.name} {phase.steps}" for phase in section.phases)
        said = f"{sum(phase.steps for phase in section.phases)} steps of {batch} rollouts ({phases})"
    elif stage == "gap_reward" and config.gap_reward.variant == "difference":
        return "nothing: the gap is a difference of rewards"
    else:
        size, batch = sizes.get("sft" if stage.startswith("sft") else "reward"), section.batch_size
        steps = f"{total_steps(section, size)} steps" if size is not None else f"{section.epochs:g} epochs"
        said = f"{steps} of {batch} pairs"
    if size is not None and size < batch:
        said += f"; but its split has only {size}, so pairs repeat within a step"
    return said
