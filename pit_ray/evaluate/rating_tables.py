"""Ratings of the systems of several evaluations, in as many tables as there are judges and kinds of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from pit_ray.data.randomness import derive_seed
from pit_ray.evaluate.common_ground import CommonGround
from pit_ray.evaluate.evaluation_folder import EvaluationFolder
from pit_ray.evaluate.ratings import PairOutcomes, Rating, all_pairs, of_verdicts, rate


class RatingTable(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    judge: str
    evaluations: list[str]
    pooled: bool
    """Whether the evaluations are seeds of one experiment, rated together; else their prompts are the same."""
    anchor: str | None
    ratings: list[Rating]


def rating_tables(ground: CommonGround, resamples: int, seed: int) -> list[RatingTable]:
    """By every judge: evaluations on the same prompts together, and seeds of one experiment pooled; each anchored at
    the baseline, of several evaluations at the first one's."""
    found = []
    for judge in dict.fromkeys(judge for folder in ground.folders for judge in folder.judges):
        groups = _groups(ground, judge)
        for group in groups:
            outcomes = _group_outcomes(ground, group, judge)
            base = ground.folders[group[0]].baseline
            anchor = None if base is None else ground.labels[group[0], base]
            found += _rated(ground, judge, group, [outcomes], anchor, resamples, seed)
        everywhere = range(len(ground.folders))
        if groups == [[k] for k in everywhere] and _seeds_of_one(ground.folders):
            seeds = [_outcomes(f, judge, {name: name for name in f.systems}) for f in ground.folders]
            found += _rated(ground, judge, everywhere, seeds, ground.folders[0].baseline, resamples, seed)
    return found


def _groups(ground: CommonGround, judge: str) -> list[list[int]]:
    """The evaluations that a judge has judged, those together that it can compare."""
    groups: list[list[int]] = []
    for k, folder in enumerate(ground.folders):
        if judge in folder.judges:
            home = next((group for group in groups if ground.apart(group[0], k, judge) is None), None)
            if home is None:
                groups.append([k])
            else:
                home.append(k)
    return groups


def _rated(
    ground: CommonGround,
    judge: str,
    group: Sequence[int],
    seeds: Sequence[PairOutcomes],
    anchor: str | None,
    resamples: int,
    seed: int,
) -> list[RatingTable]:
    """One table; none where nothing was compared."""
    names = {name for found in seeds for name in found.systems}
    if len(names) < 2:
        return []
    anchor = anchor if anchor in names else None
    ratings = rate(judge, seeds, anchor, resamples, derive_seed(seed, "ratings", judge))
    evaluations = [ground.names[k] for k in group]
    return [RatingTable(judge=judge, evaluations=evaluations, pooled=len(seeds) > 1, anchor=anchor, ratings=ratings)]


def _group_outcomes(ground: CommonGround, group: Sequence[int], judge: str) -> PairOutcomes:
    """Of evaluations whose prompts and judge are the same."""
    if len(group) == 1:
        folder = ground.folders[group[0]]
        return _outcomes(folder, judge, {name: ground.labels[group[0], name] for name in folder.systems})
    scores: dict[str, np.ndarray] = {}
    for k in group:
        for system in ground.folders[k].systems:
            if (found := ground.folders[k].scores(system, judge)) is not None:
                scores.setdefault(ground.labels[k, system], found)
    return all_pairs(scores)


def _outcomes(folder: EvaluationFolder, judge: str, labels: Mapping[str, str]) -> PairOutcomes:
    """Of one evaluation: by scores, else by verdicts."""
    scores = {labels[s]: found for s in folder.systems if (found := folder.scores(s, judge)) is not None}
    if scores:
        return all_pairs(scores)
    said = folder.judged_pairs(judge)
    return of_verdicts([(labels[ours], labels[theirs], uids, outcome) for ours, theirs, uids, outcome in said])


def _seeds_of_one(folders: Sequence[EvaluationFolder]) -> bool:
    """Whether these are the same systems of one task or world, each with a seed of its own."""
    alike = {(f.summary.task, f.summary.world, f.name, frozenset(f.systems)) for f in folders}
    seeds = {f.summary.seed for f in folders}
    return len(alike) == 1 and len(seeds) == len(folders) > 1 and None not in seeds
