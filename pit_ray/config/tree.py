"""The configuration tree. Field docstrings are the reference page (docs/configuration.md); imports without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from pit_ray.config.actors import Actors
from pit_ray.config.section import Section


class FieldLength(Section):
    """How long one field may be, and what happens to rows that exceed it."""

    max_tokens: PositiveInt = 512
    """Longest allowed, in tokens."""
    policy: Literal["error", "drop", "truncate"] = "drop"
    """error: stop and name the first row; drop it; truncate: prompts lose their beginning, others their end."""


class Lengths(Section):
    """Length policy per field. A sequence x ‖ draft ‖ y never loses y."""

    prompt: FieldLength = FieldLength()
    """The prompt x, rendered."""
    draft: FieldLength = FieldLength()
    """The response to be improved, where it conditions the improver or the gap reward model."""
    response: FieldLength = FieldLength()
    """A response that is learned from (y_w, y_l)."""


class Data(Section):
    """Where preference pairs come from and how they are split."""

    source: str = "world:notes"
    """`world:NAME` (a synthetic world with a gold score), a local .json, .jsonl, .jsonl.gz, .parquet file, an Arrow
    folder, or the name of a dataset on the Hugging Face hub."""
    hub_split: str = "train"
    """Which split of a hub dataset is read."""
    pairs: PositiveInt | None = None
    """Use only so many pairs (of a world: make so many). None: all; a world needs a number."""
    held_out: PositiveInt = 512
    """Pairs kept for the final evaluation, never trained on."""
    validation: PositiveInt = 128
    """Pairs kept for choosing (reward accuracy, the stopping rule's margin), never trained on."""
    lengths: Lengths = Lengths()


class FromScratch(Section):
    """Architecture of a new Llama model whose tokenizer is trained on the data."""

    vocab_size: int = Field(2048, ge=258)
    """Upper bound of the byte-level BPE vocabulary: 256 bytes, two control tokens, and what is learned."""
    hidden_size: PositiveInt = 128
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    intermediate_size: PositiveInt = 256
    max_position_embeddings: PositiveInt = 2048

    @model_validator(mode="after")
    def _whole_heads(self) -> FromScratch:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be an even multiple of heads ({self.heads}), for instance "
                f"{2 * self.heads * max(1, round(self.hidden_size / (2 * self.heads)))}"
            )
        return self


class Model(Section):
    """The base model that every stage starts from. Exactly one of `path` and `from_scratch`."""

    path: str | None = None
    """A local folder, a hub name, or `world:NAME` for the tiny base that ships with a world."""
    from_scratch: FromScratch | None = None
    """Make a new model instead: any dataset can be tried without a hub."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the learners and scorers. auto: bfloat16 where a CUDA device has it, else float32."""
    trust_remote_code: bool = False
    """Whether code inside a model repository may run (its tokenizer's never does). Say yes only to models you trust."""
    improve_instruction: str = "Improve the response above."
    """The user turn between a draft and its revision."""

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        if (self.path is None) == (self.from_scratch is None):
            raise ValueError("give exactly one of model.path and model.from_scratch")
        return self


class Optimizer(Section):
    """AdamW with linear warm-up, then constant or cosine."""

    lr: PositiveFloat = 1e-5
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """cosine: decays to a tenth of lr over the stage."""
    warmup_steps: int = Field(10, ge=0)
    weight_decay: NonNegativeFloat = 0.0
    grad_clip: PositiveFloat = 1.0
    """Largest global gradient norm."""
    micro_batch_tokens: PositiveInt = 8192
    """Padded tokens in one forward pass of one rank; more is faster and needs more memory; the results are
    the same."""


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
    epochs: PositiveInt = 2
    """Passes over a step's samples."""
    minibatches: PositiveInt = 2
    """Optimisation steps per pass."""
    clip: PositiveFloat = 0.2
    """Clip range of the policy ratio."""
    value_clip: PositiveFloat | None = None
    """Clip range of the value update, in units of reward. None: none."""
    value_coefficient: NonNegativeFloat = 0.5
    gamma: float = Field(1.0, gt=0, le=1)
    gae_lambda: float = Field(0.95, ge=0, le=1)
    importance_cap: PositiveFloat = 2.0
    """Upper bound of the sampler-to-learner importance weights."""
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


