"""Columnar records on disk: tokenised pairs and judged rollouts as Parquet, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pit_ray.records import Examples, Pairs, Prompts, Questions, Ragged, Rollouts
from pit_ray.run_folder import writing

DRAFT_LIMIT = b"pit_ray.draft_limit"
SHARED = b"pit_ray.shared"


def write_table(table: pa.Table, path: Path) -> None:
    """Writes under a temporary name, then renames, so that a half-written file never has the real name."""
    part = path.with_name(f".{path.name}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, part)
        os.replace(part, path)


def write_pairs(pairs: Pairs, path: Path) -> None:
    """Tokenised pairs as one row a pair."""
    columns: dict[str, Any] = {"uid": pa.array(pairs.uid)}
    for name in ("prompt", "chosen", "rejected"):
        columns[name] = list_column(getattr(pairs, name))
    limit = "" if pairs.draft_limit is None else str(pairs.draft_limit)
    write_table(pa.table(columns).replace_schema_metadata({DRAFT_LIMIT: limit}), path)


def read_pairs(path: Path) -> Pairs:
    """What `write_pairs` wrote."""
    table = pq.read_table(path)
    ragged = {name: _ragged(table.column(name)) for name in ("prompt", "chosen", "rejected")}
    limit = (table.schema.metadata or {}).get(DRAFT_LIMIT, b"").decode()
    return Pairs(uid=table.column("uid").to_numpy(), **ragged, draft_limit=int(limit) if limit else None)


def write_examples(examples: Examples, path: Path) -> None:
    """Examples of supervised fine-tuning, one row each; `read_examples` gives them back."""
    _write_columns(examples, path)


def read_examples(path: Path) -> Examples:
    """What `write_examples` wrote."""
    return Examples(**_read_columns(path, Examples))


def write_questions(questions: Questions, path: Path) -> None:
    """Tokenised questions, one row each; `read_questions` gives them back."""
    _write_columns(questions, path)


def read_questions(path: Path) -> Questions:
    """What `write_questions` wrote."""
    return Questions(**_read_columns(path, Questions))


def _write_columns(record: Examples | Questions, path: Path) -> None:
    columns = {f.name: getattr(record, f.name) for f in fields(record)}
    write_table(
        pa.table({n: list_column(c) if isinstance(c, Ragged) else pa.array(c) for n, c in columns.items()}), path
    )


def _read_columns(path: Path, kind: type[Examples | Questions]) -> dict[str, Any]:
    table = pq.read_table(path)
    found = {f.name: table.column(f.name) for f in fields(kind)}
    return {n: _ragged(c) if pa.types.is_list(c.type) else c.to_numpy() for n, c in found.items()}


def write_rollouts(rollouts: Rollouts, more: Mapping[str, np.ndarray | Ragged], path: Path) -> None:
    """Rollouts as token ids, one row a sample, with `more` columns; `read_rollouts` gives them back to the bit."""
    prompts = rollouts.prompts
    fields: dict[str, np.ndarray | Ragged] = {
        "uid": prompts.uid, "prompt": prompts.prompt, "draft": prompts.draft, "draft_source": prompts.draft_source,
        "response": rollouts.response, "logprobs": rollouts.logprobs, "finished": rollouts.finished, **more,
    }  # fmt: skip
    columns = {name: list_column(c) if isinstance(c, Ragged) else pa.array(c) for name, c in fields.items()}
    bridge = None if prompts.bridge is None else prompts.bridge.tolist()
    shared = {"bridge": bridge, "version": rollouts.version, "temperature": rollouts.temperature}
    write_table(pa.table(columns).replace_schema_metadata({SHARED: json.dumps(shared)}), path)


def read_rollouts(path: Path, more: Sequence[str]) -> tuple[Rollouts, dict[str, Any]]:
    """What `write_rollouts` wrote: the rollouts, and the columns named in `more`."""
    table = pq.read_table(path)
    shared = json.loads(table.schema.metadata[SHARED])

    def column(name: str) -> Any:
        found = table.column(name)
        return _ragged(found) if pa.types.is_list(found.type) else found.to_numpy()

    bridge = None if shared["bridge"] is None else np.array(shared["bridge"], dtype=np.int32)
    prompts = Prompts(column("uid"), column("prompt"), column("draft"), column("draft_source"), bridge)
    response, logprobs, finished = column("response"), column("logprobs"), column("finished")
    rollouts = Rollouts(prompts, response, logprobs, finished, shared["version"], shared["temperature"])
    return rollouts, {name: column(name) for name in more}


def list_column(rows: Ragged) -> pa.Array:
    """A Ragged as an Arrow list column."""
    return pa.ListArray.from_arrays(pa.array(rows.offsets.astype(np.int32)), pa.array(rows.values))


def _ragged(column: pa.ChunkedArray) -> Ragged:
    array = column.combine_chunks()
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.to_numpy()
    return Ragged(values[offsets[0] : offsets[-1]], offsets - offsets[0])
