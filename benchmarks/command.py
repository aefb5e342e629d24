"""What the commands that train the runs of a plan have in common: options, errors, exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.training import refuse_changes
from pit_ray.errors import InfraError, PitRayError

ROOT = Path(__file__).parents[1]


def run_command(
    parser: argparse.ArgumentParser,
    plan: str,
    work: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None,
) -> int:
    """Parses the arguments, with a plan in benchmarks/ as the default, does the work, and returns the exit code: 2 what
    the user can put right, 1 a failure of the machine, 130 an interruption."""
    parser.add_argument("--plan", type=Path, default=ROOT / "benchmarks" / plan)
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of what is written")
    parser.add_argument("--allow-dirty", action="store_true", help="run with changes that are in no commit")
    options = parser.parse_args(arguments)
    try:
        if not options.allow_dirty:
            refuse_changes(ROOT)
        work(options)
    except PitRayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, InfraError) else 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    return 0
