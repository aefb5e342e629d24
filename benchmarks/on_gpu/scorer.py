"""A reward model that reads rollouts, as scorer actors do, on one GPU.

usage: python -m benchmarks.on_gpu.scorer SIZE, prints a JSON object as its last line
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from actors.memory import needs
from benchmarks.on_gpu.work import (
    Passes,
    allocated_gib,
    device,
    model_size,
    random_model,
    rollouts,
    seconds_of,
    speed,
)
from pit_ray.config.load import parse_config
from pit_ray.scoring import RewardModel

EOS = 1
BUDGET = 16384
"""Tokens of a forward pass, the default of actors.scorer.batch_tokens."""


def measure(size: str) -> dict[str, Any]:
    """A row of the table: speed, and memory beside what is planned for it."""
    with tempfile.TemporaryDirectory() as folder:
        random_model(size, scalar=True).save_pretrained(folder)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        model = RewardModel(Path(folder), "reward", EOS, torch.bfloat16, device(), BUDGET, False)
    drawn = rollouts(size)
    lengths = drawn.prompts.prompt.lengths + drawn.response.lengths + 1  # each is read with an end token
    seconds = seconds_of(lambda: model.score(drawn))
    row = {"tokens": int(lengths.sum())} | speed(
        int(lengths.sum()), Passes(size, lengths, len(lengths), False).arithmetic, seconds
    )
    plain = {
        "data": {"source": "world:notes", "pairs": 100}, "model": {"path": "world:notes", "dtype": "bfloat16"},
        "actors": {"learner": {"gpus": 1}, "scorer": {"gpus": 1}},
    }  # fmt: skip
    planned = needs(parse_config(plain, where="benchmark"), model_size(size))["reward"].gpu
    return row | {"allocated_gib": allocated_gib(), "planned_gib": planned}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
