"""A run on disk: numbered stages, marks of what is finished, and no two configurations in one folder."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pit_ray.config.tree import Config
from pit_ray.errors import ConfigError, DataError, InfraError
from pit_ray.run_folder import RunFolder, open_existing, write_json, writing


def config(**changes: Any) -> Config:
    plain = {"data": {"source": "world:notes", "pairs": 100}, "model": {"path": "world:notes"}}
    return Config.model_validate(plain | changes)


def test_stages_are_numbered_as_they_come_and_keep_their_number(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    names = ["data", "gap_reward", "reward"]
    first = [folder.stage(name) for name in names]
    assert [path.name for path in first] == ["00-data", "01-gap_reward", "02-reward"]
    assert [RunFolder(tmp_path).stage(name) for name in reversed(names)] == first[::-1]
    assert all(path.is_dir() for path in first)
    assert folder.model("reward") == tmp_path / "stages" / "02-reward" / "model"


def test_a_stage_is_finished_once_it_is_marked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.seconds("data") is None
    folder.finish("data", 12.34567)
    assert RunFolder(tmp_path).seconds("data") == pytest.approx(12.346)
    assert folder.seconds("reward") is None


def test_a_run_is_made_once_and_resumed_afterwards(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "one")
    assert folder.open(config()) is False
    written = yaml.safe_load((folder.path / "config.yaml").read_text(encoding="utf-8"))
    assert written["data"]["pairs"] == 100
    assert written["ppo_policy"]["gae_lambda"] == 0.95
    environment = json.loads((folder.path / "environment.json").read_text(encoding="utf-8"))
    assert environment["packages"]["torch"]
    assert environment["python"].startswith("3.")
    assert folder.open(config()) is True


def test_where_a_run_lies_and_how_it_is_watched_may_change(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.open(config(run="runs/a"))
    assert folder.open(config(run="elsewhere", tracking={"wandb": False, "console": "plain"})) is True


def test_what_decides_nothing_about_the_result_is_kept_as_it_was_said_last(tmp_path: Path) -> None:
    for cpus in (0.3, 0.5):
        RunFolder(tmp_path).open(config(actors={"rollout": {"cpus": cpus}}))
        assert open_existing(tmp_path)[1].actors.rollout.cpus == cpus


def test_a_key_that_came_after_the_run_has_its_default(tmp_path: Path) -> None:
    RunFolder(tmp_path).open(config())
    path = tmp_path / "config.yaml"
    older = yaml.safe_load(path.read_text(encoding="utf-8"))
    del older["tripost"], older["evaluation"]["temperature"]
    path.write_text(yaml.safe_dump(older), encoding="utf-8")
    assert RunFolder(tmp_path).open(config()) is True
    path.write_text(yaml.safe_dump(older), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"another configuration: tripost\.iterations: 3 in the run, 1 now"):
        RunFolder(tmp_path).open(config(tripost={"iterations": 1}))


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.open(config())
    before = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        folder.open(config(seed=7, sampling={"max_new_tokens": 64}, ready={"reward": "models/reward"}))
    assert str(refused.value) == (
        f"{tmp_path} holds a run with another configuration: seed: 42 in the run, 7 now, "
        "sampling.max_new_tokens: 128 in the run, 64 now, "
        'ready.reward: null in the run, "models/reward" now; '
        "give another run=FOLDER, or the configuration it was started with"
    )
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == before


@pytest.mark.parametrize("content", ["", "- a", "seed: [", "\x00", "[" * 1500])
def test_a_damaged_configuration_is_named(tmp_path: Path, content: str) -> None:
    RunFolder(tmp_path).open(config())
    (tmp_path / "config.yaml").write_text(content)
    for use in (lambda: open_existing(tmp_path), lambda: RunFolder(tmp_path).open(config())):
        with pytest.raises(ConfigError, match=r"config\.yaml: damaged: "):
            use()


def test_an_existing_run_is_opened_with_its_configuration(tmp_path: Path) -> None:
    started = config(seed=3, model={"path": "world:notes", "improve_instruction": "mach es besser, größer"})
    RunFolder(tmp_path).open(started)
    folder, found = open_existing(tmp_path)
    assert folder.path == tmp_path
    assert found.model_dump(exclude={"run", "tracking"}) == started.model_dump(exclude={"run", "tracking"})
    assert found.run == str(tmp_path)
    with pytest.raises(DataError, match="no run folder"):
        open_existing(tmp_path / "stages")


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "summary.json"
    write_json(path, {"n": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"n": math.nan})
    assert json.loads(path.read_text(encoding="utf-8")) == {"n": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["summary.json"]


WORKS_ON = """
import sys
from pit_ray.run_folder import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_driver_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", WORKS_ON, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with first:
        assert first.stdout is not None and first.stdout.readline() == "locked\n"
        with pytest.raises(ConfigError) as refused, RunFolder(tmp_path).locked():
            pytest.fail("both work on it")
        said = str(refused.value)
        assert f"process {first.pid} on {socket.gethostname()}" in said and "run=FOLDER" in said
        first.kill()
    with RunFolder(tmp_path).locked():
        assert f"process {os.getpid()} " in (tmp_path / "lock").read_text()


def limited(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """Runs code in a process that cannot write a file of more than 64 KiB, as on a disk that is full after that."""
    start = "import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
    command = [sys.executable, "-c", start + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_what_cannot_be_written_is_named_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"n": 1})
    code = f"""
import sys
from pathlib import Path
from pit_ray.errors import InfraError
from pit_ray.run_folder import write_text
try:
    write_text(Path(sys.argv[1]), "x" * {2**21})
except InfraError as error:
    print(error)
"""
    done = limited(code, path)
    assert done.stdout.startswith(f"{path} cannot be written: File too large"), done.stderr
    assert json.loads(path.read_text(encoding="utf-8")) == {"n": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]
    with pytest.raises(InfraError, match=f"{path / 'more'} cannot be written: "):
        write_json(path / "more", {})


@pytest.mark.parametrize("write", ["torch.save(big, path)", "save_file(big, path)", "pq.write_table(table, path)"])
def test_a_full_disk_is_named_whoever_writes(tmp_path: Path, write: str) -> None:
    path = tmp_path / "file"
    code = f"""
import sys
import pyarrow as pa, pyarrow.parquet as pq, torch
from pathlib import Path
from safetensors.torch import save_file
from pit_ray.errors import InfraError
from pit_ray.run_folder import writing
path = Path(sys.argv[1])
big, table = {{"a": torch.rand(100_000)}}, pa.table({{"a": torch.rand(100_000).numpy()}})
try:
    with writing(path):
        {write}
except InfraError as error:
    print(error)
"""
    done = limited(code, path)
    assert done.stdout.startswith(f"{path} cannot be written: "), done.stderr


def test_an_error_that_is_not_about_writing_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), writing(tmp_path):
        raise RuntimeError("shapes do not match")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes nothing, also from root."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o555)
        yield folder
        return
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    if shutil.which("mount") is None or (done := subprocess.run(mount, capture_output=True, text=True)).returncode:
        pytest.skip(f"root may write everywhere, and mounting is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_takes_nothing_is_named_before_anything_else(read_only: Path) -> None:
    refused = pytest.raises(InfraError, match=rf"{read_only / 'run'}\S* cannot be written: ")
    with refused, RunFolder(read_only / "run").locked():
        pytest.fail("it took the lock")


def test_a_run_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = pytest.raises(InfraError, match=rf"{tmp_path / 'file'}/run\S* cannot be written: Not a directory")
    with refused, RunFolder(tmp_path / "file" / "run").locked():
        pytest.fail("it took the lock")
