"""The part of the configuration that says what stands where: workers, CPUs, GPUs, deadlines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from pit_ray.config.section import Section


class RolloutActors(Section):
    """Rollout workers, one vLLM engine each."""

    workers: PositiveInt = 1
    """Engines; each takes every n-th shard of a step."""
    cpus: PositiveFloat = 0.5
    """Logical CPUs that Ray reserves for each worker."""
    gpus: NonNegativeFloat = 0.0
    """GPUs for each worker (fractions share a device)."""
    threads: PositiveInt = 2
    """Compute threads of a CPU engine."""
    kv_cache_gib: PositiveFloat = 0.25
    """Memory for the KV cache of a CPU engine, in GiB."""
    gpu_memory_utilization: float = Field(0.4, gt=0, le=1)
    """Share of a GPU that an engine may fill."""
    tensor_parallel: PositiveInt = 1
    """GPUs that one engine's weights are spread over."""


class ScorerActors(Section):
    """Reward and reference-policy scorers, one model each."""

    workers: PositiveInt = 1
    """Actors per kind of scorer."""
    cpus: PositiveFloat = 0.25
    """Logical CPUs that Ray reserves for each actor."""
    gpus: NonNegativeFloat = 0.0
    """GPUs for each actor (fractions share a device)."""
    threads: PositiveInt = 2
    """Compute threads of an actor on CPUs."""
    batch_tokens: PositiveInt = 16384
    """Padded tokens in one forward pass."""


class LearnerActors(Section):
    """DeepSpeed ranks, used by the supervised stages (Ray Train) and by PPO."""

    ranks: PositiveInt = 1
    """Processes that share each batch."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """What the ranks split up: 1 optimizer states, 2 gradients too, 3 weights too."""
    cpus: PositiveFloat = 0.75
    """Logical CPUs that Ray reserves for each rank."""
    gpus: NonNegativeFloat = 0.0
    """GPUs for each rank: 1, or 0 to learn on CPUs."""
    threads: PositiveInt = 2
    """Compute threads of a rank on CPUs."""
    max_failures: int = Field(1, ge=0)
    """How often a supervised stage is restarted from its checkpoint after a worker died."""


class Actors(Section):
    """What stands where. Local mode, one node and a cluster differ only here."""

    deployment: Literal["ray", "in_process"] = "ray"
    """in_process: every role in this process with plain PyTorch; for tests and debugging."""
    address: Literal["auto", "local"] | str = "auto"
    """Ray to use. auto: the cluster this job was submitted to, else a fresh local one; local: always a fresh one."""
    placement_deadline: PositiveFloat = 60.0
    """Seconds to wait for the resources of the plan before giving up with the shortfall."""
    call_deadline: PositiveFloat = 1800.0
    """Seconds that any single call to an actor may take."""
    rollout: RolloutActors = RolloutActors()
    scorer: ScorerActors = ScorerActors()
    learner: LearnerActors = LearnerActors()
