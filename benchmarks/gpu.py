"""What can be measured on one GPU: learner, scorer and vLLM by size of the model, memory beside what is planned, a PPO
step beside TRL's, the whole quickstart; all in bfloat16. What is not installed is skipped, what fails is told, and the
rest is measured all the same. NOTHING HERE HAS RUN ON A GPU YET.

usage: python -m benchmarks.gpu [OUT] [--only PART …]; --rehearse: everything on a tiny model, on CPUs where there is
no GPU, to see that it runs
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.findings import ROOT, commit, machine

Row = dict[str, Any]
QUICKSTART = "quickstart"
CASE_SECONDS = 1800


@dataclass(frozen=True)
class Case:
    """One row of a table, measured in a process of its own."""

    part: str
    """A program of benchmarks/on_gpu, or the quickstart."""
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Packages."""

    @property
    def name(self) -> str:
        return " ".join((self.part, *self.arguments))


RUN = ("ray", "vllm", "deepspeed")
CASES = (
    Case("learner", ("125m", "ppo")),
    Case("learner", ("125m", "ppo", "recompute")),
    Case("learner", ("1b", "ppo")),
    Case("learner", ("1b", "ppo", "recompute")),
    Case("learner", ("1b", "ppo", "recompute", "liger"), ("liger_kernel",)),
    # Policy and value model with AdamW's state would be 16 bytes · 13 G; the policy alone is half of that.
    Case("learner", ("7b", "sft", "recompute")),
    Case("learner", ("7b", "sft", "recompute", "liger"), ("liger_kernel",)),
    *(Case("scorer", (size,)) for size in ("125m", "1b", "7b")),
    *(Case("generation", (size,), ("vllm",)) for size in ("125m", "1b", "7b")),
    *(Case("step", (size,), RUN) for size in ("125m", "1b")),
    Case(QUICKSTART, (), RUN),
)


def rehearsal() -> list[Case]:
    """The same cases for a tiny model, each once."""
    sizes = {"125m", "1b", "7b"}
    tiny = [Case(c.part, tuple("tiny" if a in sizes else a for a in c.arguments), c.needs) for c in CASES]
    return list(dict.fromkeys(tiny))


def command(case: Case, folder: Path, rehearse: bool) -> list[str]:
    if case.part != QUICKSTART:
        return [sys.executable, "-m", f"benchmarks.on_gpu.{case.part}", *case.arguments]
    asked = [sys.executable, "-m", "actors.cli", "train", "quickstart", f"run={folder / 'run'}", "model.dtype=bfloat16"]
    if rehearse:
        return [*asked, "--dry-run"]
    gpus = {"learner.gpus": 0.4, "rollout.gpus": 0.3, "rollout.gpu_memory_utilization": 0.3, "scorer.gpus": 0.15}
    return [*asked, "tracking.wandb=false", *(f"actors.{key}={value}" for key, value in gpus.items())]


def measure(case: Case, rehearse: bool) -> Row:
    """The case's row; with the key `skipped` or `failed`, the reason, where there are no figures."""
    row: Row = {"case": case.name}
    if lacking := [name for name in case.needs if find_spec(name) is None]:
        return row | {"skipped": f"not installed: {', '.join(lacking)}"}
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        try:
            ended = subprocess.run(
                command(case, Path(folder), rehearse), cwd=ROOT, env=environment, capture_output=True, text=True,
                timeout=CASE_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return row | {"failed": f"no end within {CASE_SECONDS} s"}
        seconds = time.perf_counter() - started
        lines = (ended.stderr if ended.returncode else ended.stdout).strip().splitlines()
        if ended.returncode:
            return row | {"failed": lines[-1] if lines else f"exit code {ended.returncode}"}
        if case.part == QUICKSTART:
            return row | {"seconds": seconds} | ({} if rehearse else judged(Path(folder) / "run"))
    return row | json.loads(lines[-1])


def judged(run: Path) -> Row:
    """Δ by gold of the improver's first revisions, and the seconds of the stages."""
    summary = json.loads((run / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    return {"comparisons": summary["comparisons"], "stages": summary["seconds"]}


def described(row: Row) -> str:
    """A line for people."""
    if reason := row.get("skipped") or row.get("failed"):
        return f"  {row['case']:32} {'skipped' if 'skipped' in row else 'FAILED'}: {reason}"
    shown = {name: value for name, value in row.items() if isinstance(value, int | float | str) and name != "case"}
    figures = (f"{name} {value if isinstance(value, str) else format(value, '.4g')}" for name, value in shown.items())
    return f"  {row['case']:32} {', '.join(figures)}"


def whole(rows: Sequence[Row], rehearse: bool) -> dict[str, Any]:
    """What is written: the rows with device, machine, versions, commit and day."""
    cuda = torch.cuda.is_available()
    here = {"device": torch.cuda.get_device_name() if cuda else None, "cuda": torch.version.cuda, "rehearsal": rehearse}
    try:
        at = commit()
    except (OSError, subprocess.CalledProcessError):
        at = "no git checkout"
    today = datetime.date.today().isoformat()
    return here | {"machine": machine(), "commit": at, "date": today, "rows": list(rows)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=Path("gpu.json"), help="JSON file (default: gpu.json)")
    parser.add_argument("--rehearse", action="store_true", help="a tiny model, with or without a GPU")
    parts = list(dict.fromkeys(case.part for case in CASES))
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="some of the parts")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not options.rehearse:
        print("no CUDA device: nothing measured (--rehearse runs everything on a tiny model)", file=sys.stderr)
        return 1
    rows: list[Row] = []
    for case in rehearsal() if options.rehearse else CASES:
        if case.part in options.only:
            rows.append(measure(case, options.rehearse))
            print(described(rows[-1]), flush=True)
            options.out.write_text(json.dumps(whole(rows, options.rehearse), indent=1) + "\n", encoding="utf-8")
    return 1 if any("failed" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
