"""The part of the configuration that says how models are trained: optimizer, supervised stages, PPO."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from pit_ray.config.section import Section


class Optimizer(Section):
    """AdamW with linear warm-up, then constant or cosine."""

    lr: PositiveFloat = 1e-5
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """cosine: decays to a tenth of lr over the stage."""
    warmup_steps: int = Field(10, ge=0)
    """Steps over which lr rises from 0."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's, on every parameter."""
    grad_clip: PositiveFloat = 1.0
    """Largest global gradient norm."""
    micro_batch_tokens: PositiveInt = 8192
    """Tokens in one forward pass of one rank; more is faster and needs more memory; the results are
    the same."""


class Lora(Section):
    """LoRA (Hu et al. 2021): every stage trains small matrices beside frozen weights, and writes the model with them
    merged. Learning rates want to be about ten times those of full fine-tuning."""

    rank: int = Field(16, ge=1, le=512)
    """Inner width of the matrices; vLLM takes adapters up to 512."""
    alpha: PositiveFloat = 32.0
    """What is learned is multiplied by alpha / rank."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of linear layers, for instance [q_proj, v_proj]; all-linear: all of the backbone's."""
    sync: Literal["merged", "adapter"] = "merged"
    """What goes to the rollout workers after a step. merged: whole weights. adapter: the matrices alone, which vLLM
    applies beside the weights that the stage began with: less to send, but on CPUs sampling is three times as slow.
    (In process always merged.)"""


class Supervised(Section):
    """A supervised stage: SFT or reward modelling."""

    epochs: PositiveFloat = 1.0
    """Passes over the stage's split; may be a fraction."""
    batch_size: PositiveInt = 64
    """Pairs in one optimisation step, over all ranks."""
    checkpoint_every: PositiveInt = 100
    """Steps between resumable checkpoints."""
    optimizer: Optimizer = Optimizer()


class GapReward(Supervised):
    """The gap reward model R_PIT (papers: PIT Eq. 2)."""

    variant: Literal["five", "difference"] = "five"
    """five: the five-comparison loss on R(x, y1, y2). difference: R_P(x, y1) − R_P(x, y2); trains nothing."""


class EndRule(Section):
    """When a phase ends before its number of steps."""

    plateau_steps: PositiveInt | None = None
    """End when the mean reward of the last so many steps is no better than that of as many before them."""
    kl_limit: PositiveFloat | None = None
    """End when the mean KL to the reference policy, in nats per response, passes this."""


class Phase(Section):
    """One phase of the RL curriculum."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Names its records and a folder; unique within a stage."""
    drafts: Literal["none", "annotated", "on_policy", "self"]
    """none: no draft (training the policy); annotated: y_l and y_w of the data in equal shares; on_policy: sampled
    from the tuned policy; self: the improver's own revisions of the policy's responses, by its
    weights at the phase's start."""
    steps: PositiveInt
    """Most steps of this phase."""
    end: EndRule = EndRule()


class Kl(Section):
    """The per-token KL penalty in the reward: −coefficient · (log π − log π_ref), estimator k1."""

    coefficient: NonNegativeFloat = 0.05
    """β: larger stays nearer to the SFT model. Of the adaptive controller: where it starts."""
    controller: Literal["fixed", "adaptive"] = "fixed"
    """adaptive: the coefficient follows the measured KL towards `target` (Ziegler et al. 2019)."""
    target: PositiveFloat = 6.0
    """Nats per response, for the adaptive controller."""
    horizon: PositiveFloat = 10000.0
    """Samples over which the adaptive controller reacts."""


class Ppo(Section):
    """A PPO stage (PIT Eq. 3 to 5)."""

    phases: tuple[Phase, ...] = Field(min_length=1)
    """The curriculum, in order."""
    rollouts_per_step: PositiveInt = 128
    """Samples per step, one per prompt."""
    shard_size: PositiveInt = 64
    """Samples in one generate call. Fixed shards, not the number of workers, decide the random draws."""
    lag: Literal[0, 1] = 0
    """1: the next step's samples are drawn while this one's are learned from, by weights that are a step old; what
    that changes, importance weights correct (`importance_cap`). 0: every step samples with the weights it changes."""
    epochs: PositiveInt = 2
    """Passes over a step's samples."""
    minibatches: PositiveInt = 2
    """Optimisation steps per pass."""
    clip: PositiveFloat = 0.2
    """Clip range of the policy ratio."""
    value_clip: PositiveFloat | None = None
    """Clip range of the value update, in units of reward. null: none."""
    value_coefficient: NonNegativeFloat = 0.5
    """Weight of the value loss beside the policy loss."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount of later rewards."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """λ of generalised advantage estimation: 1 trusts returns alone, 0 values alone."""
    importance_cap: PositiveFloat | None = None
    """Upper bound of the sampler-to-learner importance weights. null: 2, or with `lag: 1` 1, which did better there
    (results/lag.md)."""
    missing_eos_penalty: NonNegativeFloat = 1.0
    """Subtracted from the score of a response that did not end by itself."""
    kl: Kl = Kl()
    token_kl_limit: PositiveFloat | None = 2.0
    """The run stops as failed when the mean KL to the reference policy passes this, in nats per response token."""
    entropy_floor: float = Field(0.05, ge=0, lt=1)
    """The run stops as failed when the mean entropy falls below this share of the stage's first step's. 0: never."""
    optimizer: Optimizer = Optimizer(lr=1e-5, schedule="constant", warmup_steps=0)
    checkpoint_every: PositiveInt = 10
    """Steps between resumable checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """How many of them are kept, the newest; beside these the best of the present phase: that with the highest mean
    score (before the KL penalty) of the steps since the checkpoint before it."""

    @property
    def weight_cap(self) -> float:
        """`importance_cap`, or its default."""
        return (1.0 if self.lag else 2.0) if self.importance_cap is None else self.importance_cap

    @model_validator(mode="after")
    def _consistent(self) -> Ppo:
        names = [phase.name for phase in self.phases]
        if len(set(names)) != len(names):
            raise ValueError(f"phase names must differ, got {names}")
        if self.rollouts_per_step % self.minibatches:
            raise ValueError(
                f"rollouts_per_step ({self.rollouts_per_step}) must be a multiple of minibatches ({self.minibatches})"
            )
        return self
