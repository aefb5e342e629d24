"""What a step cannot do without, with nothing of ours around it: vLLM, forward passes, a training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from actors.weights import engine_arguments, engine_environment
from pit_ray.config.actors import RolloutActors
from pit_ray.data.randomness import derive_seed
from pit_ray.models.load import torch_dtype
from pit_ray.records import Prompts

PROMPT = 40
"""Tokens."""


Generated = tuple[float, list[list[int]], int]
"""Seconds, the tokens, and how many tokens of contexts were found in the prefix cache."""


@ray.remote(num_cpus=0)
class BareEngine:
    """vLLM with a rollout worker's arguments, and its requests."""

    options: Any

    def __init__(self, model: Path, section: RolloutActors, new_tokens: int, eos: int, changed: dict[str, Any]) -> None:
        from vllm import LLM, SamplingParams

        self.llm = LLM(**engine_arguments(model, section, torch_dtype("float32"), 512, False) | changed)
        self.shared: dict[str, Any] = {
            "temperature": 1.0, "max_tokens": new_tokens, "logprobs": 0, "ignore_eos": True, "detokenize": False,
            "stop_token_ids": [eos],
        }  # fmt: skip
        self.parameters = SamplingParams

    def generate(self, contexts: list[list[int]], seeds: list[int]) -> Generated:
        asked: Any = [{"prompt_token_ids": context} for context in contexts]
        parameters = [self.parameters(seed=seed, **self.shared) for seed in seeds]
        self.llm.reset_prefix_cache()
        started = time.perf_counter()
        outputs: list[Any] = self.llm.generate(asked, parameters, use_tqdm=False)
        seconds = time.perf_counter() - started
        found = sum(output.num_cached_tokens or 0 for output in outputs)
        return seconds, [list(output.outputs[0].token_ids) for output in outputs], found


def bare_engine(model: Path, section: RolloutActors, new_tokens: int, eos: int, **changed: Any) -> Any:
    """The actor, with a worker's environment; `changed`: arguments of vllm.LLM that are to differ."""
    environment = {"env_vars": engine_environment(section)}
    return BareEngine.options(runtime_env=environment).remote(model, section, new_tokens, eos, changed)


def contexts(prompts: Prompts) -> list[list[int]]:
    """What an engine is asked to go on with."""
    return [row.tolist() for row in prompts.contexts().rows()]


def seeds(prompts: Prompts, seed: int) -> list[int]:
    """Those that a worker gives the requests."""
    return [derive_seed(seed, int(uid)) for uid in prompts.uid]


def rectangles(samples: int, minibatches: int, tokens: int, vocabulary: int) -> list[torch.Tensor]:
    """Minibatches of rows of equal length, with nearly as many tokens in all (fewer by less than one a row)."""
    rng = np.random.default_rng(6)
    shape = (samples // minibatches, tokens // samples)
    return [torch.from_numpy(rng.integers(2, vocabulary, shape)) for _ in range(minibatches)]


def bare_loop(folders: dict[str, Path], minibatches: Sequence[torch.Tensor], epochs: int = 1) -> Callable[[], None]:
    """A forward and a backward pass of policy and value model a minibatch, and AdamW."""
    policy = AutoModelForCausalLM.from_pretrained(folders["policy"])
    value = AutoModelForSequenceClassification.from_pretrained(folders["reward"])
    optimizer = torch.optim.AdamW([*policy.parameters(), *value.parameters()], lr=1e-7)

    def step() -> None:
        for rows in list(minibatches) * epochs:
            hidden = policy.model(input_ids=rows, use_cache=False).last_hidden_state[:, PROMPT - 1 : -1]
            logits = policy.lm_head(hidden).flatten(0, 1)
            read = value.model(input_ids=rows, use_cache=False).last_hidden_state[:, PROMPT - 1 : -1]
            loss = functional.cross_entropy(logits, rows[:, PROMPT:].flatten()) + value.score(read).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def bare_forwards(folders: dict[str, Path], minibatches: Sequence[torch.Tensor]) -> Callable[[], None]:
    """The forward passes of a step before it learns: policy, reference, value model, reward model."""
    policy = AutoModelForCausalLM.from_pretrained(folders["policy"])
    reward = AutoModelForSequenceClassification.from_pretrained(folders["reward"])

    @torch.inference_mode()
    def step() -> None:
        for rows in minibatches:
            for _ in range(2):
                hidden = policy.model(input_ids=rows, use_cache=False).last_hidden_state[:, PROMPT - 1 : -1]
                torch.log_softmax(policy.lm_head(hidden), -1)
                reward.score(reward.model(input_ids=rows, use_cache=False).last_hidden_state[:, PROMPT - 1 :])

    return step
