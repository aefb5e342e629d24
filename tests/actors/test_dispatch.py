"""The policy that hands shards to workers, played through with pretended clocks."""

from __future__ import annotations

import heapq
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actors.dispatch import LATE, Dispatch, Job

SECONDS = st.lists(st.floats(0.1, 20.0), min_size=1, max_size=40)


def played(seconds: list[float], workers: int) -> tuple[Counter[int], float]:
    """How often each job was begun, and when all were answered; a job takes as long whoever does it."""
    policy: Dispatch[int] = Dispatch()
    policy.add(range(len(seconds)))
    begun: Counter[int] = Counter()
    answered: Counter[int] = Counter()
    ends: list[tuple[float, int]] = []
    now = 0.0
    while True:
        for worker, job in policy.hand_out(range(workers), now):
            begun[job.what] += 1
            heapq.heappush(ends, (now + seconds[job.what], worker))
        if not ends:
            assert answered == Counter(range(len(seconds)))
            return begun, now
        free = len(policy.running) < workers
        late = policy.next_late() if free else None
        if late is not None and late < ends[0][0]:
            now = max(now, late)
            continue
        now, worker = heapq.heappop(ends)
        if job := policy.answered(worker, now):
            answered[job.what] += 1


@given(SECONDS, st.integers(1, 8))
def test_every_job_is_answered_once_and_only_late_ones_are_begun_again(seconds: list[float], workers: int) -> None:
    begun, _ = played(seconds, workers)
    assert set(begun) == set(range(len(seconds)))
    assert all(count == 1 for job, count in begun.items() if seconds[job] <= LATE * min(seconds))


@given(SECONDS, st.integers(1, 8))
def test_nobody_idles_while_something_waits(seconds: list[float], workers: int) -> None:
    _, end = played(seconds, workers)
    # Graham's bound for any list schedule; a job that is done again keeps nobody from a new one, and ends no later.
    assert end <= sum(seconds) / workers + max(seconds) * (1 - 1 / workers) + max(seconds) + 1e-6


def given_out(policy: Dispatch[str], workers: str, now: float) -> list[tuple[str, int]]:
    return [(worker, job.what) for worker, job in policy.hand_out(workers, now)]


def job_of(policy: Dispatch[str], worker: str, now: float) -> int | None:
    job = policy.answered(worker, now)
    return None if job is None else job.what


def test_jobs_go_in_order_to_whoever_is_free() -> None:
    policy: Dispatch[str] = Dispatch()
    policy.add([0, 1])
    policy.add([2])
    assert given_out(policy, "ab", 0.0) == [("a", 0), ("b", 1)]
    assert given_out(policy, "ab", 0.5) == []
    assert job_of(policy, "b", 1.0) == 1
    assert given_out(policy, "ab", 1.0) == [("b", 2)]


def test_a_late_job_is_done_again_by_whoever_is_free_and_the_first_answer_counts() -> None:
    policy: Dispatch[str] = Dispatch()
    policy.add([0, 1, 2])
    assert len(given_out(policy, "abc", 0.0)) == 3
    job_of(policy, "a", 1.0)
    assert policy.next_late() is None, "one of three tells too little"
    job_of(policy, "b", 2.0)
    late = policy.next_late()
    assert late == LATE * 1.5
    assert given_out(policy, "abc", late - 0.01) == []
    assert given_out(policy, "abc", late) == [("a", 2)], "not by both at once"
    job = policy.answered("a", 3.5)
    assert isinstance(job, Job) and job.what == 2 and job.workers == ["c"], "who is not wanted any more"
    policy.add([3])
    assert given_out(policy, "ab", 3.5) == [("a", 3)]
    assert policy.answered("c", 9.0) is None
    assert given_out(policy, "bc", 9.0) == [], "how long it took a straggler is not how long a job takes"


def test_a_second_call_that_straggles_too_is_not_waited_for() -> None:
    policy: Dispatch[str] = Dispatch()
    policy.add([0, 1, 2])
    given_out(policy, "abc", 0.0)
    job_of(policy, "a", 1.0)
    job_of(policy, "b", 1.0)
    assert given_out(policy, "abc", LATE) == [("a", 2)]
    assert policy.next_late() == 2 * LATE
    assert given_out(policy, "abc", 2 * LATE) == [("b", 2)]
    job = policy.answered("b", 2 * LATE + 1)
    assert job is not None and job.workers == ["c", "a"]


def test_what_fails_twice_is_told_once() -> None:
    policy: Dispatch[str] = Dispatch()
    policy.add([0, 1])
    given_out(policy, "ab", 0.0)
    job_of(policy, "a", 1.0)
    assert given_out(policy, "ab", 2.0) == [("a", 1)]
    assert policy.failed("b") is None, "another is at it"
    job = policy.failed("a")
    assert job is not None and job.what == 1 and not policy.running
