"""Which worker does which job, and when: a policy without clocks, threads or actors of its own.

Jobs go, in order, each to the first worker that is free. When none waits any more and a worker is free, a job that is
late is begun once more, and whichever answer comes first counts (the backup tasks of MapReduce, Dean and Ghemawat
2004).
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

W = TypeVar("W", bound=Hashable)

LATE = 1.5
"""A job is late when it was begun last so many times the median of its batch ago, of which half must be done."""


@dataclass
class Batch:
    """Jobs that were asked for together, so that one tells how long another may take."""

    size: int
    seconds: list[float] = field(default_factory=list)
    """Of those that are done, the least first."""

    def late(self) -> float | None:
        """Seconds after which a job is late; None while too few are done to tell."""
        done = len(self.seconds)
        return LATE * (self.seconds[(done - 1) // 2] + self.seconds[done // 2]) / 2 if 2 * done >= self.size else None


@dataclass(eq=False)
class Job:
    """Something to be done once, by anyone."""

    batch: Batch
    what: Any
    workers: list[Any] = field(default_factory=list)
    """Those that are at it."""
    begun: float = 0.0
    """When it was begun last."""
    done: bool = False


class Dispatch(Generic[W]):
    """What waits and what runs."""

    def __init__(self) -> None:
        self.waiting: deque[Job] = deque()
        self.running: dict[W, tuple[Job, float]] = {}
        """By worker, its job and since when."""

    def add(self, jobs: Iterable[Any]) -> None:
        """A batch of new jobs, behind those that wait."""
        what = list(jobs)
        batch = Batch(len(what))
        self.waiting.extend(Job(batch, each) for each in what)

    def hand_out(self, workers: Iterable[W], now: float) -> Iterator[tuple[W, Job]]:
        """What the free ones of these workers are to do now."""
        for worker in workers:
            if worker in self.running:
                continue
            job = self.waiting.popleft() if self.waiting else self._late(now)
            if job is None:
                return
            job.workers.append(worker)
            job.begun = now
            self.running[worker] = job, now
            yield worker, job

    def next_late(self) -> float | None:
        """When the next job will be late, so that a worker that is free then might do it, too."""
        return None if self.waiting else min((at for at, _ in self._open()), default=None)

    def answered(self, worker: W, now: float) -> Job | None:
        """A worker is done: its job, if this is the first answer. What others still do for it is no longer wanted."""
        job, since = self.running.pop(worker)
        job.workers.remove(worker)
        if job.done:
            return None
        job.done = True
        insort(job.batch.seconds, now - since)
        return job

    def failed(self, worker: W) -> Job | None:
        """A worker could not do its job: the job, if nobody else is at it or has done it; it then counts as done."""
        job, _ = self.running.pop(worker)
        job.workers.remove(worker)
        if job.done or job.workers:
            return None
        job.done = True
        return job

    def _late(self, now: float) -> Job | None:
        """Of the late jobs the one that has waited longest."""
        return min((job for at, job in self._open() if at <= now), key=lambda job: job.begun, default=None)

    def _open(self) -> Iterator[tuple[float, Job]]:
        """The jobs that run and of which it can be told when they are late, with that time."""
        limits: dict[int, float | None] = {}
        for job, _ in self.running.values():
            batch = id(job.batch)
            if batch not in limits:
                limits[batch] = job.batch.late()
            if not job.done and (late := limits[batch]) is not None:
                yield job.begun + late, job
