"""One phase of PPO by the real driver over simulated roles: who idled, and what the driver itself cost."""

from __future__ import annotations

import gc
import json
import math
import os
import time
import tracemalloc
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from actors.dispatch import Dispatch, Job
from benchmarks.speed.virtual import Clock, Times, VirtualLearner, VirtualPool, VirtualRecorder, VirtualScorer
from pit_ray.canary import canary
from pit_ray.config.load import parse_config
from pit_ray.curriculum import PpoState
from pit_ray.data.templates import Renderer
from pit_ray.learn.documents import INSTRUCTION, word_tokenizer
from pit_ray.records import Pairs, Ragged
from pit_ray.run_folder import RunFolder
from pit_ray.stages.context import RunContext
from pit_ray.stages.ppo import run_phase
from pit_ray.stages.ppo_stage import PpoStage, sync
from pit_ray.tracking import Tracker

TIMES = Path(__file__).with_name("scale_times.json")
OWN = 2.0
"""A recorded call that took more than so many times the median was held up by the machine; stragglers stand for it."""
PROMPT, RESPONSE = 40, 8
"""Tokens of the data."""


@dataclass(frozen=True)
class Stragglers:
    """Calls that take several times as long, wherever that comes from; done again, they take their usual time."""

    share: float = 0.02
    least: float = 3.0
    most: float = 10.0


@dataclass(frozen=True)
class Cluster:
    """What is simulated."""

    workers: int
    shards: int
    """Of a step."""
    steps: int
    lag: int
    shard_size: int = 4
    """Prompts in one, for the driver; what times they take does not hang on it."""
    learn_ratio: float = 1.0
    rows: int = 512
    """Of the data."""
    checkpoint_every: int = 10

    @property
    def samples(self) -> int:
        return self.steps * self.shards * self.shard_size


class RecordedTimes:
    """Times of a simulated cluster. A shard's seconds are drawn from those that a real rollout worker took. Scorers
    are twice as many as keep up with sampling, learner ranks so many that a step is learned in `learn_ratio` times
    what sampling it would take, evenly spread."""

    abort = 0.05

    def __init__(self, cluster: Cluster, stragglers: Stragglers, seed: int) -> None:
        recorded = json.loads(TIMES.read_text())
        took = np.array([row[2] for row in recorded["shards"]])
        self.seconds = took[took <= OWN * np.median(took)]
        self.score, self.sync = recorded["score"] / 2, recorded["sync"]  # both kinds of scorer shared the cores
        usual = float(self.seconds.mean())
        self.scorers = math.ceil(2 * cluster.workers * self.score / usual)
        self.learn = cluster.learn_ratio * usual * cluster.shards / cluster.workers
        self.stragglers, self.seed = stragglers, seed
        self._usual: dict[int, np.ndarray] = {}

    def shards(self, call: int, count: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, call))
        usual = rng.choice(self.seconds, count)
        self._usual = {old: kept for old, kept in self._usual.items() if old == call - 1} | {call: usual}
        return usual * self._factor(rng, count)

    def again(self, call: int, shard: int, before: int) -> float:
        rng = np.random.default_rng((self.seed, call, shard, before))
        return float(self._usual[call][shard] * self._factor(rng, 1)[0])

    def _factor(self, rng: np.random.Generator, count: int) -> np.ndarray:
        slow, by = self.stragglers, rng.uniform(self.stragglers.least, self.stragglers.most, count)
        return np.where(rng.random(count) < slow.share, by, 1.0)


class LongestFirst(Dispatch[int]):
    """The oracle: knows what each call will take, and hands out the longest first (LPT, Graham 1969)."""

    def add(self, jobs: Any) -> None:
        super().add(sorted(jobs, key=lambda shard: -shard.seconds))

    def _open(self) -> Iterator[tuple[float, Job]]:
        return iter(())


