"""People as judges: a blinded sheet that they fill in, and what the filled sheets say.

The sheet is a CSV file with a row for each pair of responses, in random order, sides shuffled, no system named. Which
response is whose stands in a key, a JSON file that the raters do not get; a row's id carries a digest of the key.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from pit_ray.data.randomness import generator
from pit_ray.errors import DataError, listed, nearest, no_such_path, short
from pit_ray.evaluate.raters import UNANSWERED, Judged, Rated, judged
from pit_ray.run_folder import write_json, write_text
from pit_ray.tracking import visible

TEXTS = ("prompt", "first", "second")
COLUMNS = ("id", *TEXTS, "better")
ANSWERS = {"1": 1, "2": -1, "tie": 0}
"""What a rater may write under `better`, and what it says of the response shown first."""
FORMULA = tuple("=+-@＝＋－＠")
"""What spreadsheets take for the beginning of a formula (OWASP, CSV injection)."""
AN_ID = re.compile(r"s[0-9a-f]{8}-\d+")


class Row(BaseModel):
    """A row of the sheet as the key knows it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uid: int
    """The prompt's."""
    contest: int
    """Which of the key's pairs of systems."""
    ours_first: bool
    """Whether the contest's first system is the one shown first."""
    texts: tuple[str, str, str]
    """Digests of prompt, first and second as they are shown."""


