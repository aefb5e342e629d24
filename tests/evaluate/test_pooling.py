"""Effects over seeds: worked by hand, against an explicit bootstrap, and with the coverage that is promised."""

import numpy as np
import pytest

from pit_ray.evaluate.pooling import pooled_difference


def outcomes(n: int, win: float, lose: float, random: np.random.Generator) -> np.ndarray:
    return random.choice([1, -1, 0], n, p=[win, lose, 1 - win - lose]).astype(np.int8)


def test_worked_by_hand():
    # Seed 1: Δ 50 against 25; seed 2: Δ 0 against −50. Seeds count alike, whatever their prompts.
    ours = [np.array([1, 1, 0, 0]), np.array([0, 0])]
    theirs = [np.array([1, 1, 0, -1]), np.array([-1, 0])]
    assert pooled_difference(ours, theirs, 100, 0).delta == 37.5
    assert pooled_difference(theirs, ours, 100, 0).delta == -37.5


def test_agrees_with_drawing_prompts_one_by_one():
    random = np.random.default_rng(1)
    theirs = [outcomes(90, 0.4, 0.3, random) for _ in range(3)]
    ours = [np.where(random.random(90) < 0.5, t, outcomes(90, 0.6, 0.2, random)) for t in theirs]
    means = []
    for _ in range(3000):
        seeds = []
        for o, t in zip(ours, theirs, strict=True):
            rows = random.integers(0, 90, 90)
            seeds.append(100 * (o[rows].mean() - t[rows].mean()))
        means.append(np.mean(seeds))
    found = pooled_difference(ours, theirs, 20000, 0)
    assert found.low == pytest.approx(np.percentile(means, 2.5), abs=0.6)
    assert found.high == pytest.approx(np.percentile(means, 97.5), abs=0.6)


def test_pairing_counts_only_what_differs():
    random = np.random.default_rng(2)
    same = [outcomes(500, 0.4, 0.3, random) for _ in range(2)]
    assert pooled_difference(same, same, 200, 0) == (0, 0, 0)
    shuffled = [random.permutation(s) for s in same]
    found = pooled_difference(same, shuffled, 2000, 0)
    assert found.delta == pytest.approx(0) and found.high > 4, "apart they vary, together they do not"


def test_the_interval_covers_the_true_difference():
    random = np.random.default_rng(3)
    covered = []
    for k in range(150):
        ours = [outcomes(120, 0.5, 0.2, random) for _ in range(3)]
        theirs = [outcomes(120, 0.35, 0.25, random) for _ in range(3)]
        _, low, high = pooled_difference(ours, theirs, 300, k)
        covered.append(low <= 20 <= high)
    assert 0.89 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([[1, 0]], [[1]]), ([[1], [1]], [[1]]), ([[]], [[]])])
def test_what_does_not_pair_up_is_refused(ours, theirs):
    with pytest.raises(ValueError, match="pair up"):
        pooled_difference([np.array(o) for o in ours], [np.array(t) for t in theirs], 10, 0)
