"""A run on disk: numbered stages, marks of what is finished, and no two configurations in one folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from pit_ray.config.tree import Config
from pit_ray.errors import ConfigError
from pit_ray.run_folder import RunFolder, open_existing, write_json


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


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.open(config())
    before = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        folder.open(config(seed=7, sampling={"max_new_tokens": 64}))
    lines = str(refused.value).splitlines()
    assert "another configuration" in lines[0]
    assert lines[1:-1] == ["-seed: 42", "+seed: 7", "-  max_new_tokens: 128", "+  max_new_tokens: 64"]
    assert "run=FOLDER" in lines[-1]
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == before


def test_an_existing_run_is_opened_with_its_configuration(tmp_path: Path) -> None:
    started = config(seed=3, model={"path": "world:notes", "improve_instruction": "mach es besser, größer"})
    RunFolder(tmp_path).open(started)
    folder, found = open_existing(tmp_path)
    assert folder.path == tmp_path
    assert found.model_dump(exclude={"run", "tracking"}) == started.model_dump(exclude={"run", "tracking"})
    assert found.run == str(tmp_path)
    with pytest.raises(ConfigError, match="is no run folder"):
        open_existing(tmp_path / "stages")


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "summary.json"
    write_json(path, {"n": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"n": math.nan})
    assert json.loads(path.read_text(encoding="utf-8")) == {"n": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["summary.json"]
