"""A run in an object store, moto's S3: another machine goes on where the first one died, and one alone works on it."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from pit_ray import driver, lease, status
from pit_ray.checkpoint import MANIFEST
from pit_ray.errors import ConfigError, InfraError
from pit_ray.evaluate.report_files import read_counts
from pit_ray.lease import claimed
from pit_ray.replay import replay
from pit_ray.run_folder import COUNTS, RunFolder, find_run, write_json
from pit_ray.status import StatusWriter, describe_status
from pit_ray.store import MIRROR
from tests.in_process.small_run import config_for, deployment, rollout_tables, run_to_the_end, summary, without_time
from tests.in_process.test_faults import Disturbed, die


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts us on the machine of a name; the one before, and its disk, are gone."""

    def go_to(name: str) -> None:
        if before := os.environ.get(MIRROR):
            shutil.rmtree(before, ignore_errors=True)
        monkeypatch.setenv(MIRROR, str(tmp_path / name))

    return go_to


def test_another_machine_goes_on_with_a_run(
    finished: RunFolder, bucket: Callable[[str], str], machine: Callable[[str], None]
) -> None:
    config = config_for(bucket("runs/moved"))
    for name, at in (("one", 3), ("two", 2)):
        machine(name)
        with pytest.raises(InfraError, match="learner/0 died"):
            driver.train(config, deployment(config, Disturbed, while_doing="learn", at=at, act=die))
    machine("three")
    run_to_the_end(config)
    machine("four")
    folder = find_run(config.run)
    assert "finished" in describe_status(folder)
    folder.store.pull(folder.path)
    assert replay(config, folder, "ppo_improver", 4, deployment(config))
    assert without_time(folder) == without_time(finished)
    assert rollout_tables(folder) == rollout_tables(finished)
    assert summary(folder) | {"seconds": None} == summary(finished) | {"seconds": None}
    assert (folder.path / "report.html").stat().st_size > 1000
    assert [path.name for path in folder.path.rglob("*") if ".part" in path.name] == []


def test_a_run_that_was_deleted_from_its_store_begins_anew(
    bucket: Callable[[str], str], machine: Callable[[str], None]
) -> None:
    machine("one")
    config = config_for(bucket("runs/deleted"))
    folder = RunFolder(config.run)
    assert not folder.open(config)
    (folder.stage("data") / "done.json").write_text('{"seconds": 1}')
    assert folder.open(config)
    filesystem, key = folder.store.opened(folder.path)
    filesystem.delete_dir(key)
    assert not folder.open(config), "another run of that name was gone on with"
    assert folder.seconds("data") is None


def test_what_the_stages_made_comes_with_a_run_for_its_report(
    bucket: Callable[[str], str], machine: Callable[[str], None]
) -> None:
    machine("one")
    folder, counts = RunFolder(bucket("runs/counted")), {"right": 3, "mended": 4}
    write_json(folder.stage("reward") / COUNTS, counts)
    folder.finish("reward", 1.0)
    machine("two")
    folder.bring()
    assert read_counts(folder.path) == {"reward": counts}


def test_what_a_dead_worker_has_left_does_not_go_over_what_another_has_written(
    bucket: Callable[[str], str], machine: Callable[[str], None]
) -> None:
    machine("one")
    folder = RunFolder(bucket("runs/torn"))
    model = folder.model("reward") / "model.safetensors"
    model.parent.mkdir(parents=True)
    model.write_text("whole")
    folder.store.push(model)
    model.write_text("torn")
    folder.finish("reward", 1.0)
    assert folder.store.read(model) == b"whole"


