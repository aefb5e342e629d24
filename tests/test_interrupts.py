"""One signal ends a block in good order; a second one ends the process at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pit_ray.interrupts import Interrupts

STUBBORN = """
import os, signal, sys, time
from pit_ray.interrupts import Interrupts
with Interrupts() as interrupts:
    interrupts.hold()
    print("holding", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_block_with_its_exit_code_and_leaves_the_handlers(number: int) -> None:
    before = signal.getsignal(number)
    reached = []
    with pytest.raises(SystemExit) as stop, Interrupts():
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            reached.append("cleaned up")
    assert stop.value.code == 128 + number and reached == ["cleaned up"]
    assert signal.getsignal(number) == before


def test_a_signal_that_is_held_takes_effect_where_it_is_released() -> None:
    reached = []
    with pytest.raises(SystemExit) as stop, Interrupts() as interrupts:
        interrupts.hold()
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("held")
        interrupts.release()
        reached.append("released")
    assert stop.value.code == 143 and reached == ["held"]


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once(second: int) -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "holding\n"
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(second)
        assert process.wait(10) == -second
