"""Seconds from `pit-ray train quickstart`, given models for all stages before the improver's PPO, to its first
rollouts; caches are warm from a first start that does not count.

usage: python -m benchmarks.speed.startup FINDINGS
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.speed.findings import FINDINGS, Finding, finding
from benchmarks.speed.started import ready, started

STARTS = 4


def main() -> list[Finding]:
    took = []
    with tempfile.TemporaryDirectory() as folder:
        given = ready(Path(folder))
        for number in range(STARTS):
            with started(Path(folder) / f"run-{number}", given) as command:
                took.append(command.wait_for("rollouts/ppo_improver/step-*/*.parquet"))
    print("start-up: " + ", ".join(f"{value:.1f}" for value in took) + " s, the first does not count")
    return [finding("startup_seconds", statistics.median(took[1:]), "<= 25")]


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(main()))
