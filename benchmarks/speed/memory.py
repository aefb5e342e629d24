"""What each process of a run takes of memory at its peak, beside what was planned for it (actors/memory.py).

The roles stand as in a run and are taken through a step: load, generate, score, learn, sync, write the model. Before,
a supervised stage is trained in its worker group. Each process is asked for its peak after each part.

usage: python -m benchmarks.speed.memory FINDINGS
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.compose import model_size
from actors.deployment import RayDeployment
from actors.memory import Parts, memory_plan
from benchmarks.speed.deployed import deployed
from benchmarks.speed.findings import FINDINGS, Finding, finding
from benchmarks.speed.workloads import SHAPES, ids, models
from pit_ray.data.parquet import write_pairs
from pit_ray.records import Pairs, Prompts, Ragged
from pit_ray.roles import FitJob, GenerateRequest, LearnerSpec
from pit_ray.run_folder import MEMORY
from pit_ray.store import Store

PROMPT, NEW, SAMPLES, STEPS = 40, 40, 32, 2
"""Tokens of a prompt and of a response, sequences of a step; steps."""
CASES = (("1m", 0, 1, 8192, 1024), ("25m", 0, 1, 640, 128), ("125m", 0, 1, 320, 64), ("25m", 3, 2, 640, 128))
"""Size, ZeRO stage, ranks, tokens of a micro-batch, sequences of an evaluation: enough to fill the KV cache, of which
only what has been used is resident."""
LEAST = 0.05
"""GiB. Processes that are planned to take less than this above their imports and KV cache are shown, not judged: the
allocator's noise is as large."""
Peaks = dict[str, dict[str, float]]
"""Process -> part (`idle` among them) -> GiB."""


