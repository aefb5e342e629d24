"""Compares the systems of several evaluations: methods, judges and iterations in one table, with what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from pit_ray.data.randomness import derive_seed
from pit_ray.evaluate.common_ground import CommonGround, Entrant
from pit_ray.evaluate.comparisons import Comparison, compare, outcomes
from pit_ray.evaluate.evaluation_folder import EvaluationFolder, SystemInfo
from pit_ray.evaluate.rating_tables import RatingTable, rating_tables
from pit_ray.evaluate.significance import holm, sign_test, wilson

VERIFIER = "verifier"
"""The judge whose scores are 1 for a right answer and 0 for a wrong one."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Compared(Frozen):
    """One of the evaluations."""

    name: str
    task: str | None
    world: str | None
    seed: int | None
    split: str
    temperature: float | None
    iterations: int
    n: int
    """Prompts."""
    baseline: str | None
    """The label of the system that direct answers are compared with; None where all are revisions."""


class Accuracy(Frozen):
    share: float
    """Right answers over prompts."""
    ci95: tuple[float, float]
    """Wilson interval."""


class SystemRow(Frozen):
    """One system."""

    label: str
    evaluations: list[str]
    """Where it is."""
    info: SystemInfo
    drafts: str | None
    """The label of what it is compared with first: the drafts that it revised, else the baseline; None for that."""
    means: dict[str, float]
    """judge -> mean score."""
    accuracy: Accuracy | None
    """By the verifier."""


class TestedComparison(Comparison):
    """A comparison with its exact sign test; of right and wrong answers this is McNemar's."""

    ours: str
    theirs: str
    p: float
    """Two-sided."""
    p_holm: float
    """Corrected over all comparisons of the table."""


class RunComparison(Frozen):
    """compare.json."""

    evaluations: list[Compared]
    systems: list[SystemRow]
    against_drafts: list[TestedComparison]
    """Revisions against their own drafts, direct answers against the baseline."""
    pairs: list[TestedComparison]
    ratings: list[RatingTable]
    left_out: list[str]
    """What was not compared, and why."""


