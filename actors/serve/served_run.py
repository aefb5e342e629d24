"""What of a run is served: its improvers by name, and the models that these need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

from actors.serve.engines import ScorerKey, place
from actors.serve.text import SharedRenderer
from actors.weights import CPU_HEAD_SIZES
from pit_ray.data.templates import Renderer
from pit_ray.errors import ConfigError, listed
from pit_ray.improvers.dialogues import EndpointWriter, LocalWriter
from pit_ray.improvers.drafts import DraftImprover
from pit_ray.improvers.feedback import FeedbackImprover
from pit_ray.improvers.interface import Engines, Improver
from pit_ray.improvers.samples import SampleImprover
from pit_ray.in_process import InProcess
from pit_ray.models.folder import architecture
from pit_ray.run_folder import open_existing
from pit_ray.stages.context import RunContext
from pit_ray.stages.evaluation import margin_of
from pit_ray.stages.improvers import OFFERS, available, improver_named, offer
from pit_ray.tracking import Tracker

POLICY = "policy"
"""The name under which the plain policy answers."""


class ServedContext(RunContext):
    """A run whose renderer many threads share."""

    @cached_property
    def renderer(self) -> Renderer:
        return SharedRenderer.load(self.renderer_folder)


@dataclass(frozen=True)
class Needs:
    """The models of a service."""

    models: tuple[Path, ...]
    """That write; each once, whoever uses it."""
    scorers: tuple[ScorerKey, ...]


def open_run(run: str) -> ServedContext:
    """A run to be read; its own deployment is never started. DataError when there is none."""
    folder, config = open_existing(run)
    tracker = Tracker(folder.path, config.tracking.model_copy(update={"wandb": False, "console": "plain"}), {})
    renderer = folder.stage("data") / "renderer"
    unused = InProcess(config, folder.store, folder.base, renderer, lambda: Renderer.load(renderer).eos)
    return ServedContext(config, folder, unused, tracker)


def served_names(context: RunContext, asked: Sequence[str]) -> tuple[str, ...]:
    """The improvers to serve: those asked for, or all that the run has and that can be served, its method's own first.

    ConfigError, naming what the run has, when it lacks one, or has none.
    """
    here = [name for name in available(context) if asks_outside(context, name) is None]
    for name in asked:
        offer(context, name)
        if (why := asks_outside(context, name)) is not None:
            raise ConfigError(f"{context.config.run}: {name} is not served: {why}; it serves {listed(here)}")
    if not here:
        raise ConfigError(
            f"{context.config.run} has no improver to serve yet (finished are {listed(_finished(context))}); go on "
            "with pit-ray train and the same run folder"
        )
    return tuple(dict.fromkeys(asked or here))


def asks_outside(context: RunContext, name: str) -> str | None:
    """Why an improver must not be served: what its users send would leave the machine, and stay in the run folder."""
    if name == "self_refine" and context.config.self_refine.model == "endpoint":
        return "it asks the endpoint of self_refine.endpoint, and keeps each answer in the run folder"
    return None


def improvers_of(context: RunContext, engines: Engines, names: Sequence[str]) -> dict[str, Improver]:
    """The improvers by name; ConfigError where PIT's stopping rule has not been chosen yet."""
    return {name: improver_named(context, engines, name, _margin(context) if name == "pit" else None) for name in names}


def drafter_of(context: RunContext, name: str) -> Path:
    """The model that writes what an improver improves."""
    return context.model(offer(context, name).drafter(context))


def policy_of(context: RunContext) -> Path | None:
    """The model that answers as POLICY; None where the run has no policy."""
    stage = OFFERS["best_of_n"].drafter(context)
    return context.model(stage) if context.has(stage) else None


def needs_of(context: RunContext, names: Sequence[str]) -> Needs:
    """What must stand for these improvers and the policy to answer."""
    models: dict[Path, None] = {}
    scorers: dict[ScorerKey, None] = {}
    if (policy := policy_of(context)) is not None:
        models[place(policy)] = None
    # Whatever they will ask engines for they name when they are made.
    for name, improver in improvers_of(context, cast(Engines, None), names).items():
        models[place(drafter_of(context, name))] = None
        model, scorer = _of(improver)
        models[place(model)] = None
        if scorer is not None:
            scorers[scorer] = None
    return Needs(tuple(models), tuple(scorers))


def check_models(context: RunContext, needs: Needs) -> None:
    """ConfigError when an engine could not hold a model, as one that was trained without vLLM may turn out."""
    trust, on_cpu = context.config.model.trust_remote_code, not context.config.actors.rollout.gpus
    for model in needs.models:
        context.folder.store.pull(model)
        shape = architecture(model, trust)
        limit, need = getattr(shape, "max_position_embeddings", None), context.longest
        if limit is not None and need > limit:
            raise ConfigError(
                f"{model}: it has {limit} positions, and a sequence can take {need} tokens by the run's data.lengths "
                "and sampling.max_new_tokens"
            )
        size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        if on_cpu and size not in CPU_HEAD_SIZES:
            sizes = ", ".join(map(str, CPU_HEAD_SIZES))
            raise ConfigError(f"{model}: its attention heads have size {size}, and vLLM on CPUs takes {sizes}")


def _of(improver: Improver) -> tuple[Path, ScorerKey | None]:
    """The model that an improver writes with, and what it scores with."""
    match improver:
        case DraftImprover(model=model, gap=gap):
            return model, (place(gap.folder), gap.kind)
        case SampleImprover(policy=policy, reward=reward):
            return policy, (place(reward), "reward")
        case FeedbackImprover(writer=LocalWriter(model=model)):
            return model, None
        case FeedbackImprover(writer=EndpointWriter()):
            raise ConfigError(f"{improver.name} asks an endpoint, and is not served")
    raise ConfigError(f"{improver.name} cannot be served: nobody has said which models it needs")


def _margin(context: RunContext) -> float:
    try:
        return margin_of(context)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{context.config.run}: stage evaluate, which chooses when pit stops, is not finished; finish it with "
            "pit-ray train and the same run folder"
        ) from error


def _finished(context: RunContext) -> list[str]:
    stages = context.folder.path / "stages"
    return [mark.parent.name.partition("-")[2] for mark in sorted(stages.glob("*/done.json"))]
