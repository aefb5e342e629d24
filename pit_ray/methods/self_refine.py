"""Self-Refine (arXiv 2303.17651), the prompting baseline: drafts by the tuned policy, refined by a model that gives
itself feedback; that model is the policy as it is, a base that was taught to by a verifier, or behind an endpoint."""

from __future__ import annotations

from pit_ray.config import Config
from pit_ray.methods.stage import DATA, PPO_POLICY, Stage, learns, makes
from pit_ray.stages import contest, supervised
from pit_ray.stages.contest import Contestant
from pit_ray.stages.context import RunContext
from pit_ray.stages.self_training import teach


def stages(config: Config) -> tuple[Stage, ...]:
    policy = (
        Stage(("sft_policy",), lambda c: supervised.run_on_pairs(c, ("sft_policy",))),
        Stage(("reward",), lambda c: supervised.run_on_pairs(c, ("reward",))),
        PPO_POLICY,
    )
    taught: tuple[Stage, ...] = ()
    if config.self_refine.model == "taught":
        taught = (
            makes("teach", teach, "the verifier reviews and mends the data's responses"),
            learns("sft_taught", "teach", None, lambda c: c.config.self_refine.sft),
        )
    return DATA, *policy, *taught, Stage(("evaluate",), lambda c: contest.run(c, contestants(c)))


def contestants(context: RunContext) -> list[Contestant]:
    """Self-Refine, best-of-n, and PIT where the run was given an improver, all on the policy's drafts."""
    drafts = Contestant("policy", "ppo_policy")
    wanted = ("self_refine", "best_of_n", *(("pit",) if context.has("ppo_improver") else ()))
    return [drafts, *(Contestant(name, "ppo_policy", improver=name) for name in wanted)]
