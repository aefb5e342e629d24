"""The part of the configuration that says what stands where: workers, CPUs, GPUs, deadlines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from pit_ray.config.section import Section


class RolloutActors(Section):
    """Rollout workers, one vLLM engine each."""

    workers: PositiveInt = 1
    """Engines; each takes the next shard of a step when it is free."""
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
    weight_sync: Literal["host", "nccl", "ipc"] = "host"
    """How the learner's weights get into the engines. host: through host memory, with any engine. nccl: broadcast
    between GPUs; learners and engines have whole GPUs. ipc: the engine reads the learner's memory on the GPU that one
    rank and one engine share. nccl and ipc are untested on hardware; with them an engine's death sends a PPO stage
    back to its last checkpoint, as a learner's does."""


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
    """Tokens in one forward pass."""


class LearnerActors(Section):
    """DeepSpeed ranks, used by the supervised stages (Ray Train) and by PPO."""

    ranks: PositiveInt = 1
    """Processes that share each batch."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """What the ranks split up: 1 optimizer states, 2 gradients too, 3 weights too."""
    gradient_checkpointing: bool = False
    """Keep of each layer only its input and compute it again in the backward pass: much less memory for long
    micro-batches, about a third more computing; the gradients are the same."""
    cpus: PositiveFloat = 0.75
    """Logical CPUs that Ray reserves for each rank."""
    gpus: NonNegativeFloat = 0.0
    """GPUs for each rank: 1, or 0 to learn on CPUs; less than 1 where an engine shares the device."""
    threads: PositiveInt = 2
    """Compute threads of a rank on CPUs."""
    max_failures: int = Field(1, ge=0)
    """How often a supervised stage is restarted from its checkpoint after a worker died."""


class Deadlines(Section):
    """Seconds that a part of a step may take. What takes longer ends the run, with the place where every actor
    stood."""

    start: PositiveFloat = 1200.0
    """Processes and engines, until all answer."""
    load: PositiveFloat = 1200.0
    """A model from its folder into engines, scorers, learners."""
    generate: PositiveFloat = 1800.0
    """The responses of a step, or of the evaluation."""
    score: PositiveFloat = 1800.0
    """Rewards, or log-probabilities of the reference policy."""
    learn: PositiveFloat = 1800.0
    """The update of a step."""
    sync: PositiveFloat = 300.0
    """Weights into the engines, and the comparison afterwards."""
    save: PositiveFloat = 1800.0
    """A checkpoint, a model, a step's record."""


class Faults(Section):
    """What a run puts up with before it stops."""

    infrastructure: int = Field(10, ge=0)
    """Deaths of actors, by whatever cause, that a run recovers from."""
    data: int = Field(3, ge=0)
    """Prompts that a run sets aside because an engine fails on each of them alone; with one more it stops."""
    recovery_deadline: PositiveFloat = 1800.0
    """Seconds to wait for room for an actor that is to be replaced, for instance until a lost node is back."""
    fewest_rollout_workers: PositiveInt | None = None
    """Go on with so many rollout workers while the cluster has no room for the others; by default, wait for room."""
    silence: PositiveFloat = 120.0
    """Seconds without a sign of life after which an actor is ended and replaced."""


class Actors(Section):
    """What stands where. Local mode, one node and a cluster differ only here."""

    deployment: Literal["ray", "in_process"] = "ray"
    """in_process: every role in this process with plain PyTorch; for tests and debugging."""
    address: Literal["auto", "local"] | str = "auto"
    """Ray to use. auto: the cluster this job was submitted to, else a fresh local one; local: always a fresh one."""
    placement_deadline: PositiveFloat = 60.0
    """Seconds to wait for the resources of the plan before giving up with the shortfall."""
    deadlines: Deadlines = Deadlines()
    faults: Faults = Faults()
    rollout: RolloutActors = RolloutActors()
    scorer: ScorerActors = ScorerActors()
    learner: LearnerActors = LearnerActors()

    @model_validator(mode="after")
    def _weights_get_across(self) -> Actors:
        rollout, learner = self.rollout, self.learner
        key = f"rollout.weight_sync={rollout.weight_sync}"
        if rollout.weight_sync == "host":
            return self
        if not (rollout.gpus and learner.gpus):
            raise ValueError(f"{key} needs rollout.gpus and learner.gpus; host works without")
        if rollout.weight_sync == "nccl" and (rollout.gpus % 1 or learner.gpus % 1):
            raise ValueError(
                f"{key} needs whole GPUs, since NCCL takes no two ranks on one device: rollout.gpus is "
                f"{rollout.gpus:g}, learner.gpus {learner.gpus:g}; on a shared device use ipc or host"
            )
        together = learner.ranks == rollout.workers == rollout.tensor_parallel == 1
        if rollout.weight_sync == "ipc" and not (together and learner.gpus + rollout.gpus <= 1):
            raise ValueError(
                f"{key} is for one learner rank and one engine on one GPU: learner.ranks, rollout.workers and "
                f"rollout.tensor_parallel 1, learner.gpus + rollout.gpus at most 1; on several GPUs use nccl or host"
            )
        return self