class Sampling(Section):
    """How responses are sampled during training."""

    temperature: PositiveFloat = 1.0
    """Also divides the logits wherever log-probabilities are taken, so that sampler and learner agree."""
    max_new_tokens: PositiveInt = 128


class Evaluation(Section):
    """The final comparison on held-out prompts."""

    temperature: PositiveFloat = 0.7
    """For drafts and revisions alike; also for the drafts that the policy writes while the improver is trained."""
    iterations: PositiveInt = 3
    """How often the improver revises."""
    bootstrap: PositiveInt = 2000
    """Resamples behind each 95 % interval."""
    examples: PositiveInt = 12
    """Before/after samples shown in the report."""


class Tracking(Section):
    """Where metrics go besides RUN/metrics.jsonl."""

    wandb: bool = True
    """Also to Weights & Biases: online when logged in, else offline in the run folder; it never asks."""
    project: str = "pit-ray"
    console: Literal["auto", "live", "plain"] = "auto"
    """live: a display that redraws; plain: one line a step; auto: live on a terminal."""
    rollouts_every: PositiveInt = 1
    """Steps between Parquet records of all rollouts."""


class Ready(Section):
    """Finished models, one per stage: a stage that has one here is not trained."""

    sft_policy: str | None = None
    sft_improver: str | None = None
    reward: str | None = None
    gap_reward: str | None = None
    ppo_policy: str | None = None
    """For instance a policy that you already have and want an improver for."""
    ppo_improver: str | None = None


class Config(Section):
    """A run: everything that decides its result."""

    run: str = "runs/pit"
    """The run folder; the same command on an existing folder resumes it."""
    seed: int = Field(42, ge=0)
    """Every random draw derives from it."""
    data: Data = Data()
    model: Model
    sampling: Sampling = Sampling()
    sft: Supervised = Supervised()
    """Both SFT stages: policy on y_w given x, improver on y_w given x and y_l."""
    reward: Supervised = Supervised()
    """The standard reward model R_P(x, y)."""
    gap_reward: GapReward = GapReward()
    ppo_policy: Ppo = Ppo(phases=(Phase(name="policy", drafts="none", steps=100),))
    ppo_improver: Ppo = Ppo(
        phases=(
            Phase(name="annotated", drafts="annotated", steps=60),
            Phase(name="on_policy", drafts="on_policy", steps=40),
        )
    )
    evaluation: Evaluation = Evaluation()
    ready: Ready = Ready()
    actors: Actors = Actors()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if any(phase.drafts != "none" for phase in self.ppo_policy.phases):
            raise ValueError("ppo_policy.phases must have drafts: none; drafts are for ppo_improver")
        if any(phase.drafts == "none" for phase in self.ppo_improver.phases):
            raise ValueError("ppo_improver.phases need drafts: annotated, on_policy or self")
        for name in ("ppo_policy", "ppo_improver"):
            ppo: Ppo = getattr(self, name)
            if ppo.rollouts_per_step // ppo.minibatches < self.actors.learner.ranks:
                raise ValueError(f"{name}: a minibatch must hold at least one sample per learner rank")
        if self.sampling.max_new_tokens > self.data.lengths.draft.max_tokens:
            raise ValueError(
                f"data.lengths.draft.max_tokens ({self.data.lengths.draft.max_tokens}) must be at least "
                f"sampling.max_new_tokens ({self.sampling.max_new_tokens}): what the policy writes is a draft later"
            )
        if self.data.source.startswith("world:") and self.data.pairs is None:
            raise ValueError("data.pairs: a world needs to know how many pairs to make, for instance data.pairs=12000")
        return self
