"""Transfers of weights between learner and engines, as far as CPUs go: vLLM's own classes on both sides, with a
communicator over its TCP store in the place of NCCL's, and no streams. Nothing here has seen a GPU."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from actors.group import GIVEN, Group, Worker
from actors.learner import LearnerActor, RayLearner, learner_environment
from actors.plan import Bundle
from actors.rollout import RayRolloutPool, RolloutActor
from actors.supervisor import Supervisor
from actors.weight_transfer import Meeting, PolicySource, Sender, Told, manifest
from actors.weights import engine_arguments, engine_environment
from pit_ray.canary import canary
from pit_ray.config import Config
from pit_ray.config.actors import Deadlines, Faults, LearnerActors, RolloutActors
from pit_ray.config.load import parse_config
from pit_ray.config.training import Optimizer, Phase, Ppo
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds.notes import Notes
from pit_ray.errors import ConfigError, GroupLost, InfraError
from pit_ray.records import Prompts, Rollouts, Scores
from pit_ray.roles import GenerateRequest, LearnerSpec, Resolved
from pit_ray.store import Store

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
DIRECT = RolloutActors(workers=2, threads=1, kv_cache_gib=0.1).model_copy(update={"weight_sync": "nccl"})
"""What no configuration says without GPUs."""
RANKS = LearnerActors(ranks=2, zero_stage=3, threads=1)


def configured(**actors: Any) -> Config:
    plain = {"data": {"source": "world:notes", "pairs": 100}, "model": {"path": "world:notes"}, "actors": actors}
    return parse_config(plain, where="test")


@pytest.mark.parametrize(
    ("rollout", "learner", "said"),
    [
        ({"weight_sync": "nccl"}, {}, "weight_sync=nccl needs rollout.gpus and learner.gpus; host works without"),
        ({"weight_sync": "ipc"}, {"gpus": 1}, "weight_sync=ipc needs rollout.gpus and learner.gpus"),
        ({"weight_sync": "nccl", "gpus": 0.5}, {"gpus": 0.5}, "needs whole GPUs.*on a shared device use ipc or host"),
        ({"weight_sync": "ipc", "gpus": 1}, {"gpus": 1}, "learner.gpus \\+ rollout.gpus at most 1"),
        ({"weight_sync": "ipc", "gpus": 0.4, "workers": 2}, {"gpus": 0.2}, "one learner rank and one engine"),
        ({"weight_sync": "ipc", "gpus": 0.4}, {"gpus": 0.2, "ranks": 2}, "on several GPUs use nccl or host"),
        ({"weight_sync": "gloo"}, {}, "weight_sync: .*'host', 'nccl' or 'ipc'"),
    ],
)
def test_what_cannot_transfer_is_refused(rollout: dict[str, Any], learner: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(rollout=rollout, learner=learner)


def test_what_can_is_taken_and_host_memory_is_the_default() -> None:
    assert configured().actors.rollout.weight_sync == "host"
    nccl = configured(rollout={"weight_sync": "nccl", "gpus": 1, "tensor_parallel": 2}, learner={"gpus": 1, "ranks": 2})
    ipc = configured(rollout={"weight_sync": "ipc", "gpus": 0.4}, learner={"gpus": 0.4})
    for config in (nccl, ipc):
        arguments = engine_arguments(Path("m"), config.actors.rollout, torch.bfloat16, 64, False)
        assert arguments["weight_transfer_config"] == {"backend": config.actors.rollout.weight_sync}
    assert "weight_transfer_config" not in engine_arguments(Path("m"), RolloutActors(), torch.bfloat16, 64, False)


class Two:
    """Two parameters of different dtypes, as an engine gives them."""

    def __init__(self) -> None:
        self.named = {"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}

    def shapes(self, submodule: str) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        assert submodule == "policy"
        return [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.named.items()]

    def whole(self, submodule: str) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.named.items()


def test_engines_are_told_what_vllms_own_trainer_would_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.weight_transfer import base, nccl_engine
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferInitInfo

    without_devices(put=monkeypatch.setattr)
    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", lambda info: StoreCommunicator(None, 0))
    assert isinstance(Told(), base.VLLMWeightSyncClient)
    meeting = Meeting("nccl", "127.0.0.1", 29999, 3)
    sender = Sender(meeting, 0)
    sender.send(two := Two())
    assert sender.told.update == manifest(two)
    ours = nccl_engine.NCCLWeightTransferInitInfo(**meeting.told_to_engine(1))
    assert ours == nccl_engine.NCCLWeightTransferInitInfo(**sender.told.init)
    info = nccl_engine.NCCLWeightTransferUpdateInfo(**manifest(two))
    assert (info.names, info.dtype_names, info.shapes) == (["a", "b"], ["float32", "bfloat16"], [[2, 3], [4]])
    assert not IPCWeightTransferInitInfo(**Meeting("ipc", "", 0, 2).told_to_engine(1)).packed


def test_without_a_device_the_ipc_path_says_so() -> None:
    with pytest.raises(InfraError, match="weight_sync=ipc: this learner's process has no CUDA device to share"):
        Sender(Meeting("ipc", "", 0, 2), 0)


def test_a_parameter_that_would_be_copied_is_refused() -> None:
    two = Two()
    two.named["a"] = two.named["a"].T
    source = PolicySource()
    source.engine = two
    with pytest.raises(InfraError, match="a is not contiguous"):
        list(source)


class StoreCommunicator:
    """Broadcasts through the store that vLLM's processes meet at."""

    disabled = False

    def __init__(self, group: Any, device: Any) -> None:
        self.group = group

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        if self.group is not None:
            tensor.copy_(self.group.broadcast_obj(tensor if self.group.rank == src else None, src))

    def destroy(self) -> None: ...


