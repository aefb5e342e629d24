"""A PPO step against TRL's trainer: the same models, prompts, batch, epochs, minibatches and optimizer; responses whose
lengths spread as in real data, and short ones as in the quickstart. Beside both stands what no step can do without. All
take turns, step by step.

TRL stands in an environment of its own (`make bench` makes it); PIT_RAY_TRL names its interpreter.

usage: python -m benchmarks.speed.ppo_step FINDINGS
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
import torch
from transformers import AutoConfig

from actors.deployment import RayDeployment
from benchmarks.speed.bare import PROMPT, bare_engine, bare_forwards, bare_loop, rectangles, seeds
from benchmarks.speed.countdown import ASK, LONGEST, chances, countdown
from benchmarks.speed.deployed import deployed
from benchmarks.speed.findings import FINDINGS, Finding, finding, median_ratio, table
from pit_ray.config.training import Optimizer, Phase, Ppo
from pit_ray.data.templates import Renderer
from pit_ray.records import Prompts, Ragged
from pit_ray.roles import GenerateRequest, LearnerSpec
from pit_ray.store import Store

SAMPLES, EPOCHS, MINIBATCHES, LR = 128, 2, 4, 1e-7
LENGTHS = {"long": (50.0, 0.9, 8, 255, 2.0, 3), "short": (30.0, 0.2, 16, 60, 1.3, 5)}
"""Of responses: median, spread, shortest, longest; target, rounds."""
PARTS = ("generate", "score", "learn", "sync")
Seconds = dict[str, float]


class Ours:
    """The roles of a run, and one step of them after the other."""

    def __init__(self, deployment: RayDeployment, folders: dict[str, Path], prompts: Prompts, longest: int) -> None:
        self.prompts, self.longest, self.version = prompts, longest, 0
        self.pool, self.learner = deployment.rollout(), deployment.learner()
        self.reward, self.reference = deployment.reward(), deployment.reference()
        optimizer = Optimizer(lr=LR, schedule="constant", warmup_steps=0)
        phases = (Phase(name="policy", drafts="none", steps=1),)
        ppo = Ppo(phases=phases, epochs=EPOCHS, minibatches=MINIBATCHES, optimizer=optimizer)
        policy, store = folders["policy"], Store(folders["policy"])
        self.learner.start(
            LearnerSpec(policy, folders["reward"], policy, ppo, "float32", 100, 0, False, store), None
        ).result()
        self.reward.load(folders["reward"], "reward", deployment.model.eos()).result()
        self.reference.load(policy).result()

    def step(self) -> Seconds:
        at = [time.perf_counter()]
        rollouts = self.pool.generate(self.prompts, GenerateRequest(1.0, self.longest, self.version, 64))
        rollouts.wait()
        at.append(time.perf_counter())
        scores, reference = self.reward.score(rollouts), self.reference.logprobs(rollouts)
        scores.wait()
        reference.wait()
        at.append(time.perf_counter())
        self.learner.learn(rollouts, scores, reference, 0.05, self.version).result()
        at.append(time.perf_counter())
        self.version += 1
        self.pool.sync(self.learner.weights(), self.version).result()
        at.append(time.perf_counter())
        self.lengths = rollouts.result().response.lengths
        return dict(zip(PARTS, np.diff(at).tolist(), strict=True)) | {"step": at[-1] - at[0]}


class Theirs:
    """TRL in a process of its own."""

    def __init__(self, folders: dict[str, Path], prompts: Prompts, longest: int, rounds: int) -> None:
        contexts = [row.tolist() for row in prompts.contexts().rows()]
        asked = {name: str(path) for name, path in folders.items()} | {
            "contexts": contexts, "new_tokens": longest, "epochs": EPOCHS, "minibatches": MINIBATCHES, "lr": LR,
            "steps": rounds + 1, "out": str(folders["policy"].parent / "trl"),
        }  # fmt: skip
        if not (interpreter := os.environ.get("PIT_RAY_TRL")):
            raise SystemExit("PIT_RAY_TRL names no interpreter that has TRL; `make bench` makes one")
        command = [interpreter, str(Path(__file__).with_name("trl_peer.py")), json.dumps(asked)]
        threads = {"OMP_NUM_THREADS": str(os.cpu_count()), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | threads
        )

    def step(self) -> Seconds:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("STEP "):
                return json.loads(line[5:])
        raise SystemExit("TRL ended")


class Bound:
    """What no step can do without: bare generation, bare forward passes, a bare training loop, one after the other."""

    def __init__(self, deployment: RayDeployment, folders: dict[str, Path], prompts: Prompts, longest: int) -> None:
        self.prompts, self.turn = prompts, 0
        section = deployment.config.actors.rollout
        self.engine = bare_engine(folders["policy"], section, prompts, longest, deployment.model.eos())
        _, drawn = ray.get(self.engine.generate.remote(seeds(prompts, 0)))
        tokens = SAMPLES * PROMPT + sum(map(len, drawn))
        vocabulary = int(AutoConfig.from_pretrained(folders["policy"]).vocab_size)
        even = rectangles(SAMPLES, MINIBATCHES, tokens, vocabulary)
        self.forwards, self.loop = bare_forwards(folders, even), bare_loop(folders, even, EPOCHS)

    def step(self) -> Seconds:
        generate, _ = ray.get(self.engine.generate.remote(seeds(self.prompts, self.turn)))
        self.turn += 1
        at = [time.perf_counter()]
        for part in (self.forwards, self.loop):
            part()
            at.append(time.perf_counter())
        score, learn = np.diff(at).tolist()
        return {"generate": generate, "score": score, "learn": learn, "step": generate + score + learn}


def measure(name: str, root: Path) -> list[Finding]:
    middle, spread, shortest, longest, target, rounds = LENGTHS[name]
    folders = countdown(chances(middle, spread, shortest, longest), root)
    vocabulary = Renderer.load(folders["policy"]).tokenizer.vocab
    # All different, since what sequences begin with in common is computed once; only the last word decides.
    said = np.random.default_rng(8).integers(vocabulary["n1"], vocabulary[f"n{LONGEST - 1}"], (SAMPLES, PROMPT))
    said[:, -1] = vocabulary[ASK]
    nothing = Ragged.of([[]] * SAMPLES)
    prompts = Prompts(np.arange(SAMPLES), Ragged.of(said), nothing, np.zeros(SAMPLES, dtype=np.int8), None)
    new_tokens = min(longest + 1, LONGEST)
    seconds: dict[str, list[Seconds]] = {"pit-ray": [], "TRL": [], "bound": []}
    with deployed(folders, root, ["rollout", "reward", "reference", "learner"]) as deployment:
        ours = Ours(deployment, folders, prompts, new_tokens)
        theirs = Theirs(folders, prompts, new_tokens, rounds)
        bound = Bound(deployment, folders, prompts, new_tokens)
        for turn in range(rounds + 1):
            all_three = ours.step(), theirs.step(), bound.step()
            if turn:
                for steps, took in zip(seconds.values(), all_three, strict=True):
                    steps.append(took)
        drawn = ours.lengths
        print(f"responses of {drawn.min()} to {drawn.max()} tokens, {drawn.mean():.1f} on average")
        theirs.process.wait(60)
    for who, steps in seconds.items():
        columns = {part: [step[part] for step in steps] for part in steps[0]}
        print(table(f"{who}, {name} responses, {SAMPLES} samples", columns))
    whole = {who: [step["step"] for step in steps] for who, steps in seconds.items()}
    found = [finding(f"ppo_vs_trl_{name}", median_ratio(whole["TRL"], whole["pit-ray"]), f">= {target}")]
    above = median_ratio(whole["pit-ray"], whole["bound"])
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
