"""Rounds of generate, learn and sync with all weights trained, and with LoRA of rank 16, synced as merged weights or as
an adapter: seconds of each part, what a sync sends, and what the learner holds.

One rollout worker and one rank (ZeRO 0), as they stand in a run, take turns on all cores. The three kinds come one
after the other, each in processes of its own, so that peaks of memory are its own.

usage: python -m benchmarks.speed.lora FINDINGS
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.speed.bare import PROMPT
from benchmarks.speed.deployed import deployed
from benchmarks.speed.findings import FINDINGS, Finding, finding, table, timed
from benchmarks.speed.workloads import SHAPES, ids, models
from pit_ray.config.training import Lora, Optimizer, Phase, Ppo
from pit_ray.models.lora import Adapter
from pit_ray.records import Prompts, Ragged, Scores
from pit_ray.roles import GenerateRequest, LearnerSpec, Resolved
from pit_ray.store import Store

SIZE, ROLLOUTS, NEW, ROUNDS = "25m", 16, 48, 3
KINDS = {"full": None, "merged": Lora(), "adapter": Lora(sync="adapter")}
PARTS = ("generate", "learn", "sync")


def held(actor: Any) -> dict[str, float]:
    """MB of a learner: of weights, gradients and moments, and of its process at its peak."""
    parameters = list(actor.learner.engine.engine.module.parameters())
    trained = sum(parameter.nbytes for parameter in parameters if parameter.requires_grad)
    status = Path("/proc/self/status").read_text()
    return {
        "state": (sum(parameter.nbytes for parameter in parameters) + 3 * trained) / 1e6,
        "peak": int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6,
    }


def sent(weights: dict[str, Any] | Adapter) -> float:
    """MB."""
    tensors = weights.weights if isinstance(weights, Adapter) else weights
    return sum(tensor.nbytes for tensor in tensors.values()) / 1e6


def measure(lora: Lora | None, root: Path) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each part in each round but the first, and MB."""
    folders, threads = models(SIZE, root), os.cpu_count() or 1
    phases = (Phase(name="policy", drafts="none", steps=1),)
    ppo = Ppo(phases=phases, epochs=1, minibatches=2, rollouts_per_step=ROLLOUTS, optimizer=Optimizer(lr=1e-5))
    spec = LearnerSpec(
        folders["policy"], folders["reward"], folders["policy"], ppo, "float32", 100, 0, False, Store(root), lora
    )
    contexts = Ragged.of(ids(np.full(ROLLOUTS, PROMPT), SHAPES[SIZE].vocab_size - 40, 4))
    prompts = Prompts(np.arange(ROLLOUTS), contexts, Ragged.of([[]] * ROLLOUTS), np.zeros(ROLLOUTS, dtype=np.int8))
    scores = Resolved(Scores(np.linspace(-1, 1, ROLLOUTS, dtype=np.float32), np.zeros(ROLLOUTS, dtype=np.float32)))
    actors: dict[str, Any] = {
        "learner": {"cpus": 0.4, "threads": threads},
        "rollout": {"workers": 1, "threads": threads, "cpus": 0.5, "kv_cache_gib": 0.2},
    }
    seconds: dict[str, list[float]] = {part: [] for part in PARTS}
    with deployed(folders, root, ["rollout", "learner"], {"lora": lora and lora.model_dump()}, **actors) as deployment:
        pool, ranks = deployment.rollout(), deployment.learner()
        pool.load(folders["policy"], 0).result()
        ranks.start(spec, None).result()
        for turn in range(ROUNDS + 1):
            with timed(seconds["generate"]):
                rollouts = pool.generate(prompts, GenerateRequest(1.0, NEW, turn, ROLLOUTS)).result()
            with timed(seconds["learn"]):
                given = Resolved(rollouts), scores, Resolved(rollouts.logprobs)
                ranks.learn(*given, 0.05, turn).result()
            with timed(seconds["sync"]):
                pool.sync(ranks.weights(), turn + 1).result()
        rank = deployment.supervisor.groups["learner"].workers[0].handle
        sizes = ray.get(rank.__ray_call__.remote(held)) | {"sync": sent(ranks.weights().result())}
        ranks.save(root / "checkpoints" / "step" / "learner").result()
    files = [path for path in (root / "checkpoints").rglob("*") if path.is_file()]
    sizes["checkpoint"] = sum(path.stat().st_size for path in files) / 1e6
    return {part: taken[1:] for part, taken in seconds.items()}, sizes


def main() -> list[Finding]:
    found: list[Finding] = []
    for kind, lora in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds, sizes = measure(lora, Path(folder))
        print(table(f"LoRA, {SIZE}: {kind}", seconds))
        print("  MB: " + ", ".join(f"{name} {size:.1f}" for name, size in sizes.items()), flush=True)
        found += [finding(f"lora_{part}_seconds_{kind}", statistics.median(seconds[part])) for part in PARTS]
        found += [finding(f"lora_{name}_mb_{kind}", size) for name, size in sizes.items()]
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(main()))
