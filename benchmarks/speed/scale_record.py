"""Records the times that `scale` simulates with, on this machine: a real rollout worker's seconds for each of many
shards of 64 prompts, with the shard's longest response and its tokens; and what score, learn and sync of one shard take
beside it. Models and lengths are those of `ppo_step` (1.7 M parameters, responses log-normal between 8 and 255 tokens).

usage: python -m benchmarks.speed.scale_record [benchmarks/speed/scale_times.json]
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.findings import commit, machine
from benchmarks.speed.one_step import PARTS, Ours, stage
from pit_ray.roles import GenerateRequest

SHARD, SHARDS, STEPS = 64, 150, 9
TIMES = Path(__file__).with_name("scale_times.json")


def shards(ours: Ours) -> list[list[float]]:
    """Of each shard the longest response, all tokens, and the seconds."""
    rows: list[list[float]] = []
    for seed in range(SHARDS + 1):
        started = time.perf_counter()
        rollouts = ours.pool.generate(ours.prompts, GenerateRequest(1.0, ours.longest, seed, SHARD)).result()
        took, lengths = time.perf_counter() - started, rollouts.response.lengths
        rows.append([int(lengths.max()), int(lengths.sum()), round(took, 4)])
    return rows[1:]


def recorded() -> dict[str, Any]:
    """Those, and median seconds of score, learn and sync of one shard."""
    with tempfile.TemporaryDirectory() as root, stage("long", Path(root)) as (deployment, folders, prompts, longest):
        ours = Ours(deployment, folders, prompts.take(np.arange(SHARD)), longest)
        rows = shards(ours)
        steps = [ours.step() for _ in range(STEPS)][1:]
    parts = {part: round(statistics.median(step[part] for step in steps), 4) for part in PARTS[1:]}
    found = {"machine": machine(), "commit": commit(), "prompts": SHARD, **parts}
    return found | {"columns": ["longest", "tokens", "seconds"], "shards": rows}


if __name__ == "__main__":
    lines = [f'"{name}": {json.dumps(value)}' for name, value in recorded().items()]
    Path(sys.argv[1] if len(sys.argv) > 1 else TIMES).write_text("{\n" + ",\n".join(lines) + "\n}\n")
