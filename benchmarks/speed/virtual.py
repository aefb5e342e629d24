"""The roles of a PPO stage in this process and in virtual time: a clock that jumps from event to event, so that a
cluster of hundreds of workers is simulated in seconds under the real driver. Times of calls come from outside; shards
are handed to workers by the policy of the real pool (`actors.dispatch`)."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from actors.dispatch import Dispatch
from pit_ray.metrics import Metrics
from pit_ray.records import Prompts, Ragged, Rollouts, Scores
from pit_ray.roles import GenerateRequest, LearnerSpec, Ref, ScoreKind

TOKENS = 60
"""Of every response: the mean of those that were recorded."""


class Clock:
    """Virtual seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, time: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(time, self.now), next(self._order), do))

    def run_until(self, ended: Callable[[], bool]) -> None:
        """Lets things happen until `ended`; RuntimeError where nothing is left that could bring it about."""
        while not ended():
            if not self._events:
                raise RuntimeError("everybody waits for something that nobody does")
            self.now, _, do = heapq.heappop(self._events)
            do()


class Part:
    """One call: done at some time, with those that wait for it."""

    def __init__(self) -> None:
        self.done = False
        self._then: list[Callable[[], None]] = []

    def then(self, do: Callable[[], None]) -> None:
        if self.done:
            do()
        else:
            self._then.append(do)

    def finish(self) -> None:
        self.done = True
        for do in self._then:
            do()
        self._then.clear()


class VirtualRef:
    """A value in parts; waiting for it lets virtual time pass."""

    def __init__(self, clock: Clock, parts: Sequence[Part], value: Callable[[], Any] = lambda: None) -> None:
        self.clock, self.parts, self.value = clock, parts, value

    def wait(self, timeout: float | None = None) -> None:
        self.clock.run_until(lambda: all(part.done for part in self.parts))

    def result(self, timeout: float | None = None) -> Any:
        self.wait()
        return self.value()

    def cancel(self) -> None:
        return None


def after(parts: Sequence[Part], do: Callable[[], None]) -> None:
    """Does something once all parts are done."""
    left = len(parts)

    def one() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            do()

    for part in parts:
        part.then(one)


