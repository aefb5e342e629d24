"""The memory that a run's processes take at their peak, as a pure function of its configuration and its model's size.

Host memory was measured on CPUs. What is said of GPUs is reckoned, from the formulas named below, and nobody has yet
measured it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pit_ray.config import Config

GIB = 2**30
RUNTIME_GIB = {"driver": 0.6, "rollout": 1.7, "reward": 0.6, "reference": 0.6, "learner": 0.8, "recorder": 0.4}
"""Resident memory of an idle process of each role (imports and engine, no weights), as measured on the CPU builds."""
DEVICE_GIB = 1.0
"""Of a process on a GPU: the CUDA context and the allocator's slack."""
ENGINE_GIB = 4.0
"""What a GPU engine must hold beside weights to be of use: its workspace and a KV cache for a few sequences."""
ACTIVATION_BYTES = 34
"""Of one layer, a token and a unit of width, in 16 bit, kept for the backward pass (Korthikanti et al. 2022, without
the attention matrix, which fused attention does not keep)."""
LOGIT_BYTES = 12
"""Of one token and one entry of the vocabulary: the logits in float32, their softmax and its gradient."""


@dataclass(frozen=True)
class ModelSize:
    """What decides how much memory a model takes."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int


@dataclass(frozen=True)
class Need:
    """GiB of one process: in the machine's memory, and on its GPUs taken together."""

    host: float
    gpu: float = 0.0


def needs(config: Config, size: ModelSize) -> dict[str, Need]:
    """What a process of each role needs; `driver` among them."""
    actors = config.actors
    weights = _weights(config, size)
    state, activations = _learner_state(config, size), _activations(config, size)
    engine = (weights + ENGINE_GIB) / actors.rollout.gpu_memory_utilization
    scores = _gib(actors.scorer.batch_tokens * size.vocabulary * LOGIT_BYTES)
    found = {
        "driver": Need(0.0),
        "recorder": Need(0.0),
        "rollout": Need(weights, engine) if actors.rollout.gpus else Need(weights + actors.rollout.kv_cache_gib),
        # A rank loads both models whole before it keeps its share.
        "learner": Need(2 * weights, state + activations) if actors.learner.gpus else Need(state + activations),
        "reward": _scorer(config, weights, 0.0),
        "reference": _scorer(config, weights, scores),
    }
    return {
        role: Need(round(RUNTIME_GIB[role] + need.host, 2), round(need.gpu + DEVICE_GIB, 2) if need.gpu else 0.0)
        for role, need in found.items()
    }


def _scorer(config: Config, weights: float, scores: float) -> Need:
    return Need(weights, weights + scores) if config.actors.scorer.gpus else Need(weights + scores)


def _weights(config: Config, size: ModelSize) -> float:
    return _gib(size.parameters * _width(config))


def _learner_state(config: Config, size: ModelSize) -> float:
    """Weights, gradients and AdamW's two moments of policy and value model on one rank; under bfloat16 the optimizer
    also holds float32 weights."""
    learner, weights = config.actors.learner, _weights(config, size)
    optimizer = _gib(size.parameters * (12 if _width(config) == 2 else 8))
    shares = [learner.ranks if learner.zero_stage >= stage else 1 for stage in (3, 2, 1)]
    return 2 * (weights / shares[0] + weights / shares[1] + optimizer / shares[2])


def _activations(config: Config, size: ModelSize) -> float:
    """Of one micro-batch of PPO, which passes through policy and value model."""
    tokens = max(ppo.optimizer.micro_batch_tokens for ppo in (config.ppo_policy, config.ppo_improver))
    layer = ACTIVATION_BYTES * size.hidden * _width(config) // 2
    return _gib(tokens * (2 * size.layers * layer + size.vocabulary * LOGIT_BYTES))


def _width(config: Config) -> int:
    """Bytes of a weight."""
    bfloat16 = config.model.dtype == "bfloat16" or (config.model.dtype == "auto" and config.actors.learner.gpus > 0)
    return 2 if bfloat16 else 4


def _gib(size: float) -> float:
    return size / GIB
