"""A learner's update on one GPU: PPO of policy and value model, or SFT of a policy alone where both do not fit.

usage: python -m benchmarks.on_gpu.learner SIZE ppo|sft [recompute] [liger], prints a JSON object as its last line
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import nn

from actors.memory import needs
from benchmarks.on_gpu.work import (
    TRAINING,
    Passes,
    allocated_gib,
    model_size,
    random_model,
    rollouts,
    seconds_of,
    speed,
)
from pit_ray.config import Config
from pit_ray.config.load import parse_config
from pit_ray.config.training import Optimizer, Phase, Ppo
from pit_ray.learn import ppo, sft
from pit_ray.learn.engine import Engine, TorchEngine
from pit_ray.learn.modules import ActorCritic, Policy
from pit_ray.models.recomputation import recompute_layers
from pit_ray.records import Examples, Experience, Ragged

BUDGET = 16384
"""Tokens of a micro-batch."""
ANY = ppo.RatioLimit(float("inf"), torch.max)
UPDATE = Optimizer(lr=1e-6, schedule="constant", warmup_steps=0, micro_batch_tokens=BUDGET)
ONCE = Ppo(phases=(Phase(name="policy", drafts="none", steps=1),), epochs=1, minibatches=1, optimizer=UPDATE)


def measure(size: str, what: str, recompute: bool, liger: bool) -> dict[str, Any]:
    """A row of the table: speed, and memory beside what is planned for it."""
    if liger:
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        # Not its losses: the head is only given the tokens that are needed, and entropies are wanted as well.
        apply_liger_kernel_to_llama(cross_entropy=False, fused_linear_cross_entropy=False)
    policy = random_model(size)
    module = Policy(policy) if what == "sft" else ActorCritic(policy, random_model(size, scalar=True))
    if recompute:
        recompute_layers(module)
    engine, name = rank(module)
    drawn = rollouts(size)
    lengths, answered = drawn.prompts.prompt.lengths + drawn.response.lengths, len(drawn.response.values)
    passes = [Passes(size, lengths, answered, kind) for kind in ((True,) if what == "sft" else (True, False))]
    seconds = seconds_of(updates(engine, what, drawn))
    arithmetic = TRAINING * sum(each.arithmetic for each in passes)
    row = {"engine": name, "tokens": int(lengths.sum())} | speed(int(lengths.sum()), arithmetic, seconds)
    planned = None if what == "sft" else needs(planned_run(recompute), model_size(size))["learner"].gpu
    return row | {"allocated_gib": allocated_gib(), "planned_gib": planned}


def updates(engine: Engine, what: str, drawn: Any) -> Callable[[], object]:
    prompts, responses = drawn.prompts.prompt, drawn.response
    if what == "sft":
        batch = Examples(drawn.prompts.uid, prompts, responses, np.ones(len(prompts), dtype=np.float32))
        return lambda: sft.step(engine, batch, BUDGET)
    rng = np.random.default_rng(3)

    def column(mean: float) -> Ragged:
        return Ragged(rng.normal(mean, 0.1, len(responses.values)).astype(np.float32), responses.offsets)

    made = Experience(
        context=prompts, response=responses, logprobs=column(-10), advantages=column(0), returns=column(0),
        values=column(0), weights=column(1), temperature=1.0,
    )  # fmt: skip
    return lambda: ppo.step(engine, made, ONCE, seed=5, ratio_limit=ANY)


def rank(module: nn.Module) -> tuple[Engine, str]:
    """The only rank of a learner: on DeepSpeed, ZeRO 0, as in a run; where that is missing, on plain PyTorch, whose
    AdamW then keeps its state in bfloat16."""
    if find_spec("deepspeed") is None:
        return TorchEngine(module, UPDATE, 10_000), "torch, bfloat16 state"
    from actors.deepspeed_engine import DeepSpeedEngine, init_distributed

    init_distributed("nccl" if torch.cuda.is_available() else "gloo")
    return DeepSpeedEngine(module, UPDATE, 10_000, 0, torch.bfloat16), "deepspeed, ZeRO 0"


def planned_run(recompute: bool) -> Config:
    """A run whose learner is this one."""
    update = {"optimizer": {"micro_batch_tokens": BUDGET}}
    plain = {
        "data": {"source": "world:notes", "pairs": 100}, "model": {"path": "world:notes", "dtype": "bfloat16"},
        "ppo_policy": update | {"phases": [{"name": "policy", "drafts": "none", "steps": 1}]},
        "ppo_improver": update | {"phases": [{"name": "annotated", "drafts": "annotated", "steps": 1}]},
        "actors": {"learner": {"gpus": 1, "gradient_checkpointing": recompute}},
    }  # fmt: skip
    return parse_config(plain, where="benchmark")


if __name__ == "__main__":
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ["DS_ACCELERATOR"] = "cuda" if torch.cuda.is_available() else "cpu"
    size, what, *variants = sys.argv[1:]
    print(json.dumps(measure(size, what, "recompute" in variants, "liger" in variants)))
