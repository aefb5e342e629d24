"""Ratings of several systems from all their pairwise comparisons: Bradley-Terry with intervals, and Elo beside it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import evalica
import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pit_ray.evaluate.comparisons import outcomes

SCALE = 400
"""Points in which the odds of winning grow tenfold."""
ANCHOR = 1000.0
"""The rating of the anchor, or the mean rating without one."""
PRIOR = 0.5
"""Wins that each side of a compared pair gets beforehand, together one tie: finite ratings where one side always wins,
and less than half a point at 500 prompts and odds of two to one."""
ELO_K = 4.0
"""How far one comparison moves an Elo rating at most."""
SHUFFLES = 10
TOLERANCE, LIMIT = 1e-9, 1000
"""Of evalica's iteration. It needs some twenty rounds, and the limit only where ratings lie 10,000 points apart."""


class Rating(BaseModel):
    """One system's place among others, by one judge. 400 points more are ten times the odds of winning; a tie is half
    a win for each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    judge: str
    bradley_terry: float
    """Maximum of the likelihood; the order of the comparisons plays no part."""
    ci95: tuple[float, float]
    """95 % interval of it, relative to the anchor, whose own has no width."""
    elo: float
    """Mean over shuffled orders of Elo's running rating, which depends on the order and, from few comparisons, stays
    near where it began."""
    n: int
    """Prompts on which the system was compared."""
    comparisons: int
    """Comparisons in which it took part."""


class PairOutcomes(NamedTuple):
    """Who won against whom, a row a comparison; each array (m,)."""

    systems: tuple[str, ...]
    prompt: np.ndarray
    """Numbers from 0."""
    first: np.ndarray
    """Places in `systems`; `second` too."""
    second: np.ndarray
    outcome: np.ndarray
    """In {−1, 0, 1}: 1 where `first` won."""


def all_pairs(scores: Mapping[str, np.ndarray]) -> PairOutcomes:
    """Every two systems on every prompt; `scores` has system -> (n,), of the same prompts in the same order."""
    names = tuple(scores)
    pairs = list(itertools.combinations(range(len(names)), 2))
    n = len(scores[names[0]])
    found = [outcomes(scores[names[i]], scores[names[j]]) for i, j in pairs]
    first, second = (np.repeat(np.array([pair[side] for pair in pairs], dtype=np.int64), n) for side in (0, 1))
    flat = np.concatenate(found) if found else np.zeros(0, np.int8)
    return PairOutcomes(names, np.tile(np.arange(n), len(pairs)), first, second, flat)


def of_verdicts(verdicts: Iterable[tuple[str, str, np.ndarray, np.ndarray]]) -> PairOutcomes:
    """What a pairwise judge has said of some pairs: ours, theirs, uids (m,), outcomes (m,) for ours, of each pair."""
    listed = list(verdicts)
    names = tuple(dict.fromkeys(name for ours, theirs, *_ in listed for name in (ours, theirs)))
    place = {name: k for k, name in enumerate(names)}
    lengths = [len(uids) for *_, uids, _ in listed]
    first = np.repeat([place[ours] for ours, *_ in listed], lengths)
    second = np.repeat([place[theirs] for _, theirs, *_ in listed], lengths)
    _, prompt = np.unique(np.concatenate([uids for *_, uids, _ in listed]), return_inverse=True)
    return PairOutcomes(names, prompt, first, second, np.concatenate([said for *_, said in listed]))


def rate(judge: str, seeds: Sequence[PairOutcomes], anchor: str | None, resamples: int, seed: int) -> list[Rating]:
    """Ratings of all systems that comparisons tie to the anchor (to the first system, without one), best first.

    The model is Bradley and Terry's (1952): P(i beats j) = 1 / (1 + 10^((r_j − r_i) / 400)), fitted by evalica with
    Newman's iteration (2023, JMLR 24). The interval is the percentile bootstrap over prompts, all comparisons of a
    prompt together, since they share its difficulty and its answers. Given several seeds, prompts are drawn inside each
    of them, and seeds count alike, whatever their prompts. ValueError without comparisons, or of an unknown anchor.
    """
    names = tuple(dict.fromkeys(name for found in seeds for name in found.systems))
    if not any(len(found.prompt) for found in seeds):
        raise ValueError(f"{judge}: nothing was compared")
    if anchor is not None and anchor not in names:
        raise ValueError(f"{judge}: the anchor {anchor!r} was not compared")
    merged = [_renumbered(found, names) for found in seeds]
    counts, drawn, pairs = _counted(merged, len(names), resamples, seed)
    home = names.index(anchor) if anchor is not None else 0
    tied = _tied_to(home, pairs, len(names))
    kept = tied[pairs[:, 0]]
    base = int(tied[:home].sum()) if anchor is not None else None
    rated = _anchored(_fits(pairs[kept], np.concatenate([counts[None], drawn])[:, kept], tied), base)
    elo = _anchored(_mean_elo(merged, tied, seed)[None], base)[0]
    low, high = np.percentile(rated[1:], [2.5, 97.5], axis=0)
    found = []
    for k, system in enumerate(np.flatnonzero(tied)):
        part = [(f.prompt[(f.first == system) | (f.second == system)]) for f in merged]
        found.append(
            Rating(
                system=names[system],
                judge=judge,
                bradley_terry=float(rated[0, k]),
                ci95=(float(low[k]), float(high[k])),
                elo=float(elo[k]),
                n=sum(len(np.unique(prompts)) for prompts in part),
                comparisons=sum(len(prompts) for prompts in part),
            )
        )
    return sorted(found, key=lambda rating: -rating.bradley_terry)


def _renumbered(found: PairOutcomes, names: tuple[str, ...]) -> PairOutcomes:
    """The same with places in `names`, the lower place first."""
    place = np.array([names.index(name) for name in found.systems], dtype=np.int64)
    first, second = place[found.first], place[found.second]
    sign = np.where(first < second, 1, -1)
    low, high = np.minimum(first, second), np.maximum(first, second)
    return PairOutcomes(names, found.prompt, low, high, found.outcome * sign)


def _counted(
    seeds: Sequence[PairOutcomes], k: int, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wins of both sides (pairs, 2), a tie as half a win for each; the same of every resample (resamples, pairs, 2);
    and the pairs (pairs, 2)."""
    codes = [found.first * k + found.second for found in seeds]
    known = np.unique(np.concatenate(codes))
    prompts = [len(np.unique(found.prompt)) for found in seeds]
    mean = sum(prompts) / sum(n > 0 for n in prompts)
    counts, drawn = np.zeros((len(known), 2)), np.zeros((resamples, len(known), 2))
    random = np.random.default_rng(seed)
    for found, code, n in zip(seeds, codes, prompts, strict=True):
        if n == 0:
            continue
        _, prompt = np.unique(found.prompt, return_inverse=True)
        column = np.searchsorted(known, code)
        times = np.concatenate([np.ones((1, n)), random.multinomial(n, np.full(n, 1 / n), size=resamples)])
        for side, share in enumerate(((1 + found.outcome) / 2, (1 - found.outcome) / 2)):
            table = coo_array((share, (prompt, column)), shape=(n, len(known))).tocsr()
            wins = (table.T @ times.T).T * (mean / n)
            counts[:, side] += wins[0]
            drawn[:, :, side] += wins[1:]
    return counts, drawn, np.stack([known // k, known % k], axis=1)


def _tied_to(home: int, pairs: np.ndarray, k: int) -> np.ndarray:
    """(k,) bool: the systems that a chain of comparisons ties to `home`; others cannot be placed beside it."""
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(k, k))
    group = connected_components(graph, directed=False)[1]
    return group == group[home]


def _fits(pairs: np.ndarray, wins: np.ndarray, tied: np.ndarray) -> np.ndarray:
    """The ratings (fits, k) of the k systems that are `tied`, by maximum likelihood, each row up to a constant; `wins`
    is (fits, pairs, 2)."""
    k, place = int(tied.sum()), np.cumsum(tied) - 1
    first, second = place[pairs].T
    ours, theirs = pd.Index(np.concatenate([first, second])), pd.Index(np.concatenate([second, first]))
    index, winners = pd.RangeIndex(k), [evalica.Winner.X] * len(ours)
    ratings = np.empty((len(wins), k))
    for row, counts in zip(ratings, wins, strict=True):
        weights = (counts.T.ravel() + PRIOR).tolist()
        # An Index passes for the collection that evalica asks for, and spares it making one of each resample.
        found = evalica.bradley_terry(
            ours, theirs, winners, index=index, weights=weights, tolerance=TOLERANCE, limit=LIMIT
        ).scores
        row[found.index.to_numpy()] = SCALE * np.log10(found.to_numpy())
    return ratings


def _mean_elo(seeds: Sequence[PairOutcomes], tied: np.ndarray, seed: int) -> np.ndarray:
    """The mean over shuffled orders of all comparisons."""
    first, second, outcome = (np.concatenate([getattr(f, n) for f in seeds]) for n in ("first", "second", "outcome"))
    mine = np.flatnonzero(tied[first])
    winner = np.select([outcome > 0, outcome < 0], [evalica.Winner.X, evalica.Winner.Y], evalica.Winner.Draw)
    index, random, runs = pd.Index(np.flatnonzero(tied)), np.random.default_rng(seed), []
    for _ in range(SHUFFLES):
        rows = random.permutation(mine)
        xs, ys, winners = (column[rows].tolist() for column in (first, second, winner))
        found = evalica.elo(xs, ys, winners, index=index, initial=ANCHOR, scale=SCALE, k=ELO_K)
        runs.append(found.scores.reindex(index).to_numpy())
    return np.mean(runs, axis=0)


def _anchored(ratings: np.ndarray, home: int | None) -> np.ndarray:
    """Each row (k,) shifted so that the anchor, else the mean, is at 1000."""
    zero = ratings.mean(axis=1) if home is None else ratings[:, home]
    return ratings - zero[:, None] + ANCHOR