def test_a_half_written_checkpoint_does_not_count(
    finished: RunFolder,
    bucket: Callable[[str], str],
    machine: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_for(bucket("runs/half"))
    machine("one")
    with pytest.raises(InfraError, match="learner/0 died"):
        driver.train(config, deployment(config, Disturbed, while_doing="learn", at=6, act=die))
    folder = RunFolder(config.run)
    checkpoints = folder.stage("ppo_improver") / "checkpoints"
    *_, newest = [name for name in folder.store.names(checkpoints) if name.startswith("step-")]
    filesystem, key = folder.store.opened(checkpoints / newest)
    filesystem.delete_file(f"{key}/{MANIFEST}")  # as it is while the files are on their way
    machine("two")
    run_to_the_end(config)
    assert f"{newest}: its {MANIFEST} is missing" in capsys.readouterr().out
    assert without_time(RunFolder(config.run)) == without_time(finished)


def test_of_two_drivers_the_second_is_refused(
    bucket: Callable[[str], str], machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(status, "WRITE_SECONDS", 0.2)
    uri, said = bucket("runs/alone"), list[str]()
    machine("one")
    first = RunFolder(uri)
    with claimed(first, said.append), StatusWriter(first, dict):
        other: dict[str, Any] = {"host": "elsewhere", "pid": 7, "started": 0.0}
        machine("two")
        monkeypatch.setattr(lease, "this_driver", lambda: other)
        with pytest.raises(ConfigError, match=r"s3://runs/.* is being worked on by process \d+ on "):
            claimed(RunFolder(uri), said.append).__enter__()
    assert len(said) == 1 and said[0].startswith("waiting ")
    with claimed(RunFolder(uri), said.append):  # the first is done
        assert len(said) == 1


def test_a_driver_that_ends_before_it_has_begun_leaves_the_run_as_it_was(
    bucket: Callable[[str], str], machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.1)
    machine("one")
    folder = RunFolder(bucket("runs/refused"))
    with claimed(folder, print), StatusWriter(folder, dict):
        pass
    with pytest.raises(ConfigError), claimed(folder, print):
        raise ConfigError("another configuration")
    assert json.loads(folder.store.read(folder.path / status.FILE) or b"")["state"] == "finished"


def test_a_driver_whose_run_another_has_taken_writes_nothing_more(
    bucket: Callable[[str], str], machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("one")
    folder = RunFolder(bucket("runs/taken"))
    ended = threading.Event()
    monkeypatch.setattr(status, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(status.os, "_exit", lambda code: ended.set())
    with StatusWriter(folder, dict):
        taken = {"state": "running", "time": time.time(), "driver": {"host": "other", "pid": 7}, "actors": {}}
        write_json(folder.path / status.FILE, taken)
        folder.store.push(folder.path / status.FILE)
        assert ended.wait(20)


def test_a_driver_that_was_killed_is_waited_for_no_longer_than_it_could_be_silent(
    bucket: Callable[[str], str], machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(lease, "STALE_SECONDS", 1.5)
    machine("one")
    folder = RunFolder(bucket("runs/killed"))
    folder.path.mkdir(parents=True)
    dead = {"host": "gone", "pid": 7, "started": 0.0}
    left = {"state": "running", "time": time.time(), "driver": dead, "actors": {}}
    (folder.path / status.FILE).write_text(json.dumps(left))
    folder.store.push(folder.path / status.FILE)
    said = list[str]()
    with claimed(folder, said.append):
        assert time.time() - left["time"] >= 1.5
    assert "process 7 on gone may still be at work" in said[0]


def test_a_store_that_vanishes_ends_the_run_in_one_error_and_it_goes_on_later(
    finished: RunFolder, bucket: Callable[[str], str], machine: Callable[[str], None]
) -> None:
    own = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    own.start()
    host, port = own.get_host_and_port()
    away = re.sub(r"127\.0\.0\.1:\d+", f"{host}:{port}", bucket("runs/vanished"))  # the same objects
    config = config_for(away)
    machine("one")
    with pytest.raises(InfraError, match=r"s3://runs/.*: stages/\S*ppo_improver/\S* cannot be read or written there: "):
        driver.train(config, deployment(config, Disturbed, while_doing="learn", at=3, act=own.stop))
    again = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    again.start()
    machine("two")
    run_to_the_end(config)
    again.stop()
    assert without_time(RunFolder(config.run)) == without_time(finished)
