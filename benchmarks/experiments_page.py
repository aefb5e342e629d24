"""Writes results/NAME.md and NAME.json of an experiment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.experiments_claims import Claim, claims_of
from benchmarks.experiments_curves import Curve, Sweep, curve_table, plot, rating_curves, sweep_curves
from benchmarks.experiments_runs import RESAMPLES, Finished
from benchmarks.replication_page import table
from pit_ray.evaluate.significance import wilson
from pit_ray.progress import duration
from pit_ray.run_folder import environment, write_json, write_text


def write_experiment(
    name: str, title: str, runs: Sequence[tuple[int, str, Path]], folder: Path, sweep: Sweep | None = None
) -> Path:
    """The page, its plots and the comparisons of the finished runs (seed, variant, folder), or of what a sweep over
    them found; returns the page's path."""
    finished, commit = [Finished(*run) for run in runs], environment()["commit"]  # before results change the checkout
    write_json(folder / f"{name}.json", list(comparisons(finished, sweep)))
    path = folder / f"{name}.md"
    curves = list(rating_curves(finished) if sweep is None else sweep_curves(finished, sweep))
    for curve in curves:
        write_text(folder / f"{name}_{curve.name}.svg", plot(curve))
    write_text(path, page(name, title, finished, curves, sweep, commit))
    return path


def comparisons(runs: Sequence[Finished], sweep: Sweep | None) -> Iterator[dict[str, Any]]:
    """In the form of summary.json, each with its seed, variant, and split or temperature."""
    for run in runs:
        own: dict[str, Any] = {"seed": run.seed, "variant": run.variant}
        if sweep is None:
            for split, summary in run.summaries.items():
                yield from (own | {"split": split} | comparison for comparison in summary["comparisons"])
            continue
        for t in sweep.temperatures:
            summary = json.loads((run.folder / sweep.folder(t) / "summary.json").read_text(encoding="utf-8"))
            yield from (own | {"temperature": t} | comparison for comparison in summary["comparisons"])


def page(
    name: str, title: str, runs: Sequence[Finished], curves: Sequence[Curve], sweep: Sweep | None, commit: str | None
) -> str:
    """The whole page as Markdown; the systems of the runs themselves stand where there is no sweep over them."""
    parts = [f"# {title}", "", *provenance(name, runs, commit), ""]
    if found := claims_of(name, runs):
        parts += ["## Claims", "", *verdict(found), ""]
    for curve in curves:
        shown = f"![{curve.title}]({name}_{curve.name}.svg)"
        parts += [f"## {curve.title}", "", curve.about, "", *curve_table(curve), "", shown, ""]
    if sweep is not None:
        return "\n".join(parts)
    parts += ["## Systems", "", *systems(runs), ""]
    if made := counted(runs):
        parts += ["## What the stages made", "", *made, ""]
    return "\n".join(parts)


def provenance(name: str, runs: Sequence[Finished], commit: str | None) -> list[str]:
    """Where the numbers come from."""
    commits = sorted({str(run.environment["commit"]) for run in runs})
    machine, packages = runs[0].environment["machine"], runs[0].environment["packages"]
    return [
        f"Made by `make experiments NAMES={name}` from `benchmarks/experiments.yaml`. Numbers in brackets are 95 % "
        f"intervals over prompts, resampled inside each seed ({RESAMPLES:,} resamples): they speak of new prompts, not "
        "of new training runs; for these see the seeds. A Δ is win − lose in percent of the prompts; of right and "
        "wrong answers that is the difference of accuracies in points.",
        "",
        f"- trained at {', '.join(commits)}; judged at {commit}",
        f"- machine: {machine['system']}, {machine['cpus']} cores; Python {runs[0].environment['python']}",
        f"- versions: {', '.join(f'{package} {version}' for package, version in packages.items())}",
        f"- {len(runs)} runs, {duration(sum(run.seconds for run in runs))} in their stages",
    ]


def verdict(found: Sequence[Claim]) -> list[str]:
    words = {True: "yes", False: "**no**", None: "–"}
    return table(["claim", "found", "target", "holds"], [[c.text, c.found, c.target, words[c.holds]] for c in found])


def systems(runs: Sequence[Finished]) -> list[str]:
    """Every system's mean score by seed, and what an answer took."""
    rows = []
    for variant in dict.fromkeys(run.variant for run in runs):
        own = [run for run in runs if run.variant == variant]
        for split in own[0].splits:
            names = own[0].splits[split].systems
            for system, info in names.items():
                score = [score_of(run, split, system) for run in own]
                cost = ["–"] * 2
                if info.calls is not None:
                    cost = [f"{info.calls:.1f} + {info.scorer_calls or 0:.1f}", f"{info.tokens or 0:.0f}"]
                rows.append([variant, split, system, "<br>".join(score), *cost])
    seeds = ", ".join(str(run.seed) for run in own)
    head = ["variant", "split", "system", f"score by seed ({seeds})", "calls + scorer's", "tokens written"]
    return table(head, rows)


def score_of(run: Finished, split: str, system: str) -> str:
    """Accuracy with its Wilson interval where there is a verifier, else mean gold or reward."""
    found = run.splits[split]
    for judge in ("verifier", "gold", "reward"):
        scores = found.scores(system, judge)
        if scores is None:
            continue
        if judge == "verifier":
            low, high = wilson(int(scores.sum()), len(scores))
            return f"{100 * scores.mean():.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        return f"{judge} {np.mean(scores):.2f}"
    return "–"


def counted(runs: Sequence[Finished]) -> list[str]:
    """The counts of the stages that made examples."""
    rows = []
    for run in runs:
        for stage, counts in run.counts.items():
            text = ", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in counts.items())
            rows.append([run.variant, str(run.seed), stage, text])
    return table(["variant", "seed", "stage", "counts"], rows) if rows else []
