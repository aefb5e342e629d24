"""Cutting samples into micro-batches of equal count on every rank, and padding them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pit_ray.records import Ragged


class Batch(NamedTuple):
    """Right-padded sequences: what every forward pass takes."""

    ids_BT: Tensor
    attention_BT: Tensor
    mask_BT: Tensor
    """True where a token belongs to the response."""


def micro_batches(lengths: np.ndarray, rank: int, world: int, budget: int) -> list[np.ndarray]:
    """The rows of this rank's micro-batches: similar lengths together, at most `budget` padded tokens each.

    Every rank gets the same number of micro-batches (collectives need it) and rows that differ by at most one.
    A row longer than the budget stands alone. ValueError with fewer rows than ranks.
    """
    if len(lengths) < world:
        raise ValueError(f"{len(lengths)} rows cannot be shared among {world} ranks")
    order = np.argsort(-lengths, kind="stable")
    packed = [_pack(lengths, order[r::world], budget) for r in range(world)]
    count = min(max(map(len, packed)), len(order) // world)
    batches = packed[rank]
    while len(batches) < count:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        batches[largest : largest + 1] = np.array_split(batches[largest], 2)
    while len(batches) > count:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def _pack(lengths: np.ndarray, rows: np.ndarray, budget: int) -> list[np.ndarray]:
    """Rows, longest first, cut wherever the next one would exceed the budget."""
    cuts = [0]
    for i in range(1, len(rows)):
        if (i + 1 - cuts[-1]) * lengths[rows[cuts[-1]]] > budget:
            cuts.append(i)
    return np.split(rows, cuts[1:])


def collate(contexts: list[np.ndarray], responses: list[np.ndarray], device: torch.device) -> Batch:
    """context ‖ response, padded on the right with id 0 (the attention mask, not the id, marks padding)."""
    lengths = [len(c) + len(r) for c, r in zip(contexts, responses, strict=True)]
    ids = np.zeros((len(lengths), max(lengths)), dtype=np.int64)
    mask = np.zeros(ids.shape, dtype=bool)
    attention = np.arange(ids.shape[1])[None, :] < np.array(lengths)[:, None]
    for i, (context, response) in enumerate(zip(contexts, responses, strict=True)):
        ids[i, : len(context)] = context
        ids[i, len(context) : lengths[i]] = response
        mask[i, len(context) : lengths[i]] = True
    return Batch(*(torch.from_numpy(array).to(device) for array in (ids, attention, mask)))


def with_end(responses: Ragged, eos: int) -> Ragged:
    """Each response followed by the end token."""
    return Ragged.of(np.append(row, eos) for row in responses.rows())


def flat(rows: Ragged, index: np.ndarray, device: torch.device) -> Tensor:
    """The values of some rows, one after the other: aligned with what a forward pass returns for them."""
    return torch.from_numpy(np.concatenate([rows[int(i)] for i in index])).to(device)
