"""Real actors killed, stopped and stuck: who is replaced, what is asked again, what ends the run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors import refs
from actors import supervisor as supervision
from actors.group import GIVEN, Group, Worker
from actors.heart import Heart, does
from actors.plan import Bundle
from actors.supervisor import Supervisor
from pit_ray.config.actors import Faults
from pit_ray.errors import DataError, GroupLost, InfraError
from pit_ray.records import Prompts, Ragged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
NAMESPACE = "pit-ray-engines"  # of the run whose Ray the tests of this folder share
DEADLINE = 60.0


@ray.remote(num_cpus=0)
class Adder:
    """Holds a number, and adds it to what it is given."""

    def __init__(self, bundle: Bundle, seconds: float = 0.0) -> None:
        time.sleep(seconds)
        self.name, self.heart, self.number = bundle.name, Heart(bundle.name), 0

    def ready(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def pid(self) -> int:
        return os.getpid()

    @does
    def load(self, number: int) -> None:
        self.number = number

    @does
    def add(self, *values: int) -> int:
        return self.number + sum(values)

    @does
    def slowly(self, seconds: float, value: int) -> int:
        time.sleep(seconds)
        return self.number + value

    @does
    def generate(self, prompts: Prompts, deadly: int, set_aside: Sequence[int] = ()) -> int:
        """The sum of the prompts' numbers; one of them ends the process."""
        uid = np.delete(prompts.uid, list(set_aside))
        if not isinstance(deadly, int):
            raise ValueError(deadly)
        if deadly in uid:
            os._exit(1)
        return int(uid.sum())

    def refuse(self) -> None:
        raise DataError("bad data")


DEADLY = 6
Start = Callable[..., tuple[Supervisor, dict[str, Group], list[str]]]


@pytest.fixture
def start(local_ray: None, tmp_path: Path) -> Iterator[Start]:
    """Two workers for each of two roles, and a learner, under a supervisor; and what it says."""
    workers: list[Worker] = []

    def begin(lacking: str | None = None, **faults: Any) -> tuple[Supervisor, dict[str, Group], list[str]]:
        said: list[str] = []
        supervisor = Supervisor(
            Faults(**faults), NAMESPACE, tmp_path / "stacks.txt", said.append, lambda: lacking, lambda role: None
        )

        def worker(role: str, index: int) -> Worker:
            bundle = Bundle(role, index, 0, 0)
            return Worker(bundle, lambda: Adder.options(name=bundle.name).remote(bundle))

        for role, count in (("rollout", 2), ("reward", 2), ("learner", 1)):
            supervisor.groups[role] = Group([worker(role, i) for i in range(count)], supervisor)
            workers.extend(supervisor.groups[role].workers)
        supervisor.settle(workers)
        return supervisor, supervisor.groups, said

    yield begin
    for worker in workers:
        ray.kill(worker.handle)


def pid(worker: Worker) -> int:
    return ray.get(worker.handle.pid.remote())


def total(group: Group, calls: list[refs.Call], what: str = "adding") -> refs.RayRef[int]:
    return group.ref(calls, what, DEADLINE, lambda parts: sum(parts))


def test_a_worker_that_died_is_replaced_and_its_calls_are_asked_again(start: Start) -> None:
    _, groups, said = start()
    rollout, reward = groups["rollout"], groups["reward"]
    total(rollout, rollout.load("load", 10)).wait()
    total(reward, reward.load("load", 100)).wait()
    victim = pid(rollout.workers[1])
    first = [rollout.share(i, "slowly", 1.0, i) for i in range(4)]
    second = [reward.share(i, "add", call) for i, call in enumerate(first)]
    third = [reward.share(0, "add", *second)]
    sibling = [reward.share(i + 1, "add", call) for i, call in enumerate(first)]
    os.kill(victim, signal.SIGKILL)
    # What stands downstream of the dead, too, is made of what its successor, with the same number loaded, answers.
    assert total(reward, third).result() == 100 + sum(100 + 10 + i for i in range(4))
    assert total(rollout, first).result() == 4 * 10 + 6
    assert total(reward, sibling).result() == 4 * 100 + 4 * 10 + 6
    assert pid(rollout.workers[1]) != victim
    assert [call.asked for call in first] == [1, 2, 1, 2] and [call.asked for call in second] == [1, 2, 1, 2]
    assert "rollout/1 died" in said[0] and said[1].startswith("replaced rollout/1 in ")


