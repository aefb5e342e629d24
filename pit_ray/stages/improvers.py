"""The improvers that a run has, by name: which model each of them is, and what it must be given."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from pit_ray.data.randomness import generator
from pit_ray.endpoint import EndpointClient
from pit_ray.errors import ConfigError, listed
from pit_ray.improvers.dialogues import EndpointWriter, LocalWriter, Writer
from pit_ray.improvers.drafts import DraftImprover, GapModel
from pit_ray.improvers.feedback import FeedbackImprover, Manner, free_reader, reader_of
from pit_ray.improvers.interface import Engines, Improver
from pit_ray.improvers.samples import SampleImprover
from pit_ray.stages.annotation import verifier_annotator
from pit_ray.stages.context import RunContext


@dataclass(frozen=True)
class Offer:
    """An improver that a run may have."""

    about: str
    there: Callable[[RunContext], bool]
    drafter: Callable[[RunContext], str]
    """The stage whose model writes the drafts that it improves, unless they are given."""
    build: Callable[[RunContext, Engines, float | None], Improver]
    """With the margin of PIT's stopping rule, None: keep the last revision."""


def improver_named(context: RunContext, engines: Engines, name: str, margin: float | None = None) -> Improver:
    """ConfigError, naming those that the run has, when it has none of this name."""
    return offer(context, name).build(context, engines, margin)


def offer(context: RunContext, name: str) -> Offer:
    """The improver of a name, if the run has it; ConfigError otherwise."""
    here = available(context)
    if name in here:
        return OFFERS[name]
    near = difflib.get_close_matches(name, here, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    known = "" if name not in OFFERS else f" ({OFFERS[name].about})"
    raise ConfigError(f"{context.config.run} has no improver '{name}'{known}: {hint}It has {listed(here)}")


def available(context: RunContext) -> list[str]:
    """The improvers that the run has the models for; the method's own first."""
    return [name for name, found in OFFERS.items() if found.there(context)]


def last_of(context: RunContext, prefix: str) -> str | None:
    """The last finished stage PREFIX_N of a run; None where there is none."""
    found = None
    number = 1
    while context.has(f"{prefix}_{number}"):
        found, number = f"{prefix}_{number}", number + 1
    return found


def _draft_improver(stage: str) -> Callable[[RunContext, Engines, float | None], Improver]:
    name = {"ppo_improver": "pit", "sft_improver": "sft"}[stage]

    def build(context: RunContext, engines: Engines, margin: float | None) -> Improver:
        gap = GapModel(context.gap_model(), context.gap_kind())
        return DraftImprover(name, engines, context.model(stage), context.renderer.bridge, gap, margin)

    return build


def _best_of_n(context: RunContext, engines: Engines, margin: float | None) -> Improver:
    models = context.model("ppo_policy"), context.model("reward")
    return SampleImprover("best_of_n", engines, *models, context.renderer.eos)


def _self_refine(context: RunContext, engines: Engines, margin: float | None) -> Improver:
    section = context.config.self_refine
    if section.model == "endpoint":
        assert section.endpoint is not None
        client = EndpointClient(section.endpoint, context.folder.path / "endpoint")
        return _feedback("self_refine", context, EndpointWriter(client, context.renderer), "all", "best", False)
    stage = "sft_taught" if section.model == "taught" else "ppo_policy"
    writer = LocalWriter(engines, context.model(stage), context.renderer.bridge_to, context.longest)
    return _feedback("self_refine", context, writer, "all", "best", section.model == "taught")


def feedback_improver(context: RunContext, engines: Engines, name: str, stage: str) -> Improver:
    """The model of a stage as it improves by its own feedback, seeing the last response and feedback alone: SELF's
    self-refinement, TriPosT's self-correction."""
    writer = LocalWriter(engines, context.model(stage), context.renderer.bridge_to, context.longest)
    return _feedback(name, context, writer, "last", "last", context.verifier is not None)


def _feedback(name: str, context: RunContext, writer: Writer, memory, keep, taught: bool) -> FeedbackImprover:
    model, section, verifier = context.config.model, context.config.self_refine, context.verifier
    feedback, refine = model.feedback_instruction, model.refine_instruction
    if name == "self_refine" and section.examples:
        feedback, refine = with_examples(context, feedback, refine)
    read = reader_of(verifier) if verifier and taught else free_reader(section.threshold, section.enough)
    return FeedbackImprover(name, writer, Manner(feedback, refine, read, memory, keep), context.renderer.text)


def with_examples(context: RunContext, feedback: str, refine: str) -> tuple[str, str]:
    """Both instructions with `self_refine.examples` examples in front, of what the verifier says of SFT responses and
    what it makes of them (Self-Refine, arXiv 2303.17651: 0 to 8 examples)."""
    questions, text = context.questions("sft"), context.renderer.text
    pairs = context.pairs("sft")
    order = generator(context.config.seed, "examples").permutation(len(questions))[
        : context.config.self_refine.examples
    ]
    asked = [context.renderer.user_text(questions.prompt[int(i)]) for i in order]
    said = [text(pairs.rejected[int(i)]) for i in order]
    notes = verifier_annotator(context).annotate([text(questions.prompt[int(i)]) for i in order], said)
    shown = zip(asked, said, notes, strict=True)
    both = [(f"{x} {y} {n.feedback}", f"{x} {y} {n.feedback} {n.refinement}") for x, y, n in shown]
    return " ".join([*(f for f, _ in both), feedback]), " ".join([*(r for _, r in both), refine])


def _stage_improver(name: str, prefix: str) -> Offer:
    def stage(context: RunContext) -> str:
        return last_of(context, prefix) or ""

    about = {"self": "needs a round of method self_evolution", "tripost": "needs an iteration of method tripost"}[name]
    return Offer(
        about, lambda c: last_of(c, prefix) is not None, stage,
        lambda c, engines, margin: feedback_improver(c, engines, name, stage(c)),
    )  # fmt: skip


def _policy(context: RunContext) -> str:
    return next((stage for stage in ("ppo_policy", "sft_policy") if context.has(stage)), "ppo_policy")


def _can_refine(context: RunContext) -> bool:
    model = context.config.self_refine.model
    return model == "endpoint" or context.has({"taught": "sft_taught", "policy": "ppo_policy"}[model])


OFFERS: dict[str, Offer] = {
    "pit": Offer("needs the stages ppo_improver and gap_reward",
                 lambda c: c.has("ppo_improver") and _has_gap(c), _policy, _draft_improver("ppo_improver")),
    "self": _stage_improver("self", "sft_round"),
    "tripost": _stage_improver("tripost", "sft_tripost"),
    "self_refine": Offer("needs a tuned policy, a taught model or an endpoint", _can_refine, _policy, _self_refine),
    "best_of_n": Offer("needs the stages ppo_policy and reward",
                       lambda c: c.has("ppo_policy") and c.has("reward"), _policy, _best_of_n),
    "sft": Offer("needs the stages sft_improver and gap_reward",
                 lambda c: c.has("sft_improver") and _has_gap(c), _policy, _draft_improver("sft_improver")),
}  # fmt: skip


def _has_gap(context: RunContext) -> bool:
    return context.has("gap_reward" if context.config.gap_reward.variant == "five" else "reward")
