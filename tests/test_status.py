"""What `pit-ray status` tells of a run, at work, finished, failed and abandoned."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pit_ray import status
from pit_ray.errors import DataError
from pit_ray.events import read_events, record_event
from pit_ray.run_folder import RunFolder
from pit_ray.status import StatusWriter, describe_status


def working() -> dict[str, dict[str, Any]]:
    return {"rollout/0": {"doing": "generate", "since": time.time() - 3, "node": "n1"}}


def metrics(run: Path) -> None:
    steps = [{"stage": "ppo_policy", "phase": "policy", "step": i, "time": time.time() - 90} for i in range(4)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))


def test_a_run_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "WRITE_SECONDS", 0.05)
    metrics(tmp_path)
    record_event(tmp_path, "rollout/1 died: killed")
    with StatusWriter(RunFolder(tmp_path), working):
        time.sleep(0.2)
        said = describe_status(RunFolder(tmp_path))
    assert "running, process " in said
    assert "ppo_policy policy: 4 steps, the last 1 min 30 s ago" in said
    assert "rollout/0      generate" in said and "on n1" in said
    assert said.splitlines()[-1].endswith("rollout/1 died: killed")
    assert "finished" in describe_status(RunFolder(tmp_path))


def test_a_run_that_failed_and_one_whose_driver_died(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), StatusWriter(RunFolder(tmp_path), dict):
        raise ValueError("broken")
    assert ": failed 0.0 s ago" in describe_status(RunFolder(tmp_path))
    with StatusWriter(RunFolder(tmp_path), dict):
        left = json.loads((tmp_path / status.FILE).read_text())
    (tmp_path / status.FILE).write_text(json.dumps(left | {"time": time.time() - 3600}))
    assert "has not been heard of for 1 h 00 min" in describe_status(RunFolder(tmp_path))


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run has been started here"):
        describe_status(RunFolder(tmp_path))


def test_events_are_masked_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    record_event(tmp_path, "fetching https://me:hunter22@example.com failed")
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": 1, "te')
    (event,) = read_events(tmp_path)
    assert "hunter22" not in event["text"]


def test_what_a_model_wrote_cannot_drive_a_terminal(tmp_path: Path) -> None:
    with StatusWriter(RunFolder(tmp_path), dict):
        record_event(tmp_path, "odd \x1b[31m name")
        assert "\x1b" not in describe_status(RunFolder(tmp_path))
