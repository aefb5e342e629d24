"""Sequences one after another in one row: no padding, and what they have in common is computed once.

Linear layers see one long row. Attention keeps the sequences apart: each one's queries meet the keys of its own tokens
and of those that it shares with a sequence before it. Models that cannot be told so are given padded rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pit_ray.models.last_layer import READ, read_sparingly

PACKED = "packed"
"""The name of the attention below in a model's configuration."""
LEAST_SHARED = 16
"""Tokens. A shorter common beginning costs more in attention, which then needs a mask, than it saves."""
SEPARATE_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers in which tokens meet in attention alone."""

Spans = list[tuple[int, int]]
"""Where a sequence's tokens stand in the row, from the first to the last; the last span is its own, the others are
shared."""


@dataclass(frozen=True)
class Batch:
    """Contexts and responses for a forward pass."""

    ids_T: Int[Tensor, " T"]
    """All sequences; what several begin with stands there once."""
    positions_T: Int[Tensor, " T"]
    """Each token's place in its sequence."""
    before_N: Int[Tensor, " N"]
    """Where the token stands after which each response token is written, response by response."""
    tokens_N: Int[Tensor, " N"]
    """The response tokens."""
    last_B: Int[Tensor, " B"]
    """Where each sequence's last token stands."""
    spans: list[Spans]
    """Of each sequence."""

    @cached_property
    def parts(self) -> Parts:
        return Parts(self.spans)


class Parts:
    """How attention cuts a row: into the stretches that sequences begin or part at."""

    def __init__(self, spans: list[Spans]) -> None:
        marks = sorted({mark for row in spans for span in row for mark in span})
        self.lengths = [stop - start for start, stop in pairwise(marks)]
        number = {mark: i for i, mark in enumerate(marks)}
        in_row = sorted(spans, key=lambda row: row[-1])
        self.asking = [row[-1][1] - row[-1][0] for row in in_row]
        """Of each sequence, in the order in which they stand in the row, how many tokens are its own."""
        self.met = [[i for a, b in row for i in range(number[a], number[b])] for row in in_row]
        """And the stretches that these may meet."""
        self._masks: dict[tuple[int, int, int | None, torch.device], Tensor] = {}

    def mask(self, asking: int, meeting: int, window: int | None, device: torch.device) -> Tensor | None:
        """(asking, meeting) booleans: the last tokens of `meeting` ask. None where causality alone decides."""
        if asking == meeting and (window is None or meeting <= window):
            return None
        key = (asking, meeting, window, device)
        if key not in self._masks:
            back = torch.arange(meeting - asking, meeting)[:, None] - torch.arange(meeting)
            seen = (back >= 0) & (back < (window or meeting))
            self._masks[key] = seen[None, None].to(device)
        return self._masks[key]


def collate(contexts: list[np.ndarray], responses: list[np.ndarray], device: torch.device) -> Batch:
    """context ‖ response of each sequence, none of them empty. Sequences that begin alike share that beginning, but for
    their last token."""
    rows = [np.concatenate(pair).astype(np.int64) for pair in zip(contexts, responses, strict=True)]
    spans: list[Spans] = [[] for _ in rows]
    stands, before = 0, -1
    ids, positions = [], []
    for i in sorted(range(len(rows)), key=lambda i: rows[i].tobytes()):
        shared = _common(rows[before], rows[i][:-1]) if before >= 0 else 0
        shared = shared if shared >= LEAST_SHARED else 0
        start, stands = stands, stands + len(rows[i]) - shared
        spans[i] = [*_beginning(spans[before], shared), (start, stands)]
        ids.append(rows[i][shared:])
        positions.append(np.arange(shared, len(rows[i])))
        before = i
    places = [np.concatenate([np.arange(*span) for span in row]) for row in spans]
    asked = [at[len(c) - 1 : -1] for at, c in zip(places, contexts, strict=True)]

    def column(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(device)

    return Batch(
        ids_T=column(np.concatenate(ids)),
        positions_T=column(np.concatenate(positions)),
        before_N=column(np.concatenate(asked)),
        tokens_N=column(np.concatenate(responses)),
        last_B=column(np.array([at[-1] for at in places])),
        spans=spans,
    )


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens two sequences begin with in common."""
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    return int(differ.argmax()) if differ.any() else length


def _beginning(spans: Spans, length: int) -> Spans:
    """Where the first `length` tokens stand."""
    found: Spans = []
    for start, stop in spans:
        if length <= 0:
            break
        found.append((start, min(stop, start + length)))
        length -= stop - start
    return found


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    parts: Parts | None = None, read_T: Tensor | None = None, sliding_window: int | None = None, **options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention of a packed row, sequence by sequence, as transformers computes it: (1, heads, T, width) each, to
    (1, T, heads, width). Of anything else, without `parts`, just as transformers computes it."""
    if parts is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    asking = query.split(parts.asking, dim=2)
    keys, values = key.split(parts.lengths, dim=2), value.split(parts.lengths, dim=2)
    found = []
    for ours, met in zip(asking, parts.met, strict=True):
        k, v = (t[met[0]] if len(met) == 1 else torch.cat([t[i] for i in met], dim=2) for t in (keys, values))
        mask = parts.mask(ours.shape[2], k.shape[2], sliding_window, ours.device)
        found.append(sdpa_attention_forward(module, ours, k, v, mask, **options)[0])
    return torch.cat(found, dim=1), None


AttentionInterface.register(PACKED, attend)
AttentionMaskInterface.register(PACKED, sdpa_mask)


def use_packing(model: PreTrainedModel) -> None:
    """Has a model take packed rows, where tokens of its sequences meet in attention alone, and that is ours to give."""
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or SEPARATE_LAYERS)
    if model._supports_attention_backend and not model._is_stateful and layers <= SEPARATE_LAYERS:
        model.set_attn_implementation(PACKED)
        read_sparingly(model)


def forward_arguments(model: PreTrainedModel, batch: Batch, read: Tensor) -> tuple[dict[str, Any], tuple[Any, Any]]:
    """What the model's forward pass is given, and where in its (B, T, …) each token of the row is then found. `read`:
    the tokens of the row whose result is of interest."""
    if model.config._attn_implementation == PACKED:
        given = {"input_ids": batch.ids_T[None], "position_ids": batch.positions_T[None], "parts": batch.parts}
        given[READ] = read.unique()
        # A mask that is given whole is passed on as it is, so that none is made for the row; `attend` needs none.
        return given | {"attention_mask": batch.ids_T.new_ones(1, 1, 1, 1, dtype=torch.bool)}, (0, slice(None))
    ids_BT = batch.ids_T.new_zeros(len(batch.spans), int(batch.positions_T.max()) + 1)
    row_T = torch.zeros_like(batch.positions_T)
    for row, spans in enumerate(batch.spans):
        ids = torch.cat([batch.ids_T[slice(*span)] for span in spans])
        ids_BT[row, : len(ids)] = ids  # on the right of a causal model nothing needs a mask
        row_T[slice(*spans[-1])] = row
    return {"input_ids": ids_BT}, (row_T, batch.positions_T)
