"""A supervised stage as a loop: SFT and reward training, the same in one process and in a worker group."""

from __future__ import annotations

import json
import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pit_ray.checkpoint import Checkpoints, checkpoints_in
from pit_ray.config.training import Supervised
from pit_ray.data.parquet import read_examples, read_pairs
from pit_ray.data.randomness import derive_seed
from pit_ray.data.splits import draw_order
from pit_ray.data.templates import Renderer
from pit_ray.errors import TrainingError
from pit_ray.learn import reward, sft
from pit_ray.learn.engine import Engine, EngineFactory, clear_mirror, push_parts
from pit_ray.learn.modules import Policy, Reward
from pit_ray.metrics import Metrics
from pit_ray.models.load import load_causal, load_scalar, torch_dtype
from pit_ray.models.lora import adapt
from pit_ray.records import Examples, Pairs
from pit_ray.roles import FitJob
from pit_ray.run_folder import CHECKPOINTS, write_json, write_text, writing

METRICS, FINISHED = "metrics.jsonl", "finished.json"
KEPT = 2
"""Checkpoints of a stage: one to go on from, and one before it should that be damaged."""


def total_steps(section: Supervised, pairs: int) -> int:
    """Optimisation steps of a stage, at least one."""
    return max(1, math.ceil(section.epochs * pairs / section.batch_size))


def lasting(section: Supervised, steps: int, pairs: int) -> Supervised:
    """The section with the epochs that come to so many steps, at least one: half a step less, since steps are rounded
    up."""
    return section.model_copy(update={"epochs": (steps - 0.5) * section.batch_size / pairs})


def checkpoints_of(job: FitJob) -> Checkpoints:
    """Where a stage keeps what it resumes from."""
    return checkpoints_in(job.folder / CHECKPOINTS, KEPT, job.store)


def fit(job: FitJob, make_engine: EngineFactory) -> None:
    """Runs the stage from its last checkpoint to its written model; metrics go to the stage's metrics.jsonl.

    Raises TrainingError, naming stage and step, when the loss is not finite.
    """
    started = time.monotonic()
    section, model_config = job.section, job.config.model
    for path in (job.pairs, job.validation, job.model, job.renderer):
        job.store.pull(path)
    renderer = Renderer.load(job.renderer)
    rows = read_examples(job.pairs) if job.kind == "sft" else read_pairs(job.pairs)
    dtype, trust = torch_dtype(model_config.dtype), model_config.trust_remote_code
    if job.kind.startswith("sft"):
        model = load_causal(job.model, dtype, trust)
        module: torch.nn.Module = Policy(model)
    else:
        head_seed = derive_seed(job.config.seed, job.stage, "head") if job.kind == "reward" else None
        model = load_scalar(job.model, dtype, new_head_seed=head_seed, trust_remote_code=trust)
        module = Reward(model)
    if model_config.lora is not None:
        adapt(model, model_config.lora, derive_seed(job.config.seed, job.stage, "lora"))
    steps = total_steps(section, len(rows))
    engine = make_engine(module, section.optimizer, steps)
    start = _restore(job, engine)
    for step in range(start, steps):
        drawn = draw_order(len(rows), step * section.batch_size, section.batch_size, job.config.seed, job.stage)
        try:
            metrics = learn(job, engine, rows.take(drawn), renderer)
        except TrainingError as error:
            raise TrainingError(f"{job.stage}, step {step}: {error}") from error
        _log(job, engine, step, metrics)
        if (step + 1) % section.checkpoint_every == 0 and step + 1 < steps:
            _save(job, engine, step + 1, model, renderer)
    if job.kind in ("reward", "gap_reward"):
        unseen = read_pairs(job.validation)
        _log(job, engine, steps, validate(engine, unseen, bridge_of(job, renderer), renderer.eos, section))
    _write_model(engine, model, renderer, job.folder / "model")
    if engine.rank == 0:
        write_json(job.folder / FINISHED, {"seconds": time.monotonic() - started})
        for name in ("model", METRICS, FINISHED):
            job.store.push(job.folder / name)
    engine.gather(None)  # the mark stands


def learn(job: FitJob, engine: Engine, batch: Pairs | Examples, renderer: Renderer) -> Metrics:
    """One optimisation step of the stage."""
    bridge, eos, budget = bridge_of(job, renderer), renderer.eos, job.section.optimizer.micro_batch_tokens
    if isinstance(batch, Examples):
        return sft.step(engine, batch, budget)
    if job.kind.startswith("sft"):
        return sft.step(engine, sft.examples(batch, bridge, eos), budget)
    return reward.step(engine, batch, bridge, eos, budget)


def bridge_of(job: FitJob, renderer: Renderer) -> np.ndarray | None:
    """The ids between draft and response, for stages whose models read a draft."""
    return renderer.bridge if job.kind in ("sft_improver", "gap_reward") else None


def validate(engine: Engine, pairs: Pairs, bridge: np.ndarray | None, eos: int, section: Supervised) -> Metrics:
    """val/validation_accuracy of a reward model: the share of unseen pairs with r(y_w) above r(y_l)."""
    seqs = reward.sequences(pairs, bridge, eos)
    correct, count = 0.0, 0.0
    budget = section.optimizer.micro_batch_tokens
    for rows in reward.micro_batches(reward.pair_lengths(seqs), engine.rank, engine.world, budget):
        with torch.no_grad():
            scores = reward.score_sequences(engine, rows, seqs, engine.device)
        correct, count = correct + float((scores[0] > scores[-1]).sum()), count + len(rows)
    return Metrics({"val/validation_accuracy": (correct, count)})


def _restore(job: FitJob, engine: Engine) -> int:
    """Loads the last checkpoint and drops the metrics of later steps; returns the steps done."""
    # Rank 0 decides; what is passed over the driver has said before.
    folder = engine.gather(checkpoints_of(job).newest(lambda _: None) if engine.rank == 0 else None)[0]
    steps_done = 0 if folder is None else int(folder.name.removeprefix("step-"))
    if folder is not None:
        job.store.pull(folder / "engine")
        engine.load(folder / "engine")
    if engine.rank == 0:
        path = job.folder / METRICS
        job.store.pull(path)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < steps_done]
        write_text(path, "".join(kept))
    return steps_done


def _save(job: FitJob, engine: Engine, steps_done: int, model: Any, renderer: Renderer) -> None:
    """A checkpoint after so many steps: engine/, which every rank writes its part of, and model/."""
    checkpoints, name = checkpoints_of(job), f"step-{steps_done:06d}"
    sealed = checkpoints.write(name) if engine.rank == 0 else nullcontext(checkpoints.place(name))
    with sealed as folder:
        engine.gather(None)  # the folder stands
        clear_mirror(engine, checkpoints.folder, job.store)
        with writing(folder):
            engine.save(folder / "engine")
        _write_model(engine, model, renderer, folder / "model")
        push_parts(engine, folder, job.store)
        if engine.rank == 0:
            job.store.push(job.folder / METRICS)


def _write_model(engine: Engine, model: Any, renderer: Renderer, folder: Path) -> None:
    state = engine.full_state("model")
    if engine.rank == 0:
        with writing(folder):
            model.save_pretrained(str(folder), state_dict=state)
            renderer.save(folder)


def _log(job: FitJob, engine: Engine, step: int, metrics: Metrics) -> None:
    merged = Metrics()
    for part in engine.gather(dict(metrics)):
        merged = merged | part
    if engine.rank == 0:
        path = job.folder / METRICS
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **merged}) + "\n")
