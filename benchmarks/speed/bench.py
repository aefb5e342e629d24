"""`make bench`: runs the programs of this folder, or those named, one after the other in processes of their own, puts
what they found into benchmarks/results.json, and says what fell by more than a tenth since that file was committed.

usage: python -m benchmarks.speed.bench [PROGRAM …]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.findings import FINDINGS, ROOT, Finding, fallen

PROGRAMS = (
    "learner", "gap_prefix", "scoring", "rollout", "prefix_reuse", "sync", "lora", "startup", "steps", "memory",
    "ppo_step", "peers", "scale", "quickstart",
)  # fmt: skip
RESULTS = ROOT / "benchmarks" / "results.json"


def run(program: str) -> list[Finding]:
    """What one program found; its tables go to the terminal. SystemExit with its name where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "findings.json"
        command = [sys.executable, "-m", f"benchmarks.speed.{program}", str(out)]
        environment = os.environ | {"RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
        if (code := subprocess.run(command, cwd=ROOT, env=environment).returncode) or not out.is_file():
            raise SystemExit(f"error: {program} ended with {code}; what came before it is in {RESULTS}")
        return FINDINGS.validate_json(out.read_text())


def read(path: Path) -> list[Finding]:
    return FINDINGS.validate_json(path.read_text()) if path.is_file() else []


def committed() -> list[Finding]:
    """The figures of the last commit."""
    place = f"HEAD:{RESULTS.relative_to(ROOT)}"
    found = subprocess.run(["git", "show", place], cwd=ROOT, capture_output=True, text=True)
    return FINDINGS.validate_json(found.stdout) if found.returncode == 0 else []


def write(found: Sequence[Finding], path: Path) -> None:
    """Puts figures in the place of those of the same name."""
    kept = {f.name: f for f in read(path)} | {f.name: f for f in found}
    rows = [json.dumps(kept[name].model_dump()) for name in sorted(kept)]
    path.write_text("[\n" + ",\n".join(rows) + "\n]\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"of {', '.join(PROGRAMS)}; all by default")
    wanted = parser.parse_args(arguments).programs or PROGRAMS
    if unknown := [name for name in wanted if name not in PROGRAMS]:
        parser.error(f"no program {unknown[0]!r}; there are {', '.join(PROGRAMS)}")
    before, now = committed(), []
    for program in wanted:
        print(f"== {program}", flush=True)
        found = run(program)
        for f in found:
            verdict = {True: "holds", False: "MISSED", None: ""}[f.holds]
            print(f"  {f.name:28} {f.ratio:9.4g}   {f.target:8} {verdict}", flush=True)
        write(found, RESULTS)
        now += found
    for sentence in fallen(before, now):
        print(sentence)
    return 0


if __name__ == "__main__":
    sys.exit(main())
