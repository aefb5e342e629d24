"""Scalars from a model with a `score` head: rewards at the last token, values before each token."""

from __future__ import annotations

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from pit_ray.models.packing import Batch, forward_arguments


def rewards(model: PreTrainedModel, batch: Batch) -> Float[Tensor, " B"]:
    """The scalar at each sequence's last token, whatever token that is."""
    return _scalars(model, batch, batch.last_B)


def values(model: PreTrainedModel, batch: Batch) -> Float[Tensor, " N"]:
    """The value before each of the N response tokens is written, response by response."""
    return _scalars(model, batch, batch.before_N)


def _scalars(model: PreTrainedModel, batch: Batch, at: Tensor) -> Tensor:
    given, where = forward_arguments(model, batch, at)
    hidden_TH = model.base_model(**given, use_cache=False).last_hidden_state[where]
    head = cast(nn.Linear, model.score)
    return head(hidden_TH.index_select(0, at)).squeeze(-1).float()
