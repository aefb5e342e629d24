"""Cutting samples into micro-batches of equal count on every rank."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pit_ray.records import Ragged


def micro_batches(lengths: np.ndarray, rank: int, world: int, budget: int) -> list[np.ndarray]:
    """The rows of this rank's micro-batches: similar lengths together, at most `budget` tokens each.

    Every rank gets the same number of micro-batches (collectives need it) and rows that differ by at most one.
    A row longer than the budget stands alone, where every rank has another. ValueError with fewer rows than ranks.
    """
    if len(lengths) < world:
        raise ValueError(f"{len(lengths)} rows cannot be shared among {world} ranks")
    order = np.argsort(-lengths, kind="stable")
    # Round after round every rank takes a row, and no row of a round is longer than its first.
    cuts, tokens = [], 0
    for turn, longest in enumerate(lengths[order[::world]]):
        if turn and tokens + longest > budget:
            cuts.append(turn)
            tokens = 0
        tokens += longest
    # Where the last round is not whole, some ranks take no row in it, so it is no micro-batch of its own: the round
    # before goes with it; where that stood alone, the two are one micro-batch.
    if len(order) % world and cuts and cuts[-1] == len(order) // world:
        before = cuts.pop() - 1
        if before > (cuts[-1] if cuts else 0):
            cuts.append(before)
    return np.split(order[rank::world], cuts)


def with_end(responses: Ragged, eos: int) -> Ragged:
    """Each response followed by the end token."""
    return Ragged.of(np.append(row, eos) for row in responses.rows())


def flat(rows: Ragged, index: np.ndarray, device: torch.device) -> Tensor:
    """The values of some rows, one after the other: aligned with what a forward pass returns for them."""
    return torch.from_numpy(np.concatenate([rows[int(i)] for i in index])).to(device)