class InTurn(Dispatch[int]):
    """Shard i by worker i modulo their number, decided when it is asked for."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.queues: list[deque[Job]] = [deque() for _ in range(workers)]

    def add(self, jobs: Any) -> None:
        super().add(jobs)
        for job in self.waiting:
            self.queues[job.what.number % len(self.queues)].append(job)
        self.waiting.clear()

    def hand_out(self, workers: Any, now: float) -> Iterator[tuple[int, Job]]:
        for worker in workers:
            if worker not in self.running and self.queues[worker]:
                job = self.queues[worker].popleft()
                job.workers.append(worker)
                self.running[worker] = job, now
                yield worker, job

    def _open(self) -> Iterator[tuple[float, Job]]:
        return iter(())


@dataclass(frozen=True)
class Outcome:
    """What became of a phase."""

    seconds: float
    """Virtual."""
    idle: float
    """Of the workers' time, the share beyond what the phase's shards take, each done once as it falls. That work is the
    same for every policy, so none gains or loses by what it does a second time."""
    unoccupied: float
    """Share of the workers' time in which they did nothing, of use or not."""
    again: float
    """Share of shards that were done a second time."""
    cpu: float
    """Seconds of this process, for driver and simulation together."""
    peak: int
    """Most bytes at a time that Python held of those allotted since the phase began, with garbage collected after each
    step; 0 where it was not traced."""


def simulate(cluster: Cluster, times: Times, policy: Dispatch[int], root: Path, traced: bool = False) -> Outcome:
    clock = Clock()
    pool = VirtualPool(clock, cluster.workers, times, policy)
    with _stage(root, cluster, clock, pool, times) as stage:
        sync(stage, 0)
        if traced:
            gc.freeze()  # what is there already need not be looked through after each step
            stage.context.tracker.listeners.append(collect)
            tracemalloc.start()
        cpu, began = time.process_time(), clock.now
        run_phase(stage, stage.ppo.phases[0], PpoState())
        cpu, took = time.process_time() - cpu, clock.now - began
        peak = tracemalloc.get_traced_memory()[1] if traced else 0
        tracemalloc.stop()
        gc.unfreeze()
    again = pool.second / (cluster.shards * cluster.steps)
    of = cluster.workers * took
    return Outcome(took, 1 - pool.work / of, 1 - pool.busy / of, again, cpu, peak)


def collect(record: Mapping[str, Any]) -> None:
    """At the end of a step."""
    gc.collect()


@contextmanager
def _stage(root: Path, cluster: Cluster, clock: Clock, pool: VirtualPool, times: Times) -> Iterator[PpoStage]:
    ppo = {
        "phases": [{"name": "policy", "drafts": "none", "steps": cluster.steps}], "minibatches": 1, "lag": cluster.lag,
        "rollouts_per_step": cluster.shards * cluster.shard_size, "shard_size": cluster.shard_size,
        "checkpoint_every": cluster.checkpoint_every,
    }  # fmt: skip
    plain = {"run": str(root), "data": {"source": "world:notes", "pairs": 100}, "model": {"path": "world:notes"}}
    config = parse_config({**plain, "ppo_policy": ppo, "tracking": {"console": "plain", "wandb": False}}, where="scale")
    folder = RunFolder(config.run)
    with open(os.devnull, "w") as nowhere, Tracker(folder.path, config.tracking, {}, Console(file=nowhere)) as tracker:
        context = RunContext(config, folder, None, tracker)  # type: ignore[arg-type]
        context.__dict__["renderer"] = renderer()  # cached there
        pairs = made_pairs(cluster.rows)
        reward, reference = (VirtualScorer(clock, times.scorers, times.score) for _ in range(2))
        yield PpoStage(
            context, "ppo_policy", config.ppo_policy, pairs, canary(pairs, context.renderer.eos), pool, reward,
            reference, VirtualLearner(clock, times), VirtualRecorder(clock),
        )  # fmt: skip


@cache
def renderer() -> Renderer:
    return Renderer(word_tokenizer(["word"]), INSTRUCTION)


def made_pairs(count: int) -> Pairs:
    rng = np.random.default_rng(0)

    def rows(length: int) -> Ragged:
        return Ragged(rng.integers(2, 100, count * length, dtype=np.int32), np.arange(count + 1) * length)

    return Pairs(np.arange(count), rows(PROMPT), rows(RESPONSE), rows(RESPONSE))