def test_two_that_died_at_once_are_both_replaced(start: Start) -> None:
    supervisor, groups, _ = start()
    rollout, reward = groups["rollout"], groups["reward"]
    victims = [pid(group.workers[0]) for group in (rollout, reward)]
    calls = [reward.share(i, "add", rollout.share(i, "slowly", 1.0, i)) for i in range(2)]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    assert total(reward, calls).result() == 1
    assert len(supervisor.spent) == 2


def test_a_dead_learner_sends_the_stage_back(start: Start) -> None:
    _, groups, _ = start()
    learner = groups["learner"]
    victim = pid(learner.workers[0])
    call = learner.share(0, "slowly", 5.0, 1)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(GroupLost, match="learn: learner/0 died"):
        total(learner, [call], "learn").result()


def test_a_worker_that_was_given_its_weights_sends_the_stage_back_too(start: Start) -> None:
    supervisor, groups, said = start(infrastructure=1)
    rollout = groups["rollout"]
    for worker in rollout.workers:
        worker.loaded = GIVEN
    prompts = Prompts(np.arange(3), Ragged.of([[1]] * 3), Ragged.of([[]] * 3), np.zeros(3, dtype=np.int8), None)
    broken = rollout.share(1, "generate", prompts, "no number")  # nothing can be set aside for this
    with pytest.raises(GroupLost, match="rollout/1: replaced together with the learners"):
        total(rollout, [broken]).result()
    assert len(supervisor.spent) == 1 and said == supervisor.spent  # else a stage might begin again for ever
    os.kill(pid(rollout.workers[0]), signal.SIGKILL)
    with pytest.raises(InfraError, match=r"more than actors\.faults\.infrastructure = 1 allows"):
        total(rollout, [rollout.share(0, "add", 5)]).result()


def test_an_actor_that_is_silent_is_ended_and_replaced(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refs, "LISTEN_SECONDS", 1.0)
    _, groups, said = start(silence=8)
    rollout = groups["rollout"]
    stopped = pid(rollout.workers[0])
    os.kill(stopped, signal.SIGSTOP)
    assert total(rollout, [rollout.share(0, "add", 5)]).result() == 5
    assert "rollout/0 has been silent for" in said[0]
    assert pid(rollout.workers[0]) != stopped