def compare_evaluations(
    folders: Sequence[EvaluationFolder],
    pairs: Sequence[tuple[str, str]] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> RunComparison:
    """Every system against the drafts that it revised, direct answers against the baseline; `pairs` of systems, ours
    first, each by its label or as RUN:SYSTEM; ratings.

    Without `pairs`: what revised other drafts than the baseline's answers against these; and what stands at the same
    place, which are systems of one name from different evaluations, and different improvers after equally many
    revisions, with the stopping rule in both or in neither. Systems of different evaluations are paired only where the
    prompts, and the judge, are the same. p-values are corrected over all comparisons together (Holm), whatever their
    judge. DataError for a system that is not there.
    """
    ground = CommonGround(folders)
    if pairs is None:
        chosen = [*_with_the_baseline(ground), *_same_place(ground)]
    else:
        chosen = [(ground.entrant(a), ground.entrant(b)) for a, b in pairs]
    table = _Table(ground, resamples, seed)
    against = [row for entrant in ground.entrants for row in table.against_drafts(entrant)]
    between = [row for ours, theirs in chosen for row in table.pair(ours, theirs)]
    corrected = holm([row.p for row in (*against, *between)])
    tested = [row.model_copy(update={"p_holm": p}) for row, p in zip((*against, *between), corrected, strict=True)]
    return RunComparison(
        evaluations=[_compared(ground, k) for k in range(len(folders))],
        systems=[_row(ground, entrant) for entrant in ground.entrants],
        against_drafts=tested[: len(against)],
        pairs=tested[len(against) :],
        ratings=rating_tables(ground, resamples, seed),
        left_out=list(table.left_out),
    )


class _Table:
    """Makes comparisons, and notes which cannot be made."""

    def __init__(self, ground: CommonGround, resamples: int, seed: int) -> None:
        self._ground, self._resamples, self._seed = ground, resamples, seed
        self.left_out: dict[str, None] = {}

    def against_drafts(self, entrant: Entrant) -> Iterator[TestedComparison]:
        home, ground = entrant.evaluations[0], self._ground
        drafts = _drafts(ground, entrant)
        if drafts is not None:
            for judge in ground.folders[home].judges:
                yield from self._tested(judge, entrant, drafts, home, home)
        elif ground.folders[home].baseline is None:
            self.left_out[f"{ground.names[home]}: has no drafts (every system is a revision)"] = None

    def pair(self, ours: Entrant, theirs: Entrant) -> Iterator[TestedComparison]:
        common = [k for k in ours.evaluations if k in theirs.evaluations]
        one, other = (common * 2)[:2] if common else (ours.evaluations[0], theirs.evaluations[0])
        judges, made = [self._ground.folders[k].judges for k in (one, other)], 0
        reasons = {}
        for judge in (judge for judge in judges[0] if judge in judges[1]):
            reasons[judge] = self._ground.apart(one, other, judge)
            for row in self._tested(judge, ours, theirs, one, other) if reasons[judge] is None else ():
                yield row
                made += 1
        said = [reason for reason in reasons.values() if reason is not None]
        if not said and not made:
            said = [f"{ours.label} and {theirs.label}: no judge has seen both"]
        self.left_out |= dict.fromkeys(said)

    def _tested(self, judge: str, ours: Entrant, theirs: Entrant, one: int, other: int) -> Iterator[TestedComparison]:
        """One comparison, or none where the judge has not seen both."""
        outcome = _outcome(self._ground, judge, (one, ours.system), (other, theirs.system))
        if outcome is None:
            return
        name, info = f"{ours.label}_vs_{theirs.label}", ours.info
        drawn = derive_seed(self._seed, "bootstrap", ours.label, theirs.label, judge)
        ties = np.zeros(len(outcome))
        found = compare(name, judge, info.iteration, info.stopping_rule, outcome, ties, self._resamples, drawn)
        p = sign_test(outcome)
        yield TestedComparison(**dict(found), ours=ours.label, theirs=theirs.label, p=p, p_holm=p)


def _outcome(ground: CommonGround, judge: str, ours: tuple[int, str], theirs: tuple[int, str]) -> np.ndarray | None:
    """(n,) in {−1, 0, 1} of two systems, each by its evaluation and name."""
    (one, system), (other, opponent) = ours, theirs
    if one == other:
        return ground.folders[one].outcomes(system, opponent, judge)
    scores, others = ground.folders[one].scores(system, judge), ground.folders[other].scores(opponent, judge)
    return None if scores is None or others is None else outcomes(scores, others)


def _drafts(ground: CommonGround, entrant: Entrant) -> Entrant | None:
    """What an entrant is compared with first, see `EvaluationFolder.drafts_of`."""
    home = entrant.evaluations[0]
    drafts = ground.folders[home].drafts_of(entrant.system)
    return None if drafts is None else ground.entrant(ground.labels[home, drafts])


def _baseline(ground: CommonGround, k: int) -> str | None:
    """The label of an evaluation's baseline."""
    base = ground.folders[k].baseline
    return None if base is None else ground.labels[k, base]


def _with_the_baseline(ground: CommonGround) -> list[tuple[Entrant, Entrant]]:
    """What revised other drafts than the baseline's answers, each with the baseline."""
    found = []
    for ours in ground.entrants:
        base, drafts = _baseline(ground, ours.evaluations[0]), _drafts(ground, ours)
        if base is not None and drafts is not None and base not in (ours.label, drafts.label):
            found.append((ours, ground.entrant(base)))
    return found


def _same_place(ground: CommonGround) -> list[tuple[Entrant, Entrant]]:
    """The pairs of a comparison that names none; the one that is named first is ours."""
    found = []
    for k, ours in enumerate(ground.entrants):
        for theirs in ground.entrants[k + 1 :]:
            one, other = ours.info, theirs.info
            place = [(i.iteration, i.stopping_rule) for i in (one, other)]
            if ours.system == theirs.system or (one.iteration and place[0] == place[1]):
                found.append((ours, theirs))
    return found


def _compared(ground: CommonGround, k: int) -> Compared:
    folder, s = ground.folders[k], ground.folders[k].summary
    return Compared(
        name=ground.names[k],
        task=s.task,
        world=s.world,
        seed=s.seed,
        split=s.split,
        temperature=s.temperature,
        iterations=folder.iterations,
        n=len(folder.uids),
        baseline=_baseline(ground, k),
    )


def _row(ground: CommonGround, entrant: Entrant) -> SystemRow:
    folder, drafts = ground.folders[entrant.evaluations[0]], _drafts(ground, entrant)
    found = {judge: folder.scores(entrant.system, judge) for judge in folder.judges}
    scores = {judge: values for judge, values in found.items() if values is not None}
    return SystemRow(
        label=entrant.label,
        evaluations=[ground.names[k] for k in entrant.evaluations],
        info=entrant.info,
        drafts=None if drafts is None else drafts.label,
        means={judge: float(values.mean()) for judge, values in scores.items()},
        accuracy=_accuracy(scores.get(VERIFIER)),
    )


def _accuracy(scores: np.ndarray | None) -> Accuracy | None:
    """None unless answers are right or wrong."""
    if scores is None or not np.isin(scores, (0, 1)).all():
        return None
    return Accuracy(share=float(scores.mean()), ci95=wilson(int(scores.sum()), len(scores)))
