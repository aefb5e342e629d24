"""Rows of .json and .jsonl files, plain or gzipped, each with its place in the file for error messages."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pit_ray.errors import DataError

JSON_FILES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")

Row = dict[str, Any]


def json_rows(path: Path, holding: str) -> Iterator[tuple[str, Row]]:
    """(place, row) of a JSON list or of JSON lines, whatever the name says; `holding` says in errors what a row should
    be. Parsed here and not by `datasets`, which loses the line numbers of errors and turns text that looks like a date
    into one. DataError names file and line."""
    number, rows = 0, 0
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not rows and line.lstrip(b"\xef\xbb\xbf \t\r").startswith(b"["):
                    for row, value in enumerate(_parse(path, line + file.read(), number)):
                        yield _row(f"{path}, row {row} (from 0)", value, holding)
                    return
                if line.strip():
                    rows += 1
                    yield _row(f"{path}, line {number}", _parse(path, line, number), holding)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read after line {number}: {error}") from error


def _parse(path: Path, raw: bytes, line: int) -> Any:
    """The JSON value that `raw` holds, of which the first line has the number `line`."""
    try:
        return json.loads(raw.decode("utf-8-sig").rstrip())  # so that the end is not on a line of its own
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line += before.count(b"\n")
        wrong = f"not UTF-8 at its byte {error.start - before.rfind(10)} (0x{error.object[error.start]:02x})"
    except json.JSONDecodeError as error:
        line += error.lineno - 1
        wrong = f"not valid JSON: {error.msg} at character {error.colno}"
    except (ValueError, RecursionError) as error:  # a number too long, or lists too deep
        wrong = f"not JSON that can be read: {error}"
    raise DataError(f"{path}, line {line}: {wrong}")


def _row(where: str, value: Any, holding: str) -> tuple[str, Row]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object with {holding}, found {value!r:.60}")
    return where, value
