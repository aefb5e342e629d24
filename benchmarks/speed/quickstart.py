"""Seconds of `pit-ray train quickstart` on two cores, from its start to its end, and of its parts.

usage: python -m benchmarks.speed.quickstart FINDINGS
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.speed.findings import FINDINGS, Finding, finding
from benchmarks.speed.started import started

LIMIT = 780
"""Seconds: what docs/decisions.md allots to the parts, less the installation."""


def main() -> list[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with started(run, []) as command:
            command.wait_for("evaluation/summary.json")
            if command.process.wait():
                raise SystemExit(command.log.read_text()[-3000:])
            seconds = time.perf_counter() - command.since
        parts: dict[str, float] = json.loads((run / "evaluation" / "summary.json").read_text())["seconds"]
    parts["starting, and what lies between"] = seconds - sum(parts.values())
    for name, part in parts.items():
        print(f"  {name:34} {part:7.1f} s")
    return [finding("quickstart_seconds", seconds, f"<= {LIMIT}")]


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(main()))
