"""What systems of several evaluations are called together, and which of them may be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pit_ray.errors import DataError, listed, nearest
from pit_ray.evaluate.evaluation_folder import OWN, EvaluationFolder, SystemInfo

FIXED = ("gold", "verifier")
"""Judges that follow from the prompt alone, so that all evaluations on it have the same one."""
SAME = 0.05
"""Two evaluations have one reward model when their scores of the same answers differ by less than this share of the
scores' standard deviation (root mean square). Rounding in bfloat16 stays below it, another training does not."""


@dataclass(frozen=True)
class Entrant:
    """A system as the whole comparison knows it."""

    label: str
    system: str
    evaluations: tuple[int, ...]
    """Where it is: several evaluations, where all have the very same answers."""
    info: SystemInfo


class CommonGround:
    """Several evaluations side by side."""

    def __init__(self, folders: Sequence[EvaluationFolder]) -> None:
        """DataError without an evaluation, or when one is given twice."""
        if not folders:
            raise DataError("no evaluations to compare")
        paths = [folder.path.resolve() for folder in folders]
        if twice := [path for k, path in enumerate(paths) if path in paths[:k]]:
            raise DataError(f"{twice[0]}: given twice")
        self.folders = tuple(folders)
        self.names = _names(folders)
        self._prompts: dict[tuple[int, int], str | None] = {}
        self._judges: dict[tuple[int, int, str], str | None] = {}

    @cached_property
    def entrants(self) -> list[Entrant]:
        """Every system: by its own name where that is clear, else as RUN:SYSTEM."""
        found = []
        for k, folder in enumerate(self.folders):
            for system, info in folder.systems.items():
                alike = self._alike(system)
                home = next(group for group in alike if k in group)
                if k == home[0]:
                    label = system if len(alike) == 1 else f"{self.names[k]}:{system}"
                    found.append(Entrant(label, system, tuple(home), info))
        return found

    def _alike(self, system: str) -> list[list[int]]:
        """The evaluations that have a system of that name, those together in which it gave the very same answers."""
        groups: list[list[int]] = []
        for k in (k for k, folder in enumerate(self.folders) if system in folder.systems):
            home = next((group for group in groups if self._same_answers(group[0], k, system)), None)
            if home is None:
                groups.append([k])
            else:
                home.append(k)
        return groups

    @cached_property
    def labels(self) -> Mapping[tuple[int, str], str]:
        """(evaluation, system) -> label."""
        return {(k, entrant.system): entrant.label for entrant in self.entrants for k in entrant.evaluations}

    def entrant(self, label: str) -> Entrant:
        """By its label, or as RUN:SYSTEM; DataError with the nearest."""
        by_name = {f"{self.names[k]}:{e.system}": e for e in self.entrants for k in e.evaluations}
        by_name |= {e.label: e for e in self.entrants}
        if label not in by_name:
            known = [e.label for e in self.entrants]
            raise DataError(f"no system {label!r}; there are {listed(known)}{nearest(label, by_name)}")
        return by_name[label]

    def apart(self, one: int, other: int, judge: str) -> str | None:
        """Why two evaluations cannot be compared by a judge; None where they can."""
        if one == other:
            return None
        first, second = sorted((one, other))
        key = (first, second, judge)
        if key not in self._judges:
            self._judges[key] = self._other_prompts(first, second) or self._judge_apart(*key)
        return self._judges[key]

    def _other_prompts(self, first: int, second: int) -> str | None:
        if (first, second) not in self._prompts:
            self._prompts[first, second] = self._prompts_apart(first, second)
        return self._prompts[first, second]

    def _prompts_apart(self, one: int, other: int) -> str | None:
        first, second = self.folders[one], self.folders[other]
        names = f"{self.names[one]} and {self.names[other]}"
        if not np.array_equal(first.uids, second.uids):
            return f"{names}: other prompts ({len(first.uids)} and {len(second.uids)}; their uids differ)"
        for k, folder in ((one, first), (other, second)):
            if folder.prompts is None:
                return f"{names}: the prompts of {self.names[k]} are not recorded, it has no answers.parquet"
        differing = sum(a != b for a, b in zip(first.prompts or (), second.prompts or (), strict=True))
        return f"{names}: other prompts ({differing} of {len(first.uids)} differ)" if differing else None

    def _judge_apart(self, one: int, other: int, judge: str) -> str | None:
        names = f"{self.names[one]} and {self.names[other]}, judge {judge}"
        if not all(self.folders[k].pointwise(judge) for k in (one, other)):
            return f"{names}: it has only compared answers of one evaluation with each other"
        known, theirs = (_by_answer(self.folders[k], judge) for k in (one, other))
        common = [(known[answer], theirs[answer]) for answer in known.keys() & theirs.keys()]
        if not common:
            return None if judge in FIXED else f"{names}: no answer that both have scored shows that it is the same one"
        ours, yours = np.array(common).T
        spread = np.std([*known.values(), *theirs.values()])
        if np.sqrt(np.mean((ours - yours) ** 2)) > SAME * spread:
            return f"{names}: it scores the same answers otherwise, so it is not the same one"
        return None

    def _same_answers(self, first: int, second: int, system: str) -> bool:
        texts = self.folders[first].texts(system)
        same = texts is not None and texts == self.folders[second].texts(system)
        return same and self._other_prompts(first, second) is None


def _by_answer(folder: EvaluationFolder, judge: str) -> dict[tuple[int, str], float]:
    """(place of the prompt, answer) -> score."""
    found: dict[tuple[int, str], float] = {}
    for system in folder.systems:
        texts, scores = folder.texts(system), folder.scores(system, judge)
        if texts is not None and scores is not None:
            found |= zip(enumerate(texts), scores.tolist(), strict=True)
    return found


def _names(folders: Sequence[EvaluationFolder]) -> list[str]:
    """What tells evaluations apart: the run, with the evaluation's own name where a run has several; where runs have
    one name, the folders above it too."""
    parts = [folder.path.resolve().parts for folder in folders]
    for more in range(max(map(len, parts))):
        names = []
        for folder, place in zip(folders, parts, strict=True):
            run = folder.run.rstrip("/").rpartition("/")[2]
            above = place[: -2 if folder.name == OWN else -3]
            name = "/".join([*above[len(above) - more :], run] if more else [run])
            names.append(name if folder.name == OWN else f"{name}/{folder.name}")
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({k})" for k, name in enumerate(names, start=1)]