class Station:
    """An actor: its calls one after another, each once what it needs is there."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.free = clock, 0.0

    def call(self, needs: Sequence[Part], seconds: float) -> Part:
        part = Part()

        def begin() -> None:
            self.free = max(self.free, self.clock.now) + seconds
            self.clock.at(self.free, part.finish)

        if needs:
            after(needs, begin)
        else:
            begin()
        return part


class Times(Protocol):
    """How long things take, in virtual seconds."""

    scorers: int
    """Actors of each kind."""
    score: float
    """A shard, by a scorer."""
    learn: float
    """A step."""
    sync: float
    abort: float
    """From when an answer is no longer wanted until its worker stops."""

    def shards(self, call: int, count: int) -> np.ndarray:
        """(count,): of the shards of a generate call, the first time that each is done."""

    def again(self, call: int, shard: int, before: int) -> float:
        """Of the same shard, begun so many times before."""


@dataclass(eq=False)
class Shard:
    """One generate call of an engine."""

    call: int
    number: int
    seconds: float
    prompts: Prompts
    part: Part = field(default_factory=Part)
    attempts: int = 0


class VirtualPool:
    """Rollout workers that take the time they are told, dealt with as `actors.group` does."""

    def __init__(self, clock: Clock, workers: int, times: Times, policy: Dispatch[int]) -> None:
        self.clock, self.times, self.policy, self.count = clock, times, policy, workers
        self.idle: dict[int, None] = dict.fromkeys(range(workers))
        self.attempt = [0] * workers
        self.work, self.busy, self.calls, self.second, self._waking = 0.0, 0.0, 0, 0, 0.0
        self._freed: list[Callable[[], None]] = []

    def generate(self, prompts: Prompts, request: GenerateRequest) -> VirtualRef:
        cut = prompts.shards(request.shard_size)
        seconds = self.times.shards(self.calls, len(cut))
        shards = [Shard(self.calls, i, float(seconds[i]), part) for i, part in enumerate(cut)]
        self.calls += 1
        self.work += float(seconds.sum())
        self.policy.add(shards)
        self._hand_out()
        return VirtualRef(
            self.clock, [s.part for s in shards], lambda: Rollouts.concatenate([sampled(s.prompts) for s in shards])
        )

    def _hand_out(self) -> None:
        for worker, job in self.policy.hand_out(list(self.idle), self.clock.now):
            shard: Shard = job.what
            seconds = self.times.again(shard.call, shard.number, shard.attempts) if shard.attempts else shard.seconds
            self.second += bool(shard.attempts)
            shard.attempts += 1
            del self.idle[worker]
            self.attempt[worker] += 1
            self._end_at(self.clock.now + seconds, worker, self.attempt[worker])
        due = self.policy.next_late() if self.idle else None
        if due is not None and due != self._waking:
            self._waking = due
            self.clock.at(due, self._hand_out)

    def _end_at(self, time: float, worker: int, attempt: int) -> None:
        self.clock.at(time, lambda: self._ended(worker, attempt))

    def _ended(self, worker: int, attempt: int) -> None:
        if self.attempt[worker] != attempt:
            return  # it was told to stop before
        self.busy += self.clock.now - self.policy.running[worker][1]
        job = self.policy.answered(worker, self.clock.now)
        self.idle[worker] = None
        if job is not None:
            for other in job.workers:
                self.attempt[other] += 1
                self._end_at(self.clock.now + self.times.abort, other, self.attempt[other])
            job.what.part.finish()
        self._hand_out()
        if len(self.idle) == self.count:
            for do in self._freed:
                do()
            self._freed.clear()

    def load(self, folder: Path, version: int) -> VirtualRef:
        return self.sync(VirtualRef(self.clock, []), version)

    def sync(self, weights: Ref[Any], version: int) -> VirtualRef:
        part = Part()

        def begin() -> None:
            self.clock.at(self.clock.now + self.times.sync, part.finish)

        if len(self.idle) == self.count:
            begin()
        else:
            self._freed.append(begin)
        return VirtualRef(self.clock, [part])

    def logprobs(self, rollouts: Rollouts) -> VirtualRef:
        return VirtualRef(self.clock, [], lambda: Ragged.of([[0.0] * TOKENS], np.float32))


def sampled(prompts: Prompts) -> Rollouts:
    """Some response to each prompt."""
    count = len(prompts)
    offsets = np.arange(count + 1) * TOKENS
    response = Ragged(np.full(count * TOKENS, 3, dtype=np.int32), offsets)
    logprobs = Ragged(np.zeros(count * TOKENS, dtype=np.float32), offsets)
    return Rollouts(prompts, response, logprobs, np.ones(count, dtype=bool))


class VirtualScorer:
    """Scorers, reward or reference: shard i goes to actor i modulo their number, once it is there."""

    def __init__(self, clock: Clock, actors: int, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds
        self.actors = [Station(clock) for _ in range(actors)]

    def load(self, folder: Path, kind: ScoreKind | None = None, eos: int = 0) -> VirtualRef:
        return VirtualRef(self.clock, [])

    def _each(self, rollouts: VirtualRef, value: Callable[[Rollouts], Any]) -> VirtualRef:
        parts = [self.actors[i % len(self.actors)].call([p], self.seconds) for i, p in enumerate(rollouts.parts)]
        return VirtualRef(self.clock, parts, lambda: value(rollouts.result()))

    def score(self, rollouts: Any) -> VirtualRef:
        return self._each(rollouts, lambda r: Scores(*(np.zeros(len(r), dtype=np.float32) for _ in range(2))))

    def logprobs(self, rollouts: Any) -> VirtualRef:
        return self._each(rollouts, lambda r: r.logprobs)


class VirtualLearner:
    """Ranks that learn together."""

    def __init__(self, clock: Clock, times: Times) -> None:
        self.clock, self.times, self.ranks = clock, times, Station(clock)

    def start(self, spec: LearnerSpec, resume: Path | None) -> VirtualRef:
        return VirtualRef(self.clock, [])

    def learn(self, rollouts: Any, scores: Any, reference: Any, kl_coefficient: float, seed: int) -> VirtualRef:
        needs = [*rollouts.parts, *scores.parts, *reference.parts]
        learned = {
            "objective__kl": 0.1,
            "objective__entropy": 1.0,
            "objective__score": 0.0,
            "val__response_length": TOKENS,
        }
        return VirtualRef(self.clock, [self.ranks.call(needs, self.times.learn)], lambda: Metrics.of(1.0, **learned))

    def weights(self) -> VirtualRef:
        return VirtualRef(self.clock, [])

    def verify(self, canary: Rollouts, answers: Any, version: int) -> VirtualRef:
        return VirtualRef(self.clock, [], lambda: Metrics.of(val__canary_difference=0.0))

    def save(self, folder: Path) -> VirtualRef:
        return VirtualRef(self.clock, [])

    def write_model(self, folder: Path) -> VirtualRef:
        return VirtualRef(self.clock, [])


class VirtualRecorder:
    """Records nothing."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def record(self, folder: Path | None, rollouts: Any, scores: Any) -> VirtualRef:
        return VirtualRef(self.clock, scores.parts, lambda: Metrics.of(1.0, val__distinct=1.0))
