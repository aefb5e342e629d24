"""A PPO step against TRL's trainer: the same models, prompts, batch, epochs, minibatches and optimizer; responses whose
lengths spread as in real data, and short ones as in the quickstart. Beside both stands what no step can do without. All
take turns, step by step.

usage: python -m benchmarks.speed.ppo_step FINDINGS
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
import torch

from actors.deployment import RayDeployment
from benchmarks.speed.bare import PROMPT, bare_engine, bare_forwards, bare_loop, contexts, rectangles, seeds
from benchmarks.speed.findings import FINDINGS, Finding, finding, median_ratio
from benchmarks.speed.one_step import (
    EPOCHS,
    LENGTHS,
    MINIBATCHES,
    SAMPLES,
    Folders,
    Ours,
    Seconds,
    Theirs,
    stage,
    steps_in_turn,
)
from benchmarks.speed.workloads import vocabulary
from pit_ray.records import Prompts

TARGETS = {"long": (2.0, 3), "short": (1.3, 5)}
"""Target, rounds."""


class Bound:
    """What no step can do without: bare generation, bare forward passes, a bare training loop, one after the other."""

    def __init__(self, deployment: RayDeployment, folders: Folders, prompts: Prompts, longest: int) -> None:
        self.prompts, self.turn, self.contexts = prompts, 0, contexts(prompts)
        self.engine = bare_engine(folders["policy"], deployment.config.actors.rollout, longest, deployment.model.eos())
        _, drawn, _ = ray.get(self.engine.generate.remote(self.contexts, seeds(prompts, 0)))
        tokens = SAMPLES * PROMPT + sum(map(len, drawn))
        even = rectangles(SAMPLES, MINIBATCHES, tokens, vocabulary(folders["policy"]))
        self.forwards, self.loop = bare_forwards(folders, even), bare_loop(folders, even, EPOCHS)

    def step(self) -> Seconds:
        generate, _, _ = ray.get(self.engine.generate.remote(self.contexts, seeds(self.prompts, self.turn)))
        self.turn += 1
        at = [time.perf_counter()]
        for part in (self.forwards, self.loop):
            part()
            at.append(time.perf_counter())
        score, learn = np.diff(at).tolist()
        return {"generate": generate, "score": score, "learn": learn, "step": generate + score + learn}


def measure(name: str, root: Path) -> list[Finding]:
    target, rounds = TARGETS[name]
    with stage(name, root) as (deployment, folders, prompts, longest):
        ours = Ours(deployment, folders, prompts, longest)
        theirs = Theirs("ppo", folders, prompts, longest, rounds)
        bound = Bound(deployment, folders, prompts, longest)
        seconds = steps_in_turn({"pit-ray": ours, "TRL": theirs, "bound": bound}, rounds, name)
        drawn = ours.lengths
        print(f"responses of {drawn.min()} to {drawn.max()} tokens, {drawn.mean():.1f} on average")
        theirs.process.wait(60)
    found = [finding(f"ppo_vs_trl_{name}", median_ratio(seconds["TRL"], seconds["pit-ray"]), f">= {target}")]
    above = median_ratio(seconds["pit-ray"], seconds["bound"])
    return [*found, finding("step_vs_bound" if name == "long" else f"step_vs_bound_{name}", above, "<= 1.25")]


def main() -> list[Finding]:
    torch.set_num_threads(os.cpu_count() or 1)
    found = []
    for name in LENGTHS:
        with tempfile.TemporaryDirectory() as folder:
            found += measure(name, Path(folder))
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(main()))
