"""The PPO update (Schulman et al. 2017) of policy and value model on one step's experience."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pit_ray.config.training import Ppo
from pit_ray.data.randomness import generator
from pit_ray.errors import TrainingError
from pit_ray.learn.batches import flat, micro_batches
from pit_ray.learn.engine import Engine, micro_steps
from pit_ray.maths.losses import clipped_policy, clipped_value
from pit_ray.metrics import Metrics, merge
from pit_ray.models.packing import collate
from pit_ray.records import Experience


@dataclass(frozen=True)
class RatioLimit:
    """How far the ratio π / π_old may be from 1 before the first update."""

    limit: float
    of: Callable[[torch.Tensor], torch.Tensor]
    """What of the distances |ratio − 1| of all tokens of a micro-batch it bounds."""


RATIO_LIMIT = {torch.float32: RatioLimit(1e-4, torch.max), torch.bfloat16: RatioLimit(2e-2, torch.mean)}
"""In bfloat16 the mean: another padding alone moves a token's ratio by more (0.027 on the embedded world)."""


def step(engine: Engine, experience: Experience, ppo: Ppo, seed: int, ratio_limit: RatioLimit) -> Metrics:
    """Several epochs of minibatches over one step's experience, the same on every rank; returns this rank's part of
    policy/*, loss/* and val/ratio.

    Before the first update the ratio π / π_old is 1; TrainingError when it departs by more than `ratio_limit`.
    """
    parts: list[Metrics] = []
    for epoch in range(ppo.epochs):
        order = generator(seed, "minibatches", epoch).permutation(len(experience))
        for i, rows in enumerate(np.split(order, ppo.minibatches)):
            lr = engine.lr()
            first = epoch == 0 and i == 0
            norm, metrics = _update(engine, experience, np.sort(rows), ppo, ratio_limit if first else None)
            parts.append(metrics)
            if engine.rank == 0:
                parts.append(Metrics.of(lr=lr, policy__grad_norm=norm))
    return merge(parts)


def _update(
    engine: Engine, experience: Experience, rows: np.ndarray, ppo: Ppo, ratio_limit: RatioLimit | None
) -> tuple[float, Metrics]:
    lengths = (experience.context.lengths + experience.response.lengths)[rows]
    count = float(experience.response.lengths[rows].sum())
    parts: list[Metrics] = []

    def loss(at: np.ndarray) -> torch.Tensor:
        value, metrics = _loss(engine, experience, at, ppo, ratio_limit)
        parts.append(metrics)
        return value

    micros = [rows[at] for at in micro_batches(lengths, engine.rank, engine.world, ppo.optimizer.micro_batch_tokens)]
    norm = micro_steps(engine, [partial(loss, at) for at in micros], count)
    return norm, merge(parts)


def _loss(
    engine: Engine, experience: Experience, at: np.ndarray, ppo: Ppo, ratio_limit: RatioLimit | None
) -> tuple[torch.Tensor, Metrics]:
    batch = collate([experience.context[i] for i in at], [experience.response[i] for i in at], engine.device)
    logprobs_N, _, values_N = engine(batch, experience.temperature)
    columns = (experience.logprobs, experience.advantages, experience.weights, experience.values, experience.returns)
    old_N, advantages_N, weights_N, old_values_N, returns_N = (flat(c, at, engine.device) for c in columns)
    policy_loss, ratio_N = clipped_policy(logprobs_N, old_N, advantages_N, weights_N, ppo.clip)
    value_loss = clipped_value(values_N, old_values_N, returns_N, ppo.value_clip or math.inf)
    with torch.no_grad():
        if ratio_limit is not None and (away := float(ratio_limit.of((ratio_N - 1).abs()))) > ratio_limit.limit:
            raise TrainingError(f"the policy ratio is off by {away:.2g} before the first update; it must be 1")
        metrics = Metrics.of(
            len(ratio_N),
            policy__approxkl_avg=float(0.5 * ((logprobs_N - old_N) ** 2).mean()),
            policy__clipfrac_avg=float(((ratio_N - 1).abs() > ppo.clip).float().mean()),
            loss__policy_avg=float(policy_loss) / len(ratio_N),
            loss__value_avg=float(value_loss) / len(ratio_N),
            val__ratio=float(ratio_N.mean()),
        )
    return policy_loss + ppo.value_coefficient * value_loss, metrics
