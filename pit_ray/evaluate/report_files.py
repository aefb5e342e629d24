"""What the report reads of a run: the content of its JSON files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, model_validator

from pit_ray.errors import DataError
from pit_ray.evaluate.comparisons import Comparison
from pit_ray.evaluate.evaluation_folder import SystemInfo
from pit_ray.evaluate.gap_reward import GapMeasure
from pit_ray.evaluate.systems import Health
from pit_ray.run_folder import COUNTS

METHOD = re.compile(r"^method: (\w+)$", re.MULTILINE)
"""Where config.yaml says it."""

Counts = dict[str, int | float]
"""stages/NN-NAME/COUNTS."""


class GapReward(BaseModel):
    """How well the gap reward model tells responses apart, on pairs that it was not trained on."""

    accuracy: float
    """Share of pairs with r(w, l) > r(l, w)."""
    order_holds: float
    """Share of pairs on which the whole order holds (PIT Eq. 1)."""
    n: int
    measures: list[GapMeasure] = []


class FeedbackQuality(BaseModel):
    """Of an improver's first feedback, shares of all its drafts."""

    readable: float
    right_verdict: float
    """Says rightly whether the draft is right."""
    right_place: float
    """Names the verifier's earliest fault, or none where there is none."""


class Level(BaseModel):
    """The questions of one level of difficulty."""

    n: int
    accuracy: dict[str, float]
    """By system."""


class Summary(BaseModel):
    """evaluation/summary.json; what a run does not say is left out of its report."""

    method: str | None = None
    """None: PIT."""
    world: str | None = None
    task: str | None = None
    seed: int | None = None
    systems: dict[str, SystemInfo] = {}
    comparisons: list[Comparison] = []
    length_controlled: list[Comparison] = []
    health: dict[str, Health] = {}
    means: dict[str, dict[str, float]] = {}
    """system -> judge -> mean score."""
    feedback: dict[str, FeedbackQuality] = {}
    levels: dict[str, Level] = {}
    gap_reward: GapReward | None = None
    margin: float | None = None
    """The stopping rule keeps a revision whose gap exceeds this."""
    seconds: dict[str, float] = {}
    """What each stage took, in the order of the run."""

    @property
    def n(self) -> int | None:
        """Prompts; None where nothing was compared."""
        return max((c.n for c in self.comparisons), default=None)


class Sample(BaseModel):
    """One entry of evaluation/samples.json: a draft and its revisions, each made from the text before it."""

    prompt: str
    draft: str
    revisions: list[str]
    gaps: list[float | None]
    """One for each revision: PIT's gap, or what another improver chooses by."""
    golds: list[float | None] | None = None
    """The draft's, then one for each revision; None where there is no gold score."""
    kept: int
    """How many revisions the improver's own rule keeps."""
    feedback: list[str] | None = None
    """On the draft, then on each revision; None from an improver that gives none."""
    improver: str | None = None
    """The contestant that revised; runs of before do not say."""
    drafts: str | None = None
    """The one whose answers it revised."""

    @model_validator(mode="after")
    def _one_each(self) -> Sample:
        n = len(self.revisions)
        each = [len(found) for found in (self.golds, self.feedback) if found is not None]
        if len(self.gaps) != n or any(count != n + 1 for count in each):
            raise ValueError(f"{n} revisions need {n} gaps, and {n + 1} golds and feedbacks where there are any")
        return self


class PlannedMemory(BaseModel):
    """Of a process of one role, GiB at its peak."""

    peak: float
    gpu_peak: float | None = None


class SeenMemory(BaseModel):
    """Of one process, GiB: after its imports, at its peak, of its GPU at its peak."""

    idle: float
    peak: float
    gpu: float | None = None


class MemoryRecord(BaseModel):
    """memory.json."""

    plan: dict[str, PlannedMemory] = {}
    """By role."""
    peaks: dict[str, SeenMemory] = {}
    """By process, ROLE/N."""

    def rows(self) -> list[tuple[str, PlannedMemory | None, SeenMemory]]:
        """Each process beside the plan of its role."""
        return [(name, self.plan.get(name.partition("/")[0]), seen) for name, seen in sorted(self.peaks.items())]


def read_file(path: Path, kind: Any) -> Any:
    """The content of a JSON file as `kind`, None when there is no such file. DataError when it is no such content."""
    if not path.exists():
        return None
    try:
        return TypeAdapter(kind).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:  # of the JSON or of what it holds
        raise DataError(f"{path}: {error}") from None


def read_summaries(run: Path) -> dict[str, Summary]:
    """Of the held-out prompts, and of questions of unseen difficulty where there are any."""
    own = run / "evaluation"
    found = {"held-out": read_file(own / "summary.json", Summary) or Summary()}
    unseen = read_file(own / "unseen" / "summary.json", Summary)
    return found if unseen is None else found | {"unseen": unseen}


def read_counts(run: Path) -> dict[str, Counts]:
    """What each stage counted, in the order of the run."""
    paths = sorted(run.glob(f"stages/[0-9][0-9]-*/{COUNTS}"))
    return {path.parent.name[3:]: read_file(path, Counts) for path in paths}


def method_of(summary: Summary, config: str | None) -> str:
    """By config.yaml where the run has not been evaluated yet."""
    said = METHOD.search(config or "")
    return summary.method or (said[1] if said else "pit")
