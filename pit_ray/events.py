"""What has befallen a run: faults it has recovered from and the error that ended it, one line each in
RUN/events.jsonl."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pit_ray.run_folder import writing
from pit_ray.secrets import masked

FILE = "events.jsonl"


def record_event(run: Path, text: str) -> None:
    """Adds an event, its secrets masked; InfraError when the disk does not take it."""
    path = run / FILE
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": time.time(), "text": masked(text)}) + "\n")


def read_events(run: Path) -> list[dict[str, Any]]:
    """The events so far, oldest first; a torn last line is left out."""
    path = run / FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
