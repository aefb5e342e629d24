"""PIT (arXiv 2310.00898): SFT, reward models, the tuned policy, the improver by curriculum, the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pit_ray.stages import data, evaluation, ppo, supervised
from pit_ray.stages.context import RunContext


@dataclass(frozen=True)
class Stage:
    """A resumable unit of a run; `names` are the stages it finishes, in order."""

    names: tuple[str, ...]
    run: Callable[[RunContext], None]


STAGES = (
    Stage(("data",), data.run),
    Stage(("sft_policy", "sft_improver"), lambda c: supervised.run(c, ("sft_policy", "sft_improver"))),
    Stage(("reward", "gap_reward"), lambda c: supervised.run(c, wanted_rewards(c))),
    Stage(("ppo_policy",), lambda c: ppo.run(c, "ppo_policy")),
    Stage(("ppo_improver",), lambda c: ppo.run(c, "ppo_improver")),
    Stage(("evaluate",), evaluation.run),
)


def wanted_rewards(context: RunContext):
    """Both reward models; R_P alone when the gap is a difference of its scores."""
    return ("reward", "gap_reward") if context.config.gap_reward.variant == "five" else ("reward",)