def test_the_time_of_a_recovery_is_not_that_of_the_call(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor, groups, _ = start()
    rollout, replace = groups["rollout"], supervisor.replace

    def slowly(dead: Sequence[Worker]) -> None:
        time.sleep(4.0)  # until there is room
        replace(dead)

    monkeypatch.setattr(supervisor, "replace", slowly)
    os.kill(pid(rollout.workers[0]), signal.SIGKILL)
    assert rollout.ref([rollout.share(0, "add", 5)], "adding", 3.0).result() == 5


def test_a_clock_that_is_wrong_is_not_silence(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor, groups, said = start(silence=2)
    for shift in (-1000.0, 1000.0):
        for beat in range(3):
            told = {"rollout/0": {"time": time.time() + shift + beat}}
            monkeypatch.setattr(supervisor, "beats", lambda told=told: told)
            supervisor.listen()
            time.sleep(1.0)
    assert said == []
    time.sleep(2.0)
    supervisor.listen()
    assert "rollout/0 has been silent for" in said[0]
    assert [worker.bundle.name for worker in groups["rollout"].workers] == ["rollout/0", "rollout/1"]


def test_an_actor_that_cannot_start_is_not_started_for_ever(start: Start) -> None:
    _, groups, _ = start()
    worker = groups["rollout"].workers[0]
    worker.create = lambda: Adder.options(name="rollout/0").remote(None)  # it has no name there
    os.kill(pid(worker), signal.SIGKILL)
    with pytest.raises(InfraError, match=r"rollout/0 cannot start: .*has no attribute 'name'"):
        total(groups["rollout"], [groups["rollout"].share(0, "add", 5)]).result()


def test_an_actor_that_starts_slowly_is_waited_for_where_nothing_is_rolled_out(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, groups, _ = start()
    monkeypatch.setattr(supervision, "TRY_SECONDS", 0.2)
    del groups["rollout"]
    slow = groups["reward"].workers[0]
    slow.create = lambda: Adder.options(name="reward/0").remote(slow.bundle, 1.0)
    os.kill(pid(slow), signal.SIGKILL)
    assert total(groups["reward"], [groups["reward"].share(0, "add", 5)]).result() == 5


def test_what_takes_too_long_ends_with_the_place_where_everybody_stood(start: Start, tmp_path: Path) -> None:
    _, groups, _ = start()
    rollout = groups["rollout"]
    said = r"sleeping: no answer within 3 s .*rollout/0: slowly for \d+ s; rollout/1: idle for .*stacks\.txt"
    with pytest.raises(InfraError, match=said):
        rollout.ref([rollout.share(0, "slowly", 30.0, 0)], "sleeping", 3.0).result()
    whole = (tmp_path / "stacks.txt").read_text()
    assert {"rollout/0", "rollout/1", "reward/0", "reward/1", "learner/0"} <= set(whole.splitlines())
    assert "test_supervisor.py" in whole and " slowly" in whole


def test_where_a_worker_has_no_room_the_others_do_its_work_if_so_few_are_allowed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, groups, said = start(lacking="needs 2 CPUs, Ray has 1", fewest_rollout_workers=1)
    monkeypatch.setattr(supervision, "TRY_SECONDS", 1.0)
    rollout, reward = groups["rollout"], groups["reward"]
    gone = rollout.workers[1]
    gone.create = lambda: Adder.options(name="rollout/1", resources={"a lost node": 1}).remote(gone.bundle)
    os.kill(pid(gone), signal.SIGKILL)
    first = [rollout.share(i, "add", i) for i in range(4)]
    second = [reward.share(i, "add", call) for i, call in enumerate(first)]
    assert total(reward, second).result() == 6
    assert [worker.bundle.name for worker in rollout.workers] == ["rollout/0"]
    assert said[-1] == "going on without rollout/1, with 1 rollout workers"
    assert total(rollout, [rollout.share(i, "add", i) for i in range(4)]).result() == 6


def test_a_prompt_that_kills_its_worker_is_set_aside(start: Start) -> None:
    supervisor, groups, said = start()
    rollout, reward = groups["rollout"], groups["reward"]
    uid = np.arange(8)
    rows = Prompts(uid, Ragged.of([[i] for i in uid]), Ragged.of([[]] * 8), np.zeros(8, dtype=np.int8))
    calls = [rollout.share(i, "generate", rows.take(range(4 * i, 4 * i + 4)), DEADLY) for i in range(2)]
    sums = [reward.share(i, "add", call) for i, call in enumerate(calls)]
    assert total(reward, sums).result() == sum(uid) - DEADLY
    (told,) = [line for line in said if "aside" in line]
    assert told.startswith(f"prompt {DEADLY} is set aside: the engine died: ")
    assert len(supervisor.spent) == 2  # the deaths before it was found; what was found out is a fault of data
    assert len(supervisor.quarantine.found) == 1


def test_the_budget_ends_a_run_that_only_fails(start: Start) -> None:
    _, groups, _ = start(infrastructure=1)
    rollout = groups["rollout"]
    for attempt in range(2):
        os.kill(pid(rollout.workers[0]), signal.SIGKILL)
        ref = total(rollout, [rollout.share(0, "add", 1)])
        if attempt == 0:
            assert ref.result() == 1
        else:
            with pytest.raises(InfraError, match=r"more than actors\.faults\.infrastructure = 1 allows \(before: "):
                ref.result()


def test_an_error_that_an_actor_raised_is_its_own(start: Start) -> None:
    supervisor, groups, _ = start()
    rollout = groups["rollout"]
    with pytest.raises(DataError, match="bad data"):
        rollout.ref([rollout.share(0, "refuse")], "asking", DEADLINE).result()
    assert supervisor.spent == []


def test_a_timeout_of_the_caller_is_no_fault(start: Start) -> None:
    _, groups, _ = start()
    rollout = groups["rollout"]
    ref = total(rollout, [rollout.share(0, "slowly", 2.0, 3)])
    with pytest.raises(TimeoutError):
        ref.result(timeout=0.1)
    assert ref.result() == 3
