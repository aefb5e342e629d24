"""What a run cannot do is refused before Ray starts, a model is loaded or a run folder is made."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.cli import main
from actors.compose import check, deploy, describe, train
from actors.placement import machine_resources
from actors.ray_session import check_machines
from pit_ray.config import Config, load_config
from pit_ray.data.worlds import base_folder
from pit_ray.errors import ConfigError, DataError, PitRayError
from pit_ray.run_folder import RunFolder

ROW = {"prompt": "tell anna about the lamp", "chosen": "dear anna , here is the lamp .", "rejected": "no ."}


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def rows_file(folder: Path, count: int = 900, **changes: Any) -> Path:
    path = folder / "rows.jsonl"
    rows = (ROW | changes | {"prompt": f"{ROW['prompt']} {i}"} for i in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def quickstart(run: Path, *overrides: str) -> Config:
    return load_config("quickstart", [f"run={run}", *overrides])


def refused(config: Config) -> str:
    """What training says, which must be said before a run folder is made."""
    with pytest.raises(PitRayError) as caught:
        train(config)
    assert not Path(config.run).exists()
    return str(caught.value)


@pytest.mark.parametrize("recipe", ["quickstart", "hh-smoke"])
def test_what_can_run_passes(recipe: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(ROW | {"prompt": f"what is {i}"}) + "\n" for i in range(900)))
    source = [f"data.source={rows}"] if recipe == "hh-smoke" else []
    check(load_config(recipe, [f"run={tmp_path / 'run'}", *source]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]


def test_more_workers_than_this_machine_holds_are_refused_with_both_numbers(tmp_path: Path) -> None:
    cpus = machine_resources()["CPU"]
    said = refused(quickstart(tmp_path / "run", f"actors.rollout.workers={4 * int(cpus)}"))
    assert f"CPUs, this machine has {cpus:g}; lower actors.rollout.workers" in said
    assert "needs 64 GPUs, this machine has" in refused(quickstart(tmp_path / "run", "actors.rollout.gpus=64"))


def test_a_dry_run_shows_the_data_and_what_each_stage_will_do(tmp_path: Path) -> None:
    rows = [*(ROW | {"prompt": f"question {i}"} for i in range(40)), ROW | {"chosen": ""}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = describe(quickstart(
        tmp_path / "run", f"data.source={path}", "data.pairs=null", "data.held_out=6", "data.validation=4",
        "model.path=null", "model.from_scratch={}", f"ready.ppo_policy={base_folder('notes')}", "sft.epochs=3",
    ))  # fmt: skip
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert f"data: 40 pairs from {path}, form: " in said and "; skipped 1 (empty response)" in said
    assert "splits: sft 10, reward 10, rl 10, validation 4, held_out 6" in lines
    assert "sft_policy 1 steps of 64 pairs; but its split has only 10, so pairs repeat within a step" in lines
    assert f"ppo_policy given: {base_folder('notes')}" in lines
    assert any(line.startswith("ppo_improver 20 steps of 128 rollouts (annotated 8, on_policy 12)") for line in lines)


def test_a_dry_run_shows_the_plan_and_then_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["pit-ray", "train", "quickstart", f"run={tmp_path / 'run'}", "actors.rollout.gpus=64", "--dry-run"]
    monkeypatch.setattr("sys.argv", command)
    monkeypatch.setenv("PATH", os.environ["PATH"])  # main() extends it
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert "rollout/0" in out and "needs 64 GPUs, this machine has" in err


def test_a_cluster_is_joined_only_when_its_authentication_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quickstart(tmp_path / "run", "actors.rollout.workers=400")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert "RAY_AUTH_MODE is not set" in refused(config)
    for mode in ("token", "disabled"):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        check_machines(config)


def test_every_fault_of_a_data_file_is_said_before_anything_starts(tmp_path: Path) -> None:
    path, run = rows_file(tmp_path), tmp_path / "run"
    source, small = f"data.source={path}", "data.held_out=5"
    lines = path.read_text().splitlines()
    check(quickstart(run, source, small, "data.validation=5"))
    path.write_text("\n".join([*lines[:6], lines[6][:-3], *lines[7:]]))
    assert f"{path}, line 7: not valid JSON" in refused(quickstart(run, source))
    path.write_text("\n".join(lines).replace('"chosen"', '"choosen"'))
    assert "no column 'chosen'; the nearest is 'choosen'" in refused(quickstart(run, source))
    path.write_text("")
    assert f"{path}: holds no rows" in refused(quickstart(run, source))
    path.write_text("\n".join(lines[:20]))
    assert "too few pairs to split: 20 usable pairs" in refused(quickstart(run, source))
    rows_file(tmp_path, chosen=ROW["rejected"])
    assert "equal responses: 900" in refused(quickstart(run, source))
    rows_file(tmp_path, count=1100)
    assert "no pair is left of" in refused(quickstart(run, source, "data.lengths.response.max_tokens=2"))


def test_a_row_that_must_not_be_too_long_is_named(tmp_path: Path) -> None:
    source, small = f"data.source={rows_file(tmp_path, count=1100)}", "data.lengths.response.max_tokens=6"
    said = refused(quickstart(tmp_path / "run", source, small, "data.lengths.response.policy=error"))
    assert "has 8 tokens, more than data.lengths.response.max_tokens = 6" in said and "uid" in said


def test_a_world_must_make_enough_pairs_that_fit(tmp_path: Path) -> None:
    assert "too few pairs to split: 700" in refused(quickstart(tmp_path / "run", "data.pairs=700"))
    few = "data.lengths.prompt.max_tokens=3"
    assert "prompt longer than data.lengths.prompt.max_tokens = 3" in refused(quickstart(tmp_path / "run", few))


def test_a_base_model_that_is_not_there_or_no_model_is_refused(tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "models" / "chat"
    said = refused(quickstart(run, f"model.path={model}"))
    assert said.startswith(f"model.path: '{model}' is no folder: there is no 'models' in {tmp_path}")
    shutil.copytree(base_folder("notes"), model)
    check(quickstart(run, f"model.path={model}"))
    assert "the nearest is 'chat'" in refused(quickstart(run, f"model.path={model.with_name('chatt')}"))
    assert "did you mean 'world:notes'" in refused(quickstart(run, "model.path=world:note"))
    (model / "tokenizer.json").unlink()
    assert "no tokenizer could be loaded" in refused(quickstart(run, f"model.path={model}"))
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "pytorch_model.bin is no substitute" in refused(quickstart(run, f"model.path={model}"))
    (model / "config.json").unlink()
    assert "has no config.json" in refused(quickstart(run, f"model.path={model}"))


def test_a_name_under_a_folder_that_exists_is_never_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "my-chat").mkdir(parents=True)
    said = refused(quickstart(tmp_path / "run", "model.path=models/my-chatt"))
    assert "there is no 'my-chatt' in" in said and "the nearest is 'my-chat'" in said


def test_a_ready_model_is_looked_at_before_anything_starts(tmp_path: Path) -> None:
    base = base_folder("notes")
    said = refused(quickstart(tmp_path / "run", f"ready.reward={base}"))
    assert said.startswith(f"ready.reward: '{base}' has no trained reward head")
    with pytest.raises(DataError, match=r"^ready\.gap_reward: 'nowhere' is no folder"):
        describe(quickstart(tmp_path / "run", "ready.gap_reward=nowhere"))


def test_a_run_folder_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for run in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"^run: .*file is no folder"):
            check(quickstart(run))


@pytest.mark.parametrize("name", ["x" * 9000, "./" + "x" * 9000, "~nobody-here/x", r"\0", "", " "])
def test_what_cannot_be_a_path_is_refused_by_its_key(tmp_path: Path, name: str) -> None:
    for key in ("model.path", "ready.reward", "data.source"):
        said = refused(quickstart(tmp_path / "run", f'{key}="{name}"'))
        assert len(said) < 1000, said
    for recipe in ("x" * 9000, "x" * 9000 + ".yaml", "\0"):
        with pytest.raises(ConfigError, match="no recipe"):
            load_config(recipe)
    if name.startswith("x"):
        with pytest.raises(ConfigError, match=r"^run: "):
            check(load_config("quickstart", [f"run={name}"]))


def test_ray_is_not_started_until_an_actor_is_needed(tmp_path: Path) -> None:
    deploy(quickstart(tmp_path), RunFolder(tmp_path), print).close()
    assert not ray.is_initialized()


def test_adapters_for_layers_that_the_model_lacks_are_refused_with_the_nearest(tmp_path: Path) -> None:
    said = refused(quickstart(tmp_path / "run", "model.lora={targets: [q_proj, up_prj]}"))
    assert "model.lora.targets: 'up_prj' is no linear layer" in said and "the nearest is 'up_proj'" in said


def test_adapters_are_switched_on_by_one_key(tmp_path: Path) -> None:
    config = quickstart(tmp_path / "run", "model.lora.rank=8")
    assert config.model.lora is not None and config.model.lora.rank == 8
    check(config)
