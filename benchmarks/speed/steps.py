"""Steps of the improver's PPO in the quickstart: for how much of one no actor generates, scores, learns or syncs; and,
one step behind (`lag=1`), a step against the longer of sampling with scoring and learning, each with a core to itself.

usage: python -m benchmarks.speed.steps FINDINGS
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.findings import FINDINGS, Finding, finding
from benchmarks.speed.started import ready, started
from pit_ray.tracking import read_metrics

STEPS, SKIPPED, ROUNDS = 10, 2, 2
PARTS = ("generate", "score", "learn", "sync")
SHORT = [
    f"ppo_improver.phases=[{{name: annotated, drafts: annotated, steps: {STEPS}}}]",
    "ppo_improver.checkpoint_every=100", "evaluation={iterations: 1, bootstrap: 50}", "data.held_out=64",
    "actors.rollout.threads=1", "actors.learner.threads=1", "actors.scorer.threads=1",
]  # fmt: skip
WORK = ("generate", "score", "logprobs", "learn", "weights", "update", "verify")
"""Methods of actors."""
END = "verify"
"""The last of a step."""
Step = dict[str, float]


def steps(run: Path, lag: int, given: list[str]) -> list[Step]:
    """The times of each step but the first."""
    with started(run, [*given, *SHORT, f"ppo_improver.lag={lag}", "tracking.profile=true"]) as command:
        command.wait_for("stages/*-ppo_improver/done.json")
    records = [record for record in read_metrics(run) if record["stage"] == "ppo_improver"]
    return [{name: record.get(f"time/{name}", 0.0) for name in ("step", *PARTS)} for record in records][SKIPPED:]


def idle_shares(timeline: Sequence[Mapping[str, Any]]) -> list[float]:
    """Of each step, the share in which no actor was at work; from Ray's timeline, whose times are in microseconds. What
    the driver does, and what it takes to bring data and orders from process to process, is in it: of a call, only what
    its method takes counts as work, not that its arguments are unpacked and its result is put away."""
    named = [event for event in timeline if event["cat"].startswith("task::")]
    run = [event for event in timeline if event["name"] == "task:execute"]
    calls = [
        (event["ts"], event["ts"] + event["dur"], call["name"])
        for event in run
        for call in named
        if call["name"] in WORK and call["tid"] == event["tid"] and 0 <= event["ts"] - call["ts"] < call["dur"]
    ]
    ends = sorted(stop for _, stop, method in calls if method == END)
    shares = []
    for begin, end in pairwise(ends):
        spans = sorted((max(a, begin), min(b, end)) for a, b, _ in calls if b > begin and a < end)
        # Where spans overlap, each adds what it has beyond all before it.
        reached = np.maximum.accumulate([begin, *(b for _, b in spans)])
        busy = sum(max(0, b - max(a, before)) for (a, b), before in zip(spans, reached, strict=False))
        shares.append(1 - busy / (end - begin))
    return shares


def middle(found: list[Step], name: str) -> float:
    return statistics.median(step[name] for step in found)


def main() -> list[Finding]:
    behind, overhead = [], []
    with tempfile.TemporaryDirectory() as folder:
        given = ready(Path(folder))
        for turn in range(ROUNDS):
            plain, lagged = (steps(Path(folder) / f"lag-{lag}-{turn}", lag, given) for lag in (0, 1))
            for lag, found in enumerate((plain, lagged)):
                parts = ", ".join(f"{part} {middle(found, part):.2f}" for part in PARTS)
                print(f"lag {lag}: {middle(found, 'step'):.2f} s a step: {parts}")
            timeline = json.loads((Path(folder) / f"lag-0-{turn}" / "profile" / "ray.json").read_text())
            overhead += idle_shares(timeline)[SKIPPED:]
            longer = max(middle(plain, "generate") + middle(plain, "score"), middle(plain, "learn"))
            behind.append(middle(lagged, "step") / longer)
    return [
        finding("overhead_share", statistics.median(overhead), "<= 0.03"),
        finding("lag1_vs_max", statistics.median(behind), "<= 1.15"),
    ]


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(main()))
