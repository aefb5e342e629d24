"""The weight sync against copying as many bytes between the same processes.

The sync is what a run does after each step: rank 0 of the learner gives its policy, the rollout worker takes it in
place. The copy is an array of as many bytes that the learner's process puts into Ray's object store and the worker's
takes out and copies once.

usage: python -m benchmarks.speed.sync FINDINGS
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.speed.deployed import deployed
from benchmarks.speed.findings import FINDINGS, Finding, finding
from benchmarks.speed.workloads import models
from pit_ray.config.training import Phase, Ppo
from pit_ray.roles import LearnerSpec
from pit_ray.store import Store

ROUNDS = 7
SIZES = {"1m": 1, "25m": 2, "250m": 2}
"""Size of the model -> rounds are divided by this."""
ALLOWED = {0: (3, 0.05), 3: (4, 0.1)}
"""ZeRO stage -> how many copies, and seconds beside them, a sync may take."""


def give(actor: Any, size: int) -> np.ndarray:
    return np.ones(size, dtype=np.uint8)


def take(actor: Any, array: np.ndarray) -> int:
    return int(array.copy()[-1])


def copied(learner: Any, worker: Any, size: int) -> float:
    """Seconds of one copy between the processes of two actors."""
    started = time.perf_counter()
    array = learner.__ray_call__.remote(give, size)
    ray.get(worker.__ray_call__.remote(take, array))
    return time.perf_counter() - started


def measure(size: str, stage: int, root: Path) -> list[float]:
    """Each round's seconds of a sync, as a share of what is allowed for it."""
    folders = models(size, root)
    learner = {"ranks": 2 if stage == 3 else 1, "zero_stage": stage, "cpus": 0.4, "threads": 1}
    rollout = {"workers": 1, "threads": 1, "cpus": 0.5, "kv_cache_gib": 0.2}
    phases = (Phase(name="policy", drafts="none", steps=1),)
    spec = LearnerSpec(
        folders["policy"], folders["reward"], folders["policy"], Ppo(phases=phases), "float32", 1, 0, False, Store(root)
    )
    with deployed(folders, root, ["rollout", "learner"], learner=learner, rollout=rollout) as deployment:
        pool, ranks = deployment.rollout(), deployment.learner()
        ranks.start(spec, None).result()
        size_of = sum(tensor.nbytes for tensor in ranks.weights().result().values())
        of = deployment.supervisor.groups
        ends = of["learner"].workers[0].handle, of["rollout"].workers[0].handle
        syncs, copies = [], []
        for turn in range(ROUNDS // SIZES[size] + 1):
            started = time.perf_counter()
            pool.sync(ranks.weights(), turn).result()
            syncs.append(time.perf_counter() - started)
            copies.append(copied(*ends, size_of))
    times, beside = ALLOWED[stage]
    middle = [statistics.median(seconds[1:]) for seconds in (syncs, copies)]
    print(
        f"sync, {size_of / 1e6:.1f} MB, ZeRO {stage}: {middle[0]:.3f} s; a copy {middle[1]:.3f} s; "
        f"allowed {times} x {middle[1]:.3f} + {beside} s"
    )
    return [sync / (times * copy + beside) for sync, copy in zip(syncs[1:], copies[1:], strict=True)]


def main() -> list[Finding]:
    """The largest of the shares of what is allowed, over sizes and ZeRO stages."""
    shares = []
    for size in SIZES:
        for stage in ALLOWED:
            with tempfile.TemporaryDirectory() as folder:
                shares.append(statistics.median(measure(size, stage, Path(folder))))
    return [finding("sync_vs_copy", max(shares), "<= 1")]


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(main()))
