"""Ratings against a likelihood that is maximised here, a closed form, a bootstrap by hand, and a known truth."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize

from pit_ray.evaluate.ratings import PRIOR, PairOutcomes, all_pairs, of_verdicts, rate


def drawn(strength: dict[str, float], n: int, seed: int, tie: float = 0.0) -> PairOutcomes:
    """All pairs on n prompts whose winners follow ratings of that `strength`, each comparison apart."""
    random, names = np.random.default_rng(seed), tuple(strength)
    rows = []
    for i, j in itertools.combinations(range(len(names)), 2):
        p = 1 / (1 + 10 ** ((strength[names[j]] - strength[names[i]]) / 400))
        won = np.where(random.random(n) < p, 1, -1) * (random.random(n) >= tie)
        rows += [(prompt, i, j, o) for prompt, o in enumerate(won)]
    prompt, first, second, outcome = np.array(rows).T
    return PairOutcomes(names, prompt, first, second, outcome.astype(np.int8))


def by_likelihood(found: PairOutcomes, anchor: str) -> dict[str, float]:
    """Ratings by a general optimiser, from the rows themselves."""
    k = len(found.systems)
    won = (1 + found.outcome) / 2
    pairs = sorted(set(zip(found.first.tolist(), found.second.tolist(), strict=True)))
    first = np.concatenate([found.first, [i for i, _ in pairs]])
    second = np.concatenate([found.second, [j for _, j in pairs]])
    weight = np.concatenate([np.ones(len(won)), np.full(len(pairs), 2 * PRIOR)])
    won = np.concatenate([won, np.full(len(pairs), 0.5)])

    def loss(theta: np.ndarray) -> float:
        ahead = theta[first] - theta[second]
        nll = weight @ (won * np.logaddexp(0, -ahead) + (1 - won) * np.logaddexp(0, ahead)) / len(won)
        return nll + theta.sum() ** 2  # only differences are determined

    theta = minimize(loss, np.zeros(k), method="BFGS", options={"gtol": 1e-9}).x * 400 / np.log(10)
    return dict(zip(found.systems, theta - theta[found.systems.index(anchor)] + 1000, strict=True))


def by_majorisation(wins: np.ndarray) -> np.ndarray:
    """Ratings (draws, k) with the first at 1000, from wins (draws, k, k), by Zermelo's iteration."""
    p, other = np.ones(wins.shape[:2]), 1 - np.eye(wins.shape[1])
    played = (wins + wins.transpose(0, 2, 1)) * other
    for _ in range(300):
        p = (wins * other).sum(axis=2) / (played / (p[:, :, None] + p[:, None, :])).sum(axis=2)
    return 1000 + 400 * np.log10(p / p[:, :1])


def values(ratings, field: str = "bradley_terry") -> dict[str, float]:
    return {r.system: getattr(r, field) for r in ratings}


def test_two_systems_have_a_closed_form():
    ours = np.array([1.0] * 70 + [0.0] * 20 + [0.5] * 10)
    found = rate("gold", [all_pairs({"policy": np.full(100, 0.5), "improver": ours})], "policy", 200, 0)
    wins, losses = 75 + PRIOR, 25 + PRIOR
    assert [r.system for r in found] == ["improver", "policy"]
    assert found[0].bradley_terry == pytest.approx(1000 + 400 * np.log10(wins / losses), abs=1e-6)
    assert (found[1].bradley_terry, found[1].ci95) == (1000, (1000, 1000))
    assert (found[0].n, found[0].comparisons) == (100, 100)
    # 400 log10(p / (1 − p)), the form without the tie in advance, is near.
    many = rate("gold", [all_pairs({"policy": np.full(10000, 0.5), "improver": np.tile(ours, 100)})], "policy", 10, 0)
    assert many[0].bradley_terry == pytest.approx(1000 + 400 * np.log10(0.75 / 0.25), abs=0.05)


