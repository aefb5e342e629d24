"""Cutting samples into micro-batches of equal count on every rank, and padding them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pit_ray.records import Ragged

PASS_TOKENS = 200
"""What a pass costs beside its tokens, in tokens of padding that take as long: on CPUs 50 to 500 are as good for a
model of 0.7 M parameters; for one of 25 M, 50 was better than 200 in a single trial on 8 rows."""


class Batch(NamedTuple):
    """Right-padded sequences: what every forward pass takes."""

    ids_BT: Tensor
    attention_BT: Tensor
    mask_BT: Tensor
    """True where a token belongs to the response."""


def micro_batches(lengths: np.ndarray, rank: int, world: int, budget: int) -> list[np.ndarray]:
    """The rows of this rank's micro-batches: similar lengths together, at most `budget` padded tokens each, cut where
    padding and passes together cost least.

    Every rank gets the same number of micro-batches (collectives need it) and rows that differ by at most one.
    A row longer than the budget stands alone, where every rank has another. ValueError with fewer rows than ranks.
    """
    if len(lengths) < world:
        raise ValueError(f"{len(lengths)} rows cannot be shared among {world} ranks")
    order = np.argsort(-lengths, kind="stable")
    # Round after round every rank takes a row. Where the last round is not whole, some take none, so it is not cut off.
    return np.split(order[rank::world], _cuts(lengths[order[::world]], budget, 2 if len(order) % world else 1))


def _cuts(longest: np.ndarray, budget: int, last_rows: int) -> list[int]:
    """Where to cut rows, longest first, so that Σ over the parts of (rows × its longest + PASS_TOKENS) is least, by
    dynamic programming over where a part begins; the last part has at least `last_rows` rows."""
    least, begins = np.zeros(len(longest) + 1), np.zeros(len(longest) + 1, dtype=np.int64)
    for end in range(1, len(longest) + 1):
        begin = np.arange(end - (last_rows if end == len(longest) else 1) + 1)
        padded = longest[begin] * (end - begin)
        padded = np.where((padded <= budget) | (begin == begin[-1]), padded, np.inf)  # what cannot be cut may exceed it
        cost = least[begin] + padded + PASS_TOKENS
        begins[end] = np.argmin(cost)
        least[end] = cost[begins[end]]
    cuts = [int(begins[-1])]
    while cuts[-1]:
        cuts.append(int(begins[cuts[-1]]))
    return cuts[-2::-1]


def collate(contexts: list[np.ndarray], responses: list[np.ndarray], device: torch.device) -> Batch:
    """context ‖ response, padded on the right with id 0 (a mask, not the id, marks padding)."""
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
