"""A PPO step of a run's roles on one GPU in bfloat16, beside TRL's trainer on the same (PIT_RAY_TRL names its
interpreter): the same model, prompts, batch, epochs, minibatches and optimizer. Random models hardly ever end by
themselves, so all responses are equally long, which suits TRL, who pads.

usage: python -m benchmarks.on_gpu.step SIZE, prints a JSON object as its last line
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.on_gpu.work import PROMPT, SEQUENCES, device, prompts_of
from benchmarks.speed.deployed import deployed
from benchmarks.speed.one_step import Ours, Stepper, Theirs
from benchmarks.speed.workloads import SHAPES, ids, models

NEW_TOKENS, ROUNDS = 64, 3
SHARES = {
    "learner": {"gpus": 0.4}, "rollout": {"gpus": 0.3, "gpu_memory_utilization": 0.3}, "scorer": {"gpus": 0.15},
}  # fmt: skip
"""Of the GPU."""


def middle(stepper: Stepper) -> dict[str, float]:
    """Seconds of a step and its parts, after a first one that does not count."""
    steps = [stepper.step() for _ in range(ROUNDS + 1)][1:]
    return {part: statistics.median(step[part] for step in steps) for part in steps[0]}


def measure(size: str) -> dict[str, Any]:
    """A row of the table; `trl_*` where TRL is at hand."""
    vocabulary, count = SHAPES[size].vocab_size, SEQUENCES[size]
    prompts, cuda = prompts_of(ids(np.full(count, PROMPT), vocabulary - 40, 4)), device().type == "cuda"
    with tempfile.TemporaryDirectory() as root:
        folders = models(size, Path(root))
        roles = ["rollout", "reward", "reference", "learner"]
        with deployed(folders, Path(root), roles, {"dtype": "bfloat16"}, **(SHARES if cuda else {})) as deployment:
            row: dict[str, Any] = middle(Ours(deployment, folders, prompts, NEW_TOKENS))
        if "PIT_RAY_TRL" in os.environ:
            peer = middle(Theirs("ppo", folders, prompts, NEW_TOKENS, ROUNDS, cuda=cuda))
            row |= {f"trl_{part}": seconds for part, seconds in peer.items()} | {"ratio": peer["step"] / row["step"]}
    return row | {"samples": count}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
