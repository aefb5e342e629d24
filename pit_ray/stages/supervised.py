"""Supervised stages, on pairs or on examples that a stage has made: jobs for the trainer, followed live."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from pit_ray.config import Config
from pit_ray.config.training import Supervised
from pit_ray.learn.supervised import FINISHED, METRICS, checkpoints_of, total_steps
from pit_ray.metrics import Metrics
from pit_ray.roles import FitJob, FitKind
from pit_ray.stages.context import RunContext

POLL_SECONDS, STORE_POLL_SECONDS = 0.5, 5.0
"""How often a worker group's metrics are looked for, in a folder and in an object store."""


def section_of(config: Config, kind: FitKind) -> Supervised:
    """The part of the configuration of a stage that learns from pairs."""
    return {"reward": config.reward, "gap_reward": config.gap_reward}.get(kind, config.sft)


def pair_job(context: RunContext, kind: FitKind) -> FitJob:
    """A stage on pairs. R_P starts from the SFT policy, and R_PIT from R_P, which can judge responses already."""
    start = {"reward": "sft_policy", "gap_reward": "reward"}.get(kind)
    return _job(
        context, kind, kind, section_of(context.config, kind),
        pairs=context.split_path("sft" if kind.startswith("sft") else "reward"),
        model=context.model(start) if start else context.base,
    )  # fmt: skip


def example_job(context: RunContext, stage: str, section: Supervised, examples: Path, start: Path) -> FitJob:
    """A stage on a Parquet file of examples, from the weights at `start`."""
    return _job(context, stage, "sft", section, pairs=examples, model=start)


def _job(context: RunContext, stage: str, kind: FitKind, section: Supervised, pairs: Path, model: Path) -> FitJob:
    return FitJob(
        stage=stage,
        kind=kind,
        config=context.config,
        section=section,
        pairs=pairs,
        validation=context.split_path("validation"),
        model=model,
        renderer=context.renderer_folder,
        folder=context.folder.stage(stage),
        store=context.folder.store,
    )


def run_on_pairs(context: RunContext, kinds: tuple[FitKind, ...]) -> None:
    """Runs those stages on pairs, all but the ones that are given ready."""
    run(context, [pair_job(context, kind) for kind in kinds if getattr(context.config.ready, kind) is None])


def run(context: RunContext, jobs: Sequence[FitJob]) -> None:
    """Runs those stages in one worker group, all but the ones that are finished; each is marked finished as soon as its
    model is written."""
    todo = [job for job in jobs if context.folder.seconds(job.stage) is None]
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
    context.tracker.begin(item.stage, total_steps(item.section, pq.read_metadata(item.pairs).num_rows))
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
