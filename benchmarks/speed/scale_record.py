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

import numpy as np

from benchmarks.speed.countdown import ASK, LONGEST, chances, countdown
from benchmarks.speed.deployed import deployed
from benchmarks.speed.findings import commit, machine
from benchmarks.speed.ppo_step import LENGTHS, PARTS, Ours
from pit_ray.data.templates import Renderer
from pit_ray.records import Prompts, Ragged
from pit_ray.roles import GenerateRequest

SHARD, SHARDS, TURNS, STEPS, PROMPT = 64, 40, 3, 5, 40
TIMES = Path(__file__).with_name("scale_times.json")


def asked(root: Path) -> tuple[dict[str, Path], Prompts]:
    """The models' folders, and the prompts of a shard."""
    middle, spread, shortest, longest, _, _ = LENGTHS["long"]
    folders = countdown(chances(middle, spread, shortest, longest), root)
    vocabulary = Renderer.load(folders["policy"]).tokenizer.vocab
    said = np.random.default_rng(8).integers(vocabulary["n1"], vocabulary[f"n{LONGEST - 1}"], (SHARD, PROMPT))
    said[:, -1] = vocabulary[ASK]
    nothing = Ragged.of([[]] * SHARD)
    return folders, Prompts(np.arange(SHARD), Ragged.of(said), nothing, np.zeros(SHARD, dtype=np.int8), None)


def shards(root: Path) -> list[list[float]]:
    """Of each shard the longest response, all tokens, and the seconds of each turn."""
    folders, prompts = asked(root)
    seconds, about = np.zeros((TURNS, SHARDS)), []
    with deployed(folders, root, ["rollout"]) as deployment:
        pool = deployment.rollout()
        pool.generate(prompts, GenerateRequest(1.0, LONGEST, 0, SHARD)).result()
        for turn in range(TURNS):
            for shard in range(SHARDS):
                started = time.perf_counter()
                rollouts = pool.generate(prompts, GenerateRequest(1.0, LONGEST, 1000 + shard, SHARD)).result()
                seconds[turn, shard] = time.perf_counter() - started
                if turn == 0:
                    lengths = rollouts.response.lengths
                    about.append([int(lengths.max()), int(lengths.sum())])
    return [[*longest, *took] for longest, took in zip(about, seconds.T.round(4).tolist(), strict=True)]


def parts(root: Path) -> dict[str, float]:
    """Median seconds of score, learn and sync of one shard."""
    folders, prompts = asked(root)
    with deployed(folders, root, ["rollout", "reward", "reference", "learner"]) as deployment:
        ours = Ours(deployment, folders, prompts, LONGEST)
        steps = [ours.step() for _ in range(STEPS)][1:]
    return {part: round(statistics.median(step[part] for step in steps), 4) for part in PARTS[1:]}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        rows = shards(Path(first))
        found = {"machine": machine(), "commit": commit(), "prompts": SHARD, **parts(Path(second))}
    found |= {"columns": ["longest", "tokens", *["seconds"] * TURNS], "shards": rows}
    lines = [f'"{name}": {json.dumps(value)}' for name, value in found.items()]
    Path(sys.argv[1] if len(sys.argv) > 1 else TIMES).write_text("{\n" + ",\n".join(lines) + "\n}\n")