class Key(BaseModel):
    """What the sheet does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contests: tuple[tuple[str, str], ...]
    """The pairs of systems that are compared, ours first."""
    same: tuple[tuple[int, ...], ...]
    """For each contest the uids of prompts whose two responses are equal: ties that nobody is asked about."""
    rows: tuple[Row, ...]
    """In the order of the sheet."""

    def ids(self) -> list[str]:
        """Of the rows. They begin with a letter, so that no spreadsheet takes one for a number or a date."""
        digest = _digest(self.model_dump_json())[:8]
        return [f"s{digest}-{number:04}" for number in range(1, len(self.rows) + 1)]


def export_sheet(
    sheet: Path, key: Path, uid: Sequence[int], prompts: Sequence[str], systems: Mapping[str, Sequence[str]], seed: int
) -> None:
    """Writes the sheet and its key: each two of the `systems` (name -> n responses, two or more systems, ours before
    theirs) are compared on each of n prompts, in half of the rows ours first.

    A sheet that is there already is left as it is, since it may be filled in; DataError when it is not this one.
    """
    contests = tuple(combinations(systems, 2))
    key_of, texts = _drawn(uid, prompts, systems, contests, seed)
    if sheet.exists():
        if not key.exists() or _read_key(key) != key_of:
            raise DataError(f"{sheet}: is there already and may be filled in; remove it, or give another name")
        return
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for name, row in zip(key_of.ids(), texts, strict=True):
        writer.writerow([name, *(guarded(text) for text in row), ""])
    write_json(key, key_of.model_dump(mode="json"))
    write_text(sheet, "\ufeff" + out.getvalue())  # without the mark Excel does not read it as UTF-8


def _drawn(
    uid: Sequence[int],
    prompts: Sequence[str],
    systems: Mapping[str, Sequence[str]],
    contests: Sequence[tuple[str, str]],
    seed: int,
) -> tuple[Key, list[tuple[str, ...]]]:
    """The key, and the texts of each row as they are shown."""
    rows: list[Row] = []
    texts: list[tuple[str, ...]] = []
    same: list[tuple[int, ...]] = []
    for contest, (ours, theirs) in enumerate(contests):
        pairs = list(zip(uid, prompts, systems[ours], systems[theirs], strict=True))
        asked = [pair for pair in pairs if pair[2] != pair[3]]
        same.append(tuple(int(pair[0]) for pair in pairs if pair[2] == pair[3]))
        ours_first = generator(seed, "sheet", "sides", contest).permutation(len(asked)) % 2 == 0
        for (number, prompt, one, other), first in zip(asked, ours_first.tolist(), strict=True):
            row = tuple(shown(text) for text in (prompt, *((one, other) if first else (other, one))))
            digests = (_digest(row[0]), _digest(row[1]), _digest(row[2]))
            rows.append(Row(uid=int(number), contest=contest, ours_first=first, texts=digests))
            texts.append(row)
    order = generator(seed, "sheet", "order").permutation(len(rows)).tolist()
    key = Key(contests=tuple(contests), same=tuple(same), rows=tuple(rows[k] for k in order))
    return key, [texts[k] for k in order]


def read_sheets(key: Path, sheets: Sequence[Path]) -> Judged:
    """What the raters say, one sheet each; where they differ, most of them decide.

    DataError with file and line for a sheet of another key, an id that is unknown or comes twice, a text that was
    changed, or an answer other than 1, 2 and tie. Rows without an answer, or left out, are counted.
    """
    if len({sheet.resolve() for sheet in sheets}) < len(sheets):
        raise DataError(f"a sheet is given twice: {listed(sheets)}")
    known = _read_key(key)
    votes = np.array([_read_sheet(sheet, key, known) for sheet in sheets], dtype=np.int8)
    votes = votes.reshape(len(sheets), len(known.rows))
    rated = [
        Rated(ours, theirs, np.array([row.contest == c for row in known.rows], dtype=bool), known.same[c])
        for c, (ours, theirs) in enumerate(known.contests)
    ]
    uid = np.array([row.uid for row in known.rows], dtype=np.int64)
    side = np.array([1 if row.ours_first else -1 for row in known.rows], dtype=np.int8)
    return judged(rated, uid, side, votes, [str(sheet) for sheet in sheets])


def _read_key(path: Path) -> Key:
    if not path.is_file():
        raise DataError(f"{path}: {no_such_path(path)}")
    try:
        return Key.model_validate_json(path.read_bytes())
    except ValidationError:
        raise DataError(f"{path}: is no key of a sheet, or is damaged") from None


def _read_sheet(path: Path, key: Path, known: Key) -> list[int]:
    """A rater's answers, one for each row of the key: 1 where the response shown first is better, −1, 0, or
    UNANSWERED."""
    ids = known.ids()
    numbers = {name: number for number, name in enumerate(ids)}
    votes, lines = [UNANSWERED] * len(ids), dict[int, int]()
    for line, cells in _records(path):
        where, name = f"{path}, line {line}", cells["id"].strip()
        if name not in numbers:
            if AN_ID.fullmatch(name) and not (ids and name[:9] == ids[0][:9]):
                raise DataError(f"{where}: id {name!r} is of a sheet that {key} is not the key of")
            raise DataError(f"{where}: unknown id {short(name)!r}{nearest(name, ids)}")
        number = numbers[name]
        if number in lines:
            raise DataError(f"{where}: id {name!r} comes a second time, after line {lines[number]}")
        lines[number] = line
        for column, digest in zip(TEXTS, known.rows[number].texts, strict=True):
            if digest not in (_digest(cells[column]), _digest(restored(cells[column]))):
                raise DataError(f"{where}: the text under {column!r} is not the one that was to be judged")
        votes[number] = _answer(cells["better"], where)
    return votes


def _answer(cell: str, where: str) -> int:
    answer = cell.strip().lower()
    if answer and answer not in ANSWERS:
        raise DataError(f"{where}: better must be 1, 2 or tie, got {short(answer)!r}{nearest(answer, ANSWERS)}")
    return ANSWERS[answer] if answer else UNANSWERED


def _records(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The line that each row begins in, and its cells by column; rows without any text are left out."""
    if not path.is_file():
        raise DataError(f"{path}: {no_such_path(path)}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 at byte {error.start}; save it as CSV UTF-8") from None
    # Spreadsheets write what their language separates with.
    separator = next((mark for mark in ",;\t" if mark in text.partition("\n")[0]), ",")
    csv.field_size_limit(sys.maxsize)  # by default a text of 131,072 characters is an error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    begin, header = 1, list[str]()
    try:
        for record in reader:
            if not header:
                header = [name.strip().lower() for name in record]
                for column in COLUMNS:
                    if column not in header:
                        raise DataError(
                            f"{path}, line 1: no column {column!r}{nearest(column, header)}; there are {listed(header)}"
                        )
            elif any(cell.strip() for cell in record):
                yield begin, {name: "" for name in header} | dict(zip(header, record, strict=False))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {begin}: cannot be read as CSV: {error}") from None
    if not header:
        raise DataError(f"{path}: is empty")


def shown(text: str) -> str:
    """A text as the sheet shows it: no invisible characters, one kind of line end."""
    return visible(text.replace("\r\n", "\n").replace("\r", "\n"))


def guarded(text: str) -> str:
    """A text as a cell that no spreadsheet takes for a formula: with a ' in front where it looks like one."""
    return f"'{text}" if text.lstrip().startswith(FORMULA) or text.startswith("'") else text


def restored(cell: str) -> str:
    """The text behind a guarded cell."""
    return cell.removeprefix("'")


def _digest(text: str) -> str:
    """Of what stays when a spreadsheet has saved a text: it may write other line ends, and drop space around it."""
    settled = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return hashlib.sha256(settled.encode("utf-8", "surrogatepass")).hexdigest()
