"""Loss functions: pure, over tensors; each returns sums, so that the caller divides by the global count."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry(chosen_B: Float[Tensor, " B"], rejected_B: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Σ −log σ(r_w − r_l), the reward model's loss (Bradley and Terry 1952)."""
    return -logsigmoid(chosen_B - rejected_B).sum()


def five_comparisons(
    wl_B: Float[Tensor, " B"], ww_B: Float[Tensor, " B"], ll_B: Float[Tensor, " B"], lw_B: Float[Tensor, " B"]
) -> Float[Tensor, ""]:
    """The gap reward's loss: r^{wl} ≥ (r^{ww} ≈ r^{ll}) ≥ r^{lw} as five comparisons (PIT, arXiv 2310.00898, Eq. 2).

    r^{ab} = R_PIT(x, y_a, y_b). That each comparison is a log-sigmoid is our reading; the paper's text confirms the
    five comparisons, not their form.
    """
    better = (wl_B - ww_B, wl_B - ll_B, wl_B - lw_B, ww_B - lw_B, ll_B - lw_B)
    return -torch.stack([logsigmoid(difference) for difference in better]).sum()


def clipped_policy(
    logprobs_N: Float[Tensor, " N"],
    old_logprobs_N: Float[Tensor, " N"],
    advantages_N: Float[Tensor, " N"],
    weights_N: Float[Tensor, " N"],
    clip: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, " N"]]:
    """Σ of PPO's clipped surrogate, times the importance weight of each token (Schulman et al. 2017, Eq. 7),
    and the ratios π / π_old."""
    ratio_N = torch.exp(logprobs_N - old_logprobs_N)
    clipped_N = ratio_N.clamp(1 - clip, 1 + clip)
    surrogate_N = torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
    return -(weights_N * surrogate_N).sum(), ratio_N


def clipped_value(
    values_N: Float[Tensor, " N"],
    old_values_N: Float[Tensor, " N"],
    returns_N: Float[Tensor, " N"],
    clip: float,
) -> Float[Tensor, ""]:
    """Σ ½ max((v − R)², (v_clipped − R)²), the value held within `clip` of its old estimate."""
    held_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
    return 0.5 * torch.maximum((values_N - returns_N) ** 2, (held_N - returns_N) ** 2).sum()
