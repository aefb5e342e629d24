"""PIT (arXiv 2310.00898): SFT, reward models, the tuned policy, the improver by curriculum, the comparison."""

from __future__ import annotations

from pit_ray.config import Config
from pit_ray.methods.stage import DATA, PIT_EVALUATION, PPO_IMPROVER, PPO_POLICY, REWARDS, SFT, Stage


def stages(config: Config) -> tuple[Stage, ...]:
    return DATA, SFT, REWARDS, PPO_POLICY, PPO_IMPROVER, PIT_EVALUATION
