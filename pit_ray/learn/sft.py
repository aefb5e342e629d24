"""Supervised fine-tuning: −Σ log M(y_w | context) (PIT, arXiv 2310.00898, §3.1)."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from pit_ray.learn.batches import collate, micro_batches, with_end
from pit_ray.learn.engine import Engine, micro_steps
from pit_ray.metrics import Metrics
from pit_ray.records import Pairs, Prompts


def examples(pairs: Pairs, bridge: np.ndarray | None) -> Prompts:
    """What y_w is learned from: x for the policy (no bridge), x and y_l for the improver."""
    return Prompts(pairs.uid, pairs.prompt, pairs.drafts("rejected"), np.ones(len(pairs), dtype=np.int8), bridge)


def step(engine: Engine, pairs: Pairs, bridge: np.ndarray | None, eos: int, budget: int) -> Metrics:
    """One optimisation step on a batch of pairs; every rank passes the whole batch. loss/sft is nats per token."""
    contexts, targets = examples(pairs, bridge).contexts(), with_end(pairs.chosen, eos)
    parts: list[tuple[float, float]] = []

    def loss(rows: np.ndarray) -> torch.Tensor:
        batch = collate([contexts[i] for i in rows], [targets[i] for i in rows], engine.device)
        logprobs_N, _ = engine(*batch)
        parts.append((-float(logprobs_N.detach().sum()), float(len(logprobs_N))))
        return -logprobs_N.sum()

    micros = micro_batches(contexts.lengths + targets.lengths, engine.rank, engine.world, budget)
    lr, count = engine.lr(), float(len(targets.values))
    norm = micro_steps(engine, [partial(loss, rows) for rows in micros], count)
    total = [sum(column) for column in zip(*parts, strict=True)]
    return Metrics({"loss/sft": (total[0], total[1])}) | Metrics.of(lr=lr, policy__grad_norm=norm)
