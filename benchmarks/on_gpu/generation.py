"""vLLM as a rollout worker has it: prompts to responses of equal length, on one GPU.

usage: python -m benchmarks.on_gpu.generation SIZE, prints a JSON object as its last line
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from actors.weights import engine_environment
from benchmarks.on_gpu.work import SEQUENCES, device, random_model, rollouts, seconds_of
from pit_ray.config import Config
from pit_ray.config.load import parse_config
from pit_ray.roles import GenerateRequest

NEW_TOKENS, EOS = 256, 1
ROUNDS = 3


def configuration() -> Config:
    on_gpu = {"gpus": 1, "gpu_memory_utilization": 0.85} if device().type == "cuda" else {}
    plain = {
        "data": {"source": "world:notes", "pairs": 100}, "model": {"path": "world:notes", "dtype": "bfloat16"},
        "actors": {"rollout": on_gpu},
    }  # fmt: skip
    return parse_config(plain, where="benchmark")


def measure(size: str, config: Config) -> dict[str, Any]:
    """A row of the table. A random model hardly ever ends by itself."""
    from actors.vllm_generator import VllmGenerator  # vLLM reads its environment when it is imported

    prompts = rollouts(size).prompts
    with tempfile.TemporaryDirectory() as folder:
        random_model(size).cpu().save_pretrained(folder)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the engine wants the device to itself
        generator = VllmGenerator(Path(folder), config, EOS, 2048)
    drawn: list[int] = []

    def generate() -> None:
        made = generator.generate(prompts, GenerateRequest(1.0, NEW_TOKENS, len(drawn), SEQUENCES[size]))
        drawn.append(len(made.response.values))

    seconds = seconds_of(generate, ROUNDS)
    return {"tokens": drawn[-1], "seconds": seconds, "tokens_per_second": drawn[-1] / seconds}


if __name__ == "__main__":
    chosen = configuration()
    os.environ |= engine_environment(chosen.actors.rollout)
    print(json.dumps(measure(sys.argv[1], chosen)))