class Stream:
    def __init__(self, device: Any = None) -> None: ...

    def synchronize(self) -> None: ...


def without_devices(actor: Any = None, put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Has vLLM transfer weights in this process as it would on a GPU, but for NCCL and streams."""
    from vllm.distributed.device_communicators import pynccl

    put(pynccl, "PyNcclCommunicator", StoreCommunicator)
    put(torch.accelerator, "current_device_index", lambda: 0)
    put(torch.accelerator, "synchronize", lambda device=None: None)
    put(torch.cuda, "Stream", Stream)
    put(torch.cuda, "stream", lambda stream: nullcontext())


class Side:
    """Two ranks under ZeRO 3 and two engines, in one supervisor's care."""

    def __init__(self, config: Config, folders: dict[str, Path], renderer: Renderer) -> None:
        supervisor = Supervisor(Faults(), "", Path("stacks.txt"), print, lambda: None, print)
        self.supervisor, self.folders = supervisor, folders
        actors = config.actors.model_copy(update={"rollout": DIRECT, "learner": RANKS})
        direct = config.model_copy(update={"actors": actors})

        def engine(bundle: Bundle) -> Any:
            kind = RolloutActor.options(num_cpus=0.2, runtime_env={"env_vars": engine_environment(DIRECT)})
            return kind.remote(bundle, folders["policy"], direct, Store(folders["policy"]), renderer.eos, 200)

        def rank(bundle: Bundle) -> Any:
            kind = LearnerActor.options(num_cpus=0.2, runtime_env={"env_vars": learner_environment(RANKS)})
            return kind.remote(bundle, RANKS)

        for role, create in {"learner": rank, "rollout": engine}.items():
            bundles = [Bundle(role, i, 0.2, 0.0) for i in range(2)]
            supervisor.groups[role] = Group([Worker(b, partial(create, b)) for b in bundles], supervisor)
        self.learner = RayLearner(supervisor.groups["learner"], Deadlines(), DIRECT)
        self.pool = RayRolloutPool(supervisor.groups["rollout"], Deadlines())
        supervisor.settle(supervisor.workers())
        self.ready()

    def ready(self) -> None:
        """The learner stands at its first weights; in no process anything is left that needs a device."""
        self.learner.join().result()
        ray.get([worker.handle.__ray_call__.remote(without_devices) for worker in self.supervisor.workers()])
        optimizer = Optimizer(lr=1e-2, schedule="constant", warmup_steps=0, micro_batch_tokens=600)
        ppo = Ppo(phases=(Phase(name="p", drafts="annotated", steps=3),), rollouts_per_step=24, optimizer=optimizer)
        policy = self.folders["policy"]
        spec = LearnerSpec(policy, self.folders["reward"], policy, ppo, "float32", 3, 11, False, Store(policy))
        self.learner.start(spec, None).result()

    def learn(self, rollouts: Rollouts) -> None:
        scores = np.random.default_rng(0).normal(size=len(rollouts.response)).astype(np.float32)
        given = Resolved(rollouts), Resolved(Scores(scores, np.zeros_like(scores))), Resolved(rollouts.logprobs)
        self.learner.learn(*given, 0.05, 0).result()

    def sync(self, version: int) -> None:
        self.pool.sync(self.learner.weights(), version).result()


@pytest.fixture(scope="module")
def side(local_ray: None, config: Config, folders: dict[str, Path], renderer: Renderer) -> Iterator[Side]:
    made = Side(config, folders, renderer)
    yield made
    for worker in made.supervisor.workers():
        ray.kill(worker.handle)


def difference(side: Side, asked: Rollouts, version: int) -> float:
    found = side.learner.verify(asked, side.pool.logprobs(asked), version).result()
    return found.mean("val/canary_difference")


@pytest.mark.slow
def test_engines_hold_what_the_learner_has_learned(side: Side, prompts: Prompts, renderer: Renderer) -> None:
    asked = canary(renderer.tokenise(Notes().pairs(24, 3)), renderer.eos)
    side.sync(0)
    assert difference(side, asked, 0) < 1e-4
    before = side.pool.logprobs(asked).result().values
    rollouts = side.pool.generate(prompts, GenerateRequest(1.0, 20, 5, 12)).result()
    assert rollouts.version == 0
    side.learn(rollouts)
    met = side.learner.group.met
    side.sync(1)
    assert side.learner.group.met is met  # the same processes need no new meeting
    assert difference(side, asked, 1) < 1e-4
    assert np.abs(side.pool.logprobs(asked).result().values - before).max() > 1e-2
    assert side.pool.generate(prompts, GenerateRequest(1.0, 20, 5, 12)).result().version == 1
    host = side.learner._all("weights", 60).result()
    described = ray.get(side.learner.group.workers[0].handle.manifest.remote())
    assert described["names"] == list(host)
    assert described["shapes"] == [list(tensor.shape) for tensor in host.values()]


@pytest.mark.slow
def test_an_engine_that_dies_in_a_transfer_sends_the_learners_back_with_it(
    side: Side, prompts: Prompts, renderer: Renderer
) -> None:
    def hang(actor: Any) -> None:
        actor.generator.llm.start_weight_update = lambda: time.sleep(600)

    asked = canary(renderer.tokenise(Notes().pairs(24, 3)), renderer.eos)
    engine = side.pool.group.workers[1]
    ray.get(engine.handle.__ray_call__.remote(hang))
    sent = side.pool.sync(side.learner.weights(), 2)
    with pytest.raises(TimeoutError):
        sent.result(timeout=2)
    ray.kill(engine.handle)
    started = time.monotonic()
    with pytest.raises(GroupLost, match=r"rollout/1: replaced together with the learners"):
        sent.result()
    assert time.monotonic() - started < 10
    met = side.learner.group.met
    for worker in side.supervisor.workers():  # as the deployment recovers
        assert worker.loaded is GIVEN or worker.bundle.role == "learner"
        worker.loaded = None
    side.supervisor.replace(side.supervisor.workers())
    side.ready()
    side.sync(0)
    assert side.learner.group.met is not None and met is not None and side.learner.group.met[0] != met[0]
    assert difference(side, asked, 0) < 1e-4


@pytest.mark.slow
def test_an_engine_that_took_a_model_from_its_folder_is_replaced_alone(side: Side, folders: dict[str, Path]) -> None:
    side.pool.load(folders["policy"], 0).result()
    side.supervisor.replace(side.pool.group.workers[:1])
    ray.get(side.pool.group.workers[0].handle.__ray_call__.remote(without_devices))
    side.sync(3)
    with pytest.raises(GroupLost):
        side.supervisor.replace(side.pool.group.workers[:1])
