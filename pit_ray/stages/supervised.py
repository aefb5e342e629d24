"""Stages `sft_policy`, `sft_improver`, `reward`, `gap_reward`: jobs for the trainer, their metrics followed live."""

from __future__ import annotations

import contextlib
import json

from pit_ray.learn.supervised import FINISHED, METRICS, checkpoints_of, section_of, total_steps
from pit_ray.metrics import Metrics
from pit_ray.roles import FitJob, FitKind
from pit_ray.stages.context import RunContext

POLL_SECONDS, STORE_POLL_SECONDS = 0.5, 5.0
"""How often a worker group's metrics are looked for, in a folder and in an object store."""


def jobs(context: RunContext, kinds: tuple[FitKind, ...]) -> list[FitJob]:
    """The jobs of those stages that are neither given ready nor finished."""
    return [
        job(context, kind)
        for kind in kinds
        if getattr(context.config.ready, kind) is None and context.folder.seconds(kind) is None
    ]


def job(context: RunContext, kind: FitKind) -> FitJob:
    """One supervised stage. R_P starts from the SFT policy, and R_PIT from R_P, which can judge responses already."""
    start = {"reward": "sft_policy", "gap_reward": "reward"}.get(kind)
    return FitJob(
        stage=kind,
        kind=kind,
        config=context.config,
        pairs=context.pairs_path("sft" if kind.startswith("sft") else "reward"),
        validation=context.pairs_path("validation"),
        model=context.model(start) if start else context.base,
        renderer=context.renderer_folder,
        folder=context.folder.stage(kind),
        store=context.folder.store,
    )


def run(context: RunContext, kinds: tuple[FitKind, ...]) -> None:
    """Runs those stages in one worker group; each is marked finished as soon as its model is written."""
    todo = jobs(context, kinds)
    if not todo:
        return
    for item in todo:
        checkpoints_of(item).newest(context.tracker.note)  # says here what the workers will pass over
    context.tracker.note(f"starting a worker group for {', '.join(item.stage for item in todo)}")
    fitting = context.deployment.fit(todo)
    for item in todo:
        follow(context, item, fitting)


def follow(context: RunContext, item: FitJob, fitting) -> None:
    """Logs a stage's metrics while it runs; returns when its model stands."""
    pairs = len(context.pairs("sft" if item.kind.startswith("sft") else "reward"))
    context.tracker.begin(item.stage, total_steps(section_of(item), pairs))
    context.tracker.rewind(item.stage, 0)
    seen, poll = 0, STORE_POLL_SECONDS if item.store.remote else POLL_SECONDS
    while True:
        mark = item.store.read(item.folder / FINISHED)
        if mark is None:
            with contextlib.suppress(TimeoutError):
                fitting.result(timeout=poll)
        seen = _log_new(context, item, seen)
        if mark is not None:
            break
    seconds = float(json.loads(mark)["seconds"])
    context.folder.finish(item.stage, seconds)
    item.store.remove(checkpoints_of(item).folder)  # the model is all that is needed from here on
    context.tracker.end(item.stage, seconds)


def _log_new(context: RunContext, item: FitJob, seen: int) -> int:
    """Passes on the lines of metrics.jsonl from line `seen` on; returns how many have been passed on.

    A stage that goes on from a checkpoint first drops the lines after it, and writes them again, equal.
    """
    lines = (item.store.read(item.folder / METRICS) or b"").decode().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    for line in whole[seen:]:
        record = json.loads(line)
        step = record.pop("step")
        context.tracker.log(item.stage, "", step, Metrics({name: tuple(pair) for name, pair in record.items()}))
    return max(seen, len(whole))
