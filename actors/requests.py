"""What `pit-ray improve` is asked and answers: JSON lines that people write, and read back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pit_ray.errors import DataError, listed, nearest

if TYPE_CHECKING:
    from pit_ray.improve import ImproveResult

ANSWERS = ("response", "steps")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file of requests, in order; DataError names the file and line of the first bad one."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON: {error}") from error
        check_row(row, where)
        rows.append(row)
    if not rows:
        raise DataError(f'{path}: no rows; each line is like {{"prompt": "…", "draft": "…"}}')
    return rows


def check_row(row: Any, where: str) -> None:
    """DataError, beginning with `where`, unless `row` is a request: a prompt, maybe a draft, and other fields."""
    from pit_ray.records import ROLES

    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # half a surrogate pair can be read but not written back
        raise DataError(f"{where}: not text that UTF-8 can hold: {error.reason}") from error
    if not isinstance(row, dict):
        raise DataError(f'{where}: each line is an object like {{"prompt": "…"}}, this is a {type(row).__name__}')
    if "prompt" not in row:
        raise DataError(f'{where}: no "prompt"{nearest("prompt", row)}; the fields here are {listed(row)}')
    prompt, draft = row["prompt"], row.get("draft")
    if isinstance(prompt, str):
        if not prompt.strip():
            raise DataError(f"{where}: the prompt is empty")
    elif not (isinstance(prompt, list) and prompt and all(map(_is_message, prompt))):
        raise DataError(f'{where}: "prompt" is a text or a list of {{"role": "…", "content": "…"}}')
    elif wrong := {turn["role"] for turn in prompt}.difference(ROLES):
        raise DataError(f"{where}: no role {listed(map(repr, sorted(wrong)))}; the roles are {', '.join(ROLES)}")
    elif prompt[-1]["role"] != "user" or not prompt[-1]["content"].strip():
        raise DataError(f"{where}: the prompt must end with what the user says, its last turn is {prompt[-1]!r:.80}")
    if draft is not None and not isinstance(draft, str):
        raise DataError(f'{where}: "draft" is a text, this is a {type(draft).__name__}')
    for field in ANSWERS:
        if field in row:
            raise DataError(f'{where}: "{field}" would be overwritten by the answer; rename it (to "draft", perhaps)')


def answered_row(row: dict[str, Any], result: ImproveResult) -> dict[str, Any]:
    """`row` with the response that was kept and each step on the way, marked by whether its revision was kept; where an
    improver gives feedback, with what it said of the draft."""
    pairs = zip(result.drafts, result.drafts[1:], result.gaps, strict=False)
    steps: list[dict[str, Any]] = [
        {"draft": draft, "revision": revision, "gap": gap, "kept": number <= result.kept}
        for number, (draft, revision, gap) in enumerate(pairs, start=1)
    ]
    for step, feedback in zip(steps, result.feedback or (), strict=False):
        step["feedback"] = feedback
    return row | {"response": result.response, "steps": steps}


def write_answers(
    rows: Sequence[dict[str, Any]], results: Iterable[ImproveResult], output: Path | None, show: bool
) -> None:
    """Each row with its result to `output` as they come, under another name until all are there; shown if wanted."""
    partial = _partial(output) if output else None
    with open(partial or os.devnull, "w", encoding="utf-8") as sink:
        for row, result in zip(rows, results, strict=True):
            sink.write(json.dumps(answered_row(row, result), ensure_ascii=False) + "\n")
            sink.flush()  # whoever interrupts a long run finds what was done in the partial file
            if show:
                _show(result)
    if partial and output:
        partial.replace(output)
        typer.echo(f"{len(rows)} improved: {output}", err=True)


def _partial(output: Path) -> Path:
    """The name under which `output` is written until it is whole; DataError when it cannot be."""
    partial = output.with_name(output.name + ".partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
    except OSError as error:
        raise DataError(f"{output}: cannot be written: {error.strerror}") from error
    if output.is_dir():
        raise DataError(f"{output}: cannot be written: it is a folder")
    return partial


def _show(result: ImproveResult) -> None:
    from pit_ray.tracking import visible

    for number, text in enumerate(result.drafts):
        heading = "draft" if number == 0 else f"revision {number}"
        if number and (gap := result.gaps[number - 1]) is not None:
            heading += f"  {'score' if result.feedback else 'gap'} {gap:+.3f}"
        kept = number == result.kept
        typer.secho(heading + ("  kept" if kept else ""), bold=True, fg="green" if kept else None)
        typer.echo(visible(text) + "\n")
        if result.feedback and number + 1 < len(result.drafts):
            typer.echo(f"feedback: {visible(result.feedback[number])}\n")


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(field), str) for field in ("role", "content"))
