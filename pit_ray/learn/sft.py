"""Supervised fine-tuning: −Σ w · log M(response | context); on pairs −Σ log M(y_w | context) (PIT, arXiv 2310.00898,
§3.1)."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from pit_ray.learn.batches import micro_batches, with_end
from pit_ray.learn.engine import Engine, micro_steps
from pit_ray.metrics import Metrics
from pit_ray.models.packing import collate
from pit_ray.records import Examples, Pairs, Prompts


def examples(pairs: Pairs, bridge: np.ndarray | None, eos: int) -> Examples:
    """y_w to be learned from x for the policy (no bridge), from x and y_l for the improver."""
    sources = np.ones(len(pairs), dtype=np.int8)
    contexts = Prompts(pairs.uid, pairs.prompt, pairs.drafts("rejected"), sources, bridge).contexts()
    return Examples(pairs.uid, contexts, with_end(pairs.chosen, eos), np.ones(len(pairs), dtype=np.float32))


def step(engine: Engine, batch: Examples, budget: int) -> Metrics:
    """One optimisation step on a batch of examples; every rank passes the whole batch. loss/sft is nats per token, each
    counted by its weight."""
    weights = batch.weight.astype(np.float64)
    parts: list[tuple[float, float]] = []

    def loss(rows: np.ndarray) -> torch.Tensor:
        packed = collate([batch.context[i] for i in rows], [batch.response[i] for i in rows], engine.device)
        logprobs_N, _ = engine(packed)
        each = np.repeat(batch.weight[rows], batch.response.lengths[rows])
        weighted_N = logprobs_N * torch.from_numpy(each).to(engine.device)
        parts.append((-float(weighted_N.detach().sum()), float(each.sum(dtype=np.float64))))
        return -weighted_N.sum()

    micros = micro_batches(batch.context.lengths + batch.response.lengths, engine.rank, engine.world, budget)
    lr, count = engine.lr(), float(weights @ batch.response.lengths)
    norm = micro_steps(engine, [partial(loss, rows) for rows in micros], count)
    total = [sum(column) for column in zip(*parts, strict=True)]
    return Metrics({"loss/sft": (total[0], total[1])}) | Metrics.of(lr=lr, policy__grad_norm=norm)