def test_the_fit_is_that_of_a_general_optimiser():
    found = drawn({"policy": 0, "a": 60, "b": 150, "c": -40, "d": 155}, 120, seed=1, tie=0.3)
    rated = rate("gold", [found], "policy", 10, 0)
    assert values(rated) == pytest.approx(by_likelihood(found, "policy"), abs=0.05)
    assert [r.bradley_terry for r in rated] == sorted((r.bradley_terry for r in rated), reverse=True)
    assert all((r.n, r.comparisons) == (120, 480) for r in rated)


def test_without_an_anchor_the_mean_is_1000():
    found = drawn({"policy": 0, "a": 60, "b": 150}, 100, seed=2)
    free, fixed = (rate("gold", [found], anchor, 10, 0) for anchor in (None, "a"))
    assert np.mean([r.bradley_terry for r in free]) == pytest.approx(1000)
    shift = values(free)["a"] - 1000
    assert values(free) == pytest.approx({name: v + shift for name, v in values(fixed).items()})


def test_bradley_terry_knows_no_order_and_elo_hardly_any_after_shuffles():
    found = drawn({"policy": 0, "a": 100, "b": 30}, 800, seed=3)
    order = np.lexsort([found.outcome])
    turned = PairOutcomes(found.systems, *(column[order] for column in found[1:]))
    there, back = (rate("gold", [f], "policy", 50, 0) for f in (found, turned))
    assert values(there) == pytest.approx(values(back)) and values(there, "ci95") == values(back, "ci95")
    for name, elo in values(there, "elo").items():
        assert elo == pytest.approx(values(back, "elo")[name], abs=12)
        assert elo == pytest.approx(values(there)[name], abs=25), "from many comparisons both find the same"


def test_scores_become_all_pairs():
    scores = {"a": np.array([1.0, 2.0]), "b": np.array([1.0 + 1e-7, 1.0]), "c": np.array([0.0, 3.0])}
    found = all_pairs(scores)
    names = found.systems
    rows = {(p, names[i], names[j]): o for p, i, j, o in zip(*found[1:], strict=True)}
    assert rows == {
        (0, "a", "b"): 0, (1, "a", "b"): 1, (0, "a", "c"): 1, (1, "a", "c"): -1, (0, "b", "c"): 1, (1, "b", "c"): -1,
    }  # fmt: skip


def test_the_interval_is_that_of_drawing_prompts_whole():
    # Outcomes of one prompt hang together: its pairs must be drawn together, or the interval is too narrow.
    random = np.random.default_rng(4)
    luck = random.normal(size=150)
    scores = {"policy": np.zeros(150), "a": luck + 0.3, "b": luck + 0.3 + 0.1 * random.normal(size=150)}
    found = {r.system: r for r in rate("gold", [all_pairs(scores)], "policy", 2000, 0)}
    values_kn, draws = np.stack(list(scores.values())), random.integers(0, 150, (3000, 150))
    wins = np.full((3000, 3, 3), PRIOR)
    for i, j in itertools.permutations(range(3), 2):
        ahead = np.sign(values_kn[i] - values_kn[j])
        wins[:, i, j] += ((1 + ahead) / 2)[draws].sum(axis=1)
    low, high = np.percentile(by_majorisation(wins)[:, 1], [2.5, 97.5])
    assert found["a"].ci95 == pytest.approx((low, high), abs=4)


def test_the_interval_covers_the_truth():
    truth = {"policy": 0.0, "a": 80.0, "b": 160.0}
    covered = []
    for s in range(60):
        rated = rate("gold", [drawn(truth, 100, seed=100 + s)], "policy", 100, s)
        covered += [r.ci95[0] <= 1000 + truth[r.system] <= r.ci95[1] for r in rated if r.system != "policy"]
    assert 0.88 <= np.mean(covered) <= 0.99


