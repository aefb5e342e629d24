"""What changes along an axis: ratings over iterations, Δ over temperatures; each a table and a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from pydantic import Field, PositiveInt

from benchmarks.experiments_runs import RESAMPLES, Finished
from benchmarks.replication_page import table
from pit_ray.config.section import Section
from pit_ray.data.randomness import derive_seed
from pit_ray.evaluate.charts import ALONE, ALONE_LINE, ALONE_MUTED, ErrorLine, draw_with_errors, standalone_svg
from pit_ray.evaluate.comparisons import outcomes
from pit_ray.evaluate.evaluation_folder import read_evaluation
from pit_ray.evaluate.pooling import Effect, pooled_difference
from pit_ray.evaluate.ratings import all_pairs, rate

IMPROVERS = {"pit": "PIT", "self_refine": "Self-Refine"}
DRAFTS = "policy"
RATING_RESAMPLES = 1000


class Sweep(Section):
    """Temperatures of feedback and revisions at which each run's PIT and Self-Refine are evaluated as well."""

    temperatures: tuple[float, ...] = Field(min_length=1)
    iterations: PositiveInt = 1

    def folder(self, temperature: float) -> str:
        """Of the evaluation, in the folder of a run."""
        return f"evaluations/{'-'.join(IMPROVERS)}-t{temperature:g}-k{self.iterations}"


@dataclass(frozen=True)
class Curve:
    """Lines over one axis."""

    name: str
    title: str
    about: str
    across: str
    lines: dict[str, dict[float, Effect]]
    """Line -> place on the axis -> value with its interval."""


def rating_curves(runs: Sequence[Finished]) -> Iterator[Curve]:
    """By variant with both improvers and several iterations, the ratings by gold of the drafts and of both after each
    iteration, as they come and as their own rules keep them (PIT, arXiv 2310.00898, rates the original, 5 of PIT and 5
    of Self-Refine)."""
    for variant in dict.fromkeys(run.variant for run in runs):
        own = [run for run in runs if run.variant == variant]
        evaluation = own[0].splits["held_out"]
        if evaluation.iterations < 2 or not all(f"{name}_1" in evaluation.systems for name in IMPROVERS):
            continue
        lines: dict[str, dict[float, Effect]] = {}
        for rule, form, said in ((False, "{}_{}", ""), (True, "{}_kept_{}", ", by its own rule")):
            numbers = range(1, evaluation.iterations + 1)
            places = {form.format(name, k): (name, k) for name in IMPROVERS for k in numbers}
            seeds = [all_pairs({s: run.scores("held_out", s, "gold") for s in (DRAFTS, *places)}) for run in own]
            drawn = derive_seed(0, "ratings", variant, str(rule))
            for rating in rate("gold", seeds, DRAFTS, RATING_RESAMPLES, drawn):
                if rating.system != DRAFTS:
                    name, k = places[rating.system]
                    line = lines.setdefault(f"{IMPROVERS[name]}{said}", {})
                    line[k] = Effect(rating.bradley_terry, *rating.ci95)
        yield Curve(
            f"ratings_{variant}",
            f"Ratings over iterations, `{variant}`",
            "Bradley–Terry ratings by gold over all pairs of the policy's drafts (1000) and both improvers' responses, "
            f"seeds pooled ({RATING_RESAMPLES:,} resamples); 400 points are odds of ten to one. Responses as they come "
            "are rated among themselves, those that the stopping rule or Self-Refine's own choice keeps among "
            "themselves.",
            "iteration",
            lines,
        )  # fmt: skip


def sweep_curves(runs: Sequence[Finished], sweep: Sweep) -> Iterator[Curve]:
    """Δ by gold of each improver against the same drafts, and of one against the other: over temperatures after one
    revision, or over iterations at each temperature, as they come and as their own rules keep them."""
    one, other = IMPROVERS
    names = {said: (f"{name}{{}}", DRAFTS) for name, said in IMPROVERS.items()}
    names[" against ".join(IMPROVERS.values())] = (f"{one}{{}}", f"{other}{{}}")

    def line(temperature: float, ours: str, theirs: str) -> Effect:
        found = [read_evaluation(run.folder / sweep.folder(temperature)) for run in runs]
        scores = [(e.scores(ours, "gold"), e.scores(theirs, "gold")) for e in found]
        won = [outcomes(x, y) for x, y in scores if x is not None and y is not None]
        drawn = derive_seed(0, "sweep", ours, theirs, f"{temperature:g}")
        return pooled_difference(won, [0 * outcome for outcome in won], RESAMPLES, drawn)

    about = (
        "Δ by gold, of each improver against the policy's drafts, which are the same at every temperature, and of PIT "
        "against Self-Refine; feedback and revisions are sampled at the temperature."
    )
    if sweep.iterations == 1:
        lines = {
            said: {t: line(t, *(each.format("_1") for each in pair)) for t in sweep.temperatures}
            for said, pair in names.items()
        }
        chosen = " The best of a row was chosen on the prompts that it is shown on."
        yield Curve("deltas", "Δ over temperatures", about + chosen, "temperature", lines)
        return
    for t in sweep.temperatures:
        lines = {
            f"{said}{rule}": {
                k: line(t, *(each.format(form.format(k)) for each in pair)) for k in range(1, sweep.iterations + 1)
            }
            for form, rule in (("_{}", ""), ("_kept_{}", ", by its own rule"))
            for said, pair in names.items()
        }
        yield Curve(f"deltas_t{t:g}", f"Δ over iterations at temperature {t:g}", about, "iteration", lines)


def curve_table(curve: Curve) -> list[str]:
    places = sorted({place for line in curve.lines.values() for place in line})
    rows = [[name, *(_cell(line.get(place)) for place in places)] for name, line in curve.lines.items()]
    return table([curve.across, *(f"{place:g}" for place in places)], rows)


def _cell(value: Effect | None) -> str:
    return "–" if value is None else f"{value.delta:.1f} [{value.low:.1f}, {value.high:.1f}]"


def plot(curve: Curve) -> str:
    """The curve as SVG."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": curve.name, "text.parse_math": False, "font.size": 8}):
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.subplots()
        drawn = []
        for name, line in curve.lines.items():
            rows = [(place, *line[place]) for place in sorted(line)]
            drawn.append(ErrorLine(name, *np.array(rows).T))
        draw_with_errors(axes, drawn, curve.across, ALONE, ALONE_MUTED, ALONE_LINE)
        axes.set_xticks(sorted({place for line in curve.lines.values() for place in line}))
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return standalone_svg(figure)
