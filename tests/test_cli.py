"""The command: quick to answer, plain about mistakes, and true to the order of the lines it is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from actors.cli import answered_row, check_row, main, read_rows
from pit_ray.errors import DataError, InfraError
from pit_ray.improve import ImproveRequest, ImproveResult

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


@pytest.fixture
def improver(monkeypatch: pytest.MonkeyPatch) -> list[ImproveRequest]:
    """Stands in for the actors: one revision in capitals for each request; the list receives the requests."""
    seen: list[ImproveRequest] = []

    def improve(run: Path, requests: list[ImproveRequest], iterations: int | None) -> Iterator[ImproveResult]:
        for request in requests:
            if request.prompt == "die":
                raise InfraError("rollout/0 died\nwhile generating")
            seen.append(request)
            draft = request.draft or "a draft"
            yield ImproveResult(request.prompt, [draft, draft.upper()], [0.5], 1, draft.upper())

    module = ModuleType("actors.improve")
    module.improve = improve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "actors.improve", module)
    return seen


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


def test_file_comes_back_in_order_with_its_fields(
    monkeypatch: pytest.MonkeyPatch, run_folder: Path, improver: list[ImproveRequest], tmp_path: Path
) -> None:
    talk = [{"role": "user", "content": "hi"}]
    rows: list[dict[str, Any]] = [
        {"prompt": "b", "draft": "x", "id": 7},
        {"prompt": talk},
        {"prompt": "a", "draft": None, "é": "ü"},
    ]
    source = tmp_path / "prompts.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert run_main(monkeypatch, "improve", str(run_folder), "--file", str(source)) == 0
    answered = [json.loads(line) for line in (tmp_path / "prompts.improved.jsonl").read_text().splitlines()]
    assert [request.prompt for request in improver] == ["b", talk, "a"]
    assert [{key: row[key] for key in before} for row, before in zip(answered, rows, strict=True)] == rows
    assert answered[0]["response"] == "X"
    assert answered[0]["steps"] == [{"draft": "x", "revision": "X", "gap": 0.5, "kept": True}]
    assert not list(tmp_path.glob("*.partial"))


def test_single_prompt_shows_steps_and_hides_no_control_character(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run_folder: Path,
    improver: list[ImproveRequest],
) -> None:
    assert run_main(monkeypatch, "improve", str(run_folder), "--prompt", "p", "--draft", "a\x1b[2Jb") == 0
    said = capsys.readouterr().out
    assert said == "draft\na␛[2Jb\n\nrevision 1  gap +0.500  kept\nA␛[2JB\n\n"


def test_other_failures_exit_1_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run_folder: Path,
    improver: list[ImproveRequest],
) -> None:
    assert run_main(monkeypatch, "improve", str(run_folder), "--prompt", "die") == 1
    assert capsys.readouterr().err == "error: rollout/0 died while generating\n"


@pytest.mark.parametrize(
    "error, code, said", [(KeyboardInterrupt(), 130, "interrupted"), (ValueError("x"), 1, "error: ValueError: x")]
)
def test_interrupts_and_faults_of_our_own_show_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run_folder: Path,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def improve(run: Path, requests: list[ImproveRequest], iterations: int | None) -> Iterator[ImproveResult]:
        raise error

    module = ModuleType("actors.improve")
    module.improve = improve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "actors.improve", module)
    monkeypatch.delenv("PIT_RAY_TRACEBACK", raising=False)
    assert run_main(monkeypatch, "improve", str(run_folder), "--prompt", "p") == code
    spoken = capsys.readouterr().err
    assert spoken.startswith(said) and spoken.count("\n") == 1


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
        (b'{"prompt": "\\ud800"}', "not JSON"),
        (b"[1]", "is a list"),
        (b'{"promt": "x"}', 'no "prompt"; the fields here are promt'),
        (b'{"prompt": " "}', "empty"),
        (b'{"prompt": []}', "a text or a list"),
        (b'{"prompt": [{"role": "user"}]}', "a text or a list"),
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
