"""`make faults`: one fault after another in a short run on the real engines; what each cost goes to results/faults.md.

One run is left undisturbed. Each fault then strikes a run that begins where PPO of the policy does, and the result must
equal the undisturbed run's to the bit. Then the tests whose faults befall machines are run, which add their rows; those
that need root and hosts of their own are skipped without them. Exit code 1 when a result differs or a test fails.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pit_ray.run_folder import environment, write_text
from tests.chaos import RECIPE
from tests.disturbed import TABLE, Disturbed, before, differences, recovery, tell_cost

PAGE = Path(__file__).parents[1] / "results" / "faults.md"
STAGE = "ppo_policy"
HEAD = "| fault | how it was made | lost | seconds to recover |\n|---|---|---|---|\n"
TESTS = ("tests/actors/test_nodes.py::test_a_node_lost_and_another_come", "tests/actors/cluster/test_onprem.py")


INTRODUCTION = """# Faults

What `make faults` measured. Each fault strikes a run on the real engines after a step of PPO. Lost is what differs from
an undisturbed run's result, to the bit. Seconds to recover: from the fault to the next step that was done, less what a
step takes; mostly what engines and processes take to start on two cores. On GPUs and with large models it is the time
to load them. With processes as victims: the recipe of `make chaos` (a vLLM worker, two DeepSpeed ranks with ZeRO-2).
With nodes and hosts: two vLLM workers and two ranks with ZeRO-3 on three of them.
"""
ENDINGS = """## What a run ends on

With one error that names the cause; what was written stays, and the same command goes on once there is room again.

| fault | how it is made in the test | test |
|---|---|---|
| the disk is full | writes fail with ENOSPC | `tests/in_process/test_faults.py`, `tests/test_run_folder.py` |
| the object store of a run vanishes | its server ends between two steps | `tests/in_process/test_stored_run.py` |
| a checkpoint is cut off or damaged | its files are changed: the one before is taken | `tests/test_checkpoint.py` |
| a call takes longer than its deadline | an actor that never answers | `tests/actors/test_supervisor.py` |
| more faults than the budget | an actor that dies each time | `tests/actors/test_supervisor.py` |
| two drivers on a run | the second is refused | `tests/test_run_folder.py`, `tests/in_process/test_stored_run.py` |

And what a run takes without a pause: a full object store of Ray, which spills to disk (`tests/actors/test_nodes.py`),
and a prompt that an engine fails on, which is set aside (`tests/actors/test_supervisor.py`).
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


def measure(fault: Fault, recipe: Path, calm: Path, run: Path) -> bool:
    """Adds the fault to the table; whether the result is the undisturbed run's."""
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
    differ = differences(run, calm)
    tell_cost(fault.what, fault.how, recovery(run, struck), differ)
    return not differ


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="pit-ray-faults-"))
    recipe, calm = folder / "recipe.yaml", folder / "calm"
    recipe.write_text(RECIPE)
    undisturbed = Disturbed(recipe, calm)
    undisturbed.start()
    if undisturbed.end():
        raise RuntimeError(undisturbed.said[-4000:])
    table = folder / "table"
    os.environ[TABLE] = str(table)
    well = True
    for number, fault in enumerate(FAULTS):
        well &= measure(fault, recipe, calm, folder / f"run-{number}")
        print(table.read_text().splitlines()[-1], flush=True)
    well &= pytest.main(["-m", "slow or cluster", *TESTS]) == 0
    here = environment()
    where = f"Commit {here['commit']}, {here['machine']['cpus']} CPUs, {time.strftime('%Y-%m-%d')}."
    write_text(PAGE, f"{INTRODUCTION}\n{where}\n\n{HEAD}{table.read_text()}\n{ENDINGS}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
