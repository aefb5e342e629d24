"""Charts as SVG text for the report: drawn by matplotlib without pyplot, coloured by the page's CSS."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pit_ray.tracking import visible

# The figures are drawn in these stand-in colours, which become CSS variables, so that they follow light and dark.
COLOURS = {
    "#010203": "var(--series-1)",
    "#010204": "var(--series-2)",
    "#010205": "var(--series-3)",
    "#010206": "var(--series-4)",
    "#010207": "var(--series-5)",
    "#010208": "var(--series-6)",
    "#010209": "var(--muted)",
    "#01020a": "var(--line)",
}
*SERIES, MUTED, LINE = COLOURS
ALONE = ("#2a6fdb", "#d9730d", "#0f9d76", "#9b51c9", "#c23d6b", "#8a7a12")
"""The page's colours on light, for a figure that stands alone; muted and lines too."""
ALONE_MUTED, ALONE_LINE = "#666b73", "#e3e3de"

MARKS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"))
"""How matplotlib draws a point, and the character that looks so."""

Points = tuple[np.ndarray, np.ndarray]
"""Steps (n,) counted from 1, and values (n,)."""


class Trajectory(NamedTuple):
    """The steps of one phase of RL, each (n,), in order."""

    kl: np.ndarray
    """Nats per response."""
    proxy: np.ndarray
    """What was optimised: R_P or the gap."""
    gold: np.ndarray


class Key(NamedTuple):
    """What a legend says of one line."""

    label: str
    series: int
    """The number of its colour, from 1."""
    mark: str = ""
    """The character that looks as its points do; none where only the colour tells lines apart."""


class Chart(NamedTuple):
    title: str
    legend: list[Key]
    """Of each line; lines without a label are left out."""
    svg: Markup


class ErrorLine(NamedTuple):
    """Points with intervals, each array (n,), ordered along `x`; `high` may equal `low`. Without points it still has
    its colour, so that charts of the same lines agree."""

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


def line_chart(
    title: str, lines: Mapping[str, Points | None], phases: Sequence[tuple[float, str]], width: float
) -> Chart | None:
    """A small line chart over steps, up to six lines by label, `width` inches wide at its natural size; None when no
    line has points. `phases` are marked by where they begin, in steps, and name. Long lines are drawn faint under
    their moving mean."""
    drawn = [(label, points) for label, points in lines.items() if points is not None]
    if not drawn:
        return None
    with _style(title):
        figure = Figure(figsize=(width, 2.2), layout="constrained")
        axes = figure.subplots()
        for (_, (x, y)), colour in zip(drawn, SERIES, strict=False):
            long = len(x) >= 30
            axes.plot(x, y, color=colour, linewidth=1 if long else 1.8, alpha=0.3 if long else 1)
            if long:
                axes.plot(x, _moving_mean(y, len(x) // 10), color=colour, linewidth=1.8)
        for start, name in phases:
            axes.axvline(start, color=MUTED, linewidth=0.8, linestyle="--")
            above, label = axes.get_xaxis_transform(), shorten(visible(name), width=24, placeholder="…")
            axes.text(start, 1.01, label, color=MUTED, transform=above, va="bottom", fontsize=7.5).set_in_layout(False)
        if phases:
            axes.set_title(" ", fontsize=7.5, pad=2)  # room for their names
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        _plain(axes, "step", MUTED, LINE)
        svg = _svg(figure)
    return Chart(title, [Key(label, k) for k, (label, _) in enumerate(drawn, start=1) if label], svg)


def kl_chart(title: str, proxy: str, trajectories: Sequence[Trajectory], width: float) -> Chart | None:
    """What was optimised (labelled `proxy`, scale at the left) and gold (scale at the right) against KL; None when
    there is nothing to show. Where the first goes on rising and gold does not, the reward is over-optimised (Gao et al.
    2022, arXiv 2210.10760)."""
    if not trajectories:
        return None
    with _style(title):
        figure = Figure(figsize=(width, 2.4), layout="constrained")
        axes = figure.subplots()
        draw_against_kl(axes, trajectories, (SERIES[0], SERIES[1]), MUTED, LINE)
        svg = _svg(figure)
    return Chart(title, [Key(f"{proxy}, left", 1), Key("gold, right", 2)], svg)


def draw_against_kl(
    axes: Axes, trajectories: Sequence[Trajectory], colours: tuple[str, str], muted: str, grid: str
) -> None:
    """A dot a step, and the moving means of each trajectory as a line."""
    right = axes.twinx()
    for kl, proxy, gold in trajectories:
        width = max(1, len(kl) // 5)
        for side, values, colour in ((axes, proxy, colours[0]), (right, gold, colours[1])):
            side.plot(kl, values, ".", color=colour, markersize=4, alpha=0.35)
            side.plot(_moving_mean(kl, width), _moving_mean(values, width), color=colour, linewidth=1.8)
    for side, colour in ((right, colours[1]), (axes, colours[0])):
        _plain(side, "KL, nats per response", muted, grid)
        side.tick_params(axis="y", colors=colour)
    right.grid(visible=False)


def error_chart(title: str, lines: Sequence[ErrorLine], across: str, width: float) -> Chart | None:
    """Lines through points with their intervals, `across` naming what runs across; None without points."""
    if not any(len(line.x) for line in lines):
        return None
    with _style(title):
        figure = Figure(figsize=(width, 2.8), layout="constrained")
        draw_with_errors(figure.subplots(), lines, across, SERIES, MUTED, LINE)
        svg = _svg(figure)
    keys = [
        Key(line.label, k % len(SERIES) + 1, _mark(k, len(SERIES))[1]) for k, line in enumerate(lines) if len(line.x)
    ]
    return Chart(title, keys, svg)


def draw_with_errors(
    axes: Axes, lines: Sequence[ErrorLine], across: str, colours: Sequence[str], muted: str, grid: str
) -> None:
    """Each line in a colour and with a mark of its own; an interval that is one point is not drawn."""
    for k, (label, x, y, low, high) in enumerate(lines):
        colour, (mark, _) = colours[k % len(colours)], _mark(k, len(colours))
        axes.plot(x, y, color=colour, linewidth=1.4, marker=mark, markersize=5, label=label)
        for place, bottom, top in zip(x, low, high, strict=True):
            if top > bottom:
                axes.plot([place, place], [bottom, top], color=colour, linewidth=1.2, alpha=0.55)
    _plain(axes, across, muted, grid)


def _mark(k: int, colours: int) -> tuple[str, str]:
    """Another one for each line, so that colour is not all that tells them apart; where colours come again, shifted."""
    return MARKS[(k + k // colours) % len(MARKS)]


def _style(title: str) -> Any:
    return rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "text.parse_math": False, "font.size": 8.5})


def _plain(axes: Axes, across: str, muted: str, grid: str) -> None:
    """Grid and ticks without a frame; `across` names what runs across."""
    axes.set_xlabel(across, color=muted)
    axes.tick_params(colors=muted, length=0)
    axes.grid(color=grid, linewidth=0.7)
    axes.spines[:].set_visible(False)


def standalone_svg(figure: Figure) -> str:
    """A figure as a file of its own."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _svg(figure: Figure) -> Markup:
    text = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = re.sub(r'^.*?<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg, count=1, flags=re.DOTALL)
    for stand_in, variable in COLOURS.items():
        svg = svg.replace(stand_in, variable)
    return Markup(svg)


def _moving_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean over `width` values around each one, fewer at the ends."""
    window = np.ones(width)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
