"""What an engine trains: a model and the forward pass that its stage needs, as one module."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from pit_ray.models.logprobs import token_logprobs
from pit_ray.models.packing import Batch
from pit_ray.models.scalar_head import rewards, values


class Policy(nn.Module):
    """A language model whose forward pass gives log-probability and entropy of the response tokens, (N,) each."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, temperature: float = 1.0):
        return token_logprobs(self.model, batch, temperature)


class Reward(nn.Module):
    """A reward model whose forward pass gives one scalar a sequence, (B,)."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return rewards(self.model, batch)


class ActorCritic(nn.Module):
    """Policy and value model under one optimizer; the forward pass gives (N,) log-probabilities, entropies, values."""

    def __init__(self, policy: PreTrainedModel, value: PreTrainedModel) -> None:
        super().__init__()
        self.policy, self.value = policy, value

    def forward(self, batch: Batch, temperature: float = 1.0):
        logprobs_N, entropy_N = token_logprobs(self.policy, batch, temperature)
        return logprobs_N, entropy_N, values(self.value, batch)
