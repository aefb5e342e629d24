"""Writes RUN/report.html: what a run achieved, for people; one file that loads nothing from anywhere."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, model_validator

from pit_ray.errors import DataError
from pit_ray.evaluate.comparisons import Comparison, revisions
from pit_ray.evaluate.contests import STEP
from pit_ray.evaluate.curves import STAGES, Record, by_stage, kl_charts, points, rl_charts, supervised_charts
from pit_ray.evaluate.gap_reward import GapMeasure
from pit_ray.evaluate.pages import template
from pit_ray.evaluate.systems import Health
from pit_ray.events import read_events
from pit_ray.progress import clock, duration
from pit_ray.run_folder import write_text
from pit_ray.tracking import read_metrics

COMPARED = {
    "improver_vs_policy": "improver vs. policy",
    "sft_improver_vs_policy": "SFT improver vs. policy",
    "policy_vs_sft_policy": "policy vs. SFT policy",
    "best_of_2_vs_policy": "best of 2 vs. policy",
    STEP: "improver vs. one revision less",
}
PARTS = ("generate", "score", "learn", "sync")


class GapReward(BaseModel):
    """How well the gap reward model tells responses apart, on pairs that it was not trained on."""

    accuracy: float
    """Share of pairs with r(w, l) > r(l, w)."""
    order_holds: float
    """Share of pairs on which the whole order holds (PIT Eq. 1)."""
    n: int
    measures: list[GapMeasure] = []


class Summary(BaseModel):
    """RUN/evaluation/summary.json."""

    world: str | None = None
    seed: int | None = None
    comparisons: list[Comparison] = []
    length_controlled: list[Comparison] = []
    health: dict[str, Health] = {}
    gap_reward: GapReward | None = None
    margin: float | None = None
    """The stopping rule keeps a revision whose gap exceeds this."""
    seconds: dict[str, float] = {}
    """What each stage took."""


class Sample(BaseModel):
    """One entry of RUN/evaluation/samples.json: a draft and its revisions, each made from the text before it."""

    prompt: str
    draft: str
    revisions: list[str]
    gaps: list[float | None]
    """One for each revision."""
    golds: list[float | None] | None = None
    """The draft's, then one for each revision; None where there is no gold score."""
    kept: int
    """How many revisions the stopping rule keeps."""

    @model_validator(mode="after")
    def _one_each(self) -> Sample:
        n = len(self.revisions)
        if len(self.gaps) != n or (self.golds is not None and len(self.golds) != n + 1):
            raise ValueError(f"{n} revisions need {n} gaps and {n + 1} golds")
        return self


def write_report(run: Path) -> Path:
    """Writes RUN/report.html from what the run folder holds, and returns its path. What is not there yet is left out.

    Raises DataError when a file is there but cannot be understood.
    """
    if not run.is_dir():
        raise DataError(f"{run}: no such run folder")
    summary = _read(run / "evaluation" / "summary.json", Summary) or Summary()
    samples = _read(run / "evaluation" / "samples.json", list[Sample]) or []
    environment = _read(run / "environment.json", dict[str, Any])
    config = run / "config.yaml"
    metrics = by_stage(read_metrics(run))
    page = template("report.html", {"duration": duration, "revisions": revisions}).render(
        title=run.resolve().name,
        summary=summary,
        headline=_headline(summary.comparisons),
        scale=_scale(summary.comparisons),
        compared=COMPARED,
        rows=_rows(summary),
        steps=[(c, None) for c in summary.comparisons if c.name == STEP],
        samples=[_with_changes(sample) for sample in samples],
        charts=supervised_charts(metrics),
        rl_charts=rl_charts(metrics),
        kl_charts=kl_charts(metrics),
        stages=STAGES,
        stage_seconds=_in_order(summary.seconds, metrics),
        step_parts=[(stage, *parts) for stage, records in metrics.items() if (parts := _step_parts(records))],
        events=[(clock(event["time"]), event["text"]) for event in read_events(run)],
        config=config.read_text(encoding="utf-8", errors="replace") if config.exists() else None,
        environment=json.dumps(environment, indent=2, ensure_ascii=False) if environment else None,
    )
    path = run / "report.html"
    write_text(path, page)
    return path


