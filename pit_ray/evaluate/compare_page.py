"""Writes a comparison of evaluations: compare.json for programs, compare.md and compare.html for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pit_ray.evaluate.charts import Chart, ErrorLine, error_chart
from pit_ray.evaluate.compare_runs import VERIFIER, RunComparison, SystemRow, TestedComparison
from pit_ray.evaluate.evaluation_folder import POLICY
from pit_ray.evaluate.pages import markdown_table, plain, template, with_interval
from pit_ray.evaluate.rating_tables import RatingTable
from pit_ray.run_folder import write_json, write_text

ACROSS = "model calls for an answer"


def write_comparison(comparison: RunComparison, folder: Path) -> Path:
    """Writes compare.json, compare.md and compare.html, which loads nothing from anywhere; returns the page's path."""
    write_json(folder / "compare.json", comparison.model_dump(mode="json"))
    write_text(folder / "compare.md", markdown(comparison))
    against = {(row.ours, row.judge): row for row in comparison.against_drafts}
    tested = [*comparison.against_drafts, *comparison.pairs]
    page = template("compare.html", {"revised": revised, "improver": improver, "p_value": p_value}).render(
        title=" · ".join(evaluation.name for evaluation in comparison.evaluations),
        comparison=comparison,
        judges=judges(comparison),
        against=against,
        baselines={evaluation.baseline for evaluation in comparison.evaluations},
        charts=charts(comparison),
        scale=max([10.0, *(abs(end) for row in tested for end in row.ci95)]),
        right=any(row.accuracy for row in comparison.systems),
        spans=[_span(table) for table in comparison.ratings],
    )
    path = folder / "compare.html"
    write_text(path, page)
    return path


def judges(comparison: RunComparison) -> list[str]:
    """In the order in which they first judge."""
    return list(dict.fromkeys(row.judge for row in comparison.against_drafts))


def p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def several(comparison: RunComparison) -> bool:
    return len(comparison.evaluations) > 1


def charts(comparison: RunComparison) -> list[Chart]:
    """Quality against calls, a chart a judge: right answers where answers are right or wrong, else Δ."""
    found = []
    for judge in judges(comparison):
        shares = judge == VERIFIER and any(row.accuracy for row in comparison.systems)
        what = "Right answers, %" if shares else "Δ against the drafts"
        found.append(error_chart(f"{what}, by {judge}", chart_lines(comparison, judge, shares), ACROSS, width=4.8))
    return [chart for chart in found if chart]


def chart_lines(comparison: RunComparison, judge: str, shares: bool) -> list[ErrorLine]:
    """A line for the systems of one evaluation, one improver, on the same drafts, with or without the stopping rule,
    from the drafts on: calls, and the share of right answers or Δ against the drafts, in percent."""
    joined: dict[tuple[str, str, str | None, bool], list[SystemRow]] = {}
    for row in comparison.systems:
        if row.info.improver != POLICY:  # where lines begin
            key = (row.evaluations[0], row.info.improver, row.drafts, row.info.stopping_rule)
            joined.setdefault(key, []).append(row)
    return [_line(comparison, rows, judge, shares) for rows in joined.values()]


def _line(comparison: RunComparison, rows: Sequence[SystemRow], judge: str, shares: bool) -> ErrorLine:
    """What an improver reaches by how many calls; without points where either is unknown."""
    against = {row.ours: row for row in comparison.against_drafts if row.judge == judge}
    points = [
        (calls, *value) for row in rows if (calls := row.info.all_calls) and (value := _value(row, against, shares))
    ]
    drafts = next((row for row in comparison.systems if row.label == rows[0].drafts), None)
    start = drafts.info.all_calls if drafts else None
    if drafts and start and points and start < min(point[0] for point in points):
        # Of the drafts, `against` has Δ against the baseline; against themselves it is 0.
        begin = _value(drafts, against, shares) if shares else (0.0, 0.0, 0.0)
        points += [(start, *begin)] if begin else []
    x, y, low, high = np.reshape(sorted(points), (-1, 4)).T
    return ErrorLine(_line_name(comparison, rows[0]), x, y, low, high)


def _line_name(comparison: RunComparison, row: SystemRow) -> str:
    """Improver, evaluation where there are several, and drafts where they are not the baseline's answers."""
    home = row.evaluations[0]
    (baseline,) = (evaluation.baseline for evaluation in comparison.evaluations if evaluation.name == home)
    others = row.info.drafts is not None and row.drafts != baseline
    name = f"{improver(row)}, on {row.info.drafts}" if others else improver(row)
    return f"{home}: {name}" if several(comparison) else name


def _value(row: SystemRow, against: dict[str, TestedComparison], shares: bool) -> tuple[float, float, float] | None:
    """A point and its interval."""
    if shares:
        a = row.accuracy
        return None if a is None else (100 * a.share, 100 * a.ci95[0], 100 * a.ci95[1])
    found = against.get(row.label)
    return None if found is None else (found.delta, *found.ci95)