def sections(budget: int) -> dict[str, Any]:
    """Of the configuration, what the plan reads beside the actors."""
    field, optimizer = {"max_tokens": PROMPT}, {"lr": 1e-7, "warmup_steps": 0, "micro_batch_tokens": budget}
    lengths = dict.fromkeys(("prompt", "draft", "response"), field)
    supervised = {"batch_size": SAMPLES // 2, "optimizer": optimizer}
    ppo = {"rollouts_per_step": SAMPLES, "minibatches": 2, "epochs": 1, "optimizer": optimizer}
    return {
        "data": {"source": "world:notes", "pairs": 100, "lengths": lengths},
        "sampling": {"max_new_tokens": NEW},
        "sft": supervised, "reward": supervised, "gap_reward": supervised,
        "ppo_policy": ppo | {"phases": [{"name": "policy", "drafts": "none", "steps": 1}]},
        "ppo_improver": ppo | {"phases": [{"name": "annotated", "drafts": "annotated", "steps": 1}]},
    }  # fmt: skip


def taken(actor: Any) -> tuple[float, float]:
    """GiB of an actor's process after its imports, and at its peak since this was last asked."""
    footprint = actor.heart.footprint
    footprint.look()
    peak, footprint.peak = footprint.peak, 0.0
    return footprint.idle, peak


def note(deployment: RayDeployment, part: str, peaks: Peaks) -> None:
    for worker in deployment.supervisor.workers():
        idle, peak = ray.get(worker.handle.__ray_call__.remote(taken))
        seen = peaks.setdefault(worker.bundle.name, {"idle": idle})
        seen[part] = max(seen.get(part, 0.0), peak)


def fit(deployment: RayDeployment, folders: dict[str, Path], root: Path, vocabulary: int) -> dict[str, float]:
    """A supervised stage's worker of rank 0."""
    prompt, chosen, rejected = (
        Ragged.of(ids(np.full(2 * SAMPLES, length), vocabulary, i))
        for i, length in enumerate((PROMPT, NEW - 1, NEW - 1))
    )
    pairs = Pairs(np.arange(2 * SAMPLES), prompt, chosen, rejected)
    write_pairs(pairs, root / "pairs.parquet")
    config, run = deployment.config, deployment.folder
    job = FitJob(
        "sft_improver", "sft_improver", config, config.sft, root / "pairs.parquet", root / "pairs.parquet",
        folders["policy"], folders["policy"], run.path / "stages" / "01-sft_improver", run.store,
    )  # fmt: skip
    job.folder.mkdir(parents=True)
    deployment.fit([job]).result()
    deployment.activity()
    return json.loads((run.path / MEMORY).read_text())["peaks"]["supervised/0"]


def prompts_of(count: int, vocabulary: int) -> Prompts:
    contexts = Ragged.of(ids(np.full(count, PROMPT), vocabulary, 2))
    return Prompts(np.arange(count), contexts, Ragged.of([[]] * count), np.zeros(count, dtype=np.int8), None)


def steps(
    deployment: RayDeployment, folders: dict[str, Path], root: Path, vocabulary: int, evaluated: int
) -> Peaks:  # fmt: skip
    peaks: Peaks = {}
    pool, learner, recorder = deployment.rollout(), deployment.learner(), deployment.recorder()
    reward, reference, config = deployment.reward(), deployment.reference(), deployment.config
    note(deployment, "start", peaks)
    policy = folders["policy"]
    learner.start(
        LearnerSpec(policy, folders["reward"], policy, config.ppo_policy, "float32", 100, 0, False, Store(root)), None
    ).result()
    reward.load(folders["reward"], "reward", deployment.model.eos()).result()
    reference.load(policy).result()
    pool.load(policy, 0).result()
    note(deployment, "load", peaks)
    for step, count in enumerate([evaluated, *[SAMPLES] * STEPS]):
        rollouts = pool.generate(prompts_of(count, vocabulary), GenerateRequest(1.0, NEW, step, count))
        rollouts.wait()
        note(deployment, "generate", peaks)
        scores, logprobs = reward.score(rollouts), reference.logprobs(rollouts)
        scores.wait()
        logprobs.wait()
        note(deployment, "score", peaks)
        if count == evaluated:
            continue
        learner.learn(rollouts, scores, logprobs, 0.05, step).result()
        recorder.record(root / "rollouts.parquet", rollouts, scores).wait()
        note(deployment, "learn", peaks)
        pool.sync(learner.weights(), step + 1).result()
        note(deployment, "sync", peaks)
    learner.write_model(root / "written").result()
    note(deployment, "write", peaks)
    return peaks


def judged(plans: dict[str, Parts], peaks: Peaks) -> Iterator[tuple[float, float]]:
    """Prints a row for each process; of those that are judged, the two ratios."""
    parts = ("start", "load", "generate", "score", "learn", "sync", "write")
    print(
        f"  {'':13}{'idle':>9}"
        + "".join(f"{part:>9}" for part in (*parts, "peak", "plan"))
        + "  peak/plan  above imports"
    )
    for name, seen in sorted(peaks.items()):
        plan = plans[name.partition("/")[0]]
        peak = max(gib for part, gib in seen.items() if part != "idle")
        above = plan.total - plan.imports - plan.kv_cache
        ratio, over = peak / plan.total, (peak - seen["idle"] - plan.kv_cache) / above if above else 0.0
        cells = "".join(f"{1024 * seen[part]:9.0f}" if part in seen else f"{'–':>9}" for part in ("idle", *parts))
        print(f"  {name:13}{cells}{1024 * peak:9.0f}{1024 * plan.total:9.0f}{ratio:11.2f}{over:15.2f}")
        if above >= LEAST:
            yield abs(ratio - 1), over


def measure(size: str, stage: int, ranks: int, budget: int, evaluated: int, root: Path) -> list[tuple[float, float]]:
    folders, vocabulary = models(size, root), SHAPES[size].vocab_size - 50  # less than the tokenizer has
    actors: dict[str, Any] = {
        "learner": {"ranks": ranks, "zero_stage": stage, "cpus": 0.4, "threads": 2 // ranks},
        "rollout": {"cpus": 0.4, "kv_cache_gib": 0.25}, "scorer": {"cpus": 0.2, "batch_tokens": budget},
    }  # fmt: skip
    roles = ["rollout", "reward", "reference", "learner", "recorder"]
    with deployed(folders, root, roles, sections=sections(budget), **actors) as deployment:
        config = deployment.config
        plans = {role: memory.host for role, memory in memory_plan(config, model_size(config)).items()}
        fitted = {"supervised/0": fit(deployment, folders, root, vocabulary)} if size == "25m" else {}
        peaks = steps(deployment, folders, root, vocabulary, evaluated)
    print(f"memory, {size}, ZeRO {stage}, {ranks} ranks: MiB of each process, its peak in each part")
    return list(judged(plans, peaks | fitted))


def main() -> list[Finding]:
    found = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found += measure(*case, Path(folder))
    return [
        finding("memory_plan", max(away for away, _ in found), "<= 0.15"),
        finding("memory_above_imports", max(over for _, over in found), "<= 1.2"),
    ]


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(main()))
