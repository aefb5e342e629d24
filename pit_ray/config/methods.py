"""The part of the configuration that says what a method other than PIT does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from pit_ray.config.endpoint import Endpoint
from pit_ray.config.section import Section
from pit_ray.config.training import Supervised


class SelfRefine(Section):
    """Self-Refine (arXiv 2303.17651): one frozen model answers, gives itself feedback, refines."""

    model: Literal["policy", "taught", "endpoint"] = "policy"
    """Who gives feedback and refines. policy: the tuned policy as it is; taught: the base model after SFT on feedback
    and refinements by the world's verifier; endpoint: the model behind `self_refine.endpoint`."""
    examples: int = Field(0, ge=0, le=8)
    """Examples of feedback, and of refining, in each prompt; written by the world's verifier on SFT pairs."""
    threshold: NonNegativeFloat = 9.0
    """A feedback in free words with "Score: N" at or above this ends the refining."""
    enough: str = "nothing to improve"
    """So do these words in it."""
    taught_rows: PositiveInt | None = None
    """Responses that a taught model learns feedback and refinement from. null: as many as PIT has pairs to train on."""
    sft: Supervised = Supervised()
    """How a taught model is taught."""
    endpoint: Endpoint | None = None
    """The model behind it is prompted where `model` is endpoint."""


class SelfEvolution(Section):
    """SELF (arXiv 2310.00533): meta-skills first, then rounds of learning from one's own refined answers."""

    annotator: Literal["verifier", "endpoint"] = "verifier"
    """Who writes feedback and refinements of the meta-skill corpus: the world's or task's own verifier, or the model
    behind `self_evolution.endpoint`."""
    endpoint: Endpoint | None = None
    """The model behind it annotates where `annotator` is endpoint."""
    labels: int | None = Field(None, ge=2)
    """Labelled questions, of the split `sft`, that are learned from. null: all."""
    meta_share: float = Field(0.5, gt=0, lt=1)
    """Share of the labelled questions that the corpus is made from; the labels of the others are learned first, so that
    their model's answers to these have the faults that it will make."""
    direct_weight: PositiveFloat = 1.0
    """β: weight of answering with the refinement at once, beside feedback and refinement; in the corpus and of what a
    round has kept."""
    rounds: PositiveInt = 3
    """Rounds of self-evolution."""
    questions: PositiveInt = 2000
    """Unlabelled questions of a round."""
    self_instructed_from: PositiveInt | None = None
    """From this round on (1 is the first) the model makes up the questions itself. null: never."""
    question_instruction: str = "Make up a new question of the kind that you can answer."
    """The user turn that asks for one."""
    filter: bool = True
    """Whether answers are kept only where the model's own feedback on them finds no fault."""
    start: Literal["base", "last"] = "base"
    """Where each round's SFT starts: from where the meta-skill model started, on all that was kept so far and the
    corpus; or from the last round's model, on this round's and the corpus."""
    votes: PositiveInt = 1
    """Answers that vote (self-consistency) in the evaluation, as one more system. 1: no such system."""
    temperature: PositiveFloat = 1.0
    """Of answers, feedback and refinements in a round."""
    qa: Supervised = Supervised()
    """SFT on labels; the corpus is made from answers by this model."""
    meta: Supervised = Supervised()
    """SFT on the corpus; and on what a round has kept, together with it."""


class TriPosT(Section):
    """TriPosT (arXiv 2310.13522): learning from one's own attempts, edited with a verifier."""

    iterations: PositiveInt = 3
    """Rounds of editing and training."""
    questions: PositiveInt = 2000
    """Training questions of an iteration."""
    attempts: PositiveInt = 1
    """At each of them, every one edited."""
    temperature: PositiveFloat = 1.0
    """Of attempts, feedback and updates."""
    updates: PositiveInt = 5
    """Most updates in a trajectory."""
    improving: PositiveFloat = 1.5
    """Turns that improve, for each one that states that all is right and for each gold rationale."""
    feedback_weight: PositiveFloat = 1.5
    """Loss weight of feedback and updates; attempts and rationales weigh 1."""
    attempt_weight: NonNegativeFloat = 1.0
    """Loss weight of attempts that were wrong."""
    replay: bool = True
    """Whether an iteration also trains on the turns of those before it."""
    rationale: Supervised = Supervised()
    """SFT on gold rationales, which comes first and is a baseline."""
    sft: Supervised = Supervised()
    """SFT of an iteration."""
    lmsi_samples: NonNegativeInt = 5
    """Of the baseline LMSI: answers to each question, of which the correct ones are learned. 0: no such baseline."""
    lmsi_temperature: PositiveFloat = 1.2
    """Of its answers."""


class Distill(Section):
    """Improvements back into the policy: SELF's idea with PIT's improver as the refiner."""

    rounds: PositiveInt = 2
    """Each with new drafts by the policy that the round before has made."""
    prompts: PositiveInt = 4000
    """Of the split `rl`, in a round."""
    iterations: PositiveInt = 1
    """Revisions of a draft."""
    keep: float = Field(0.5, gt=0, le=1)
    """Share of the prompts whose improvements are learned: those with the largest gap to the draft."""
    sft: Supervised = Supervised()
