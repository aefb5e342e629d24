"""Comparisons count rightly, and their intervals hold what they promise."""

import io
import math

import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from pit_ray.evaluate.comparisons import Comparison, compare, delta_table


def of(ours, theirs, resamples: int = 1000, seed: int = 0) -> Comparison:
    ours, theirs = np.asarray(ours, dtype=np.float32), np.asarray(theirs, dtype=np.float32)
    return compare("improver_vs_policy", "gold", 1, False, ours, theirs, resamples, seed)


def test_hand_worked():
    found = of([1, 2, 3, 4, 7], [0, 2, 4, 3, 7 + 1e-7])
    assert (found.n, found.win, found.lose, found.delta) == (5, 40.0, 20.0, 20.0)
    assert found.ci95[0] < 20 < found.ci95[1]


def test_a_tie_is_decided_in_double_precision():
    near = np.nextafter(np.float32(64), np.float32(65))
    assert of([near], [64]).win == 100, "7.6e-6 is more than the tie of 1e-6"
    assert compare("c", "gold", 1, False, np.array([64.0]), np.array([64 + 5e-7]), 10, 0).lose == 0


def test_swapping_sides_negates_delta():
    rng = np.random.default_rng(1)
    ours, theirs = rng.integers(0, 4, 300), rng.integers(0, 3, 300)
    there, back = of(ours, theirs, 20000), of(theirs, ours, 20000)
    assert (there.win, there.lose, there.delta) == (back.lose, back.win, -back.delta)
    assert there.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]), abs=0.7)


def test_the_interval_covers_the_true_difference_and_is_no_wider_than_it_must_be():
    win, lose, n = 0.45, 0.25, 200
    rng = np.random.default_rng(2)
    true, runs = 100 * (win - lose), 500
    found = [of(rng.choice([1, -1, 0], n, p=[win, lose, 1 - win - lose]), np.zeros(n), seed=k) for k in range(runs)]
    covered = np.mean([c.ci95[0] <= true <= c.ci95[1] for c in found])
    assert 0.92 < covered < 0.98
    width = 2 * 1.96 * 100 * math.sqrt((win + lose - (win - lose) ** 2) / n)
    assert np.mean([c.ci95[1] - c.ci95[0] for c in found]) == pytest.approx(width, rel=0.03)


def test_agrees_with_scipys_bootstrap():
    rng = np.random.default_rng(3)
    outcomes = rng.choice([100.0, -100.0, 0.0], 150, p=[0.5, 0.2, 0.3])
    theirs = scipy.stats.bootstrap(
        (outcomes,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert of(outcomes, np.zeros(150), 20000).ci95 == pytest.approx((theirs.low, theirs.high), abs=0.7)


def test_same_seed_same_interval():
    ours, theirs = np.random.default_rng(4).normal(size=(2, 101))
    assert of(ours, theirs, seed=5) == of(ours, theirs, seed=5)
    assert of(ours, theirs, seed=5).ci95 != of(ours, theirs, seed=6).ci95


def test_edges():
    ties = of([1, 2], [1, 2])
    assert (ties.win, ties.lose, ties.delta, ties.ci95) == (0, 0, 0, (0, 0))
    wins = of([2, 3], [1, 2])
    assert (wins.delta, wins.ci95) == (100, (100, 100))
    for ours, theirs, message in [
        ([], [], "no prompts"),
        ([1, 2], [1], "one length"),
        ([1], [math.nan], "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            of(ours, theirs)


def test_written_and_read_back():
    found = of([1, 2, 3], [0, 3, 3])
    assert Comparison.model_validate_json(found.model_dump_json()) == found


def test_table_fits_a_terminal_of_80_columns():
    rows = [
        Comparison(
            name=name, judge="reward", iterations=3, stopping_rule=rule, n=1024, win=48.1, lose=20.2, delta=delta,
            ci95=(delta - 5.8, delta + 5.5),
        )
        for name, rule, delta in [("sft_improver_vs_policy", True, 27.9), ("improver_vs_policy", False, -1.0)]
    ]  # fmt: skip
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(delta_table(rows))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert "sft improver vs policy reward up to 3 1024 48.1 20.2 +27.9 +22.1, +33.4" in lines
    assert "improver vs policy reward 3 1024 48.1 20.2 -1.0 -6.8, +4.5" in lines
