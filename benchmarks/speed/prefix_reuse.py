"""Several samples of a prompt in vLLM, prefix cache on and off, in turn: one call as a rollout worker makes it,
the samples of a prompt beside each other. Beside these stands a call for each sample, which is how best-of-n, votes and
LMSI ask: every call begins with an empty cache, so that no sample finds another's prompt.

usage: python -m benchmarks.speed.prefix_reuse FINDINGS [1m | 25m]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.speed.bare import bare_engine
from benchmarks.speed.findings import FINDINGS, Finding, finding, in_turn, median_ratio, table
from benchmarks.speed.workloads import ids, models, vocabulary
from pit_ray.config.actors import RolloutActors
from pit_ray.data.randomness import derive_seed
from pit_ray.data.templates import Renderer

WORK = {"1m": (32, 5), "25m": (16, 3)}
"""Prompts, rounds."""
LENGTHS = {"short": 40, "long": 200}
"""Tokens of a context."""
SAMPLES, NEW_TOKENS = (1, 4, 8), 16
WORKER = RolloutActors(workers=1, threads=2, kv_cache_gib=1.0)


class Calls:
    """`samples` responses to each context, all in one call or in a call for each sample."""

    def __init__(self, engine: Any, contexts: list[list[int]], samples: int, together: bool) -> None:
        beside = [context for context in contexts for _ in range(samples)]
        self.engine, self.calls = engine, [beside] if together else [contexts] * samples
        self.cached = 0.0

    def make(self) -> None:
        """Afterwards `cached` is the share of the contexts' tokens that the cache had."""
        found = 0
        for number, call in enumerate(self.calls):
            seeds = [derive_seed(number, uid) for uid in range(len(call))]
            found += ray.get(self.engine.generate.remote(call, seeds))[2]
        self.cached = found / sum(len(context) for call in self.calls for context in call)


def measure(size: str, root: Path) -> list[Finding]:
    prompts, rounds = WORK[size]
    folder, found = models(size, root)["policy"], []
    eos = Renderer.load(folder).eos
    with_cache, without = (
        bare_engine(folder, WORKER, NEW_TOKENS, eos, enable_prefix_caching=on) for on in (True, False)
    )
    for name, length in LENGTHS.items():
        contexts = [row.tolist() for row in ids(np.full(prompts, length), vocabulary(folder), 1)]
        for samples in SAMPLES:
            ways = {"cache on": Calls(with_cache, contexts, samples, True)}
            ways["cache off"] = Calls(without, contexts, samples, True)
            if samples > 1:
                ways["a call for each sample"] = Calls(with_cache, contexts, samples, False)
            seconds = in_turn({way: calls.make for way, calls in ways.items()}, rounds)
            print(table(f"{size}, contexts of {length}, {prompts} × {samples} samples", seconds))
            print(f"  {ways['cache on'].cached:.0%} of the contexts' tokens were found in the cache", flush=True)
            ratio = median_ratio(seconds["cache off"], seconds["cache on"])
            found.append(finding(f"prefix_reuse_{samples}_{name}_{size}", ratio))
    return found


def main() -> list[Finding]:
    found = []
    for size in sys.argv[2:] or WORK:
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
        with tempfile.TemporaryDirectory() as folder:
            found += measure(size, Path(folder))
        ray.shutdown()
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(main()))
