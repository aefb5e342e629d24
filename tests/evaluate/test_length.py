"""Δ at equal length: an independent maximum of the likelihood, a known truth, and what length alone wins."""

import numpy as np
import pytest
from scipy.optimize import minimize

from pit_ray.evaluate.comparisons import Comparison, compare
from pit_ray.evaluate.length import at_equal_length


def both(outcome: np.ndarray, longer: np.ndarray, resamples: int = 400, seed: int = 0) -> tuple[Comparison, Comparison]:
    """The comparison, and the same at equal length."""
    zeros = np.zeros(len(outcome))
    plain = compare("improver_vs_policy", "gold", 1, False, outcome, zeros, resamples, seed)
    return plain, at_equal_length(plain, outcome, zeros, longer, np.ones(len(zeros), bool), resamples, seed)


def drawn(n: int, win_at_0: float, slope: float, mean: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Wins and losses, no ties, whose odds follow the length by the model, and that length."""
    random = np.random.default_rng(seed)
    longer = np.round(random.normal(mean, 6, n))
    logit = np.log(win_at_0 / (1 - win_at_0)) + slope * np.tanh(longer / longer.std())
    return np.where(random.random(n) < 1 / (1 + np.exp(-logit)), 1.0, -1.0), longer


def test_the_fit_is_that_of_a_general_optimiser():
    random = np.random.default_rng(1)
    longer = random.integers(-9, 12, 300).astype(float)
    outcome = np.sign(np.round(random.normal(0.1 * longer + 0.4, 1.5, 300)))
    assert set(outcome) == {-1, 0, 1}
    x = np.tanh(longer / np.std(longer))

    def share(event: np.ndarray) -> float:
        def loss(ab: np.ndarray) -> float:
            signed = (ab[0] + ab[1] * x) * np.where(event, 1, -1)
            return float(np.logaddexp(0, -signed).sum())

        a, _ = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9}).x
        return 100 / (1 + np.exp(-a))

    found = both(outcome, longer)[1]
    assert (found.win, found.lose) == pytest.approx((share(outcome > 0), share(outcome < 0)), abs=0.02)
    assert found.delta == found.win - found.lose


def test_a_win_by_length_alone_is_taken_away():
    plain, controlled = both(*drawn(3000, 0.5, 2.0, mean=5, seed=2))
    assert plain.ci95[0] > 30
    assert controlled.ci95[0] < 0 < controlled.ci95[1] and abs(controlled.delta) < 8
    assert controlled.model_copy(update={n: getattr(plain, n) for n in ("win", "lose", "delta", "ci95")}) == plain


def test_a_win_that_length_hides_is_found():
    plain, controlled = both(*drawn(3000, 0.7, 1.5, mean=-8, seed=3))
    assert plain.delta < 0
    assert controlled.ci95[0] < 40 < controlled.ci95[1], "the truth: 70 − 30"


def test_where_length_says_nothing_little_changes():
    plain, controlled = both(*drawn(4000, 0.65, 0.0, mean=0, seed=4))
    assert controlled.delta == pytest.approx(plain.delta, abs=0.5)
    assert controlled.ci95 == pytest.approx(plain.ci95, abs=1)
    outcome = np.repeat([1.0, 0.0, -1.0], [50, 30, 20])
    plain, controlled = both(outcome, np.full(100, 3.0))
    assert controlled.delta == pytest.approx(plain.delta, abs=0.3)


def test_the_interval_covers_the_truth():
    found = [both(*drawn(300, 0.6, 1.0, mean=3, seed=s), resamples=200)[1].ci95 for s in range(120)]
    covered = np.mean([low <= 20 <= high for low, high in found])
    assert 0.88 <= covered <= 0.995


def test_one_side_that_always_wins_gives_a_finite_answer():
    longer = np.arange(60.0) - 30
    found = both(np.ones(60), longer)[1]
    assert 95 < found.delta <= 100 and found.ci95[1] <= 100
    split = both(np.sign(longer + 0.5), longer)[1]
    assert np.isfinite(split.ci95).all() and abs(split.delta) < 60


def test_equal_texts_are_ties_and_bend_no_fit():
    random = np.random.default_rng(6)
    outcome = random.choice([1.0, -1.0, 0.0], p=[0.7, 0.1, 0.2], size=2000)
    longer = np.round(random.normal(-2, 2, 2000))
    alone = both(outcome, longer)[1]
    # As many prompts again with the same text from both: every share is halved, whatever the lengths of the others.
    zeros, differ = np.zeros(4000), np.arange(4000) < 2000
    outcome, longer = np.append(outcome, zeros[:2000]), np.append(longer, zeros[:2000])
    plain = compare("best_of_2_vs_policy", "gold", 0, False, outcome, zeros, 400, 0)
    found = at_equal_length(plain, outcome, zeros, longer, differ, 400, 0)
    assert found.delta == pytest.approx(alone.delta / 2)
    assert found.ci95[0] < found.delta < found.ci95[1] and found.ci95[1] - found.ci95[0] < 8
    nothing = at_equal_length(plain, zeros, zeros, zeros, np.zeros(4000, bool), 400, 0)
    assert (nothing.win, nothing.lose, nothing.ci95) == (0, 0, (0, 0))
