"""One step of ours and of TRL's trainers, on the same models, prompts, lengths, passes and optimizer.

TRL stands in an environment of its own (`make bench` makes it); PIT_RAY_TRL names its interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from actors.deployment import RayDeployment
from benchmarks.speed.bare import PROMPT, contexts
from benchmarks.speed.countdown import ASK, LONGEST, chances, countdown
from benchmarks.speed.deployed import deployed
from benchmarks.speed.findings import table
from pit_ray.config.training import Optimizer, Phase, Ppo
from pit_ray.data.templates import Renderer
from pit_ray.records import Prompts, Ragged
from pit_ray.roles import GenerateRequest, LearnerSpec
from pit_ray.store import Store

SAMPLES, EPOCHS, MINIBATCHES, LR, BETA = 128, 2, 4, 1e-7, 0.05
LENGTHS = {"long": (50.0, 0.9, 8, 255), "short": (30.0, 0.2, 16, 60)}
"""Of responses: median, spread, shortest, longest."""
PARTS = ("generate", "score", "learn", "sync")
Seconds = dict[str, float]
Folders = dict[str, Path]


class Stepper(Protocol):
    def step(self) -> Seconds: ...


class Ours:
    """The roles of a run, and one step of them after the other."""

    def __init__(self, deployment: RayDeployment, folders: Folders, prompts: Prompts, longest: int) -> None:
        self.prompts, self.longest, self.version = prompts, longest, 0
        self.pool, self.learner = deployment.rollout(), deployment.learner()
        self.reward, self.reference = deployment.reward(), deployment.reference()
        optimizer = Optimizer(lr=LR, schedule="constant", warmup_steps=0)
        phases = (Phase(name="policy", drafts="none", steps=1),)
        ppo = Ppo(phases=phases, epochs=EPOCHS, minibatches=MINIBATCHES, optimizer=optimizer)
        policy, store, dtype = folders["policy"], Store(folders["policy"]), deployment.config.model.dtype
        self.learner.start(
            LearnerSpec(policy, folders["reward"], policy, ppo, dtype, 100, 0, False, store), None
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
        self.learner.learn(rollouts, scores, reference, BETA, self.version).result()
        at.append(time.perf_counter())
        self.version += 1
        self.pool.sync(self.learner.weights(), self.version).result()
        at.append(time.perf_counter())
        self.lengths = rollouts.result().response.lengths
        return dict(zip(PARTS, np.diff(at).tolist(), strict=True)) | {"step": at[-1] - at[0]}


class Theirs:
    """A trainer of TRL's (ppo, grpo, rloo) in a process of its own; `generations` samples a prompt."""

    def __init__(
        self, method: str, folders: Folders, prompts: Prompts, longest: int, rounds: int, generations: int = 1,
        cuda: bool = False,
    ) -> None:  # fmt: skip
        asked = {name: str(path) for name, path in folders.items()} | {
            "method": method, "contexts": contexts(prompts)[: len(prompts) // generations], "generations": generations,
            "new_tokens": longest, "epochs": EPOCHS, "minibatches": MINIBATCHES, "lr": LR, "beta": BETA,
            "steps": rounds + 1, "out": str(folders["policy"].parent / f"trl-{method}"), "cuda": cuda,
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


@contextmanager
def stage(name: str, root: Path) -> Iterator[tuple[RayDeployment, Folders, Prompts, int]]:
    """The roles, the models' folders, SAMPLES prompts, and the most tokens that a response may have."""
    middle, spread, shortest, longest = LENGTHS[name]
    folders = countdown(chances(middle, spread, shortest, longest), root)
    vocabulary = Renderer.load(folders["policy"]).tokenizer.vocab
    # All different, since what sequences begin with in common is computed once; only the last word decides.
    said = np.random.default_rng(8).integers(vocabulary["n1"], vocabulary[f"n{LONGEST - 1}"], (SAMPLES, PROMPT))
    said[:, -1] = vocabulary[ASK]
    nothing = Ragged.of([[]] * SAMPLES)
    prompts = Prompts(np.arange(SAMPLES), Ragged.of(said), nothing, np.zeros(SAMPLES, dtype=np.int8), None)
    with deployed(folders, root, ["rollout", "reward", "reference", "learner"]) as deployment:
        yield deployment, folders, prompts, min(longest + 1, LONGEST)


def steps_in_turn(steppers: Mapping[str, Stepper], rounds: int, name: str) -> dict[str, list[float]]:
    """Seconds of each one's steps, one after the other in every round, after a first that does not count; the parts of
    the steps go to the terminal."""
    taken: dict[str, list[Seconds]] = {who: [] for who in steppers}
    for turn in range(rounds + 1):
        for who, stepper in steppers.items():
            seconds = stepper.step()
            if turn:
                taken[who].append(seconds)
    for who, steps in taken.items():
        columns = {part: [step[part] for step in steps] for part in steps[0]}
        print(table(f"{who}, {name} responses, {SAMPLES} samples", columns), flush=True)
    return {who: [step["step"] for step in steps] for who, steps in taken.items()}
