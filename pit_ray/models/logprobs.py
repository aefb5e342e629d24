"""Log-probabilities of given tokens: the one place where the shift between logits and tokens happens."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from pit_ray.models.packing import Batch, forward_arguments


def token_logprobs(
    model: PreTrainedModel, batch: Batch, temperature: float = 1.0
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Log-probability and entropy (nats) of the N response tokens, response by response.

    Token t is predicted by the logits at t − 1, divided by `temperature`. Only those positions are projected to the
    vocabulary.
    """
    given, where = forward_arguments(model, batch, batch.before_N)
    # The model's own forward pass may scale or cap logits, so only its head is handed fewer positions.
    head = model.get_output_embeddings()
    select = head.register_forward_pre_hook(lambda _, hidden: (hidden[0][where].index_select(0, batch.before_N),))
    try:
        logits_NV = model(**given, use_cache=False).logits.float()
    finally:
        select.remove()
    # These are the largest tensors of a step: no more than two of them are ever held.
    if temperature != 1:
        logits_NV = logits_NV / temperature
    logprobs_NV = torch.log_softmax(logits_NV, dim=-1)
    del logits_NV
    chosen_N = logprobs_NV.gather(1, batch.tokens_N.unsqueeze(1)).squeeze(1)
    with torch.no_grad():
        entropy_N = -logprobs_NV.exp().mul_(logprobs_NV).sum(-1)
    return chosen_N, entropy_N
