"""Writes RUN/report.html: what a run achieved, for people; one file that loads nothing from anywhere."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pit_ray.errors import DataError
from pit_ray.evaluate.comparisons import Comparison, revisions
from pit_ray.evaluate.contests import STEP
from pit_ray.evaluate.curves import Record, by_stage, kl_charts, points, rl_charts, supervised_charts
from pit_ray.evaluate.names import STAGES, compared_name, contestant_name, stage_name, whole_name
from pit_ray.evaluate.pages import template
from pit_ray.evaluate.report_answers import ABOUT, answers, feedback, levels, made
from pit_ray.evaluate.report_files import (
    MemoryRecord,
    Sample,
    Summary,
    method_of,
    read_counts,
    read_file,
    read_summaries,
)
from pit_ray.evaluate.report_headline import headline
from pit_ray.events import read_events
from pit_ray.progress import clock, duration
from pit_ray.run_folder import MEMORY, write_text
from pit_ray.tracking import read_metrics

PARTS = ("generate", "score", "learn", "sync")
BY_GAP = ("pit", "distill")
"""Methods whose samples are revised by PIT, with a gap and a stopping rule."""
FILTERS: dict[str, Callable[..., Any]] = {
    "duration": duration,
    "revisions": revisions,
    "stage_name": stage_name,
    "compared_name": compared_name,
    "contestant_name": contestant_name,
}


def write_report(run: Path) -> Path:
    """Writes RUN/report.html from what the run folder holds, and returns its path. What is not there yet is left out.

    Raises DataError when a file is there but cannot be understood.
    """
    if not run.is_dir():
        raise DataError(f"{run}: no such run folder")
    parts = read_summaries(run)
    summary = parts["held-out"]
    samples = read_file(run / "evaluation" / "samples.json", list[Sample]) or []
    environment = read_file(run / "environment.json", dict[str, Any])
    path = run / "config.yaml"
    config = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
    method = method_of(summary, config)
    metrics = by_stage(read_metrics(run))
    rows, more = _rows(summary, method)
    memory = read_file(run / MEMORY, MemoryRecord) or MemoryRecord()
    page = template("report.html", FILTERS).render(
        title=run.resolve().name,
        about=ABOUT.get(method),
        method=method,
        summary=summary,
        headline=headline(method, summary),
        answers=answers(parts),
        levels=levels(parts),
        made=made(read_counts(run)),
        feedback=feedback(parts),
        scale=_scale([c for part in parts.values() for c in part.comparisons]),
        rows=rows,
        more=more,
        unseen=_rows(parts["unseen"], method)[0] if "unseen" in parts else [],
        steps=[(c, None) for c in summary.comparisons if c.name == STEP],
        health={whole_name(name, summary.systems.get(name)): health for name, health in summary.health.items()},
        by_gap=method in BY_GAP,
        samples=[_with_changes(sample, method in BY_GAP) for sample in samples],
        charts=supervised_charts(metrics),
        rl_charts=rl_charts(metrics),
        kl_charts=kl_charts(metrics),
        stage_seconds=_in_order(summary.seconds, metrics) if method == "pit" else summary.seconds,
        step_parts=[(stage, *means) for stage, records in metrics.items() if (means := _step_parts(records))],
        memory=memory.rows(),
        events=[(clock(event["time"]), event["text"]) for event in read_events(run)],
        config=config,
        environment=json.dumps(environment, indent=2, ensure_ascii=False) if environment else None,
    )
    path = run / "report.html"
    write_text(path, page)
    return path


Row = tuple[Comparison, Comparison | None]
"""A comparison, and what it is at equal length."""


def _rows(summary: Summary, method: str) -> tuple[list[Row], list[Row]]:
    """Every comparison but the steps between iterations: the first look, and the rest. Methods other than PIT compare
    so much that at first only direct answers and the last round are shown."""

    def key(c: Comparison) -> tuple[str, str, int, bool]:
        return c.name, c.judge, c.iterations, c.stopping_rule

    controlled = {key(c): c for c in summary.length_controlled}
    rows = [(c, controlled.get(key(c))) for c in summary.comparisons if c.name != STEP]
    last = max((c.iterations for c, _ in rows), default=0)
    first = [method == "pit" or (c.iterations in (0, last) and not c.stopping_rule) for c, _ in rows]
    return [r for r, at in zip(rows, first, strict=True) if at], [
        r for r, at in zip(rows, first, strict=True) if not at
    ]


def _scale(comparisons: Sequence[Comparison]) -> float:
    """The Δ at the right end of the interval plots."""
    return max([10.0, *(abs(end) for c in comparisons for end in c.ci95)])


def _with_changes(sample: Sample, by_gap: bool) -> dict[str, Any]:
    """What the page shows of a sample: its draft, and each revision with its changes against the text before it; with
    what was said of each. Rounds in which an improver by feedback had stopped are left out."""
    texts = [sample.draft, *sample.revisions]
    golds = sample.golds or [None] * len(texts)
    said: Sequence[str | None] = sample.feedback or [None] * len(texts)
    gaps = [gap if by_gap else None for gap in sample.gaps]
    last = len(sample.revisions)
    while sample.feedback and last and (texts[last], said[last]) == (texts[last - 1], said[last - 1]):
        last -= 1
    steps = [
        {
            "changes": word_changes(texts[k - 1], texts[k]),
            "gap": gaps[k - 1],
            "gold": golds[k],
            "gold_before": golds[k - 1],
            "feedback": said[k],
        }
        for k in range(1, last + 1)
    ]
    return {
        "prompt": sample.prompt,
        "draft": sample.draft,
        "gold": golds[0],
        "feedback": said[0],
        "kept": min(sample.kept, last),
        "steps": steps,
        "stopped": last < len(sample.revisions),
        "improver": sample.improver,
        "drafts": sample.drafts,
    }


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
