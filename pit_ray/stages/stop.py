"""When a PPO step stops the run, and its batch on disk (stopped/step-NNNNNN of the stage) to run it again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pit_ray.config.training import Ppo
from pit_ray.data.parquet import read_rollouts, write_rollouts
from pit_ray.metrics import Metrics
from pit_ray.records import Ragged, Rollouts, Scores
from pit_ray.run_folder import write_json


@dataclass(frozen=True)
class LearnBatch:
    """Everything a learner is given for one step."""

    rollouts: Rollouts
    scores: Scores
    reference: Ragged
    kl_coefficient: float
    seed: int


def past_limits(ppo: Ppo, metrics: Metrics, first_entropy: float | None) -> str | None:
    """The limit that a step's metrics pass and what to try, or None. `first_entropy` is the stage's first step's."""
    kl = metrics.mean("objective/kl") / metrics.mean("val/response_length")
    if ppo.token_kl_limit is not None and kl > ppo.token_kl_limit:
        return (
            f"the policy has left its reference: KL {kl:.3g} nats per response token, past token_kl_limit "
            f"{ppo.token_kl_limit:g}; lower optimizer.lr, raise kl.coefficient, or end the phase before (end.kl_limit)"
        )
    entropy = metrics.mean("objective/entropy")
    if first_entropy is not None and entropy < ppo.entropy_floor * first_entropy:
        return (
            f"the policy's entropy has collapsed: {entropy:.3g} nats per token, in the first step {first_entropy:.3g}, "
            f"entropy_floor {ppo.entropy_floor:g}; lower optimizer.lr or raise kl.coefficient"
        )
    return None


def stop_folder(stage: Path, step: int) -> Path:
    """Where the batch of a step that stopped the run is kept."""
    return stage / "stopped" / f"step-{step:06d}"


def save_stop(stage: Path, step: int, batch: LearnBatch, cause: str, metrics: Metrics) -> Path:
    """Writes batch, cause and the metrics as far as there are any; returns the folder."""
    folder = stop_folder(stage, step)
    write_scored(batch.rollouts, batch.scores, batch.reference, folder / "batch.parquet")
    values = {name: value if np.isfinite(value) else None for name, value in metrics.values_by_name().items()}
    about = {"cause": cause, "kl_coefficient": batch.kl_coefficient, "seed": batch.seed, "metrics": values}
    write_json(folder / "stop.json", about)
    return folder


def read_stop(stage: Path, step: int) -> tuple[LearnBatch, dict[str, Any]] | None:
    """What `save_stop` wrote: the batch, and `cause` and `metrics`; None where the step stopped no run."""
    folder = stop_folder(stage, step)
    if not (folder / "stop.json").is_file():
        return None
    about = json.loads((folder / "stop.json").read_text(encoding="utf-8"))
    return LearnBatch(*read_scored(folder / "batch.parquet"), about["kl_coefficient"], about["seed"]), about


def write_scored(rollouts: Rollouts, scores: Scores, reference: Ragged, path: Path) -> None:
    """Rollouts with what scorers said of them; `read_scored` gives them back to the bit."""
    more: dict[str, Any] = {"score": scores.score, "baseline": scores.baseline, "reference": reference}
    write_rollouts(rollouts, more, path)


def read_scored(path: Path) -> tuple[Rollouts, Scores, Ragged]:
    """What `write_scored` wrote."""
    rollouts, columns = read_rollouts(path, ("score", "baseline", "reference"))
    return rollouts, Scores(columns["score"], columns["baseline"]), columns["reference"]
