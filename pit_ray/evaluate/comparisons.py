"""Paired comparisons of two systems on the same prompts: win, lose, Δ = win − lose, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveInt
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text


class Comparison(BaseModel):
    """One system ("ours") against another ("theirs"), one judge, the same prompts for both (PIT, Evaluation)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """OURS_vs_THEIRS, for instance improver_vs_policy."""
    judge: str
    """What gave the scores: gold or reward."""
    iterations: int
    """How often ours revised at most."""
    stopping_rule: bool
    """Whether the stopping rule chose among the revisions."""
    n: PositiveInt
    """Prompts compared."""
    win: float
    """Prompts on which ours scored higher, in percent."""
    lose: float
    """Prompts on which theirs scored higher, in percent."""
    delta: float
    """win − lose, in percentage points."""
    ci95: tuple[float, float]
    """95 % interval of delta."""


def outcomes(ours: np.ndarray, theirs: np.ndarray, tie: float = 1e-6) -> np.ndarray:
    """(n,) int8: 1 where ours scored higher by more than `tie`, −1 where theirs did, else 0."""
    # In double precision: between float32 scores `tie` would be lost in rounding.
    ahead = ours.astype(np.float64) - theirs.astype(np.float64)
    return (ahead > tie).astype(np.int8) - (ahead < -tie).astype(np.int8)


def compare(
    name: str,
    judge: str,
    iterations: int,
    stopping_rule: bool,
    ours: np.ndarray,
    theirs: np.ndarray,
    resamples: int,
    seed: int,
    tie: float = 1e-6,
) -> Comparison:
    """Counts the prompts on which ours beats theirs by more than `tie`, and the reverse; `ours` and `theirs` are the
    scores (n,) of the same n prompts in the same order. The interval is the percentile bootstrap over prompts.

    Raises ValueError without prompts, or when the scores are not two finite vectors of one length.
    """
    if ours.ndim != 1 or ours.shape != theirs.shape:
        raise ValueError(f"{name}: scores must be two vectors of one length, got {ours.shape} and {theirs.shape}")
    n = len(ours)
    if n == 0:
        raise ValueError(f"{name}: no prompts to compare")
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise ValueError(f"{name}: a score of {judge} is not finite")
    outcome = outcomes(ours, theirs, tie)
    wins, losses = int((outcome > 0).sum()), int((outcome < 0).sum())
    # A prompt counts only as won, lost or tied, so n prompts drawn with replacement are one multinomial draw.
    shares = np.array([wins, losses, n - wins - losses]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    low, high = np.percentile(100 * (drawn[:, 0] - drawn[:, 1]) / n, [2.5, 97.5])
    return Comparison(
        name=name,
        judge=judge,
        iterations=iterations,
        stopping_rule=stopping_rule,
        n=n,
        win=100 * wins / n,
        lose=100 * losses / n,
        delta=100 * (wins - losses) / n,
        ci95=(float(low), float(high)),
    )


def revisions(comparison: Comparison) -> str:
    """How often ours revised, in words: "2", "up to 3" where the stopping rule chose, "–" where nothing was revised."""
    if comparison.iterations == 0:
        return "–"
    return f"up to {comparison.iterations}" if comparison.stopping_rule else str(comparison.iterations)


def headlines(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those that a terminal has room for: of the stopping rule the last iteration, and no steps between iterations."""
    last = max((c.iterations for c in comparisons), default=0)
    against = [c for c in comparisons if not c.name.endswith("_vs_previous")]
    return [c for c in against if not c.stopping_rule or c.iterations == last]


def delta_table(comparisons: Sequence[Comparison]) -> Table:
    """The comparisons as a table for the terminal, in the given order."""
    table = Table(title="Δ = win − lose, percent of the prompts", box=SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("comparison")
    table.add_column("judge")
    for heading in ("revised", "n", "win", "lose", "Δ", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    for c in comparisons:
        low, high = c.ci95
        # Green or red only where the interval leaves 0 out.
        delta = Text(f"{c.delta:+.1f}", style="green" if low > 0 else "red" if high < 0 else "")
        numbers = [revisions(c), str(c.n), f"{c.win:.1f}", f"{c.lose:.1f}"]
        table.add_row(Text(c.name.replace("_", " ")), Text(c.judge), *numbers, delta, f"{low:+.1f}, {high:+.1f}")
    return table
