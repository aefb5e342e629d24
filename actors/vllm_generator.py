"""One vLLM engine that turns prompts into rollouts."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from actors.adapters import adapter_arguments, check_complete, put_adapter
from actors.weight_transfer import Meeting
from actors.weights import engine_arguments, receive_weights, replace_weights, weight_names
from pit_ray.config import Config
from pit_ray.data.randomness import derive_seed
from pit_ray.errors import DataError, InfraError
from pit_ray.models.load import torch_dtype
from pit_ray.models.lora import Adapter
from pit_ray.records import Prompts, Ragged, Rollouts
from pit_ray.roles import GenerateRequest


class VllmGenerator:
    """Samples with per-request seeds, so that a shard's tokens depend on its requests alone."""

    def __init__(
        self, model: Path, config: Config, eos: int, max_model_len: int, unwanted: Callable[[], bool] = lambda: False
    ) -> None:
        """`unwanted` is asked before every token whether the present call is still wanted; InfraError ends it else."""
        from vllm import LLM  # reads its environment on import, so not before the actor has set it

        self.eos, self.version, self.trust = eos, 0, config.model.trust_remote_code
        dtype = torch_dtype(config.model.dtype)
        arguments = engine_arguments(model, config.actors.rollout, dtype, max_model_len, self.trust)
        gc.freeze()  # vLLM looks through all objects five times while it starts
        self.llm = LLM(**arguments, **adapter_arguments(config.model.lora))
        self.names = weight_names(model, self.trust)
        self.base: Path | None = None
        self.adapter: Any = None
        """What requests say to be answered with the adapter that lies over the weights of `base`."""
        self.met: Meeting | None = None
        self.unwanted, self._step = unwanted, self.llm.llm_engine.step
        self.llm.llm_engine.step = self._step_if_wanted  # type: ignore[method-assign]

    def _step_if_wanted(self) -> Any:
        engine = self.llm.llm_engine
        if self.unwanted():
            engine.abort_request([*engine.output_processor.request_states], internal=True)
        return self._step()

    def generate(self, prompts: Prompts, request: GenerateRequest) -> Rollouts:
        """One generate call in uid order on a fresh prefix cache; the draw of a response derives from its uid."""
        from vllm import SamplingParams

        self.llm.reset_prefix_cache()
        parameters = [
            SamplingParams(
                temperature=request.temperature,
                max_tokens=request.max_new_tokens,
                seed=derive_seed(request.seed, int(uid)),
                logprobs=0,
                stop_token_ids=[self.eos],
                ignore_eos=True,  # else other end tokens of the model's generation_config.json would stop it as well
                detokenize=False,
            )
            for uid in prompts.uid
        ]
        contexts: list[Any] = [{"prompt_token_ids": row.tolist()} for row in prompts.contexts().rows()]
        outputs: list[Any] = [out.outputs[0] for out in self._answered(contexts, parameters)]
        if len(outputs) < len(prompts):
            raise InfraError("given up: nobody wants these responses any more")
        logprobs = [
            [step[token].logprob for token, step in zip(out.token_ids, out.logprobs, strict=True)] for out in outputs
        ]
        return Rollouts(
            prompts,
            Ragged.of(out.token_ids for out in outputs),
            Ragged.of(logprobs, np.float32),
            np.array([out.finish_reason == "stop" for out in outputs]),
            self.version,
            request.temperature,
        )

    def load(self, folder: Path, version: int) -> None:
        """Takes the weights of a saved model; DataError when the folder has no safetensors."""
        files = sorted(Path(folder).glob("*.safetensors"))
        if not files:
            raise DataError(f"{folder}: no .safetensors file to load weights from")
        self._replace((pair for file in files for pair in load_file(file).items()), folder)
        self.version = version

    def update(self, weights: dict[str, torch.Tensor] | Adapter, version: int) -> None:
        """Takes a learner's weights, or its adapter and, where others are loaded, the weights that it belongs to;
        rollouts made afterwards carry `version`. InfraError unless they are all of the model's and no others."""
        if isinstance(weights, Adapter):
            check_complete(weights, self.trust)
            if self.base != weights.base:
                self.load(weights.base, version)
            self.adapter, self.version = put_adapter(self.llm, weights), version
            return
        self._check_names(weights.keys(), version)
        self._replace(weights.items(), None)
        self.version = version

    def receive(self, info: dict[str, Any], meeting: Meeting, rank: int, version: int) -> None:
        """Takes a learner's weights as `info` describes them, while the learner sends. `rank`: of this engine's first
        GPU in the meeting. InfraError as of `update`."""
        self._check_names(set(info["names"]), version)
        if meeting != self.met:
            if self.met is not None:
                self.llm.shutdown_weight_transfer_engine()
            self.llm.init_weight_transfer_engine({"init_info": meeting.told_to_engine(rank)})
            self.met = meeting
        self.base = None
        receive_weights(self.llm, info)
        self.version = version

    def _check_names(self, names: Set[str], version: int) -> None:
        lacking, strange = sorted(self.names - names), sorted(names - self.names)
        if lacking or strange:
            raise InfraError(
                f"the weights of policy version {version} are not the model's (a partial sync): {len(lacking)} of "
                f"{len(self.names)} are missing {lacking[:1]}, {len(strange)} are unknown {strange[:1]}"
            )

    def _replace(self, weights: Iterable[tuple[str, torch.Tensor]], base: Path | None) -> None:
        """New weights, which no adapter lies over."""
        self.base = self.adapter = None
        replace_weights(self.llm, weights)
        self.base = base

    def _answered(self, asked: list[Any], parameters: Any) -> list[Any]:
        return self.llm.generate(asked, parameters, use_tqdm=False, lora_request=self.adapter)

    def logprobs(self, rollouts: Rollouts) -> Ragged:
        """This engine's log-probabilities of given responses at temperature 1, one prefill for each."""
        from vllm import SamplingParams

        contexts, response = rollouts.prompts.contexts().rows(), rollouts.response.rows()
        asked: list[Any] = [
            {"prompt_token_ids": [*context.tolist(), *row.tolist()]}
            for context, row in zip(contexts, response, strict=True)
        ]
        parameters = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        outputs = self._answered(asked, parameters)
        found = [
            [step[token].logprob for step, token in zip(out.prompt_logprobs[-len(row) :], row.tolist(), strict=True)]
            for out, row in zip(outputs, response, strict=True)
        ]
        return Ragged.of(found, np.float32)