def _read(path: Path, kind: Any) -> Any:
    """The content of a JSON file as `kind`, None when there is no such file."""
    if not path.exists():
        return None
    try:
        return TypeAdapter(kind).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:  # of the JSON or of what it holds
        raise DataError(f"{path}: {error}") from None


def _headline(comparisons: Sequence[Comparison]) -> Comparison | None:
    """The comparison that says whether the run worked: one revision against its draft, by gold where there is gold."""
    for judge in ("gold", "reward"):
        for c in comparisons:
            if (c.name, c.judge, c.iterations, c.stopping_rule) == ("improver_vs_policy", judge, 1, False):
                return c
    return None


def _rows(summary: Summary) -> list[tuple[Comparison, Comparison | None]]:
    """Every comparison but the steps between iterations, with what it is at equal length."""

    def key(c: Comparison) -> tuple[str, str, int, bool]:
        return c.name, c.judge, c.iterations, c.stopping_rule

    controlled = {key(c): c for c in summary.length_controlled}
    return [(c, controlled.get(key(c))) for c in summary.comparisons if c.name != STEP]


def _scale(comparisons: Sequence[Comparison]) -> float:
    """The Δ at the right end of the interval plots."""
    return max([10.0, *(abs(end) for c in comparisons for end in c.ci95)])


def _with_changes(sample: Sample) -> dict[str, Any]:
    """What the page shows of a sample: its draft, and each revision with its changes against the text before it."""
    texts = [sample.draft, *sample.revisions]
    golds = sample.golds or [None] * len(texts)
    steps = [
        {"changes": word_changes(before, after), "gap": gap, "gold": gold, "gold_before": gold_before}
        for before, after, gap, gold_before, gold in zip(
            texts[:-1], texts[1:], sample.gaps, golds[:-1], golds[1:], strict=True
        )
    ]
    return {"prompt": sample.prompt, "draft": sample.draft, "gold": golds[0], "kept": sample.kept, "steps": steps}


def word_changes(before: str, after: str) -> list[tuple[str, str]]:
    """How `after` differs from `before`, word by word, as ("same" | "del" | "ins", text): without the "del" parts it
    reads `after`, without the "ins" parts `before`."""
    old, new = (re.findall(r"\w+|\s+|[^\w\s]", text) for text in (before, after))
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    changes: list[tuple[str, str]] = []
    removed = added = ""
    i = j = 0
    for block in blocks:
        removed, added = removed + "".join(old[i : block.a]), added + "".join(new[j : block.b])
        same = "".join(old[block.a : block.a + block.size])
        i, j = block.a + block.size, block.b + block.size
        if same.isspace() and (removed or added) and i < len(old) and j < len(new):
            # A space between two changes joins them: one replaced phrase reads better than many replaced words.
            removed, added = removed + same, added + same
            continue
        changes += [(kind, text) for kind, text in (("del", removed), ("ins", added), ("same", same)) if text]
        removed = added = ""
    return changes


def _in_order(seconds: Mapping[str, float], metrics: Mapping[str, Any]) -> dict[str, float]:
    """The seconds of each stage, in the order of a run."""
    order = list(dict.fromkeys([*STAGES, *metrics, *seconds]))
    return {stage: seconds[stage] for stage in order if stage in seconds}


def _step_parts(records: Sequence[Record]) -> tuple[float, list[tuple[str, float]]] | None:
    """The mean seconds of a PPO step and of each of its parts; None for stages that have no such parts."""
    means = {name: found[1].mean() for name in ("step", *PARTS) if (found := points(records, f"time/{name}"))}
    parts = [(name, means[name]) for name in PARTS if name in means]
    if "step" not in means or not parts:
        return None
    rest = means["step"] - sum(seconds for _, seconds in parts)
    return means["step"], [*parts, ("other", rest)] if rest > 0 else parts
