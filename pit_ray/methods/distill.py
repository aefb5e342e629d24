"""PIT distilled: its improvements of the policy's own responses, filtered by the gap reward, are learned by the policy,
round after round (SELF's idea, arXiv 2310.00533, with PIT as the refiner)."""

from __future__ import annotations

from functools import partial

from pit_ray.config import Config
from pit_ray.methods.stage import DATA, PPO_IMPROVER, PPO_POLICY, REWARDS, SFT, Stage, learns, makes
from pit_ray.stages import contest
from pit_ray.stages.contest import Contestant
from pit_ray.stages.context import RunContext
from pit_ray.stages.distilling import improved


def stages(config: Config) -> tuple[Stage, ...]:
    found, before = [DATA, SFT, REWARDS, PPO_POLICY, PPO_IMPROVER], "ppo_policy"
    for number in range(1, config.distill.rounds + 1):
        found += [
            makes(
                f"improved_{number}",
                partial(improved, number=number, policy=before),
                "PIT improves the policy's responses",
            ),
            learns(f"sft_distilled_{number}", f"improved_{number}", before, lambda c: c.config.distill.sft),
        ]
        before = f"sft_distilled_{number}"
    return *found, Stage(("evaluate",), lambda c: contest.run(c, contestants(c)))


def contestants(context: RunContext) -> list[Contestant]:
    """Each distilled policy against the tuned one, and the improver on the first and the last of them."""
    rounds = [f"sft_distilled_{n}" for n in range(1, context.config.distill.rounds + 1)]
    found = [Contestant("policy", "ppo_policy"), *(Contestant(stage, stage) for stage in rounds)]
    last = Contestant(f"{rounds[-1]}_pit", rounds[-1], improver="pit")
    return [*found, Contestant("pit", "ppo_policy", improver="pit"), last]
