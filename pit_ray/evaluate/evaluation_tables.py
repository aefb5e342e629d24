"""The Parquet files of an evaluation: scores, answers, verdicts, each checked as it is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pit_ray.errors import DataError, cause, listed, short

Scores = dict[tuple[str, str], np.ndarray]
"""(system, judge) -> (n,) float64, by uid."""


class Answers(NamedTuple):
    uids: np.ndarray
    """(n,) ascending."""
    prompts: tuple[str, ...]
    """n, by uid."""
    responses: dict[str, tuple[str, ...]]
    """system -> n answers, by uid."""


class Verdict(NamedTuple):
    uids: np.ndarray
    """(m,) ascending."""
    outcome: np.ndarray
    """(m,) int8 in {−1, 0, 1}: 1 where ours was preferred."""


Verdicts = dict[tuple[str, str, str], Verdict]
"""(ours, theirs, judge) -> what was said; no pair is there in both orders."""


def read_scores(path: Path) -> tuple[np.ndarray, Scores]:
    """The uids (n,) ascending, and every judge's scores of every system it has judged. DataError unless each of these
    has exactly one finite score for every uid."""
    table = _read(path, {"uid": pa.int64(), "system": pa.string(), "judge": pa.string(), "score": pa.float64()})
    uid, score = table["uid"].to_numpy(), table["score"].to_numpy()
    uids, scores = np.unique(uid), Scores()
    for (system, judge), rows in _groups(table, "system", "judge"):
        rows = _one_each(path, f"system {system!r}, judge {judge!r}", uid, rows, uids)
        if not np.isfinite(score[rows]).all():
            bad = rows[~np.isfinite(score[rows])][0]
            raise DataError(f"{path}: row {bad} (system {system!r}, judge {judge!r}): the score is {score[bad]}")
        scores[system, judge] = score[rows]
    return uids, scores


def read_answers(path: Path, uids: np.ndarray) -> Answers | None:
    """Every system's answers to the prompts `uids` (all that the file has, where that is empty); None without such a
    file. DataError unless a uid has one prompt, and a system one answer to each."""
    if not path.is_file():
        return None
    text = pa.string()
    table = _read(path, {"uid": pa.int64(), "system": text, "prompt": text, "response": text})
    uid, prompts, responses = table["uid"].to_numpy(), table["prompt"].to_pylist(), table["response"].to_pylist()
    uids = uids if len(uids) else np.unique(uid)
    asked: dict[int, str] = {}
    for place, prompt in zip(uid.tolist(), prompts, strict=True):
        if asked.setdefault(place, prompt) != prompt:
            raise DataError(f"{path}: uid {place} has two prompts, {short(asked[place])!r} and {short(prompt)!r}")
    found: dict[str, tuple[str, ...]] = {}
    for (system,), rows in _groups(table, "system"):
        rows = _one_each(path, f"system {system!r}", uid, rows, uids)
        found[system] = tuple(responses[row] for row in rows)
    return Answers(uids, tuple(asked[place] for place in uids.tolist()), found) if found else None


def read_verdicts(path: Path, uids: np.ndarray) -> Verdicts:
    """What pairwise judges have said; {} without such a file. DataError where they speak of a prompt that is not among
    `uids`, say something else than −1, 0 or 1, or speak twice of the same two answers."""
    if not path.is_file():
        return {}
    text = pa.string()
    table = _read(path, {"uid": pa.int64(), "ours": text, "theirs": text, "judge": text, "outcome": pa.int64()})
    uid, outcome = table["uid"].to_numpy(), table["outcome"].to_numpy()
    for wrong, what in ((~np.isin(uid, uids), "uid"), (np.abs(outcome) > 1, "outcome")):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            expected = "of no prompt in outcomes.parquet" if what == "uid" else "not -1, 0 or 1"
            raise DataError(f"{path}: row {row}: {what} {table[what][row].as_py()} is {expected}")
    parts: dict[tuple[str, str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for (ours, theirs, judge), rows in _groups(table, "ours", "theirs", "judge"):
        if ours == theirs:
            raise DataError(f"{path}: row {rows[0]}: {ours!r} is compared with itself")
        turned = (theirs, ours, judge) in parts
        key = (theirs, ours, judge) if turned else (ours, theirs, judge)
        parts.setdefault(key, []).append((uid[rows], -outcome[rows] if turned else outcome[rows]))
    verdicts = Verdicts()
    for (ours, theirs, judge), found in parts.items():
        seen, said = (np.concatenate(columns) for columns in zip(*found, strict=True))
        order = np.argsort(seen, kind="stable")
        seen = seen[order]
        if len(twice := seen[1:][seen[1:] == seen[:-1]]):
            raise DataError(f"{path}: judge {judge!r} has two verdicts on {ours!r} and {theirs!r}, uid {twice[0]}")
        verdicts[ours, theirs, judge] = Verdict(seen, said[order].astype(np.int8))
    return verdicts


def _read(path: Path, columns: dict[str, pa.DataType]) -> dict[str, pa.Array]:
    """These columns of a file, as these types, without holes."""
    try:
        # A folder's name must not become a column, as a=b would.
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: {cause(error)}") from None
    if missing := [name for name in columns if name not in table.column_names]:
        raise DataError(f"{path}: has no column {missing[0]!r}; there are {listed(table.column_names)}")
    found = {}
    for name, kind in columns.items():
        try:
            found[name] = table.column(name).cast(kind).combine_chunks()
        except pa.ArrowException as error:
            raise DataError(f"{path}: column {name!r}: {cause(error)}") from None
        if found[name].null_count:
            row = found[name].is_null().index(True).as_py()
            raise DataError(f"{path}: row {row}: {name} is empty")
    return found


def _groups(table: dict[str, pa.Array], *names: str) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """The values of these columns that occur together, as they first occur, and the rows in which they do."""
    columns = [table[name].dictionary_encode() for name in names]
    if not len(columns[0]):
        return
    codes = np.ravel_multi_index([c.indices.to_numpy() for c in columns], [len(c.dictionary) for c in columns])
    _, first, group = np.unique(codes, return_index=True, return_inverse=True)
    for row, k in sorted(zip(first.tolist(), range(len(first)), strict=True)):
        yield tuple(column[row].as_py() for column in columns), np.flatnonzero(group == k)


def _one_each(path: Path, of: str, uid: np.ndarray, rows: np.ndarray, uids: np.ndarray) -> np.ndarray:
    """The rows in the order of their uid, of which there must be each once."""
    rows = rows[np.argsort(uid[rows], kind="stable")]
    if not np.array_equal(uid[rows], uids):
        found, counts = np.unique(uid[rows], return_counts=True)
        if (counts > 1).any():
            raise DataError(f"{path}: {of}: uid {found[counts > 1][0]} is there twice")
        if len(missing := np.setdiff1d(uids, found)):
            raise DataError(f"{path}: {of}: {len(missing)} of {len(uids)} prompts are missing, first uid {missing[0]}")
        raise DataError(f"{path}: {of}: uid {np.setdiff1d(found, uids)[0]} is of no prompt in outcomes.parquet")
    return rows