def test_seeds_are_pooled_and_count_alike():
    few, many = drawn({"policy": 0, "a": 200}, 200, seed=5), drawn({"policy": 0, "a": 0}, 800, seed=6)
    (a, _) = rate("gold", [few, many], "policy", 500, 0)
    p = np.mean([(1 + f.outcome[::1]).mean() / 2 for f in (few, many)])  # of policy
    assert a.bradley_terry == pytest.approx(1000 - 400 * np.log10((500 * p + 0.25) / (500 * (1 - p) + 0.25)), abs=0.1)
    assert (a.n, a.comparisons) == (1000, 1000)
    # Prompts are drawn inside each seed: seeds that differ are no reason for a wider interval.
    apart = [drawn({"policy": 0, "a": strength}, 400, seed=7) for strength in (-300, 300)]
    alike = [drawn({"policy": 0, "a": 0}, 400, seed=8 + k) for k in range(2)]
    width = [
        np.ptp(next(r for r in rate("gold", f, "policy", 1000, 0) if r.system == "a").ci95) for f in (apart, alike)
    ]
    assert width[0] < width[1]
    # A system that only one seed has is rated from that one, also where seeds name systems in another order.
    other = drawn({"b": 100, "policy": 0}, 300, seed=9)
    found = values(rate("gold", [few, other], "policy", 10, 0))
    assert found["a"] > 1100 and 1050 < found["b"] < 1170


def test_verdicts_of_pairs_that_are_not_all():
    random = np.random.default_rng(10)
    said = [
        ("a", "policy", np.arange(50), random.choice([1, 0, -1], 50, p=[0.6, 0.2, 0.2])),
        ("policy", "b", np.arange(30, 60), random.choice([1, 0, -1], 30, p=[0.2, 0.2, 0.6])),
        ("c", "d", np.arange(5), np.ones(5, int)),
    ]
    found = of_verdicts(said)
    rated = rate("human", [found], "policy", 100, 0)
    assert {r.system for r in rated} == {"policy", "a", "b"}, "nothing ties c and d to the others"
    assert {r.system: (r.n, r.comparisons) for r in rated} == {"policy": (60, 80), "a": (50, 50), "b": (30, 30)}
    reference = by_likelihood(of_verdicts(said[:2]), "policy")
    assert values(rated) == pytest.approx(reference, abs=0.05)
    assert all(r.judge == "human" for r in rated)
    assert {r.system for r in rate("human", [found], "d", 10, 0)} == {"c", "d"}


def test_who_always_wins_has_a_finite_rating():
    steps = {f"s{k}": np.full(300, float(k)) for k in range(8)}
    rated = rate("gold", [all_pairs(steps)], "s0", 100, 0)
    assert [r.system for r in rated] == [f"s{k}" for k in range(7, -1, -1)]
    assert np.isfinite([r.ci95 for r in rated]).all()
    assert values(rated) == pytest.approx(by_likelihood(all_pairs(steps), "s0"), rel=0.02)
    equal = rate("gold", [all_pairs({s: np.zeros(5) for s in "abc"})], "a", 20, 0)
    assert all(r.bradley_terry == pytest.approx(1000) and r.elo == pytest.approx(1000) for r in equal)


def test_same_seed_same_ratings():
    found = [drawn({"policy": 0, "a": 50}, 60, seed=11)]
    assert rate("gold", found, "policy", 100, 3) == rate("gold", found, "policy", 100, 3)
    assert rate("gold", found, "policy", 100, 3) != rate("gold", found, "policy", 100, 4)


def test_nothing_to_rate():
    for found, message in [([], "nothing was compared"), ([all_pairs({"a": np.zeros(3)})], "nothing was compared")]:
        with pytest.raises(ValueError, match=message):
            rate("gold", found, None, 10, 0)
    with pytest.raises(ValueError, match="anchor 'policy' was not compared"):
        rate("gold", [all_pairs({"a": np.zeros(3), "b": np.ones(3)})], "policy", 10, 0)
