"""A finished evaluation, read back from its folder: RUN/evaluation, or RUN/evaluations/NAME."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt

from pit_ray.errors import DataError, cause, listed, nearest, no_such_path
from pit_ray.evaluate.comparisons import Comparison, outcomes
from pit_ray.evaluate.evaluation_tables import Answers, Scores, Verdicts, read_answers, read_scores, read_verdicts
from pit_ray.run_folder import write_json

POLICY = "policy"
"""The improver of answers that are no revisions; a system of this name is the baseline."""
OWN = "evaluation"
"""The name of the evaluation that a run makes of itself."""
PIT = "pit"
REVISED = re.compile(r"improver_(?:(?P<stopped>stopped)(?:_(?P<up_to>\d+))?|(?P<k>\d+))")
"""What PIT's improver is called as a system, see contests.py."""
BEST_OF = re.compile(r"best_of_\d+")


DIGITS = 12
"""Significant digits of the figures in summary.json. Further ones of a sum depend on where in memory its terms lie, and
so differ between two runs that are otherwise equal to the bit."""


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes summary.json. The margin, which gaps are held against, stays as it is."""
    write_json(folder / "summary.json", _rounded(summary) | {"margin": summary["margin"]})


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


class SystemInfo(BaseModel):
    """What a system is, and what an answer of it takes: means over the prompts, the draft included; None where that
    was not recorded."""

    model_config = ConfigDict(frozen=True)

    improver: str
    """What made the answers: pit, self_refine, best_of_n, policy, ..."""
    drafts: str | None = None
    """The system whose answers it revised."""
    iteration: NonNegativeInt
    """How often it revised at most."""
    stopping_rule: bool = False
    calls: NonNegativeFloat | None = None
    """Calls of the policy or improver."""
    tokens: NonNegativeFloat | None = None
    """Tokens that these calls read and wrote."""
    scorer_calls: NonNegativeFloat | None = None
    scorer_tokens: NonNegativeFloat | None = None

    @property
    def all_calls(self) -> float | None:
        """Those of the models that write and of those that score."""
        return None if self.calls is None else self.calls + (self.scorer_calls or 0)

    @property
    def all_tokens(self) -> float | None:
        return None if self.tokens is None else self.tokens + (self.scorer_tokens or 0)


class EvaluationSummary(BaseModel):
    """EVAL/summary.json. A run that evaluated itself before there were others says less."""

    run: str | None = None
    name: str | None = None
    task: str | None = None
    world: str | None = None
    seed: int | None = None
    split: str = "held_out"
    temperature: float | None = None
    iterations: NonNegativeInt | None = None
    systems: dict[str, SystemInfo] = {}
    comparisons: list[Comparison] = []
    means: dict[str, dict[str, float]] = {}


@dataclass(frozen=True)
class EvaluationFolder:
    """One evaluation. Prompts are in the order of their uid."""

    path: Path
    run: str
    name: str
    summary: EvaluationSummary
    iterations: int
    systems: Mapping[str, SystemInfo]
    """Every system that has answers, by name."""
    uids: np.ndarray
    """(n,) int64, ascending."""
    _scores: Scores
    _answers: Answers | None
    _verdicts: Verdicts

    @property
    def baseline(self) -> str | None:
        """The system that all others are compared with: `policy` where there is one, else the first whose answers are
        no revisions; None where all are."""
        direct = (name for name, info in self.systems.items() if info.iteration == 0)
        return POLICY if POLICY in self.systems else next(direct, None)

    def drafts_of(self, system: str) -> str | None:
        """The system whose answers this one revised; the baseline, where it revised none or that was not recorded;
        None for the baseline itself, and where there is none."""
        self._check(system)
        base = self.baseline
        return self.systems[system].drafts or (None if system == base else base)

    @property
    def judges(self) -> list[str]:
        """The pointwise ones first."""
        return list(dict.fromkeys([*(judge for _, judge in self._scores), *(judge for *_, judge in self._verdicts)]))

    def pointwise(self, judge: str) -> bool:
        """Whether this judge gives scores, not verdicts on pairs."""
        return any(by == judge for _, by in self._scores)

    def scores(self, system: str, judge: str) -> np.ndarray | None:
        """(n,) float64; None where this judge gives that system no scores."""
        self._check(system)
        return self._scores.get((system, judge))

    def verdicts(self, ours: str, theirs: str, judge: str) -> np.ndarray | None:
        """(m,) int8 in {−1, 0, 1}: 1 where ours was preferred, of the m prompts that this pairwise judge has seen with
        these two; None where there are none. Which of the two was named first in the file does not matter."""
        self._check(ours)
        self._check(theirs)
        if (found := self._verdicts.get((ours, theirs, judge))) is not None:
            return found.outcome
        found = self._verdicts.get((theirs, ours, judge))
        return None if found is None else -found.outcome

    def outcomes(self, ours: str, theirs: str, judge: str) -> np.ndarray | None:
        """(n,) or (m,) in {−1, 0, 1}, by scores, else by verdicts; None where this judge has not seen both."""
        one, other = self.scores(ours, judge), self.scores(theirs, judge)
        if one is None or other is None:
            return self.verdicts(ours, theirs, judge)
        return outcomes(one, other)

    def judged_pairs(self, judge: str) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
        """What a pairwise judge has said: ours, theirs, uids (m,), outcomes (m,), of every pair."""
        return [(ours, theirs, *found) for (ours, theirs, by), found in self._verdicts.items() if by == judge]

    @property
    def prompts(self) -> Sequence[str] | None:
        """The n prompts as text; None where answers were not recorded."""
        return None if self._answers is None else self._answers.prompts

    def texts(self, system: str) -> Sequence[str] | None:
        """The n answers of a system; None where they were not recorded."""
        self._check(system)
        return None if self._answers is None else self._answers.responses.get(system)

    def _check(self, system: str) -> None:
        if system not in self.systems:
            known = f"there are {listed(self.systems)}{nearest(system, self.systems)}"
            raise DataError(f"{self.path}: has no system {system!r}; {known}")


def find_evaluation(path: Path) -> Path:
    """The folder of an evaluation, given itself or its run; DataError where there is none."""
    for folder in (path, path / OWN):
        if (folder / "summary.json").is_file():
            return folder
    if not path.is_dir():
        raise DataError(f"{path}: {no_such_path(path)}")
    others = sorted(found.parent.name for found in path.glob("evaluations/*/summary.json"))
    if others:
        hint = f"; its evaluations are {listed(f'evaluations/{name}' for name in others)}"
    else:
        hint = "; a run has one when it is finished, or when `pit-ray evaluate` has made one"
    raise DataError(f"{path}: holds no evaluation, neither summary.json nor {OWN}/summary.json{hint}")


def read_evaluation(path: Path) -> EvaluationFolder:
    """Reads the evaluation that `find_evaluation` finds; DataError that names a damaged file and what is wrong."""
    folder = find_evaluation(path)
    summary = _summary(folder / "summary.json")
    uids, scores = read_scores(folder / "outcomes.parquet")
    answers = read_answers(folder / "answers.parquet", uids)
    if answers is not None and not len(uids):
        uids = answers.uids
    if not len(uids):
        raise DataError(f"{folder / 'outcomes.parquet'}: has no rows")
    verdicts = read_verdicts(folder / "verdicts.parquet", uids)
    answering = dict.fromkeys([*(s for s, _ in scores), *(answers.responses if answers else ())])
    if unknown := [name for pair in verdicts for name in pair[:2] if name not in answering]:
        raise DataError(f"{folder / 'verdicts.parquet'}: {unknown[0]!r} has no scores{nearest(unknown[0], answering)}")
    if silent := [name for name in summary.systems if name not in answering]:
        raise DataError(f"{folder / 'summary.json'}: of system {silent[0]!r} outcomes.parquet has no scores")
    for name, info in summary.systems.items():
        if info.drafts is not None and info.drafts not in answering:
            hint = f"{name!r} revised {info.drafts!r}, of which outcomes.parquet has no scores"
            raise DataError(f"{folder / 'summary.json'}: {hint}{nearest(info.drafts, answering)}")
    counts = [int(found["k"]) for name in answering if (found := REVISED.fullmatch(name)) and found["k"]]
    iterations = max(counts, default=0) if summary.iterations is None else summary.iterations
    systems = {name: summary.systems.get(name) or _derived(name, iterations) for name in answering}
    run, name = _names(folder)
    return EvaluationFolder(
        path=folder,
        run=summary.run or run,
        name=summary.name or name,
        summary=summary,
        iterations=iterations,
        systems=systems,
        uids=uids,
        _scores=scores,
        _answers=answers,
        _verdicts=verdicts,
    )


def _summary(path: Path) -> EvaluationSummary:
    try:
        return EvaluationSummary.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:  # of the JSON or of what it holds
        lines = str(error).strip().splitlines()
        reason = " ".join(line.strip() for line in lines[1:3]) or cause(error)
        raise DataError(f"{path}: {reason}") from None


def _names(folder: Path) -> tuple[str, str]:
    """Run and name, by where the folder lies."""
    place = folder.resolve()
    if place.name == OWN:
        return place.parent.name, OWN
    return (place.parents[1].name if place.parent.name == f"{OWN}s" else place.name), place.name


def _derived(name: str, iterations: int) -> SystemInfo:
    """What a system is by its name, where the summary does not say."""
    if found := REVISED.fullmatch(name):
        k = int(found["k"] or found["up_to"] or iterations)
        return SystemInfo(improver=PIT, iteration=k, stopping_rule=found["stopped"] is not None)
    if BEST_OF.fullmatch(name):
        return SystemInfo(improver="best_of_n", iteration=0)
    return SystemInfo(improver=name, iteration=1 if name == "sft_improver" else 0)
