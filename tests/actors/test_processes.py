"""What a dead driver left is ended, known by pid and start time; what merely has such a pid is not."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from actors.processes import RECORD, on_record
from pit_ray.errors import InfraError

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STARTS_TWO = """
import subprocess, sys, time
from pathlib import Path
from actors.processes import on_record
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
with on_record(Path(sys.argv[1])):
    for _ in range(2):
        print(subprocess.Popen(sleep, start_new_session=True).pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def bystander() -> Iterator[psutil.Process]:
    """A process that no run has started."""
    with psutil.Popen(SLEEP) as process:
        yield psutil.Process(process.pid)
        process.kill()


def recorded(run: Path) -> list[int]:
    path = run / RECORD
    return [entry["pid"] for entry in json.loads(path.read_text())["processes"]] if path.is_file() else []


def write_record(run: Path, host: str, pid: int, start: float) -> None:
    (run / RECORD).write_text(json.dumps({"host": host, "processes": [{"pid": pid, "start": start}]}))


def test_what_a_killed_driver_left_is_ended_by_the_next(tmp_path: Path, bystander: psutil.Process) -> None:
    command = [sys.executable, "-c", STARTS_TWO, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        pids = [int(driver.stdout.readline()) for _ in range(2)]
        deadline = time.monotonic() + 30
        while not set(pids) <= set(recorded(tmp_path)):
            assert time.monotonic() < deadline, "the driver's processes are not on record"
            time.sleep(0.1)
        driver.kill()
    assert all(map(psutil.pid_exists, pids)), "they were to outlive their driver"
    with on_record(tmp_path):
        assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)
        assert bystander.is_running()
    assert not (tmp_path / RECORD).exists()


@pytest.mark.parametrize("other", ["start", "host"])
def test_the_same_pid_with_another_start_or_on_another_host_is_left_alone(
    tmp_path: Path, bystander: psutil.Process, other: str
) -> None:
    host, start = socket.gethostname(), bystander.create_time()
    write_record(tmp_path, "elsewhere" if other == "host" else host, bystander.pid, start - 60 * (other == "start"))
    with on_record(tmp_path):
        assert bystander.status() != psutil.STATUS_ZOMBIE
    write_record(tmp_path, host, bystander.pid, start)
    with on_record(tmp_path):
        assert bystander.status() == psutil.STATUS_ZOMBIE, "the record was not one that counts"


def test_nothing_outlives_the_block(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="something else"), on_record(tmp_path):
        child = psutil.Popen(SLEEP, start_new_session=True)
        raise InfraError("something else")
    assert child.wait(10) == -9
