"""A PPO step of a run's roles on one GPU in bfloat16, beside TRL's trainer on the same (PIT_RAY_TRL names its
interpreter): the same model, prompts, batch, epochs, minibatches and optimizer. Random models hardly ever end by
themselves, so all responses are equally long, which suits TRL, who pads.

usage: python -m benchmarks.on_gpu.step SIZE, prints a JSON object as its last line
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from actors.deployment import RayDeployment
from benchmarks.on_gpu.work import PROMPT, SEQUENCES, device, prompts_of
from benchmarks.speed.deployed import deployed
from benchmarks.speed.workloads import SHAPES, ids, models
from pit_ray.config.training import Optimizer, Phase, Ppo
from pit_ray.records import Prompts
from pit_ray.roles import GenerateRequest, LearnerSpec
from pit_ray.store import Store

NEW_TOKENS, EPOCHS, MINIBATCHES, ROUNDS, LR = 64, 2, 4, 3, 1e-7
SHARES = {
    "learner": {"gpus": 0.4}, "rollout": {"gpus": 0.3, "gpu_memory_utilization": 0.3}, "scorer": {"gpus": 0.15},
}  # fmt: skip
"""Of the GPU."""
PEER = Path(__file__).parents[1] / "speed" / "trl_peer.py"
Folders = dict[str, Path]


def ours(deployment: RayDeployment, folders: Folders, prompts: Prompts) -> list[dict[str, float]]:
    """Seconds of each step's parts, after a first one that does not count."""
    pool, learner = deployment.rollout(), deployment.learner()
    reward, reference = deployment.reward(), deployment.reference()
    optimizer = Optimizer(lr=LR, schedule="constant", warmup_steps=0)
    phases = (Phase(name="policy", drafts="none", steps=1),)
    ppo = Ppo(phases=phases, epochs=EPOCHS, minibatches=MINIBATCHES, optimizer=optimizer)
    policy, scored_by, store = folders["policy"], folders["reward"], Store(folders["policy"])
    dtype = deployment.config.model.dtype
    learner.start(LearnerSpec(policy, scored_by, policy, ppo, dtype, 100, 0, False, store), None).result()
    reward.load(scored_by, "reward", deployment.model.eos()).result()
    reference.load(policy).result()
    found = []
    for turn in range(ROUNDS + 1):
        at = [time.perf_counter()]
        rollouts = pool.generate(prompts, GenerateRequest(1.0, NEW_TOKENS, turn, 64))
        rollouts.wait()
        at.append(time.perf_counter())
        scores, logprobs = reward.score(rollouts), reference.logprobs(rollouts)
        scores.wait()
        logprobs.wait()
        at.append(time.perf_counter())
        learner.learn(rollouts, scores, logprobs, 0.05, turn).result()
        at.append(time.perf_counter())
        pool.sync(learner.weights(), turn + 1).result()
        at.append(time.perf_counter())
        parts = dict(zip(("generate", "score", "learn", "sync"), np.diff(at).tolist(), strict=True))
        found.append(parts | {"step": at[-1] - at[0]})
    return found[1:]


def theirs(interpreter: str, folders: Folders, prompts: Prompts) -> list[dict[str, float]]:
    """The same of TRL, which goes on to its next step when it is sent a line."""
    asked = {name: str(path) for name, path in folders.items()} | {
        "method": "ppo", "contexts": [row.tolist() for row in prompts.contexts().rows()], "generations": 1,
        "new_tokens": NEW_TOKENS, "epochs": EPOCHS, "minibatches": MINIBATCHES, "lr": LR, "beta": 0.05,
        "steps": ROUNDS + 1, "out": str(folders["policy"].parent / "trl"), "cuda": device().type == "cuda",
    }  # fmt: skip
    said = subprocess.run(
        [interpreter, str(PEER), json.dumps(asked)], input="\n" * (ROUNDS + 1), stdout=subprocess.PIPE, text=True
    ).stdout
    steps = [json.loads(line[5:]) for line in said.splitlines() if line.startswith("STEP ")]
    if len(steps) != ROUNDS + 1:
        raise SystemExit(f"TRL ended after {len(steps)} of {ROUNDS + 1} steps")
    return steps[1:]


def middle(steps: list[dict[str, float]]) -> dict[str, float]:
    return {part: statistics.median(step[part] for step in steps) for part in steps[0]}


def measure(size: str) -> dict[str, Any]:
    """A row of the table; `trl_*` where TRL is at hand."""
    vocabulary, count = SHAPES[size].vocab_size, SEQUENCES[size]
    prompts = prompts_of(ids(np.full(count, PROMPT), vocabulary - 40, 4))
    shares = SHARES if device().type == "cuda" else {}
    with tempfile.TemporaryDirectory() as root:
        folders = models(size, Path(root))
        roles = ["rollout", "reward", "reference", "learner"]
        with deployed(folders, Path(root), roles, {"dtype": "bfloat16"}, **shares) as deployment:
            row: dict[str, Any] = middle(ours(deployment, folders, prompts))
        if interpreter := os.environ.get("PIT_RAY_TRL"):
            peer = middle(theirs(interpreter, folders, prompts))
            row |= {f"trl_{part}": seconds for part, seconds in peer.items()} | {"ratio": peer["step"] / row["step"]}
    return row | {"samples": count}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
