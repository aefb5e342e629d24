"""What finished runs of an experiment left behind: evaluations, what their stages counted, how long they took."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pit_ray.data.randomness import derive_seed
from pit_ray.errors import DataError
from pit_ray.evaluate.comparisons import outcomes
from pit_ray.evaluate.evaluation_folder import EvaluationFolder, read_evaluation
from pit_ray.evaluate.pooling import Effect, pooled_difference

RESAMPLES = 10_000


@dataclass(frozen=True)
class Finished:
    """One run of an experiment."""

    seed: int
    variant: str
    folder: Path

    @cached_property
    def splits(self) -> dict[str, EvaluationFolder]:
        """held_out, and unseen where the task has it."""
        own = self.folder / "evaluation"
        places = {"held_out": own, "unseen": own / "unseen"}
        return {name: read_evaluation(place) for name, place in places.items() if (place / "summary.json").is_file()}

    @cached_property
    def summaries(self) -> dict[str, dict[str, Any]]:
        """Each split's summary.json as it is."""
        return {n: json.loads((e.path / "summary.json").read_text(encoding="utf-8")) for n, e in self.splits.items()}

    @cached_property
    def counts(self) -> dict[str, dict[str, Any]]:
        """Stage -> counts.json, of the stages that made examples."""
        found = sorted(self.folder.glob("stages/*/counts.json"))
        return {path.parent.name[3:]: json.loads(path.read_text(encoding="utf-8")) for path in found}

    @property
    def environment(self) -> dict[str, Any]:
        return json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))

    @property
    def seconds(self) -> float:
        return sum(self.summaries["held_out"]["seconds"].values())

    def scores(self, split: str, system: str, judge: str) -> np.ndarray:
        """(n,); KeyError when there are none."""
        found = self.splits[split].scores(system, judge)
        if found is None:
            raise KeyError(f"{self.folder}: {system} has no scores by {judge}")
        return found


def pooled(runs: Sequence[Finished], split: str, ours: str, theirs: str, judge: str) -> Effect:
    """Δ of two systems over seeds, prompts resampled inside each seed."""
    found = [outcomes(r.scores(split, ours, judge), r.scores(split, theirs, judge)) for r in runs]
    nothing = [np.zeros_like(outcome) for outcome in found]
    return pooled_difference(found, nothing, RESAMPLES, derive_seed(0, split, ours, theirs, judge))


def between(ours: Sequence[Finished], theirs: Sequence[Finished], system: str, judge: str) -> Effect:
    """Δ of one system of two variants on the same held-out prompts, likewise. DataError where they are others."""
    found = []
    for one, other in zip(ours, theirs, strict=True):
        if one.splits["held_out"].prompts != other.splits["held_out"].prompts:
            raise DataError(f"{other.folder} was evaluated on other prompts than {one.folder}")
        found.append(outcomes(one.scores("held_out", system, judge), other.scores("held_out", system, judge)))
    nothing = [np.zeros_like(outcome) for outcome in found]
    return pooled_difference(found, nothing, RESAMPLES, derive_seed(0, system, theirs[0].variant, judge))


def mean_over_seeds(runs: Sequence[Finished], split: str, system: str, judge: str) -> float:
    return float(np.mean([r.scores(split, system, judge).mean() for r in runs]))
