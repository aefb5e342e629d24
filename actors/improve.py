"""`pit-ray improve`: answers requests with an improver of a finished run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from actors.compose import opened
from pit_ray.config import Config
from pit_ray.data.lengths import fit_drafts
from pit_ray.errors import ConfigError, DataError
from pit_ray.improve import ImproveRequest, ImproveResult, without_end
from pit_ray.improvers.interface import Engines, Improver, improve
from pit_ray.records import Prompts, Ragged
from pit_ray.stages.context import RunContext
from pit_ray.stages.evaluation import margin_of
from pit_ray.stages.improvers import available, improver_named, offer
from pit_ray.stages.judged import RunEngines

BATCH = 1024
"""Requests answered together; a long file gives its first results after the first batch."""


def improve_requests(
    run: str, requests: list[ImproveRequest], iterations: int | None, name: str | None, temperature: float | None = None
) -> Iterator[ImproveResult]:
    """One result per request, in order, by the run's improver of that name (None: its method's own). With `iterations`
    that many revisions are made and the last is kept; without, up to `evaluation.iterations` are made and the
    improver's own rule decides. Feedback and revisions are sampled at `temperature`, drafts at evaluation.temperature,
    which is also the former's default.

    ConfigError when the run has no such improver; DataError when a prompt or draft is too long for its models.
    """
    with opened(run) as context:
        name = chosen(context, name)
        drafter = offer(context, name).drafter(context)
        margin = margin_of(context) if name == "pit" and iterations is None else None
        engines = RunEngines(context)
        improver = improver_named(context, engines, name, margin)
        # All of them before the first engine starts: what is wrong with the last is said at once.
        prompts, drafts = rendered(context, requests), given_drafts(context, requests)
        for start in range(0, len(requests), BATCH):
            rows = np.arange(start, min(start + BATCH, len(requests)))
            batch = [requests[i] for i in rows], prompts.take(rows), [drafts[i] for i in rows]
            yield from answer(context, engines, improver, drafter, *batch, iterations, temperature)


def chosen(context: RunContext, name: str | None) -> str:
    """The improver of that name, or the first that the run has; ConfigError when it has none."""
    here = available(context)
    if name is None and not here:
        raise ConfigError(
            f"{context.config.run} has no improver yet; finish it with pit-ray train and the same run folder"
        )
    name = name or here[0]
    offer(context, name)
    return name


def answer(
    context: RunContext,
    engines: Engines,
    improver: Improver,
    drafter: str,
    requests: list[ImproveRequest],
    prompts: Prompts,
    drafts: list[np.ndarray | None],
    iterations: int | None,
    temperature: float | None,
) -> list[ImproveResult]:
    """The results of some requests, with their prompts and drafts as token ids (None: the model of the stage `drafter`
    writes one); the draws of each derive from its uid."""
    config, renderer = context.config, context.renderer
    request = context.request("improve", temperature=config.evaluation.temperature)
    missing = [i for i, draft in enumerate(drafts) if draft is None]
    if missing:
        pool = engines.sampler(context.model(drafter))
        written = without_end(pool.generate(prompts.take(missing), request).result())
        for i, row in zip(missing, fitted_drafts(config, written).rows(), strict=True):
            drafts[i] = row
    fitted = Ragged.of(draft for draft in drafts if draft is not None)
    if temperature is not None:
        request = replace(request, temperature=temperature)
    rounds = improve(improver, prompts, fitted, iterations or config.evaluation.iterations, request)
    kept = improver.kept(rounds) if iterations is None else np.full(len(requests), iterations)
    results = []
    for i, asked in enumerate(requests):
        texts = [renderer.text(r.responses[i]) for r in rounds]
        feedback = [renderer.text(r.feedback[i]) for r in rounds if r.feedback is not None]
        scores = [None if np.isnan(r.score[i]) else float(r.score[i]) for r in rounds[1:]]
        results.append(
            ImproveResult(
                prompt=asked.prompt, drafts=texts, gaps=scores, kept=int(kept[i]), response=texts[int(kept[i])],
                feedback=feedback or None,
            )
        )  # fmt: skip
    return results


def rendered(context: RunContext, requests: list[ImproveRequest]) -> Prompts:
    """The requests' prompts as token ids, uid for place; DataError when one is longer than the run's models were made
    for."""
    limit = context.config.data.lengths.prompt.max_tokens
    turns = [[{"role": "user", "content": r.prompt}] if isinstance(r.prompt, str) else r.prompt for r in requests]
    ids = Ragged.of(context.renderer.prompt_ids(messages) for messages in turns)
    too_long = np.flatnonzero(ids.lengths > limit)
    if len(too_long):
        row = int(too_long[0])
        raise DataError(
            f"prompt {row + 1} has {int(ids.lengths[row])} tokens, more than the run's "
            f"data.lengths.prompt.max_tokens = {limit}; shorten it"
        )
    uid, source = np.arange(len(ids), dtype=np.int64), np.zeros(len(ids), dtype=np.int8)
    return Prompts(uid, ids, Ragged.of([[]] * len(ids)), source)


def given_drafts(context: RunContext, requests: list[ImproveRequest]) -> list[np.ndarray | None]:
    """The drafts that came with requests, as token ids within the run's limit; None where none came."""
    ids = Ragged.of([] if r.draft is None else context.renderer.response_ids(r.draft) for r in requests)
    fitted = fitted_drafts(context.config, ids).rows()
    return [None if r.draft is None else row for r, row in zip(requests, fitted, strict=True)]


def fitted_drafts(config: Config, drafts: Ragged) -> Ragged:
    """Drafts within the run's limit. One that is too long is cut only if the run cut its own, never left out."""
    limit = config.data.lengths.draft
    if limit.policy == "drop":
        limit = limit.model_copy(update={"policy": "error"})
    return fit_drafts(drafts, limit)[0]
