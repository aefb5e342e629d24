"""Gap-reward training with the beginnings of its sequences computed once, against each sequence by itself.

Of the four sequences of a pair two read x ‖ y_l, two x ‖ y_w, and all read x: with p prompt and r response tokens the
most that sharing can give is (4p + 8r) / (p + 6r).

usage: python -m benchmarks.speed.gap_prefix FINDINGS
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.findings import FINDINGS, Finding, finding, in_turn, median_ratio, table
from benchmarks.speed.workloads import ids, models
from pit_ray.config.training import Optimizer
from pit_ray.learn import reward
from pit_ray.learn.engine import TorchEngine
from pit_ray.learn.modules import Reward
from pit_ray.models import packing
from pit_ray.models.load import load_scalar
from pit_ray.records import Pairs, Ragged

LENGTHS = {"equal": (64, 64), "quickstart": (20, 37)}
"""Prompt and response tokens; the quickstart's as its data are on average."""
PAIRS, ROUNDS = 32, 9
BRIDGE = np.array([2, 3, 4], dtype=np.int32)
SHARING = packing.LEAST_SHARED


def pairs(prompt: int, response: int) -> Pairs:
    x, better, worse = (
        Ragged.of(ids(np.full(PAIRS, length), 100, seed)) for seed, length in enumerate((prompt, response, response))
    )
    return Pairs(np.arange(PAIRS), x, better, worse)


def measure(name: str, folder: Path) -> list[Finding]:
    prompt, response = LENGTHS[name]
    made = pairs(prompt, response)

    def step(least_shared: int):
        engine = TorchEngine(Reward(load_scalar(folder, torch.float32)), Optimizer(lr=1e-6), 1000)

        def do() -> float:
            packing.LEAST_SHARED = least_shared
            return reward.step(engine, made, BRIDGE, 1, 100_000).mean("loss/reward")

        return do

    work = {"shared": step(SHARING), "alone": step(10**9)}
    losses = [do() for do in work.values()]
    assert abs(losses[0] - losses[1]) < 1e-4, losses
    seconds = in_turn(work, ROUNDS)
    print(table(f"gap reward, {PAIRS} pairs, prompt {prompt}, responses {response}", seconds))
    most = (4 * prompt + 8 * response) / (prompt + 6 * response)
    gain = median_ratio(seconds["alone"], seconds["shared"])
    print(f"  {gain:.2f} times as fast, of at most {most:.2f}")
    return [finding("gap_prefix" if name == "equal" else f"gap_prefix_{name}", gain / most, ">= 0.85")]


def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as root:
        folder = models("1m", Path(root))["reward"]
        found = [f for name in LENGTHS for f in measure(name, folder)]
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(found))


if __name__ == "__main__":
    main()
