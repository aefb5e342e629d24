"""Calls that go to whoever is free first, on real actors: in order, round stragglers, past the dead."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import ray

from actors.group import Group, Worker
from actors.heart import Heart
from actors.plan import Bundle
from actors.refs import Call, RayRef
from actors.supervisor import Supervisor
from pit_ray.config.actors import Faults
from pit_ray.errors import InfraError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
NAMESPACE = "pit-ray-engines"  # of the run whose Ray the tests of this folder share


@ray.remote(num_cpus=0)
class Sampler:
    """Takes its time, unless it is told that nobody waits any more."""

    def __init__(self, bundle: Bundle) -> None:
        self.name, self.heart, self.weights = bundle.name, Heart(bundle.name), 0

    def ready(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def pid(self) -> int:
        return os.getpid()

    def load(self, weights: int) -> None:
        time.sleep(0.3)
        self.weights = weights

    def sample(self, shard: int, seconds: dict[str, float]) -> tuple[int, str, int]:
        """The shard, who sampled it, and with which weights; `seconds` by worker."""
        until = time.monotonic() + seconds.get(self.name, 0.1)
        while time.monotonic() < until:
            if ray.get_runtime_context().is_canceled():
                raise InfraError("given up")
            time.sleep(0.02)
        return shard, self.name, self.weights

    def read(self, *samples: tuple[int, str, int]) -> list[tuple[int, str, int]]:
        return list(samples)


Sample = tuple[int, str, int]
Start = Callable[[int], tuple[Group, list[str]]]


@pytest.fixture
def start(local_ray: None, tmp_path: Path) -> Iterator[Start]:
    """So many samplers, and beside them a reader as group `reward`."""
    workers: list[Worker] = []

    def begin(count: int) -> tuple[Group, list[str]]:
        said: list[str] = []
        supervisor = Supervisor(
            Faults(), NAMESPACE, tmp_path / "stacks.txt", said.append, lambda: None, lambda role: None
        )

        def worker(role: str, index: int) -> Worker:
            bundle = Bundle(role, index, 0, 0)
            return Worker(bundle, lambda: Sampler.options(name=bundle.name).remote(bundle))

        for role, many in (("rollout", count), ("reward", 1), ("learner", 0)):
            supervisor.groups[role] = Group([worker(role, i) for i in range(many)], supervisor)
            workers.extend(supervisor.groups[role].workers)
        supervisor.settle(workers)
        return supervisor.groups["rollout"], said

    yield begin
    for worker in workers:
        ray.kill(worker.handle)


def asked(group: Group, count: int, **seconds: float) -> list[Call]:
    """`seconds`: of rollout_0 and so on, where they are not a tenth."""
    by_name = {name.replace("_", "/"): value for name, value in seconds.items()}
    return group.hand_out("sample", [(shard, by_name) for shard in range(count)])


def whole(group: Group, calls: list[Call]) -> RayRef[Sequence[Sample]]:
    return group.ref(calls, "sampling", 60.0, list)


def read(group: Group, calls: list[Call]) -> RayRef[list[Sample]]:
    """What a reader is handed, one call for each of these."""
    readers = group.supervisor.groups["reward"]  # type: ignore[attr-defined]
    made = [readers.share(0, "read", call) for call in calls]
    return readers.ref(made, "reading", 60.0, lambda parts: [sample for part in parts for sample in part])


def test_who_is_slow_is_given_less(start: Start) -> None:
    group, _ = start(2)
    before = time.monotonic()
    calls = asked(group, 12, rollout_0=1.0)
    assert time.monotonic() - before < 0.5, "nobody waits when something is asked"
    samples = read(group, calls).result()
    assert [shard for shard, _, _ in samples] == list(range(12))
    assert sum(name == "rollout/0" for _, name, _ in samples) <= 2
    assert whole(group, calls).result() == samples


def test_a_straggler_is_done_again_and_its_worker_is_free_at_once(start: Start) -> None:
    group, _ = start(2)
    before = time.monotonic()
    calls = asked(group, 4, rollout_0=60.0)
    samples = read(group, calls).result()
    assert {name for _, name, _ in samples} == {"rollout/1"}
    group.ref(group.load("load", 1), "loading", 60.0).result()
    assert time.monotonic() - before < 20
    assert [call.asked for call in calls] == [1] * 4
    assert {name for _, name, _ in whole(group, asked(group, 8)).result()} == {"rollout/0", "rollout/1"}


def test_weights_come_after_what_was_asked_before_them(start: Start) -> None:
    group, _ = start(2)
    first = asked(group, 6)
    group.load("load", 1)
    second = asked(group, 6)
    assert {weights for _, _, weights in whole(group, second).result()} == {1}
    assert {weights for _, _, weights in whole(group, first).result()} == {0}


def test_the_dead_are_given_nothing_and_replaced_with_their_weights(start: Start) -> None:
    group, said = start(2)
    group.ref(group.load("load", 7), "loading", 60.0).result()
    victim = ray.get(group.workers[0].handle.pid.remote())
    calls = asked(group, 10, rollout_0=1.0)
    samples = read(group, calls)
    os.kill(victim, signal.SIGKILL)
    found = samples.result()
    assert [shard for shard, _, _ in found] == list(range(10)) and {weights for _, _, weights in found} == {7}
    assert sum(call.asked for call in calls) <= 11
    assert "rollout/0 died" in said[0] and said[1].startswith("replaced rollout/0 in ")
    assert {name for _, name, _ in whole(group, asked(group, 6)).result()} == {"rollout/0", "rollout/1"}


def test_where_all_have_died_all_is_asked_again(start: Start) -> None:
    group, said = start(2)
    group.ref(group.load("load", 7), "loading", 60.0).result()
    victims = ray.get([worker.handle.pid.remote() for worker in group.workers])
    calls = asked(group, 8, rollout_0=0.5, rollout_1=0.5)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    ref = whole(group, calls)
    ref.wait()
    found = ref.result()
    assert [shard for shard, _, _ in found] == list(range(8)) and {weights for _, _, weights in found} == {7}
    assert len([line for line in said if " died: " in line]) == 2
    assert group.unanswered() == 0
