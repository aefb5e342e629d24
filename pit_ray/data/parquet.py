"""Columnar records on disk: tokenised pairs and judged rollouts as Parquet, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pit_ray.records import Pairs, Ragged
from pit_ray.run_folder import writing

DRAFT_LIMIT = b"pit_ray.draft_limit"


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


def list_column(rows: Ragged) -> pa.Array:
    """A Ragged as an Arrow list column."""
    return pa.ListArray.from_arrays(pa.array(rows.offsets.astype(np.int32)), pa.array(rows.values))


def _ragged(column: pa.ChunkedArray) -> Ragged:
    array = column.combine_chunks()
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.to_numpy()
    return Ragged(values[offsets[0] : offsets[-1]], offsets - offsets[0])
