"""A stage as a method lists it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pit_ray.config.training import Supervised
from pit_ray.stages import data, evaluation, ppo, supervised
from pit_ray.stages.context import RunContext
from pit_ray.stages.examples import EXAMPLES


@dataclass(frozen=True)
class Stage:
    """A resumable unit of a run; `names` are the stages it finishes, in order."""

    names: tuple[str, ...]
    run: Callable[[RunContext], None]
    about: str = ""
    """What it does, in words, where that cannot be told from the configuration's section of its name."""


def makes(name: str, make: Callable[[RunContext], None], about: str) -> Stage:
    """A stage that makes something: the data, examples to learn from, the evaluation."""
    return Stage((name,), make, about)


def learns(name: str, examples: str, start: str | None, section: Callable[[RunContext], Supervised]) -> Stage:
    """A stage `name` of SFT on what the stage `examples` made, from the model of the stage `start` (None: the base)."""

    def run(context: RunContext) -> None:
        made = context.folder.stage(examples) / EXAMPLES
        model = context.base if start is None else context.model(start)
        supervised.run(context, [supervised.example_job(context, name, section(context), made, model)])

    after = f", after {start}" if start else ""
    return Stage((name,), run, f"SFT on what {examples} makes{after}")


DATA = makes("data", data.run, "reads, splits, tokenises")
SFT = Stage(("sft_policy", "sft_improver"), lambda c: supervised.run_on_pairs(c, ("sft_policy", "sft_improver")))
REWARDS = Stage(("reward", "gap_reward"), lambda c: supervised.run_on_pairs(c, wanted_rewards(c)))
PPO_POLICY = Stage(("ppo_policy",), lambda c: ppo.run(c, "ppo_policy"))
PPO_IMPROVER = Stage(("ppo_improver",), lambda c: ppo.run(c, "ppo_improver"))
PIT_EVALUATION = Stage(("evaluate",), evaluation.run)


def wanted_rewards(context: RunContext):
    """Both reward models; R_P alone when the gap is a difference of its scores."""
    return ("reward", "gap_reward") if context.config.gap_reward.variant == "five" else ("reward",)


def names_of(stages: Iterable[Stage]) -> list[str]:
    return [name for stage in stages for name in stage.names]
