"""Preference files as tests write and load them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pit_ray.config.tree import Data
from pit_ray.data.preferences import LoadedPairs, load_pairs
from pit_ray.records import Message

ROWS = [
    {"prompt": "Name a colour.", "chosen": "Blue — like the sea.", "rejected": "7"},
    {"prompt": "2009-01-01?", "chosen": "2009-01-01", "rejected": "2010-01-01"},
]


def load(path: Path, **keys: Any) -> LoadedPairs:
    return load_pairs(Data(source=str(path), **keys))


def load_rows(folder: Path, *rows: Any) -> LoadedPairs:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load(path)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}
