"""`pit-ray improve`: drafts and revisions for a user's prompts, with the models of a finished run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from actors.compose import deploy
from pit_ray.config import Config
from pit_ray.curriculum import POLICY, USER, with_drafts
from pit_ray.data.lengths import fit_drafts
from pit_ray.errors import ConfigError, DataError
from pit_ray.improve import ImproveRequest, ImproveResult, kept_revisions, revise, without_end
from pit_ray.records import Prompts, Ragged
from pit_ray.run_folder import open_existing
from pit_ray.stages.context import RunContext
from pit_ray.stages.evaluation import margin_of
from pit_ray.tracking import Tracker

BATCH = 1024
"""Requests answered together; a long file gives its first results after the first batch."""


def improve(run: str, requests: list[ImproveRequest], iterations: int | None) -> Iterator[ImproveResult]:
    """One result per request, in order. With `iterations` that many revisions are made and the last is kept; without,
    up to `evaluation.iterations` are made and the run's stopping rule decides.

    ConfigError when the run has no improver yet; DataError when a prompt or draft is too long for its models.
    """
    folder, config = open_existing(run)
    for stage in ("ppo_policy", "ppo_improver", "evaluate"):
        if folder.seconds(stage) is None and getattr(config.ready, stage, None) is None:
            raise ConfigError(
                f"{run}: stage {stage} is not finished; finish it with pit-ray train and the same run folder"
            )
    quiet = config.tracking.model_copy(update={"wandb": False, "console": "plain"})
    tracker = Tracker(folder.path, quiet, {})
    deployment = deploy(config, folder, tracker.note)
    try:
        context = RunContext(config, folder, deployment, tracker)
        # All of them before the first engine starts: what is wrong with the last is said at once.
        prompts, drafts = rendered(context, requests), given_drafts(context, requests)
        for start in range(0, len(requests), BATCH):
            rows = np.arange(start, min(start + BATCH, len(requests)))
            batch = [requests[i] for i in rows], prompts.take(rows), [drafts[i] for i in rows]
            yield from answer(context, *batch, iterations)
    finally:
        deployment.close()


def answer(
    context: RunContext,
    requests: list[ImproveRequest],
    prompts: Prompts,
    drafts: list[np.ndarray | None],
    iterations: int | None,
) -> list[ImproveResult]:
    """The results of some requests, with their prompts and drafts (None: the policy writes one) as token ids; the draws
    of each derive from its uid."""
    config, renderer = context.config, context.renderer
    rollout, gap = context.deployment.rollout(), context.deployment.reward()
    gap.load(context.gap_model(), context.gap_kind(), renderer.eos).result()
    request = context.request("improve", temperature=config.evaluation.temperature)
    missing = [i for i, draft in enumerate(drafts) if draft is None]
    if missing:
        rollout.load(context.model("ppo_policy"), 0).result()
        written = without_end(rollout.generate(prompts.take(missing), request).result())
        for i, row in zip(missing, fitted_drafts(config, written).rows(), strict=True):
            drafts[i] = row
    source = np.array([POLICY if r.draft is None else USER for r in requests], dtype=np.int8)
    fitted = Ragged.of(draft for draft in drafts if draft is not None)
    prompts = with_drafts(prompts, fitted, source, renderer.bridge)
    rollout.load(context.model("ppo_improver"), 0).result()
    rounds = revise(rollout, gap, prompts, iterations or config.evaluation.iterations, request)
    gaps = [r.gaps for r in rounds]
    kept = kept_revisions(gaps, margin_of(context)) if iterations is None else np.full(len(requests), iterations)
    steps = [fitted, *(r.responses for r in rounds)]
    return [
        ImproveResult(
            prompt=r.prompt,
            drafts=(texts := [renderer.text(step[i]) for step in steps]),
            gaps=[float(g[i]) for g in gaps],
            kept=int(kept[i]),
            response=texts[int(kept[i])],
        )
        for i, r in enumerate(requests)
    ]


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
