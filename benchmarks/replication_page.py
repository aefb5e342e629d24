"""Writes results/replication.md, replication.json and over_optimisation.svg."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.replication_claims import RESAMPLES, Claim, claims, mean, shown
from benchmarks.replication_runs import FULL, Finished
from pit_ray.evaluate.charts import draw_against_kl
from pit_ray.progress import duration
from pit_ray.run_folder import environment, write_json, write_text

PLOT = "over_optimisation.svg"
HEALTH = ("policy", "best_of_2", "sft_improver", "improver_1", "improver_stopped")


def write_results(runs: Sequence[Finished], folder: Path) -> None:
    """The table, the comparisons, the plot."""
    commit = environment()["commit"]  # before results change the checkout
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"world": run.world, "seed": run.seed, "variant": run.variant} | comparison
        for run in runs
        for comparison in run.summary["comparisons"]
    ]
    write_json(folder / "replication.json", rows)
    plot(runs, folder / PLOT)
    write_text(folder / "replication.md", page(runs, commit))


def page(runs: Sequence[Finished], commit: str | None) -> str:
    """The whole page as Markdown; `commit` is that of the code that judges the runs."""
    parts = ["# Replication", "", *provenance(runs, commit), ""]
    for world in dict.fromkeys(run.world for run in runs):
        ours = [run for run in runs if run.world == world]
        parts += [f"## World `{world}`", "", *verdict(claims(ours)), "", *iteration_table(ours), ""]
        parts += [*health_table(ours), ""]
    parts += ["## Gap and gold against KL", "", f"![what was optimised, and gold, against KL]({PLOT})", ""]
    parts += [
        "A dot is a step, a line the moving mean of one phase of one seed; the scale of what was optimised is at the "
        "left, that of gold at the right.",
    ]
    return "\n".join(parts) + "\n"


def provenance(runs: Sequence[Finished], commit: str | None) -> list[str]:
    """Where the numbers come from."""
    commits = sorted({str(run.environment["commit"]) for run in runs})
    machine, packages = runs[0].environment["machine"], runs[0].environment["packages"]
    # Targets and statistics are part of what must not change once numbers have been seen.
    frozen = commits == [commit] and not commits[0].endswith("-dirty")
    seconds = sum(sum(run.summary["seconds"].values()) for run in runs)
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    return [
        "Made by `make replicate` from `benchmarks/replication.yaml`. Numbers in brackets are 95 % intervals; those of "
        "a seed are bootstraps over its held-out prompts; “paired” ones are pooled over seeds, prompts resampled "
        f"inside each seed, both sides of a prompt together ({RESAMPLES:,} resamples). They speak of new prompts, not "
        "of new training runs: for these see the seeds. A Δ is win − lose in percent of the prompts, against the tuned "
        "policy's own responses; its drafts are the same in all variants of a seed, which was checked. Nothing is "
        "tuned on held-out prompts.",
        "",
        f"- frozen in a commit before it ran: **{'yes' if frozen else 'no'}** "
        f"(trained at {', '.join(commits)}; judged at {commit})",
        f"- machine: {machine['system']}, {machine['cpus']} cores; Python {runs[0].environment['python']}",
        f"- versions: {versions}",
        f"- {len(runs)} runs, {duration(seconds)} in their stages",
    ]


def verdict(found: Sequence[Claim]) -> list[str]:
    """A line a claim."""
    words = {True: "yes", False: "**no**", None: "–"}
    rows = [f"| {c.text} | {c.found} | {c.target} | {words[c.holds]} |" for c in found]
    return ["| claim | found (seed: value) | target | holds |", "|---|---|---|---|", *rows]


def iteration_table(runs: Sequence[Finished]) -> list[str]:
    """Δ after each iteration, with and without the stopping rule."""
    full = [run for run in runs if run.variant == FULL]
    count = full[0].iterations
    head = ["seed", "stopping rule", *(f"Δ after {k}" for k in range(1, count + 1))]
    rows = [
        [str(run.seed), "yes" if rule else "no"]
        + [shown(run.comparison("improver_vs_policy", k, rule)) for k in range(1, count + 1)]
        for run in full
        for rule in (False, True)
    ]
    return table(head, rows)


def health_table(runs: Sequence[Finished]) -> list[str]:
    """Scores and signs of a hollow win, of the full runs."""
    head = ["seed", "system", "mean score", "tokens", "truncated", "distinct", "copied", "reward–length r"]
    rows = []
    for run in (run for run in runs if run.variant == FULL):
        for name in HEALTH:
            h = run.summary["health"][name]
            copied = "–" if h["copied"] is None else f"{h['copied']:.3f}"
            numbers = [f"{mean(run, name):.2f}", f"{h['tokens']:.1f}", f"{h['truncated']:.3f}", f"{h['distinct']:.3f}"]
            rows.append([str(run.seed), name, *numbers, copied, f"{h['reward_length_correlation']:+.2f}"])
    return table(head, rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def plot(runs: Sequence[Finished], path: Path) -> None:
    """What was optimised, and gold, against KL: a row a world, policy and improver side by side, all seeds."""
    full = [run for run in runs if run.variant == FULL]
    worlds = list(dict.fromkeys(run.world for run in full))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "replication", "font.size": 8}):
        figure = Figure(figsize=(9, 2.7 * len(worlds)), layout="constrained")
        grid = figure.subplots(len(worlds), 2, squeeze=False)
        for row, world in zip(grid, worlds, strict=True):
            for axes, (stage, optimised) in zip(row, {"ppo_policy": "R_P", "ppo_improver": "gap"}.items(), strict=True):
                found = [t for run in full if run.world == world for t in run.curves.get(stage, [])]
                draw_against_kl(axes, found, ("#2a6fdb", "#d9730d"), "#666b73", "#e3e3de")
                axes.set_title(f"{world}, {stage}: {optimised} (blue, left), gold (orange, right)", fontsize=8)
        figure.savefig(path, metadata={"Date": None})