def improver(row: SystemRow) -> str:
    """An improver in words."""
    rule = ", stopping rule" if row.info.stopping_rule else ""
    return row.info.improver.replace("_", " ") + rule


def _span(table: RatingTable) -> tuple[float, float]:
    """The ends of the axis that ratings are shown on."""
    ends = [end for rating in table.ratings for end in (*rating.ci95, rating.bradley_terry)]
    room = max(10.0, 0.04 * (max(ends) - min(ends)))
    return min(ends) - room, max(ends) + room


def markdown(comparison: RunComparison) -> str:
    """The same tables as Markdown."""
    parts = ["# Comparison of evaluations", "", *_evaluations(comparison), "", "## Quality and cost", ""]
    parts += [
        "Δ = win − lose against what the column “against” names, in percent of the prompts, with its 95 % interval: "
        "of revisions that is their own drafts, of direct answers the baseline. Calls and tokens are means for one "
        "answer, its draft included: of models that write + of models that score.",
        "",
        *_systems(comparison),
        "",
        "## Comparisons",
        "",
        "p is that of the exact sign test, two-sided; Holm's correction is over all rows of both tables.",
        "",
        *_tested(comparison.against_drafts),
        "",
    ]
    if comparison.pairs:
        parts += ["Between systems:", "", *_tested(comparison.pairs), ""]
    for table in comparison.ratings:
        kind = ", pooled over seeds" if table.pooled else ""
        head = plain(f"Ratings by {table.judge}: {', '.join(table.evaluations)}{kind}")
        parts += [f"## {head}", "", *_ratings(table), ""]
    if comparison.left_out:
        parts += ["## Not compared", "", *(f"- {plain(reason)}" for reason in comparison.left_out), ""]
    return "\n".join(parts)


def _evaluations(comparison: RunComparison) -> list[str]:
    head = ["evaluation", "task or world", "seed", "prompts", "split", "temperature", "iterations", "baseline"]
    rows = [
        [
            e.name,
            e.task or e.world or "–",
            _or_dash(e.seed),
            str(e.n),
            e.split,
            _or_dash(e.temperature),
            str(e.iterations),
            e.baseline or "–",
        ]
        for e in comparison.evaluations
    ]
    return markdown_table(head, rows)


def _systems(comparison: RunComparison) -> list[str]:
    known, against = judges(comparison), {(row.ours, row.judge): row for row in comparison.against_drafts}
    right = ["right, %"] if any(row.accuracy for row in comparison.systems) else []
    head = ["system", "improver", "revised", "calls", "tokens", *right, "against", *(f"Δ {judge}" for judge in known)]
    rows = []
    for row in comparison.systems:
        found = [against.get((row.label, judge)) for judge in known]
        shares = []
        if right:
            a = row.accuracy
            shares = [with_interval(100 * a.share, (100 * a.ci95[0], 100 * a.ci95[1]), sign="") if a else "–"]
        costs = [costs_in_words(row.info.calls, row.info.scorer_calls, 1)]
        costs.append(costs_in_words(row.info.tokens, row.info.scorer_tokens, 0))
        deltas = [with_interval(f.delta, f.ci95) if f else "–" for f in found]
        rows.append([row.label, improver(row), revised(row), *costs, *shares, row.drafts or "–", *deltas])
    return markdown_table(head, rows)


def revised(row: SystemRow) -> str:
    if row.info.iteration == 0:
        return "–"
    return f"up to {row.info.iteration}" if row.info.stopping_rule else str(row.info.iteration)


def costs_in_words(writing: float | None, scoring: float | None, digits: int) -> str:
    """ "2.0 + 1.0 = 3.0"; without a sum where nothing was scored."""
    if writing is None:
        return "–"
    if not scoring:
        return f"{writing:,.{digits}f}"
    return f"{writing:,.{digits}f} + {scoring:,.{digits}f} = {writing + scoring:,.{digits}f}"


def _tested(rows: Sequence[TestedComparison]) -> list[str]:
    head = ["ours", "theirs", "judge", "n", "win", "lose", "Δ", "p", "p, Holm"]
    body = []
    for row in rows:
        counts = [str(row.n), f"{row.win:.1f}", f"{row.lose:.1f}"]
        certain = [with_interval(row.delta, row.ci95), p_value(row.p), p_value(row.p_holm)]
        body.append([row.ours, row.theirs, row.judge, *counts, *certain])
    return markdown_table(head, body)


def _ratings(table: RatingTable) -> list[str]:
    head = ["system", "Bradley–Terry", "Elo", "prompts", "comparisons"]
    rows = [
        [r.system, with_interval(r.bradley_terry, r.ci95, 0, sign=""), f"{r.elo:.0f}", str(r.n), str(r.comparisons)]
        for r in table.ratings
    ]
    return markdown_table(head, rows)


def _or_dash(value: object) -> str:
    return "–" if value is None else str(value)
