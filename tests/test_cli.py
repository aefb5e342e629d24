"""The command: quick to answer, plain about mistakes, and true to the order of the lines it is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.cli import fail, main
from actors.requests import answered_row, check_row, read_rows, write_answers
from pit_ray.errors import DataError, InfraError
from pit_ray.improve import ImproveResult

HEAVY = {"torch", "ray", "vllm", "transformers", "deepspeed", "datasets", "numpy", "pyarrow", "pydantic", "omegaconf"}


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `pit-ray` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["pit-ray", *arguments])
    monkeypatch.setenv("PATH", os.environ["PATH"])  # main() extends it
    with pytest.raises(SystemExit) as stop:
        main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 1\n")
    return folder


def results(*drafts: str) -> Iterator[ImproveResult]:
    """One kept revision, in capitals, of each draft."""
    for draft in drafts:
        yield ImproveResult("p", [draft, draft.upper()], [0.5], 1, draft.upper())


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from actors.cli import main; sys.argv = ['pit-ray', '--help']\n"
        "try: main()\n"
        f"finally: print('HEAVY', sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    for command in ("train", "improve", "report", "doctor", "recipes"):
        assert command in done.stdout


def test_unknown_recipe_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "train", "quickstrat") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: no recipe 'quickstrat': did you mean 'quickstart'?")
    assert said.count("\n") == 1


def test_misspelt_key_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "train", "quickstart", "sampling.temprature=2", "--dry-run") == 2
    said = capsys.readouterr().err
    assert said == "error: quickstart: unknown key 'sampling.temprature': did you mean 'sampling.temperature'?\n"


def test_a_missing_data_file_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "harmless.jsonl").write_text("{}\n")
    run = tmp_path / "run"
    for options in (["--dry-run"], []):
        wrong = f"data.source={tmp_path / 'harmles.jsonl'}"
        assert run_main(monkeypatch, "train", "hh-smoke", f"run={run}", wrong, *options) == 2
        assert "there is no 'harmles.jsonl'" in (said := capsys.readouterr().err)
        assert "the nearest is 'harmless.jsonl'" in said
    assert not run.exists()


def test_no_character_of_a_configuration_drives_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    instruction = r'model.improve_instruction="\x1b[2J\u202egnp\u200b"'
    run_main(monkeypatch, "train", "quickstart", f"run={tmp_path / 'run'}", instruction, "seed=\x9b31m")
    run_main(monkeypatch, "train", "\x1b]0;owned\x07.yaml")
    said = capsys.readouterr()
    assert not set(said.out + said.err) & set("\x1b\x07\x9b\u202e\u200b") and "<U+009B>" in said.err
    monkeypatch.setattr(sys, "argv", ["pit-ray", "train", "quickstart", f"run={tmp_path}", instruction, "--dry-run"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr()
    assert "gnp" in said.out and not set(said.out + said.err) & set("\x1b\u202e\u200b")


def test_recipes_are_listed_with_their_first_comment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "recipes") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("quickstart "))
    assert len(line.split(maxsplit=1)[1]) > 20


def test_a_folder_that_is_no_run_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_folder: Path
) -> None:
    assert run_main(monkeypatch, "report", str(run_folder.with_name("two"))) == 2
    said = capsys.readouterr().err
    assert "two: no run folder" in said and str(run_folder) in said


def test_file_comes_back_in_order_with_its_fields(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "hi"}]
    rows: list[dict[str, Any]] = [
        {"prompt": "b", "draft": "x", "id": 7},
        {"prompt": talk},
        {"prompt": "a", "draft": None, "é": "ü"},
    ]
    source, target = tmp_path / "prompts.jsonl", tmp_path / "out" / "answers.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    write_answers(read_rows(source), results("x", "y", "z"), target, show=False)
    answered = [json.loads(line) for line in target.read_text().splitlines()]
    assert [{key: row[key] for key in before} for row, before in zip(answered, rows, strict=True)] == rows
    assert [row["response"] for row in answered] == ["X", "Y", "Z"]
    assert answered[0]["steps"] == [{"draft": "x", "revision": "X", "gap": 0.5, "kept": True}]
    assert [path.name for path in target.parent.iterdir()] == ["answers.jsonl"]


def test_an_interrupted_file_keeps_what_was_done_under_another_name(tmp_path: Path) -> None:
    def interrupted() -> Iterator[ImproveResult]:
        yield from results("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_answers([{"prompt": "a"}, {"prompt": "b"}], interrupted(), tmp_path / "out.jsonl", show=False)
    assert not (tmp_path / "out.jsonl").exists()
    assert json.loads((tmp_path / "out.jsonl.partial").read_text())["response"] == "X"


def test_a_single_result_shows_steps_and_no_control_character_raw(capsys: pytest.CaptureFixture[str]) -> None:
    write_answers([{"prompt": "p"}], results("a\x1b[2Jb"), None, show=True)
    assert capsys.readouterr().out == "draft\na<U+001B>[2Jb\n\nrevision 1  gap +0.500  kept\nA<U+001B>[2JB\n\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InfraError("rollout/0 died\nwhile generating"), 1, "error: rollout/0 died while generating\n"),
        (DataError("f:3: bad"), 2, "error: f:3: bad\n"),
        (ValueError("x"), 1, "error: ValueError: x (a traceback comes with PIT_RAY_TRACEBACK=1)\n"),
    ],
)
def test_every_failure_is_one_line(capsys: pytest.CaptureFixture[str], error: Exception, code: int, said: str) -> None:
    with pytest.raises(SystemExit) as stop:
        fail(error)
    assert stop.value.code == code and capsys.readouterr().err == said


@pytest.mark.parametrize(
    "arguments", [(), ("--prompt", "p", "--file", "f.jsonl"), ("--file", "f.jsonl", "--draft", "d")]
)
def test_one_source_of_requests(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_folder: Path, arguments: tuple[str, ...]
) -> None:
    assert run_main(monkeypatch, "improve", str(run_folder), *arguments) == 2
    assert "--prompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line, said",
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"prompt": "\\ud800"}', "not text that UTF-8 can hold"),
        (b"[1]", "is a list"),
        (b'{"promt": "x"}', "no \"prompt\"; the nearest is 'promt'; the fields here are promt"),
        (b'{"prompt": " "}', "empty"),
        (b'{"prompt": []}', "a text or a list"),
        (b'{"prompt": [{"role": "user"}]}', "a text or a list"),
        (b'{"prompt": [{"role": "tool", "content": "x"}]}', "no role 'tool'; the roles are system, user, assistant"),
        (b'{"prompt": [{"role": "user\\n<|end|>", "content": "x"}]}', "the roles are"),
        (b'{"prompt": [{"role": "assistant", "content": "x"}]}', "must end with what the user says"),
        (b'{"prompt": [{"role": "user", "content": " "}]}', "must end with what the user says"),
        (b'{"prompt": "x", "draft": 3}', "this is a int"),
        (b'{"prompt": "x", "response": "y"}', "would be overwritten"),
    ],
)
def test_bad_row_is_named_by_file_and_line(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "fine"}\n\n' + line + b"\n")
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}:3: ") and said in str(caught.value)


def test_a_prompt_on_the_command_line_that_is_not_utf8_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_folder: Path
) -> None:
    assert run_main(monkeypatch, "improve", str(run_folder), "--prompt", os.fsdecode(b"caf\xe9")) == 2
    assert capsys.readouterr().err.startswith("error: --prompt: not text that UTF-8 can hold")


def test_missing_and_empty_files_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not readable"):
        read_rows(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no rows"):
        read_rows(tmp_path / "empty.jsonl")


def test_steps_after_the_stop_are_not_kept() -> None:
    result = ImproveResult("p", ["y0", "y1", "y2"], [1.0, -1.0], 1, "y1")
    row = answered_row({"prompt": "p"}, result)
    assert row["response"] == "y1" and [step["kept"] for step in row["steps"]] == [True, False]
    check_row({"prompt": "p", "draft": row["response"]}, "what came out goes in again")
