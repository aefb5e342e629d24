"""Scalars from a model with a `score` head: rewards at the last attended token, values before each token.

Rows are padded on the right and the models causal, so that they need no attention mask (see `logprobs`)."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel


def rewards(
    model: PreTrainedModel, ids_BT: Int[Tensor, "B T"], attention_BT: Bool[Tensor, "B T"]
) -> Float[Tensor, " B"]:
    """The scalar at each row's last attended token, found by mask and never by id (right padding)."""
    hidden_BTH = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
    last_B = attention_BT.long().sum(dim=1) - 1
    rows_B = torch.arange(len(ids_BT), device=ids_BT.device)
    head = cast(nn.Linear, model.score)
    return head(hidden_BTH[rows_B, last_B]).squeeze(-1).float()


def values(
    model: PreTrainedModel,
    ids_BT: Int[Tensor, "B T"],
    mask_BT: Bool[Tensor, "B T"],
) -> Float[Tensor, " N"]:
    """The value before each of the N tokens where `mask_BT` is true is written, in row-major order."""
    hidden_BTH = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
    before_BT = torch.zeros_like(mask_BT)
    before_BT[:, :-1] = mask_BT[:, 1:]
    head = cast(nn.Linear, model.score)
    return head(hidden_BTH[before_BT]).squeeze(-1).float()
