"""Log-probabilities of given tokens: the one place where the shift between logits and tokens happens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel


def token_logprobs(
    model: PreTrainedModel,
    ids_BT: Int[Tensor, "B T"],
    mask_BT: Bool[Tensor, "B T"],
    temperature: float = 1.0,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Log-probability and entropy (nats) of the N tokens where `mask_BT` is true, in row-major order.

    Token t is predicted by the logits at t − 1, divided by `temperature`; mask_BT[:, 0] must be false.
    Only the masked positions are projected to the vocabulary. Rows are padded on the right, so a causal model needs no
    attention mask: what stands behind a token does not reach it, and without one attention is faster.
    """
    before_BT = torch.zeros_like(mask_BT)
    before_BT[:, :-1] = mask_BT[:, 1:]
    # The model's own forward pass may scale or cap logits, so only its head is handed fewer positions.
    head = model.get_output_embeddings()
    select = head.register_forward_pre_hook(lambda _, hidden: (hidden[0][before_BT],))
    try:
        logits = model(input_ids=ids_BT, use_cache=False).logits
    finally:
        select.remove()
    logits_NV = logits.float() / temperature
    logprobs_NV = torch.log_softmax(logits_NV, dim=-1)
    chosen_N = logprobs_NV.gather(1, ids_BT[mask_BT].unsqueeze(1)).squeeze(1)
    with torch.no_grad():
        entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1)
    return chosen_N, entropy_N
