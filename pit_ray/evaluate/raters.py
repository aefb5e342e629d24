"""Several raters of the same pairs: what most of them say, and how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

UNANSWERED = 2
"""Among votes, which are 1, 0 (a tie) and −1."""
CATEGORIES = (1, 0, -1)


class Rated(NamedTuple):
    """A contest of two systems."""

    ours: str
    theirs: str
    rows: np.ndarray
    """(r,) bool: which of all rows are this contest's."""
    same: Sequence[int]
    """The uids of prompts whose two responses are equal: ties without a row."""


@dataclass(frozen=True)
class HumanVerdicts:
    """Who won a contest on each of n prompts."""

    ours: str
    theirs: str
    uid: np.ndarray
    """(n,) int64, ascending."""
    outcome: np.ndarray
    """(n,) int8: 1 where ours is better, −1 where theirs is, 0 for a tie, and 0 where nothing is known."""
    known: np.ndarray
    """(n,) bool: False where no rater answered."""
    same: int
    """Pairs of equal texts: ties that nobody was asked about."""
    split: int
    """Prompts on which no answer has more raters than each other one, which counts as a tie."""


@dataclass(frozen=True)
class Agreement:
    """How far raters agree on what they wrote: first, second or tie."""

    rows: int
    """Rows that at least two raters answered."""
    percent: float | None
    """Of the pairs of answers to the same row, those that are equal; None without such pairs."""
    kappa: float | None
    """Cohen's kappa (1960), of more than two raters the mean over all pairs (Light 1971): 1 is full agreement, 0 what
    chance gives. None where no pair of raters has it: without common rows, or when all of their answers are equal."""


@dataclass(frozen=True)
class Judged:
    """What all sheets say."""

    contests: list[HumanVerdicts]
    agreement: Agreement
    missing: dict[str, int]
    """Sheet -> rows without an answer."""


def judged(
    contests: Sequence[Rated], uid: np.ndarray, side: np.ndarray, votes: np.ndarray, sheets: Sequence[str]
) -> Judged:
    """`uid` (r,) of each row's prompt; `side` (r,) is 1 where ours was shown first, else −1; `votes` (raters, r) int8
    speak of the response shown first."""
    outcome, known, split = majority(votes)
    verdicts = []
    for ours, theirs, rows, same in contests:
        uids = np.concatenate([uid[rows], np.asarray(same, dtype=np.int64)])
        order = np.argsort(uids, kind="stable")
        won = np.concatenate([(outcome * side)[rows], np.zeros(len(same), dtype=np.int8)])
        sure = np.concatenate([known[rows], np.ones(len(same), dtype=bool)])
        counts = len(same), int(split[rows].sum())
        verdicts.append(HumanVerdicts(ours, theirs, uids[order], won[order].astype(np.int8), sure[order], *counts))
    missing = {name: int((row == UNANSWERED).sum()) for name, row in zip(sheets, votes, strict=True)}
    return Judged(verdicts, agreement(votes), missing)


def majority(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of votes (raters, r): the answer with most raters (r,) int8, 0 where two have as many; where any rater answered
    (r,); and where two have as many (r,)."""
    counts = np.stack([(votes == answer).sum(axis=0) for answer in CATEGORIES])
    known = counts.sum(axis=0) > 0
    split = known & ((counts == counts.max(axis=0)).sum(axis=0) > 1)
    outcome = np.where(known & ~split, np.array(CATEGORIES)[counts.argmax(axis=0)], 0)
    return outcome.astype(np.int8), known, split


def agreement(votes: np.ndarray) -> Agreement:
    """Of votes (raters, r), each two raters on the rows that both answered."""
    pairs = equal = 0
    kappas = []
    for one, other in combinations(votes, 2):
        both = (one != UNANSWERED) & (other != UNANSWERED)
        pairs += int(both.sum())
        equal += int((one == other)[both].sum())
        found = _cohens_kappa(one[both], other[both])
        if found is not None:
            kappas.append(found)
    common = int(((votes != UNANSWERED).sum(axis=0) > 1).sum())
    return Agreement(common, 100 * equal / pairs if pairs else None, float(np.mean(kappas)) if kappas else None)


def _cohens_kappa(one: np.ndarray, other: np.ndarray) -> float | None:
    if not len(one):
        return None
    by_chance = float(sum((one == answer).mean() * (other == answer).mean() for answer in CATEGORIES))
    return None if by_chance == 1 else float(((one == other).mean() - by_chance) / (1 - by_chance))
