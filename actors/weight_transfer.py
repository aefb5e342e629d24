"""Weights from the learner into running engines past host memory, by vLLM's weight-transfer protocol.

nccl: rank 0 broadcasts to every engine, in a group of their own, each on a device of its own. ipc: the engine opens the
learner's parameters, on the device that both share. vLLM would have the learner call the engines; here the driver
calls both sides at once, so that it sees either die while the other waits in a collective.

UNTESTED ON HARDWARE: written against the classes of vLLM 0.32.0, and nccl was run with them on CPUs, with another
communicator in the place of NCCL's. The path through host memory (`actors.rollout.weight_sync: host`) is the default.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from actors.group import GIVEN, Group, Worker
from actors.refs import Call, RayRef
from pit_ray.config.actors import RolloutActors
from pit_ray.errors import InfraError
from pit_ray.roles import Resolved

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer.base import ParamMeta

POLICY = "policy"
"""The submodule of the learner's module that is sent."""


@dataclass(frozen=True)
class Meeting:
    """Where learner and engines meet; a new one whenever a process on either side is new."""

    backend: str
    host: str
    port: int
    world: int
    """Rank 0 of the learner, and every GPU of every engine."""

    def told_to_engine(self, rank: int) -> dict[str, Any]:
        """What vLLM's engine is initialised with; `rank` is that of its first GPU."""
        if self.backend == "ipc":
            return {"packed": False}
        place = {"master_address": self.host, "master_port": self.port, "world_size": self.world}
        return place | {"rank_offset": rank, "packed": True}


class Parameters(Protocol):
    """An engine's parameters, as `DeepSpeedEngine` gives them."""

    def shapes(self, submodule: str) -> list[tuple[str, torch.dtype, tuple[int, ...]]]: ...

    def whole(self, submodule: str) -> Iterator[tuple[str, Tensor]]: ...


class PolicySource:
    """The policy of a learner's rank, as vLLM's `WeightSource`: every rank must iterate."""

    engine: Parameters
    """There while the policy is sent; kept longer, it would hold the memory of a stage that has ended."""

    def metadata(self) -> list[ParamMeta]:
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(*each) for each in self.engine.shapes(POLICY)]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.engine.whole(POLICY):
            if not tensor.is_contiguous():  # vLLM would send a copy, which ends before the engine has opened it
                raise InfraError(f"{name} is not contiguous; use actors.rollout.weight_sync=host")
            yield name, tensor


def manifest(engine: Parameters) -> dict[str, Any]:
    """Names, dtypes and shapes of what will be sent, as vLLM's engines are told."""
    described = engine.shapes(POLICY)
    return {
        "names": [name for name, _, _ in described],
        "dtype_names": [str(dtype).removeprefix("torch.") for _, dtype, _ in described],
        "shapes": [list(shape) for _, _, shape in described],
    }


class Told:
    """vLLM's `VLLMWeightSyncClient`: what the engines are to be told is kept, and the driver tells them."""

    def __init__(self) -> None:
        self.init: dict[str, Any] = {}
        self.update: dict[str, Any] = {}

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.init = init_info

    def start_weight_update(self) -> None:
        pass

    def update_weights(self, update_info: Any) -> None:
        self.update = update_info

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        pass


class Sender:
    """One rank's side of a meeting. InfraError where the process has no device, or no NCCL, to send with."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        self.meeting, self.told, self.source = meeting, Told(), PolicySource()
        info: Any
        if meeting.backend == "ipc":
            if not torch.cuda.is_available():
                raise InfraError("actors.rollout.weight_sync=ipc: this learner's process has no CUDA device to share")
            info = IPCTrainerInitInfo(rank=rank)
        else:
            info = NCCLTrainerInitInfo(meeting.host, meeting.port, meeting.world, rank=rank)
        self.trainer: Any = WeightTransferTrainerFactory.trainer_init(info, client=self.told, source=self.source)  # type: ignore[arg-type]
        # Without the library, or a device, vLLM's communicator does nothing and says nothing.
        if getattr(getattr(self.trainer, "model_update_group", None), "disabled", False):
            raise InfraError("actors.rollout.weight_sync=nccl: NCCL could not be used in this learner's process")

    def send(self, engine: Parameters) -> dict[str, Any]:
        """Sends the policy as it now is, every rank calling; what the engines need to take it (ipc: the handles)."""
        self.source.engine = engine
        try:
            self.trainer.send_weights()
        finally:
            del self.source.engine
        return self.told.update

    def close(self) -> None:
        self.trainer.shutdown()


class Transfer(Resolved[Group]):
    """What a learner gives `RolloutPool.sync`: itself, since weights in transit can be kept by nobody."""

    def __init__(self, learners: Group, section: RolloutActors, deadline: float) -> None:
        super().__init__(learners)
        self.section, self.deadline = section, deadline

    def to(self, engines: Group, version: int) -> list[Call]:
        """The calls of both sides, at once; the first is an engine's."""
        meeting, learners = self._meeting(engines.workers), self.value
        described = learners.share(0, "manifest")
        sent = learners.each("send", meeting)
        info = sent[0] if meeting.backend == "ipc" else described
        taken = []
        for i, worker in enumerate(engines.workers):
            worker.loaded = GIVEN
            rank = 1 + i * self.section.tensor_parallel
            taken.append(engines.share(i, "receive", info, meeting, rank, version))
        return [*taken, *sent]

    def _meeting(self, engines: Sequence[Worker]) -> Meeting:
        """Where these processes have met before; else a new place, where rank 0 listens."""
        learners = self.value
        who = tuple((worker.bundle.name, worker.generation) for worker in [*learners.workers, *engines])
        if learners.met is None or learners.met[0] != who:
            asked = [learners.share(0, "address")]
            address: RayRef[tuple[str, int]] = learners.ref(asked, "learner: address", self.deadline)
            host, port = address.result()
            world = 1 + len(engines) * self.section.tensor_parallel
            learners.met = who, Meeting(self.section.weight_sync, host, port, world)
        return learners.met[1]
