"""A sweep: evaluations of one run at several temperatures or numbers of iterations, on the same drafts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict

from pit_ray.data.randomness import derive_seed
from pit_ray.errors import DataError
from pit_ray.evaluate.charts import ALONE, ALONE_LINE, ALONE_MUTED, ErrorLine, draw_with_errors, standalone_svg
from pit_ray.evaluate.comparisons import Comparison, compare
from pit_ray.evaluate.evaluation_folder import EvaluationFolder, SystemInfo
from pit_ray.evaluate.pages import markdown_table, plain, with_interval
from pit_ray.run_folder import write_json, write_text
from pit_ray.secrets import masked
from pit_ray.tracking import visible

Swept = Literal["temperature", "iterations"]
BEST_OF = "best_of_n"
ROUNDING = 1e-3
"""Of a score of one text, computed twice."""


class SweepPoint(BaseModel):
    """One improver at one value, by one judge."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    line: str
    """The improver, how often it revises and, unless the baseline's answers, what, in words; the same at every
    value."""
    value: float
    system: str
    comparison: Comparison
    """Against the drafts that were revised."""
    best: bool
    """Whether no other value of this line has a higher Δ by this judge; of equals the lowest value."""
    plotted: bool


class Sweep(BaseModel):
    """sweep.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: Swept
    run: str
    split: str
    n: int
    """Prompts."""
    values: list[float]
    points: list[SweepPoint]

    @property
    def judges(self) -> list[str]:
        return list(dict.fromkeys(point.comparison.judge for point in self.points))

    def lines(self, judge: str) -> dict[str, dict[float, SweepPoint]]:
        """line -> value -> point."""
        found: dict[str, dict[float, SweepPoint]] = {}
        for point in self.points:
            if point.comparison.judge == judge:
                found.setdefault(point.line, {})[point.value] = point
        return found


def sweep(
    of: Swept, evaluations: Sequence[tuple[float, EvaluationFolder]], resamples: int = 1000, seed: int = 0
) -> Sweep:
    """Δ of every improver at every value against the drafts that it revised. For temperatures that is every number of
    revisions; for iterations, as many revisions as the value says.

    DataError unless values differ and all evaluations have the same prompts and drafts: then only the improvers differ.
    """
    found = sorted(evaluations, key=lambda pair: pair[0])
    values = [value for value, _ in found]
    if not found or len(set(values)) < len(values):
        raise DataError(f"a sweep needs values that differ, got {', '.join(f'{v:g}' for v in values) or 'none'}")
    for value, folder in found:
        if difference := _other_ground(found[0][1], folder):
            raise DataError(f"{folder.path} ({of} {value:g}): its {difference} differ from those of {found[0][1].path}")
    points = [point for value, folder in found for point in _points(of, value, folder, resamples, seed)]
    if not points:
        raise DataError(f"{found[0][1].path}: has no improver to sweep; there are {', '.join(found[0][1].systems)}")
    best: dict[tuple[str, str], SweepPoint] = {}
    for point in points:
        key = (point.line, point.comparison.judge)
        if key not in best or point.comparison.delta > best[key].comparison.delta:
            best[key] = point
    marked = [p.model_copy(update={"best": best[p.line, p.comparison.judge] is p}) for p in points]
    first = found[0][1]
    return Sweep(of=of, run=first.run, split=first.summary.split, n=len(first.uids), values=values, points=marked)


def write_sweep(found: Sweep, folder: Path) -> Path:
    """Writes sweep.json, sweep.svg and sweep.md; returns the path of the last."""
    write_json(folder / "sweep.json", found.model_dump(mode="json"))
    write_text(folder / "sweep.svg", plot(found))
    path = folder / "sweep.md"
    write_text(path, markdown(found))
    return path


def _other_ground(first: EvaluationFolder, other: EvaluationFolder) -> str | None:
    """What of the ground is not the same: prompts or drafts; None where both are."""
    drafts, others = _drafts(first), _drafts(other)
    if not np.array_equal(first.uids, other.uids) or first.prompts != other.prompts:
        return "prompts"
    same = drafts == others and all(_same_answers(first, other, system) for system in drafts)
    return None if same else "drafts"


def _drafts(folder: EvaluationFolder) -> list[str]:
    """The baseline, then all other systems whose answers were revised; DataError where improvers have no drafts."""
    found = [folder.drafts_of(system) for system, info in folder.systems.items() if info.iteration]
    if None in found:
        raise DataError(f"{folder.path}: has no drafts (every system is a revision)")
    drafts = {folder.baseline, *found}
    return sorted((name for name in drafts if name is not None), key=lambda name: (name != folder.baseline, name))


def _same_answers(first: EvaluationFolder, other: EvaluationFolder, system: str) -> bool:
    texts = [folder.texts(system) for folder in (first, other)]
    if None not in texts:
        return texts[0] == texts[1]
    # Without the texts, equal scores by all judges must do.
    for judge in first.judges:
        one, two = (folder.scores(system, judge) for folder in (first, other))
        if one is not None and (two is None or not np.allclose(one, two, atol=ROUNDING, rtol=0)):
            return False
    return True


def _points(of: Swept, value: float, folder: EvaluationFolder, resamples: int, seed: int) -> Iterator[SweepPoint]:
    for system, info in folder.systems.items():
        line, drafts = _line(of, value, system, info), folder.drafts_of(system)
        if line is None or drafts is None:
            continue
        if drafts != folder.baseline:
            line += f", on {drafts}"
        plotted = of == "iterations" or _plotted(info, folder.systems)
        for judge in folder.judges:
            outcome = folder.outcomes(system, drafts, judge)
            if outcome is None:
                continue
            name, drawn = f"{system}_vs_{drafts}", derive_seed(seed, "bootstrap", system, judge, f"{value:g}")
            rule, ties = info.stopping_rule, np.zeros(len(outcome))
            found = compare(name, judge, info.iteration, rule, outcome, ties, resamples, drawn)
            yield SweepPoint(line=line, value=value, system=system, comparison=found, best=False, plotted=plotted)


def _line(of: Swept, value: float, system: str, info: SystemInfo) -> str | None:
    """The line that a system is a point of; None where the sweep is not about it."""
    name, rule = info.improver.replace("_", " "), info.stopping_rule
    if info.iteration == 0:
        return system.replace("_", " ") if of == "temperature" and info.improver == BEST_OF else None
    if of == "iterations":
        return (f"{name}, stopping rule" if rule else name) if info.iteration == value else None
    if info.improver == BEST_OF:  # its own rule is to keep the best, whatever is asked
        return None if rule else f"best of {info.iteration + 1}"
    return f"{name}, {'up to ' if rule else ''}{info.iteration} revision{'s' if info.iteration > 1 else ''}"


def _plotted(info: SystemInfo, systems: Mapping[str, SystemInfo]) -> bool:
    """Of each improver the first revision and the last, since a plot of all would be a thicket."""
    last = max(s.iteration for s in systems.values() if s.improver == info.improver)
    return info.iteration == last or (info.iteration == 1 and not info.stopping_rule)


def markdown(found: Sweep) -> str:
    """A table a judge: lines down, values across, the best value of each line in bold."""
    parts = [
        f"# {found.of.capitalize()} of improvers: {plain(found.run)}",
        "",
        f"Δ = win − lose against the drafts that were revised, in percent of {found.n:,} prompts "
        f"({found.split.replace('_', ' ')}), with its 95 % interval. Prompts and "
        f"drafts are the same at every {_one(found.of)}. Bold: the best of a row.",
        "",
    ]
    if len(found.values) > 1 and found.split != "validation":
        parts += [
            "The best of several was chosen on the prompts that it is shown on, so its Δ is flattered: where intervals "
            "overlap, another draw of prompts may choose another.",
            "",
        ]
    for judge in found.judges:
        head = [found.of, *(f"{value:g}" for value in found.values)]
        rows = []
        for line, points in found.lines(judge).items():
            rows.append([line, *(_cell(points.get(value)) for value in found.values)])
        parts += [f"## By {plain(judge)}", "", *markdown_table(head, rows), ""]
    return "\n".join([*parts, f"![Δ against the drafts by {found.of}](sweep.svg)", ""])


def _one(of: Swept) -> str:
    return "temperature" if of == "temperature" else "number of iterations"


def _cell(point: SweepPoint | None) -> str:
    if point is None:
        return "–"
    shown = with_interval(point.comparison.delta, point.comparison.ci95)
    return f"**{shown}**" if point.best else shown


def plot(found: Sweep) -> str:
    """The same as SVG, a panel a judge."""
    judges = found.judges
    names = list(dict.fromkeys(point.line for point in found.points if point.plotted))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sweep", "text.parse_math": False, "font.size": 8}):
        across = min(2, len(judges))
        down = -(-len(judges) // across)
        figure = Figure(figsize=(4.4 * across, 2.8 * down + 0.5), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for empty in panels[len(judges) :]:
            empty.set_axis_off()
        for axes, judge in zip(panels, judges, strict=False):
            lines = found.lines(judge)
            axes.axhline(0, color=ALONE_MUTED, linewidth=0.8, linestyle="--")
            drawn = [_error_line(name, list(lines.get(name, {}).values())) for name in names]
            draw_with_errors(axes, drawn, found.of, ALONE, ALONE_MUTED, ALONE_LINE)
            axes.set_xticks(found.values, [f"{value:g}" for value in found.values])
            axes.set_title(f"Δ against the drafts, by {visible(masked(judge))}", fontsize=8)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        return standalone_svg(figure)


def _error_line(line: str, points: Sequence[SweepPoint]) -> ErrorLine:
    rows = [(p.value, p.comparison.delta, *p.comparison.ci95) for p in points]
    return ErrorLine(visible(masked(line)), *np.reshape(rows, (-1, 4)).T)
