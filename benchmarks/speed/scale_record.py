"""Records the times that `scale` simulates with, on this machine: the seconds of a real rollout worker for each of many
shards of 64 prompts, three times the same, with the shard's longest response and its tokens; and what score, learn and
sync of one shard take beside it. Models and lengths are those of `ppo_step` (1.7 M parameters, responses log-normal
between 8 and 255 tokens). What a shard itself takes is the least of its three times; the rest is the machine's.

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

SHARD, SHARDS, TURNS, STEPS = 64, 40, 3, 5
TIMES = Path(__file__).with_name("scale_times.json")


def shards(ours: Ours) -> list[list[float]]:
    """Of each shard the longest response, all tokens, and the seconds of each turn."""
    seconds, about = np.zeros((TURNS, SHARDS)), []
    ours.pool.generate(ours.prompts, GenerateRequest(1.0, ours.longest, 0, SHARD)).result()
    for turn in range(TURNS):
        for shard in range(SHARDS):
            started = time.perf_counter()
            request = GenerateRequest(1.0, ours.longest, 1000 + shard, SHARD)
            lengths = ours.pool.generate(ours.prompts, request).result().response.lengths
            seconds[turn, shard] = time.perf_counter() - started
            if turn == 0:
                about.append([int(lengths.max()), int(lengths.sum())])
    return [[*longest, *took] for longest, took in zip(about, seconds.T.round(4).tolist(), strict=True)]


def recorded() -> dict[str, Any]:
    """Those, and median seconds of score, learn and sync of one shard."""
    with tempfile.TemporaryDirectory() as root, stage("long", Path(root)) as (deployment, folders, prompts, longest):
        ours = Ours(deployment, folders, prompts.take(np.arange(SHARD)), longest)
        rows = shards(ours)
        steps = [ours.step() for _ in range(STEPS)][1:]
    parts = {part: round(statistics.median(step[part] for step in steps), 4) for part in PARTS[1:]}
    found = {"machine": machine(), "commit": commit(), "prompts": SHARD, **parts}
    return found | {"columns": ["longest", "tokens", *["seconds"] * TURNS], "shards": rows}


if __name__ == "__main__":
    lines = [f'"{name}": {json.dumps(value)}' for name, value in recorded().items()]
    Path(sys.argv[1] if len(sys.argv) > 1 else TIMES).write_text("{\n" + ",\n".join(lines) + "\n}\n")
