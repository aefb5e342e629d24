"""The learner's update against a bare PyTorch loop that makes the same passes over as many tokens without any padding.

Ours is a rank of the learner as it stands in a run: DeepSpeed, micro-batches, clipped losses, metrics. The bare loop
gets rows of equal length with as many tokens, one forward and backward pass of both models a minibatch, and AdamW.

usage: python -m benchmarks.speed.learner FINDINGS
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.bare import PROMPT, bare_loop, rectangles
from benchmarks.speed.findings import FINDINGS, Finding, finding, in_turn, median_ratio, table
from benchmarks.speed.workloads import ids, models, response_lengths, vocabulary
from pit_ray.config.training import Optimizer, Phase, Ppo
from pit_ray.learn import ppo
from pit_ray.learn.engine import Engine
from pit_ray.learn.modules import ActorCritic
from pit_ray.models.load import load_causal, load_scalar
from pit_ray.records import Experience, Ragged

WORK = {"1m": (128, 32, 9, 0.80), "25m": (32, 16, 3, 0.92)}
"""Rollouts, rows of a minibatch, rounds, target."""
ANY = ppo.RatioLimit(float("inf"), torch.max)


def settings(rollouts: int, rows: int) -> Ppo:
    phases = (Phase(name="policy", drafts="none", steps=1),)
    return Ppo(phases=phases, epochs=1, minibatches=rollouts // rows, optimizer=Optimizer(micro_batch_tokens=8192))


def experience(rollouts: int, known: int) -> Experience:
    responses = Ragged.of(ids(response_lengths(rollouts, 1), known, 2))
    rng = np.random.default_rng(3)

    def drawn(mean: float) -> Ragged:
        return Ragged(rng.normal(mean, 0.1, len(responses.values)).astype(np.float32), responses.offsets)

    return Experience(
        context=Ragged.of(ids(np.full(rollouts, PROMPT), known, 4)), response=responses, logprobs=drawn(-5),
        advantages=drawn(0), returns=drawn(0), values=drawn(0), weights=drawn(1), temperature=1.0,
    )  # fmt: skip


def ours(folders: dict[str, Path], made: Experience, how: Ppo) -> Callable[[], object]:
    policy, value = load_causal(folders["policy"], torch.float32), load_scalar(folders["reward"], torch.float32)
    engine = rank(ActorCritic(policy, value))
    return lambda: ppo.step(engine, made, how, seed=5, ratio_limit=ANY)


def rank(module: torch.nn.Module) -> Engine:
    """The only rank of a learner, ZeRO 0, in this process."""
    from actors.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(module, Optimizer(lr=1e-5), 10_000, 0, torch.float32)


def measure(size: str, root: Path) -> list[Finding]:
    rollouts, rows, rounds, target = WORK[size]
    folders = models(size, root)
    known = vocabulary(folders["policy"])
    made = experience(rollouts, known)
    tokens = int((made.context.lengths + made.response.lengths).sum())
    even = rectangles(rollouts, rollouts // rows, tokens, known)
    seconds = in_turn(
        {"ours": ours(folders, made, settings(rollouts, rows)), "bare loop": bare_loop(folders, even)}, rounds
    )
    print(table(f"learner, {size}: {rollouts} rollouts, {tokens} tokens, one epoch", seconds))
    useful = tokens / (tokens // rollouts * rollouts)
    ratio = useful * median_ratio(seconds["bare loop"], seconds["ours"])
    return [finding(f"learner_vs_torch_{size}", ratio, f">= {target}")]


def main() -> None:
    from actors.deepspeed_engine import init_distributed

    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    init_distributed("gloo")
    with tempfile.TemporaryDirectory() as folder:
        found = [f for size in WORK for f in measure(size, Path(folder))]
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(found))


if __name__ == "__main__":
    os.environ["DS_ACCELERATOR"] = "cpu"
    torch.set_num_threads(os.cpu_count() or 1)
    main()
