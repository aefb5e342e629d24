"""A run's metrics as charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pit_ray.evaluate.charts import Chart, Points, Trajectory, kl_chart, line_chart
from pit_ray.evaluate.names import STAGES, stage_name

Record = Mapping[str, Any]
"""A line of metrics.jsonl."""

LINES = 6
"""So many lines a chart has colours for."""


def by_stage(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each stage: PIT's in the order of a run, then others as they came."""
    stages: dict[str, list[Record]] = {name: [] for name in STAGES}
    for record in records:
        stages.setdefault(str(record["stage"]), []).append(record)
    return {name: found for name, found in stages.items() if found}


def points(records: Sequence[Record], name: str) -> Points | None:
    found = [(r["step"] + 1, r[name]) for r in records if r.get(name) is not None]
    return (np.array([x for x, _ in found]), np.array([y for _, y in found])) if found else None


def supervised_charts(metrics: Mapping[str, list[Record]]) -> list[Chart]:
    wanted = {
        "loss/sft": "SFT loss, nats per token",
        "loss/reward": "Loss of the reward models",
        "val/accuracy": "Pairs ordered rightly",
    }
    charts = []
    for name, title in wanted.items():
        found = [(stage_name(stage), line) for stage, records in metrics.items() if (line := points(records, name))]
        for start in range(0, len(found), LINES):
            more = ", continued" if start else ""
            charts.append(line_chart(title + more, dict(found[start : start + LINES]), phases=[], width=3.2))
    return [chart for chart in charts if chart]


def rl_charts(metrics: Mapping[str, list[Record]]) -> dict[str, list[Chart]]:
    """The charts of every stage that did PPO, by stage."""
    by_stage = {}
    for stage, records in metrics.items():
        has_gap = any("objective/gap" in record for record in records)
        reward = ("objective/gap", "Gap: how much better than the draft") if has_gap else ("objective/score", "Reward")
        wanted = [
            reward,
            ("objective/gold", "Gold score"),
            ("objective/kl", "KL to the SFT model, nats per response"),
            ("val/response_length", "Response length, tokens"),
        ]
        charts = [line_chart(title, {"": points(records, name)}, _phases(records), width=4.8) for name, title in wanted]
        if any("objective/kl" in record for record in records):
            by_stage[stage] = [chart for chart in charts if chart]
    return by_stage


def _phases(records: Sequence[Record]) -> list[tuple[float, str]]:
    """Where each phase begins, and its name; [] when there is only one."""
    starts: dict[str, float] = {}
    for record in records:
        starts.setdefault(str(record["phase"]), record["step"] + 0.5)
    return [(start, name) for name, start in starts.items()] if len(starts) > 1 else []


def proxy_of(records: Sequence[Record]) -> tuple[str, str]:
    """The metric that a PPO stage maximises, and its name in words."""
    if any("objective/gap" in record for record in records):
        return "objective/gap", "gap"
    return "objective/score", "R_P"


def trajectories(records: Sequence[Record]) -> list[Trajectory]:
    """A PPO stage's steps, phase by phase; [] where there is no gold."""
    wanted = ("objective/kl", proxy_of(records)[0], "objective/gold")
    phases: dict[str, list[list[float]]] = {}
    for record in records:
        if all(record.get(name) is not None for name in wanted):
            phases.setdefault(str(record["phase"]), []).append([record[name] for name in wanted])
    return [Trajectory(*np.array(steps).T) for steps in phases.values()]


def kl_charts(metrics: Mapping[str, list[Record]]) -> list[Chart]:
    """What was optimised, and gold, against KL, for every stage that did PPO."""
    charts = [
        kl_chart(stage_name(stage), proxy_of(records)[1], trajectories(records), width=4.8)
        for stage, records in metrics.items()
    ]
    return [chart for chart in charts if chart]
