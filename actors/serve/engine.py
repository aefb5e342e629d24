"""A served language model: one vLLM engine that writes for many requests at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from actors.weights import engine_arguments
from pit_ray.config import Config
from pit_ray.errors import InfraError
from pit_ray.models.load import torch_dtype
from pit_ray.store import Store

END_SECONDS = 1.0
"""That the engine's own process is given to end by itself."""


@dataclass(frozen=True)
class Writing:
    """A response to be written."""

    context: Sequence[int]
    """Token ids."""
    temperature: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Piece:
    """The next tokens of a response."""

    ids: list[int]
    """The end token is the last, where the response ends by itself."""
    logprobs: list[float]
    finished: bool
    """Whether it ended by itself here."""


class Engine:
    """One model in vLLM's asynchronous engine. That always computes in a process of its own, which lives and dies with
    this one's; what it is asked for meanwhile joins the batch that is running.

    It draws as `VllmGenerator` does: from the request's seed alone.
    """

    def __init__(self, model: Path, config: Config, store: Store, eos: int, longest: int) -> None:
        # vLLM reads its environment on import, so not before the replica's is set.
        from vllm import SamplingParams
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.async_llm import AsyncLLM

        store.pull(model)
        rollout, trust = config.actors.rollout, config.model.trust_remote_code
        arguments = engine_arguments(model, rollout, torch_dtype(config.model.dtype), longest, trust)
        self.parameters, self.kinds, self.eos = SamplingParams, RequestOutputKind, eos
        self.numbers, self.warm = count(), False
        self.llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments, enable_log_requests=False))

    async def write(self, writing: Writing) -> Piece:
        """A whole response."""
        (piece,) = [piece async for piece in self._pieces(writing, self.kinds.FINAL_ONLY)]
        return piece

    async def stream(self, writing: Writing) -> AsyncIterator[Piece]:
        """A response, piece by piece."""
        async for piece in self._pieces(writing, self.kinds.DELTA):
            yield piece

    async def _pieces(self, writing: Writing, kind: Any) -> AsyncIterator[Piece]:
        parameters = self.parameters(
            temperature=writing.temperature,
            max_tokens=writing.max_new_tokens,
            seed=writing.seed,
            logprobs=0,
            stop_token_ids=[self.eos],
            ignore_eos=True,  # else other end tokens of the model's generation_config.json would stop it as well
            detokenize=False,
            output_kind=kind,
        )
        context: Any = {"prompt_token_ids": list(writing.context)}
        # Whoever stops listening ends the writing: vLLM aborts the request when this generator is closed.
        async for found in self.llm.generate(context, parameters, str(next(self.numbers))):
            out = found.outputs[0]
            logprobs: Any = out.logprobs or ()
            ids = list(out.token_ids)
            yield Piece(
                ids,
                [step[token].logprob for token, step in zip(ids, logprobs, strict=True)],
                out.finish_reason == "stop",
            )

    async def answers(self) -> bool:
        """True, once the engine's own process has answered; InfraError when it is dead."""
        if self.llm.errored:
            raise InfraError("the engine's process is dead")
        await self.llm.is_sleeping()
        return True

    async def check_health(self) -> None:
        """Serve asks this now and then, and puts another replica in the place of one that fails. It does so first when
        the replica is made, and waits for the answer: then the engine writes its first token, which takes seconds."""
        if not self.warm:
            await self.write(Writing([self.eos], 0.0, 1, 0))
            self.warm = True
        await self.answers()

    def __del__(self) -> None:
        with suppress(AttributeError):  # it was never made
            self.llm.shutdown(timeout=END_SECONDS)
