"""A served reward model, which scores what several requests have waiting in one batch."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import torch
from ray import serve

from pit_ray.config import Config
from pit_ray.models.load import torch_dtype
from pit_ray.records import Rollouts, Scores
from pit_ray.roles import ScoreKind
from pit_ray.scoring import RewardModel
from pit_ray.store import Store

MOST_CALLS = 64
"""Calls in a batch; whatever is in it, a forward pass takes at most actors.scorer.batch_tokens."""


class Scorer:
    """One reward or gap reward model."""

    def __init__(self, model: Path, kind: ScoreKind, config: Config, store: Store, eos: int) -> None:
        store.pull(model)
        scorer, trust = config.actors.scorer, config.model.trust_remote_code
        torch.set_num_threads(scorer.threads)
        device = torch.device("cuda" if scorer.gpus else "cpu")
        dtype = torch_dtype(config.model.dtype)
        self.model = RewardModel(model, kind, eos, dtype, device, scorer.batch_tokens, trust)

    # Nobody waits for others to come: a batch is what came while the last one was being scored.
    @serve.batch(max_batch_size=MOST_CALLS, batch_wait_timeout_s=0.0)
    async def score(self, rollouts: list[Rollouts]) -> list[Scores]:
        """The scores of the rollouts of each call."""
        found = await asyncio.to_thread(self.model.score, Rollouts.concatenate(rollouts))
        starts = [0]
        for part in rollouts:
            starts.append(starts[-1] + len(part))
        return [found.take(range(first, last)) for first, last in pairwise(starts)]

    async def answers(self) -> bool:
        """True: the process is at work."""
        return True
