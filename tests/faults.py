"""`make faults`: one fault after another in a short run on the real engines; what each cost goes to results/faults.md.

One run is left undisturbed. Each fault then strikes a run that begins where PPO of the policy does, and the result must
equal the undisturbed run's to the bit. Seconds to recover are those from the fault to the next step that is done, less
what a step takes. Exit code 1 when a result differs.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pit_ray.run_folder import environment, write_text
from pit_ray.tracking import read_metrics
from tests.chaos import RECIPE
from tests.disturbed import Disturbed, before, differences

PAGE = Path(__file__).parents[1] / "results" / "faults.md"
STAGE = "ppo_policy"


INTRODUCTION = """# Faults

What `make faults` measured on the recipe of `make chaos` (a vLLM worker, two DeepSpeed ranks with ZeRO-2, CPUs). Each
fault strikes a run after a step of PPO. Lost is what differs from an undisturbed run's result, to the bit. The seconds
are mostly those that engines and processes take to start.
"""


@dataclass(frozen=True)
class Fault:
    """Something that befalls a run in PPO."""

    what: str
    how: str
    strike: Callable[[Disturbed], None]
    overrides: tuple[str, ...] = ()
    again: bool = False
    """Whether the driver ends with it, and the same command is given again."""


def send(role: str, number: int) -> Callable[[Disturbed], None]:
    """Sends a signal to a process of a role."""
    return lambda run: run.victims(role)[-1].send_signal(number)


FAULTS = (
    Fault("a rollout worker dies", "`kill -9`", send("rollout", signal.SIGKILL)),
    Fault("the reward scorer dies", "`kill -9`", send("reward", signal.SIGKILL)),
    Fault("the reference scorer dies", "`kill -9`", send("reference", signal.SIGKILL)),
    Fault("a learner rank dies", "`kill -9`", send("learner", signal.SIGKILL)),
    Fault(
        "a rollout worker hangs", "`kill -STOP`; `actors.faults.silence=20`", send("rollout", signal.SIGSTOP),
        ("actors.faults.silence=20",),
    ),
    Fault("the driver dies", "`kill -9`; the same command again", send("driver", signal.SIGKILL), again=True),
    Fault("the driver is told to stop", "SIGTERM; the same command again", send("driver", signal.SIGTERM), again=True),
)  # fmt: skip


def measure(fault: Fault, recipe: Path, calm: Path, run: Path) -> tuple[float, list[str]]:
    """Seconds to recover, and what differs afterwards."""
    before(STAGE, calm, run)
    disturbed = Disturbed(recipe, run, *fault.overrides)
    disturbed.start()
    disturbed.wait_for(f"{STAGE}   policy      1/")
    struck = time.time()
    fault.strike(disturbed)
    if fault.again:
        disturbed.end()
        disturbed.start()
    code = disturbed.end()
    if code:
        raise RuntimeError(f"{fault.what}: the run ended with {code}:\n{disturbed.said[-4000:]}")
    after = [record for record in read_metrics(run) if record["time"] > struck]
    step = float(np.median([record["time/step"] for record in after]))
    return after[0]["time"] - struck - step, differences(run, calm)


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="pit-ray-faults-"))
    recipe, calm = folder / "recipe.yaml", folder / "calm"
    recipe.write_text(RECIPE)
    undisturbed = Disturbed(recipe, calm)
    undisturbed.start()
    if undisturbed.end():
        raise RuntimeError(undisturbed.said[-4000:])
    rows, wrong = [], 0
    for number, fault in enumerate(FAULTS):
        seconds, differ = measure(fault, recipe, calm, folder / f"run-{number}")
        wrong += bool(differ)
        rows.append(f"| {fault.what} | {fault.how} | {', '.join(differ) or 'nothing'} | {seconds:.0f} |")
        print(rows[-1], flush=True)
    here = environment()
    where = f"Commit {here['commit']}, {here['machine']['cpus']} CPUs, {time.strftime('%Y-%m-%d')}."
    table = "\n".join(["| fault | how it was made | lost | seconds to recover |", "|---|---|---|---|", *rows])
    write_text(PAGE, f"{INTRODUCTION}\n{where}\n\n{table}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
