"""What a process takes of the machine's memory and of its GPU's: at rest, and at its peak.

Counted is what is resident, but for Ray's object store, whose pages show in every process that has looked at them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.memory import Memory
from pit_ray.run_folder import MEMORY, write_json

GIB = 2**30
LOOK_SECONDS = 0.25
"""How often the size is looked at: the peak that the kernel keeps has the object store in it."""
RESIDENT = re.compile(r"^Rss(?:Anon|File):\s+(\d+) kB", re.MULTILINE)


def resident() -> float:
    """GiB of this process: its own pages, and those of files, which other processes may have in common with it."""
    return sum(map(int, RESIDENT.findall(Path("/proc/self/status").read_text()))) * 1024 / GIB


class Footprint:
    """Of this process, as long as somebody looks."""

    def __init__(self) -> None:
        self.idle = self.peak = resident()

    def look(self) -> None:
        self.peak = max(self.peak, resident())

    def imported(self) -> None:
        """What comes from here on is not imports any more."""
        self.idle = self.peak = resident()

    def told(self) -> dict[str, Any]:
        """GiB: of the machine's memory after the imports and at the peak; of a GPU's at the peak, where it has one."""
        torch = sys.modules.get("torch")  # not every process has it
        gpu = torch.cuda.max_memory_allocated() / GIB if torch and torch.cuda.is_initialized() else 0.0
        return {"idle": round(self.idle, 3), "peak": round(self.peak, 3)} | ({"gpu": round(gpu, 3)} if gpu else {})


class MemoryRecord:
    """RUN/memory.json: what the processes of a run were planned to take, and what they have taken at their peaks."""

    def __init__(self, run: Path) -> None:
        self.path = run / MEMORY
        self.driver = Footprint()

    def plan(self, planned: Mapping[str, Memory]) -> None:
        """What a process of each role is planned to take from now on."""
        roles = {role: asdict(memory) | {"peak": memory.host.total} for role, memory in planned.items()}
        for role, memory in planned.items():
            if memory.gpu is not None:
                roles[role]["gpu_peak"] = memory.gpu.total
        write_json(self.path, self._read() | {"plan": roles})

    def note(self, beats: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes down the highest peaks, of earlier sessions and replaced actors, too."""
        self.driver.look()
        record = self._read()
        peaks = dict(record["peaks"])
        for name, seen in {"driver": self.driver.told(), **{n: b["memory"] for n, b in beats.items()}}.items():
            before = peaks.get(name, {})
            peaks[name] = {key: max(value, before.get(key, 0.0)) for key, value in seen.items()}
        if peaks != record["peaks"]:
            write_json(self.path, record | {"peaks": peaks})

    def _read(self) -> dict[str, Any]:
        found = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
        return {"plan": {}, "peaks": {}} | found
