"""Runs a recorded PPO step again, beside the run and never in it, and compares it with what was recorded."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pit_ray.config import Config
from pit_ray.config.tree import Tracking
from pit_ray.driver import Deploy
from pit_ray.errors import ConfigError, DataError, TrainingError
from pit_ray.metrics import Metrics
from pit_ray.records import Ragged, Rollouts, Scores
from pit_ray.roles import Deployment, Learner, Ref, Resolved
from pit_ray.run_folder import RunFolder
from pit_ray.stages import ppo
from pit_ray.stages.context import RunContext
from pit_ray.stages.stop import LearnBatch, read_stop
from pit_ray.tracking import Tracker, read_metrics

STAGES = ("ppo_policy", "ppo_improver")


def replay(config: Config, run: RunFolder, stage: str, step: int, deploy: Deploy) -> bool:
    """Goes on from the last checkpoint at or before the step (from the stage's start where none is kept) to its end,
    every draw as in the run; a step that stopped the run is given the batch that was saved. True when the cause and
    all metrics but times are those of the record.

    ConfigError for another stage; DataError for a step that was not recorded, naming those that were.
    """
    if stage not in STAGES:
        raise ConfigError(f"--stage {stage}: only steps of {' and '.join(STAGES)} can be replayed")
    recorded, batch = _record(run, stage, step)
    with tempfile.TemporaryDirectory(prefix=f".{run.path.name}-replay-", dir=run.path.parent) as scratch:
        copy = _beside(run, Path(scratch), stage, step)
        deployment = deploy(copy, Console().print)
        handed = cast(Deployment, _Handed(deployment, batch)) if batch else deployment
        try:
            with _UpTo(step, copy.path) as tracker:
                ppo.run(RunContext(config, copy, handed, tracker), stage)
        except _Reached:
            pass
        except TrainingError:
            if read_stop(copy.stage(stage), step) is None:
                raise
        finally:
            deployment.close()
        again, sampled = _record(copy, stage, step)
    return _compare(f"{stage}, step {step}", recorded, again, batch, sampled)


def _record(run: RunFolder, stage: str, step: int) -> tuple[dict[str, Any], LearnBatch | None]:
    """A step's metrics without times; with `cause` and the saved batch where it stopped the run."""
    folder = next((run.path / "stages").glob(f"[0-9][0-9]-{stage}"), None)
    records = {record["step"]: record for record in read_metrics(run.path) if record["stage"] == stage}
    stop = read_stop(folder, step) if folder else None
    if step in records:
        values, batch = records[step], None
    elif stop is not None:
        batch, about = stop
        values = about["metrics"] | {"cause": about["cause"]}
    else:
        known = f"recorded are 0 to {max(records)}" if records else f"{stage} has no record"
        raise DataError(f"{run.path}: there is no record of step {step} of {stage}; {known}")
    return {n: v for n, v in values.items() if n.partition("/")[0] not in ("stage", "phase", "step", "time")}, batch


def _beside(run: RunFolder, scratch: Path, stage: str, step: int) -> RunFolder:
    """A run folder that shares the finished stages and begins `stage` at its last checkpoint at or before `step`."""
    (scratch / "stages").mkdir()
    own = run.stage(stage)
    for folder in (run.path / "stages").iterdir():
        if folder != own:
            (scratch / "stages" / folder.name).symlink_to(folder)
    copy = scratch / "stages" / own.name
    (copy / "checkpoints").mkdir(parents=True)
    if start := ppo.checkpoint_until(own, step):
        (copy / "checkpoints" / start.name).symlink_to(start)
    if (own / "phases").is_dir():
        # Not a link: a phase that begins on the way writes here.
        shutil.copytree(own / "phases", copy / "phases")
    return RunFolder(scratch)


def _compare(
    what: str, recorded: dict[str, Any], again: dict[str, Any], saved: LearnBatch | None, sampled: LearnBatch | None
) -> bool:
    """Prints what came out the same and what did not; True when everything did."""
    console = Console()
    if saved and sampled and not np.array_equal(saved.rollouts.response.values, sampled.rollouts.response.values):
        console.print(Text(f"{what}: the responses sampled again differ; those that were saved were learned from"))
    if "cause" in again:
        console.print(Text(f"{what} stops the run: {again['cause']}"))
    other = [name for name in sorted(recorded | again) if recorded.get(name) != again.get(name)]
    if not other:
        console.print(Text(f"{what}: all {len(recorded)} values as recorded"))
        return True
    table = Table("value", "recorded", "again", title=f"{what}: {len(other)} of {len(recorded)} values differ")
    for name in other:
        table.add_row(name, Text(str(recorded.get(name))), Text(str(again.get(name))))
    console.print(table)
    return False


class _Reached(Exception):
    """The step is done: the way out of a stage that would go on."""


class _UpTo(Tracker):
    """Tracks a stage up to a step."""

    def __init__(self, last: int, run: Path) -> None:
        super().__init__(run, Tracking(wandb=False), {})
        self.last = last

    def log(self, stage: str, phase: str, step: int, metrics: Metrics) -> None:
        super().log(stage, phase, step, metrics)
        if step == self.last:
            raise _Reached


class _Handed:
    """A deployment whose learner is handed a saved batch in place of the one that was sampled again."""

    def __init__(self, deployment: Deployment, batch: LearnBatch) -> None:
        self.deployment, self.batch = deployment, batch

    def __getattr__(self, role: str) -> Any:
        return getattr(self.deployment, role)

    def learner(self) -> Learner:
        return cast(Learner, _HandedLearner(self.deployment.learner(), self.batch))


class _HandedLearner:
    """The learner of `_Handed`; a step's seed is its name."""

    def __init__(self, learner: Learner, batch: LearnBatch) -> None:
        self.learner, self.batch = learner, batch

    def __getattr__(self, method: str) -> Any:
        return getattr(self.learner, method)

    def learn(
        self, rollouts: Ref[Rollouts], scores: Ref[Scores], reference: Ref[Ragged], kl_coefficient: float, seed: int
    ) -> Ref[Metrics]:
        saved = self.batch
        if seed != saved.seed:
            return self.learner.learn(rollouts, scores, reference, kl_coefficient, seed)
        given = Resolved(saved.rollouts), Resolved(saved.scores), Resolved(saved.reference)
        return self.learner.learn(*given, saved.kl_coefficient, seed)
