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

from benchmarks.speed.bare import bare_engine, contexts, seeds
from benchmarks.speed.deployed import deployed
from benchmarks.speed.findings import FINDINGS, Finding, finding, median_ratio, table
from benchmarks.speed.workloads import ids, models, response_lengths
from pit_ray.config.actors import RolloutActors
from pit_ray.records import Prompts, Ragged
from pit_ray.roles import GenerateRequest

SEQUENCES, NEW_TOKENS, ROUNDS = 256, 48, 7
WORKER: dict[str, Any] = {"workers": 1, "threads": 1, "cpus": 0.5, "kv_cache_gib": 0.5}


def prompts() -> Prompts:
    contexts = Ragged.of(ids(response_lengths(SEQUENCES, 1), 250, 2))
    nothing = Ragged.of([[]] * SEQUENCES)
    return Prompts(np.arange(SEQUENCES), contexts, nothing, np.zeros(SEQUENCES, dtype=np.int8), None)


def measure(root: Path) -> list[Finding]:
    folders, asked = models("1m", root), prompts()
    request = GenerateRequest(1.0, NEW_TOKENS, 3, SEQUENCES)
    with deployed(folders, root, ["rollout"], rollout=WORKER) as deployment:
        pool = deployment.rollout()
        section = RolloutActors(**WORKER)
        bare = bare_engine(folders["policy"], section, NEW_TOKENS, deployment.model.eos())
        seconds: dict[str, list[float]] = {"worker": [], "bare vLLM": []}
        for turn in range(ROUNDS + 1):
            started = time.perf_counter()
            rollouts = pool.generate(asked, request).result()
            ours = time.perf_counter() - started
            theirs, tokens, _ = ray.get(bare.generate.remote(contexts(asked), seeds(asked, request.seed)))
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
