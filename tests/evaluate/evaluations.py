"""Builds the folders of finished evaluations, as runs leave them, from scores that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Judged = Mapping[str, Mapping[str, Sequence[float] | np.ndarray]]
"""system -> judge -> n scores."""


def info(name: str, calls: float | None = None, drafts: str | None = None) -> dict:
    """What summary.json says of a system, by its name: improver_2, self_refine_1, improver_stopped_3, best_of_4;
    `drafts` are None in runs from before there were several drafters."""
    head, _, last = name.rpartition("_")
    k = int(last) if last.isdigit() else 0
    kind = {"improver": "pit", "improver_stopped": "pit", "best_of": "best_of_n"}.get(head, head or name)
    calls = 1 + k if calls is None else calls
    costs = {"calls": calls, "tokens": 40.0 * calls, "scorer_calls": 0.5 * k, "scorer_tokens": 30.0 * k}
    iteration = 0 if kind == "best_of_n" else k
    return {"improver": kind, "drafts": drafts, "iteration": iteration, "stopping_rule": "stopped" in name} | costs


def answered(calls: float = 1.0) -> dict:
    """What summary.json says of answers that are no revisions."""
    return info("policy", calls)


def write_evaluation(
    folder: Path,
    scores: Judged,
    prompts: Sequence[str] | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
    verdicts: Sequence[tuple[int, str, str, str, int]] = (),
    **summary: object,
) -> Path:
    """Writes EVAL: answers.parquet too, where there are `prompts`. A system's texts are its own unless given. Fields of
    summary.json are what a run says, changed by `summary`; one that is None is left out. uids are 7, 8, ..."""
    folder.mkdir(parents=True)
    n = len(next(iter(next(iter(scores.values())).values())))
    uids = list(range(7, 7 + n))
    content = {
        "run": folder.parent.name if folder.name == "evaluation" else folder.parents[1].name,
        "name": folder.name, "task": None, "world": "notes", "seed": 1, "split": "held_out", "temperature": 0.7,
        "iterations": 2, "systems": {name: info(name) for name in scores}, "comparisons": [],
        "means": {s: {j: float(np.mean(v)) for j, v in judged.items()} for s, judged in scores.items()},
        "margin": 0.1,
    } | summary  # fmt: skip
    (folder / "summary.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    rows = [
        (uid, system, judge, float(score))
        for system, judged in scores.items()
        for judge, values in judged.items()
        for uid, score in zip(uids, values, strict=True)
    ]
    write_rows(folder / "outcomes.parquet", ("uid", "system", "judge", "score"), rows)
    if prompts is not None:
        written = {s: (texts or {}).get(s, [f"{folder}: {s}, {uid}" for uid in uids]) for s in scores}
        answers = [
            (uid, s, x, y) for s, found in written.items() for uid, x, y in zip(uids, prompts, found, strict=True)
        ]
        write_rows(folder / "answers.parquet", ("uid", "system", "prompt", "response"), answers)
    if verdicts:
        write_rows(folder / "verdicts.parquet", ("uid", "ours", "theirs", "judge", "outcome"), verdicts)
    return folder


def write_rows(path: Path, names: Sequence[str], rows: Sequence[tuple]) -> None:
    """Rows as a Parquet file."""
    pq.write_table(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), path)
