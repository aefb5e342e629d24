"""What finished runs of a replication left behind, read back and checked to belong together."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pit_ray.errors import DataError
from pit_ray.evaluate.charts import Trajectory
from pit_ray.evaluate.comparisons import Comparison, outcomes
from pit_ray.evaluate.curves import by_stage, trajectories
from pit_ray.run_folder import open_existing
from pit_ray.tracking import read_metrics

FULL = "full"
ROUNDING = 1e-4
"""Of R_P of one text, computed twice."""


@dataclass(frozen=True)
class Finished:
    """One run."""

    world: str
    seed: int
    variant: str
    summary: dict[str, Any]
    environment: dict[str, Any]
    uid: np.ndarray
    """(n,) the held-out pairs, in the order of the scores."""
    scores: dict[tuple[str, str], np.ndarray]
    """(system, judge) -> (n,)."""
    rollouts: dict[str, int]
    """Samples that each PPO stage was trained on in this run."""
    curves: dict[str, list[Trajectory]]

    @property
    def judge(self) -> str:
        """gold where there is gold."""
        return "gold" if ("policy", "gold") in self.scores else "reward"

    @property
    def iterations(self) -> int:
        return max(row["iterations"] for row in self.summary["comparisons"])

    def comparison(self, name: str, iterations: int, rule: bool = False, at: str = "comparisons") -> Comparison:
        """By the run's judge; `at` may also be length_controlled."""
        wanted = (name, self.judge, iterations, rule)
        rows = (Comparison(**row) for row in self.summary[at])
        return next(c for c in rows if (c.name, c.judge, c.iterations, c.stopping_rule) == wanted)

    def outcomes(self, system: str) -> np.ndarray:
        """(n,) in {−1, 0, 1}: the system against the policy's own responses."""
        return outcomes(self.scores[system, self.judge], self.scores["policy", self.judge])


def read_runs(places: Iterable[tuple[str, int, str, Path]]) -> list[Finished]:
    """The runs at (world, seed, variant, folder); DataError where a variant did not have its full run's drafts."""
    found = [read_run(*place) for place in places]
    full = {(run.world, run.seed): run for run in found if run.variant == FULL}
    for run in found:
        same = full[run.world, run.seed]
        judges = [judge for system, judge in run.scores if system == "policy"]
        drafts = ((run.scores["policy", judge], same.scores["policy", judge]) for judge in judges)
        if not np.array_equal(run.uid, same.uid) or not all(np.abs(a - b).max() < ROUNDING for a, b in drafts):
            raise DataError(
                f"{run.world}, seed {run.seed}: {run.variant} was evaluated on other drafts than {FULL}, so the two "
                "cannot be paired; train it again in an empty folder"
            )
    return found


def read_run(world: str, seed: int, variant: str, path: Path) -> Finished:
    _, config = open_existing(path)
    table = pq.read_table(path / "evaluation" / "outcomes.parquet").to_pandas()
    scores, uid = {}, np.zeros(0)
    for (system, judge), rows in table.groupby(["system", "judge"], sort=False):
        scores[str(system), str(judge)] = rows["score"].to_numpy()
        uid = rows["uid"].to_numpy()
    stages = by_stage(read_metrics(path))
    ppo = {name: stages[name] for name in ("ppo_policy", "ppo_improver") if name in stages}
    return Finished(
        world,
        seed,
        variant,
        summary=json.loads((path / "evaluation" / "summary.json").read_text(encoding="utf-8")),
        environment=json.loads((path / "environment.json").read_text(encoding="utf-8")),
        uid=uid,
        scores=scores,
        rollouts={name: len(records) * getattr(config, name).rollouts_per_step for name, records in ppo.items()},
        curves={name: trajectories(records) for name, records in ppo.items()},
    )
