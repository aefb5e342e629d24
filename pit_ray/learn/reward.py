"""Training the reward model R_P(x, y) and the gap reward model R_PIT(x, y1, y2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from pit_ray.learn.batches import micro_batches, with_end
from pit_ray.learn.engine import Engine, micro_steps
from pit_ray.maths.losses import bradley_terry, five_comparisons
from pit_ray.metrics import Metrics
from pit_ray.models.packing import collate
from pit_ray.records import Pairs, Prompts, Ragged

Sequences = list[tuple[Ragged, Ragged]]
"""Per comparison role, the contexts and responses of all pairs."""


def sequences(pairs: Pairs, bridge: np.ndarray | None, eos: int) -> Sequences:
    """What the model scores: (y_w, y_l) given x for R_P; r^{wl}, r^{ww}, r^{ll}, r^{lw} for R_PIT (with a bridge),
    where r^{ab} = R_PIT(x, y_a, y_b) reads x ‖ y_b ‖ bridge ‖ y_a."""
    better, worse = with_end(pairs.chosen, eos), with_end(pairs.rejected, eos)
    if bridge is None:
        return [(pairs.prompt, better), (pairs.prompt, worse)]
    after = {
        name: Prompts(pairs.uid, pairs.prompt, draft, np.ones(len(pairs), dtype=np.int8), bridge).contexts()
        for name, draft in (("w", pairs.drafts("chosen")), ("l", pairs.drafts("rejected")))
    }
    return [(after["l"], better), (after["w"], better), (after["l"], worse), (after["w"], worse)]


def score_sequences(model: Callable, rows: np.ndarray, seqs: Sequences, device: torch.device) -> torch.Tensor:
    """(roles, rows): each sequence's scalar, all in one forward pass."""
    contexts = [context[i] for context, _ in seqs for i in rows]
    responses = [response[i] for _, response in seqs for i in rows]
    return model(collate(contexts, responses, device)).reshape(len(seqs), len(rows))


def pair_lengths(seqs: Sequences) -> np.ndarray:
    """Tokens of all sequences of each pair."""
    return np.sum([c.lengths + r.lengths for c, r in seqs], axis=0)


def step(engine: Engine, pairs: Pairs, bridge: np.ndarray | None, eos: int, budget: int) -> Metrics:
    """One optimisation step on a batch of pairs: Bradley–Terry without a bridge, five comparisons with one.

    Every rank passes the whole batch. loss/reward is per pair; val/accuracy the share with r(y_w) above r(y_l).
    """
    seqs = sequences(pairs, bridge, eos)
    parts: list[tuple[float, float, float]] = []

    def loss(rows: np.ndarray) -> torch.Tensor:
        scores = score_sequences(engine, rows, seqs, engine.device)
        total = bradley_terry(*scores) if bridge is None else five_comparisons(*scores)
        parts.append((float(total.detach()), float((scores[0] > scores[-1]).sum()), float(len(rows))))
        return total

    micros = micro_batches(pair_lengths(seqs), engine.rank, engine.world, budget)
    lr = engine.lr()
    norm = micro_steps(engine, [partial(loss, rows) for rows in micros], float(len(pairs)))
    total, correct, count = (sum(column) for column in zip(*parts, strict=True))
    seen = Metrics({"loss/reward": (total, count), "val/accuracy": (correct, count)})
    return seen | Metrics.of(lr=lr, policy__grad_norm=norm)
