"""The configuration tree. Field docstrings are the reference page (docs/configuration.md); imports without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from pit_ray.config.actors import Actors
from pit_ray.config.endpoint import Endpoint
from pit_ray.config.methods import Distill, SelfEvolution, SelfRefine, TriPosT
from pit_ray.config.section import Section
from pit_ray.config.training import GapReward, Lora, Phase, Ppo, Supervised


class FieldLength(Section):
    """How long one field may be, and what happens to rows that exceed it."""

    max_tokens: PositiveInt = 512
    """Longest allowed, in tokens."""
    policy: Literal["error", "drop", "truncate"] = "drop"
    """error: stop and name the first row; drop: leave the row out; truncate: prompts lose their beginning, others
    their end."""


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
    """Preference pairs: `world:NAME` (a synthetic world with a gold score), a local .json, .jsonl (both also .gz) or
    .parquet file, an Arrow folder, or the name of a dataset on the Hugging Face hub. Questions with answers, for the
    methods `self_evolution` and `tripost`: `task:NAME` (made here, with a verifier), `gsm8k:FILE` or `svamp:FILE`."""
    test_source: str | None = None
    """Questions to be tested on, as `gsm8k:FILE` or `svamp:FILE`. null: some of `source` are held out."""
    hub_split: str = "train"
    """Which split of a hub dataset is read."""
    pairs: PositiveInt | None = None
    """Use only so many pairs or questions (of a world or task: make so many). null: all; a world or task needs a
    number."""
    held_out: PositiveInt = 512
    """Pairs or questions kept for the final evaluation, never trained on; of a task, as many unseen ones too."""
    validation: PositiveInt = 128
    """Pairs or questions kept for choosing (reward accuracy, the stopping rule's margin), never trained on."""
    lengths: Lengths = Lengths()


class FromScratch(Section):
    """Architecture of a new Llama model whose tokenizer is trained on the data."""

    vocab_size: int = Field(2048, ge=258)
    """Upper bound of the byte-level BPE vocabulary: 256 bytes, two control tokens, and what is learned."""
    hidden_size: PositiveInt = 128
    """Width; an even multiple of `heads`."""
    layers: PositiveInt = 4
    """Transformer blocks."""
    heads: PositiveInt = 4
    """Attention heads, as many for keys and values."""
    intermediate_size: PositiveInt = 256
    """Width inside the feed-forward layers."""
    max_position_embeddings: PositiveInt = 2048
    """Longest sequence, in tokens."""

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
    """A local folder, a hub name, or a tiny base that ships here: `world:NAME` for a world's, `task:base` for the
    tasks'."""
    from_scratch: FromScratch | None = None
    """Make a new model instead: any dataset can be tried without a hub."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the learners and scorers. auto: bfloat16 where a CUDA device has it, else float32."""
    lora: Lora | None = None
    """Trains adapters instead of all weights, in every stage. null: all weights."""
    trust_remote_code: bool = False
    """Whether code inside a model repository may run (its tokenizer's never does). Say yes only to models you trust."""
    improve_instruction: str = "Improve the response above."
    """The user turn between a draft and its revision."""
    feedback_instruction: str = (
        "What is wrong with the response above? Name each fault and how to mend it; if there is none, say that there "
        "is nothing to improve. End with a line 'Score: N', N from 0 to 10."
    )
    """The user turn that asks for feedback on the response above it."""
    refine_instruction: str = "Write the response again, with this feedback taken into account."
    """The user turn between a feedback and the revision that follows it."""

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        if (self.path is None) == (self.from_scratch is None):
            raise ValueError("give exactly one of model.path and model.from_scratch, the other as null")
        return self


class Sampling(Section):
    """How responses are sampled during training."""

    temperature: PositiveFloat = 1.0
    """Also divides the logits wherever log-probabilities are taken, so that sampler and learner agree."""
    max_new_tokens: PositiveInt = 128
    """Longest response, in tokens; one that reaches it is cut off."""


class Evaluation(Section):
    """The final comparison on held-out prompts."""

    temperature: NonNegativeFloat = 0.7
    """For drafts and revisions alike; also for the drafts that the policy writes while the improver is trained. 0: the
    most likely token each time."""
    iterations: PositiveInt = 3
    """How often the improver revises."""
    bootstrap: PositiveInt = 2000
    """Resamples behind each 95 % interval."""
    examples: PositiveInt = 12
    """Before/after samples shown in the report."""
    llm: Endpoint | None = None
    """The model behind an endpoint that judges where the judge `llm` is asked for."""


class Tracking(Section):
    """Where metrics go besides RUN/metrics.jsonl."""

    wandb: bool = True
    """Also to Weights & Biases: online when logged in, else offline in the run folder; it never asks."""
    project: str = "pit-ray"
    """Of Weights & Biases."""
    console: Literal["auto", "live", "plain", "json"] = "auto"
    """live: a display that redraws; plain: one line a step; auto: live on a terminal; json: a JSON object a line, for
    programs that collect logs."""
    rollouts_every: PositiveInt = 1
    """Steps between Parquet records of all rollouts."""
    profile: bool = False
    """Traces for chrome://tracing or ui.perfetto.dev in RUN/profile: of the second update that a PPO stage's rank 0
    makes (torch's profiler), and of all that Ray's actors did (Ray's timeline, at the end of a session)."""


class Ready(Section):
    """Finished models, one per stage: a stage that has one here is not trained."""

    sft_policy: str | None = None
    """A causal model folder; where `ppo_policy` starts and what it is held to."""
    sft_improver: str | None = None
    """A causal model folder; where `ppo_improver` starts and what it is held to."""
    reward: str | None = None
    """A folder for AutoModelForSequenceClassification with one label: R_P."""
    gap_reward: str | None = None
    """The same for R_PIT, which reads prompt, draft and response."""
    ppo_policy: str | None = None
    """For instance a policy that you already have and want an improver for."""
    ppo_improver: str | None = None
    """An improver to evaluate."""


Method = Literal["pit", "self_refine", "self_evolution", "tripost", "distill"]


class Config(Section):
    """A run: everything that decides its result."""

    method: Method = "pit"
    """Which stages a run has: PIT, or Self-Refine, SELF, TriPosT, or PIT distilled back into its policy."""

    run: str = "runs/pit"
    """The run folder; a recipe NAME that does not say runs in runs/NAME. On an existing folder the run is resumed."""
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
    self_refine: SelfRefine = SelfRefine()
    self_evolution: SelfEvolution = SelfEvolution()
    tripost: TriPosT = TriPosT()
    distill: Distill = Distill()
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
        fewest, workers = self.actors.faults.fewest_rollout_workers, self.actors.rollout.workers
        if fewest is not None and fewest > workers:
            raise ValueError(
                f"actors.faults.fewest_rollout_workers ({fewest}) must be at most actors.rollout.workers ({workers})"
            )
        ranks = self.actors.learner.ranks
        sizes = {f"{name}.batch_size": getattr(self, name).batch_size for name in ("sft", "reward", "gap_reward")}
        for key, size in (sizes | {"data.validation": self.data.validation}).items():
            if size < ranks:
                raise ValueError(f"{key} ({size}) must be at least actors.learner.ranks ({ranks}): a pair for each")
        if self.sampling.max_new_tokens > self.data.lengths.draft.max_tokens:
            raise ValueError(
                f"data.lengths.draft.max_tokens ({self.data.lengths.draft.max_tokens}) must be at least "
                f"sampling.max_new_tokens ({self.sampling.max_new_tokens}): what the policy writes is a draft later"
            )
        for kind in ("world", "task"):
            if self.data.source.startswith(f"{kind}:") and self.data.pairs is None:
                raise ValueError(f"data.pairs: a {kind} needs to know how many to make, for instance data.pairs=12000")
        for name in ("self_refine", "self_evolution"):
            section: SelfRefine | SelfEvolution = getattr(self, name)
            asked = section.model if isinstance(section, SelfRefine) else section.annotator
            if asked == "endpoint" and section.endpoint is None:
                raise ValueError(f"{name}.endpoint: not given; it needs base_url and model")
        return self
