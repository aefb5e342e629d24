"""Runs a method's stages in order, skipping what is finished, and shows the result."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pit_ray.config import Config
from pit_ray.errors import GroupLost, InfraError, PitRayError
from pit_ray.evaluate.comparisons import Comparison, delta_table, headlines
from pit_ray.events import record_event
from pit_ray.interrupts import Interrupts
from pit_ray.methods import check_method, stages_of
from pit_ray.methods.stage import Stage, names_of
from pit_ray.roles import Deployment
from pit_ray.run_folder import RunFolder, write_json
from pit_ray.stages.context import RunContext
from pit_ray.status import StatusWriter
from pit_ray.tracking import Tracker, visible

SAMPLES_SHOWN = 3


Deploy = Callable[[RunFolder, Callable[[str], None]], Deployment]
"""Who plays the roles of a run, given its folder and what to tell the user with."""


def train(config: Config, deploy: Deploy) -> None:
    """Runs the configured method from wherever the run folder stands to the report."""
    check_method(config)
    folder = RunFolder(config.run)
    resumed = folder.open(config)
    with Interrupts() as interrupts, Tracker(folder.path, config.tracking, config.model_dump(mode="json")) as tracker:
        if resumed:
            tracker.note(f"resuming {folder.store.uri or folder.path}")

        def tell(event: str) -> None:
            tracker.note(event)
            record_event(folder.path, event)

        deployment = deploy(folder, tell)
        tracker.listeners.append(deployment.observe)
        try:
            with StatusWriter(folder, deployment.activity):
                context = RunContext(config, folder, deployment, tracker, interrupts)
                for stage in stages_of(config):
                    run_stage(context, stage)
        except PitRayError as error:
            with suppress(InfraError):  # where the disk is full, that is the error
                record_event(folder.path, f"ended: {error}")
                folder.keep_records()
            raise
        finally:
            deployment.close()
        from pit_ray.evaluate.report import write_report  # the libraries behind it take their time to import

        summary = complete_summary(folder, names_of(stages_of(config)))
        report = write_report(folder.path)
        folder.keep_records()
    show(summary, folder, report)


def run_stage(context: RunContext, stage: Stage) -> None:
    """Runs a stage unless it is finished or given ready; marks it finished."""
    ready = context.config.ready
    missing = [n for n in stage.names if context.folder.seconds(n) is None and getattr(ready, n, None) is None]
    if not missing:
        return
    started = time.monotonic()
    run_to_end(context, stage)
    for name in missing:
        if context.folder.seconds(name) is None:
            # What stands in a group and did not finish itself had nothing to do.
            seconds = time.monotonic() - started if len(stage.names) == 1 else 0.0
            context.folder.finish(name, seconds)
            context.tracker.end(name, seconds)


def run_to_end(context: RunContext, stage: Stage) -> None:
    """Runs a stage; where processes that only work together were lost, again from its last checkpoint with new ones."""
    lost: GroupLost | None = None
    while True:
        try:
            if lost is not None:
                context.interrupts.release()
                context.deployment.recover(lost)
                context.tracker.note(f"{', '.join(stage.names)}: goes on from the last checkpoint")
            return stage.run(context)
        except GroupLost as found:
            lost = found


def complete_summary(folder: RunFolder, names: Sequence[str]) -> dict:
    """evaluation/summary.json with the seconds of every stage."""
    path = folder.path / "evaluation" / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary["seconds"] = {name: seconds for name in names if (seconds := folder.seconds(name)) is not None}
    write_json(path, summary)
    return summary


def show(summary: dict, folder: RunFolder, report: Path) -> None:
    """The Δ table and a few prompts with draft and improved response, on the console."""
    console = Console()
    console.print(delta_table(headlines([Comparison(**row) for row in summary["comparisons"]])))
    if summary["margin"] is not None:
        console.print(Text(f"stopping rule: a revision is kept where its gap is above {summary['margin']:+.2f}"))
    for sample in json.loads((folder.path / "evaluation" / "samples.json").read_text(encoding="utf-8"))[:SAMPLES_SHOWN]:
        gold = [f"  gold {g:.2f}" for g in sample["golds"] or []] or [""] * 2
        lines = (("prompt  ", sample["prompt"], ""), ("draft   ", sample["draft"], gold[0]))
        stopped = "" if sample["kept"] else "  (the draft is kept)"
        what = "score" if summary["margin"] is None else "gap"
        gap = "" if sample["gaps"][0] is None else f"  {what} {sample['gaps'][0]:+.2f}"
        improved = ("improved", sample["revisions"][0], f"{gap}{gold[1]}{stopped}")
        console.print()
        for label, text, note in (*lines, improved):
            console.print(Text(f"{label}  {visible(text)}{note}"))
    # As a path, since make runs the command where no shell has its folder on the search path.
    program = min(sys.argv[0], os.path.relpath(sys.argv[0]), key=len).replace("actors/cli.py", "pit-ray")
    kept = f", also in {folder.store.uri}" if folder.store.uri else ""
    run = folder.store.uri or folder.path
    console.print(Text(f"\nreport: {report}{kept}\nuse it: {program} improve {run} --prompt …"))
