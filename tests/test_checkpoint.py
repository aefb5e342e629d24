"""Checkpoints: whole or not there, damaged ones passed over and named, the newest few and the best kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pit_ray.checkpoint import BEST, MANIFEST, Checkpoints, StoredCheckpoints, fault
from pit_ray.errors import InfraError
from pit_ray.store import store_of

CONTENT = {"learner/rank-0.pt": b"\x00\x01" * 500, "model/config.json": b"{}", "state.json": b"{}"}


def write(checkpoints: Checkpoints, name: str, phase: int = 0, score: float | None = None) -> Path:
    with checkpoints.write(name, phase, score) as folder:
        for file, content in CONTENT.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_bytes(content)
    return checkpoints.folder / name


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(entry.name for entry in checkpoints.folder.iterdir())


def test_the_newest_is_found_with_what_was_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.newest(pytest.fail) is None
    for step in (9, 10, 200):
        write(checkpoints, f"step-{step:06d}")
    newest = checkpoints.newest(pytest.fail)
    assert newest == checkpoints.folder / "step-000200"
    assert {file: (newest / file).read_bytes() for file in CONTENT} == CONTENT
    assert names(checkpoints) == ["step-000010", "step-000200"]


def test_the_manifest_holds_what_sha256sum_says(tmp_path: Path) -> None:
    folder = write(Checkpoints(tmp_path, keep=1), "step-000001")
    files = json.loads((folder / MANIFEST).read_text())["files"]
    assert {name: entry["size"] for name, entry in files.items()} == {n: len(c) for n, c in CONTENT.items()}
    lines = "".join(f"{entry['sha256']}  {name}\n" for name, entry in files.items())
    done = subprocess.run(["sha256sum", "--check", "--strict"], input=lines, text=True, cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("file", [*CONTENT, MANIFEST])
def test_a_damaged_one_is_passed_over_and_named(tmp_path: Path, file: str, damage) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    sound, damaged = write(checkpoints, "step-000001"), write(checkpoints, "step-000002")
    damage(damaged / file)
    said: list[str] = []
    assert checkpoints.newest(said.append) == sound
    (line,) = said
    assert "passed over" in line and str(damaged) in line and (file in line or file == MANIFEST)


def test_one_that_was_not_finished_is_passed_over_and_said(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    sound = write(checkpoints, "step-000001")
    checkpoints.part.mkdir()
    (checkpoints.part / "state.json").write_bytes(b"{")
    said: list[str] = []
    assert checkpoints.newest(said.append) == sound
    assert len(said) == 1 and "not finished" in said[0]
    assert write(checkpoints, "step-000002") == checkpoints.newest(pytest.fail)


def test_a_damaged_one_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    write(checkpoints, "step-000001")
    flip(write(checkpoints, "step-000002") / "state.json")
    again = write(checkpoints, "step-000002")
    assert checkpoints.newest(pytest.fail) == again
    assert names(checkpoints) == ["step-000001", "step-000002"]


def test_the_best_of_the_latest_phase_is_kept_beside_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    kept = []
    for step, (phase, score) in enumerate([(0, 1.0), (0, 9.0), (0, 2.0), (1, -3.0), (1, -5.0), (1, -4.0)], start=1):
        write(checkpoints, f"step-{step:06d}", phase, score)
        kept.append(((checkpoints.folder / BEST).resolve().name, names(checkpoints)[1:]))
    one, two, three, four, five, six = (f"step-{step:06d}" for step in range(1, 7))
    assert kept == [
        (one, [one]), (two, [two]), (two, [two, three]), (four, [four]), (four, [four, five]), (four, [four, six]),
    ]  # fmt: skip


def test_what_cannot_be_written_leaves_the_ones_before_and_no_part(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    sound = write(checkpoints, "step-000001")
    full = pytest.raises(InfraError, match=rf"{tmp_path}.* cannot be written: No space left")
    with full, checkpoints.write("step-000002") as folder:
        (folder / "state.json").write_bytes(b"{}")
        raise OSError(28, "No space left on device")
    assert checkpoints.newest(pytest.fail) == sound
    assert names(checkpoints) == ["step-000001"]


KILLED = """
import sys
from pathlib import Path
from pit_ray.checkpoint import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]), keep=1)
for step in range(10**6):
    with checkpoints.write(f"step-{step:06d}", 0, float(-step % 7)) as folder:
        for name in "abcdef":
            (folder / name).write_bytes(b"%06d" % step * 1000)
    print(step, flush=True)
"""


def test_a_writer_killed_at_any_moment_loses_no_finished_checkpoint(tmp_path: Path) -> None:
    said: list[str] = []
    for round in range(5):
        writer = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "0\n"
        time.sleep(0.02 + 0.006 * round)
        os.kill(writer.pid, signal.SIGKILL)
        finished = int(["0", *writer.stdout.read().split()][-1])
        newest = Checkpoints(tmp_path, keep=1).newest(said.append)
        assert newest is not None and int(newest.name.removeprefix("step-")) >= finished
        step = int(newest.name.removeprefix("step-"))
        assert all((newest / name).read_bytes() == b"%06d" % step * 1000 for name in "abcdef")
        writer.wait()
        for entry in tmp_path.glob("step-*"):
            entry.rename(tmp_path / f"old-{round}-{entry.name}")


def test_one_that_was_never_finished_takes_no_others_place_in_a_store(
    bucket: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIT_RAY_MIRROR", str(tmp_path))
    store = store_of(bucket("runs/pruned"))
    stored = StoredCheckpoints(store.root / "checkpoints", 1, store)
    write(stored, "step-000030", score=2.0)
    write(stored, "step-000031", score=1.0)
    torn = stored.folder / "step-000033"
    torn.mkdir(parents=True)
    (torn / "state.json").write_text("{}")
    store.push(torn)
    write(stored, "step-000032", score=1.0)
    found = [name for name in store.names(stored.folder) if store.read(stored.folder / name / MANIFEST)]
    assert found == ["step-000030", "step-000032"]
    assert fault(stored.folder / "step-000032") is None  # though its manifest has sizes alone
