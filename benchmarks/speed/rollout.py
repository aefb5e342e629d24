"""A rollout worker against bare vLLM on the same requests: tokens with log-probabilities, each request with a seed.

The bare engine stands in an actor with the worker's environment and arguments, and only its `generate` is timed; of the
worker all is, from the driver's call to the rollouts' arrival.

usage: python -m benchmarks.speed.rollout FINDINGS
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.weights import engine_arguments, engine_environment
from benchmarks.speed.deployed import deployed
from benchmarks.speed.findings import FINDINGS, Finding, finding, median_ratio, table
from benchmarks.speed.workloads import ids, models, response_lengths
from pit_ray.config.actors import RolloutActors
from pit_ray.data.randomness import derive_seed
from pit_ray.models.load import torch_dtype
from pit_ray.records import Prompts, Ragged
from pit_ray.roles import GenerateRequest

SEQUENCES, NEW_TOKENS, ROUNDS = 256, 48, 7
WORKER: dict[str, Any] = {"workers": 1, "threads": 1, "cpus": 0.5, "kv_cache_gib": 0.5}


@ray.remote(num_cpus=0.5)
class Bare:
    """An engine and its requests."""

    options: Any

    def __init__(self, model: Path, contexts: list[list[int]], seeds: list[int], eos: int) -> None:
        from vllm import LLM, SamplingParams

        self.llm = LLM(**engine_arguments(model, RolloutActors(**WORKER), torch_dtype("float32"), 512, False))
        self.asked: list[Any] = [{"prompt_token_ids": context} for context in contexts]
        shared: dict[str, Any] = {
            "temperature": 1.0,
            "max_tokens": NEW_TOKENS,
            "logprobs": 0,
            "ignore_eos": True,
            "detokenize": False,
        }
        self.parameters = [SamplingParams(seed=seed, stop_token_ids=[eos], **shared) for seed in seeds]

    def generate(self) -> tuple[float, list[list[int]]]:
        """Seconds, and the tokens."""
        self.llm.reset_prefix_cache()
        started = time.perf_counter()
        outputs: list[Any] = self.llm.generate(self.asked, self.parameters, use_tqdm=False)
        return time.perf_counter() - started, [list(output.outputs[0].token_ids) for output in outputs]


def prompts() -> Prompts:
    contexts = Ragged.of(ids(response_lengths(SEQUENCES, 1), 250, 2))
    nothing = Ragged.of([[]] * SEQUENCES)
    return Prompts(np.arange(SEQUENCES), contexts, nothing, np.zeros(SEQUENCES, dtype=np.int8), None)


def measure(root: Path) -> list[Finding]:
    folders, asked = models("1m", root), prompts()
    request = GenerateRequest(1.0, NEW_TOKENS, 3, SEQUENCES)
    with deployed(folders, root, ["rollout"], rollout=WORKER) as deployment:
        pool = deployment.rollout()
        seeds = [derive_seed(request.seed, int(uid)) for uid in asked.uid]
        contexts = [row.tolist() for row in asked.contexts().rows()]
        environment = {"env_vars": engine_environment(RolloutActors(**WORKER))}
        bare = Bare.options(runtime_env=environment).remote(folders["policy"], contexts, seeds, deployment.model.eos())
        seconds: dict[str, list[float]] = {"worker": [], "bare vLLM": []}
        for turn in range(ROUNDS + 1):
            started = time.perf_counter()
            rollouts = pool.generate(asked, request).result()
            ours = time.perf_counter() - started
            theirs, tokens = ray.get(bare.generate.remote())
            assert tokens == [row.tolist() for row in rollouts.response.rows()], "they sampled other tokens"
            if turn:
                seconds["worker"].append(ours)
                seconds["bare vLLM"].append(theirs)
    count = int(rollouts.response.lengths.sum())
    print(table(f"rollout: {SEQUENCES} sequences, {count} new tokens, one thread each", seconds))
    return [finding("rollout_vs_vllm", median_ratio(seconds["bare vLLM"], seconds["worker"]), ">= 0.97")]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(found))
