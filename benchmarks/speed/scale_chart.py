"""The chart of `scale`: idle workers by their number, and the driver's cost by the length of a phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

COLOURS = {"in turn": "tab:grey", "ours": "tab:blue", "oracle": "tab:orange"}
EACH, LEARN_RATIO = 8, 0.5
"""The clusters that are drawn: shards of a step for each worker, learning as a share of sampling."""


def draw(idle: Sequence[Mapping[str, Any]], driver: Sequence[Mapping[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for lag, axes in enumerate((left, middle)):
        kind = (EACH, LEARN_RATIO, lag)
        rows = [row for row in idle if (row["shards_each"], row["learn_ratio"], row["lag"]) == kind]
        for name, colour in COLOURS.items():
            shares = [100 * row[name] for row in rows]
            axes.plot([row["workers"] for row in rows], shares, "o-", color=colour, label=name)
        axes.set(xscale="log", xlabel="rollout workers", ylim=(0, 100), title=f"idle workers, %, lag {lag}")
    left.legend(frameon=False)
    flat = [row for row in driver if "peak_kib" in row]
    prompts = [row["prompts"] for row in flat]
    right.plot(prompts, [row["microseconds"] for row in flat], "o-", label="CPU µs a sample")
    right.plot(prompts, [row["peak_kib"] / 1024 for row in flat], "s-", label="peak memory, MiB")
    right.set(xscale="log", xlabel="prompts in a phase", title="the driver")
    right.set_ylim(bottom=0)
    right.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
