"""The gap reward's measures, on pairs whose numbers can be counted by hand and on scores of known quality."""

import numpy as np
import pytest

from pit_ray.evaluate.gap_reward import PairScores, eq1_order, gap_measures, on_annotated, on_written

# Four pairs, y_1 the winner. 0: the whole order. 1: right, but r^{ww} is above r^{wl}. 2: right, but r^{ll} is below
# r^{lw}. 3: wrong.
PAIRS = PairScores(
    r12=np.array([2.0, 1.0, 2.0, -1.0]),
    r21=np.array([-2.0, -1.0, 0.5, 1.0]),
    r11=np.array([0.1, 1.5, 1.0, 0.0]),
    r22=np.array([-0.1, 0.0, 0.0, 0.0]),
)


def test_the_order_of_eq_1_counted_by_hand():
    assert eq1_order(PAIRS) == (0.75, 0.25)
    assert eq1_order(PAIRS.swapped(np.ones(4, bool))) == (0.25, 0.25)
    assert eq1_order(PairScores(*(np.zeros(0),) * 4)) == (None, None)


def test_swapping_some_pairs_exchanges_both_places():
    swapped = PAIRS.swapped(np.array([True, False, False, False]))
    assert [column[0] for column in swapped] == [-2.0, 2.0, -0.1, 0.1]
    assert [column[1] for column in swapped] == [column[1] for column in PAIRS]


def test_on_written_pairs_the_winner_is_by_gold():
    # Pair 2 ties in gold; pair 3's draft is the better one, so its r^{21} = 1 > r^{12} = −1 is right.
    found = on_written("five", PAIRS, np.array([1.0, 0.5, 0.0, -2.0]))
    assert (found.n, found.accuracy, found.order_holds) == (3, 1.0, pytest.approx(2 / 3))
    # Gaps r^{12} − r^{22}: 2.1, 1, 2, −1; all three that differ in gold agree.
    assert (found.gold_n, found.gold_agreement) == (3, 1.0)
    # Wilson for 3 of 3, from its closed form: n / (n + z²).
    assert found.gold_ci95 == pytest.approx((3 / (3 + 1.959964**2), 1.0), abs=1e-6)
    assert found.gold_pearson == pytest.approx(np.corrcoef([2.1, 1, 2, -1], [1, 0.5, 0, -2])[0, 1])
    # Ranks 4, 2, 3, 1 against 4, 3, 2, 1: 1 − 6 Σd² / (n (n² − 1)).
    assert found.gold_spearman == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_on_annotated_pairs_each_response_is_the_revision_by_turns():
    gold = np.array([5.0, 3.0, 4.0, 4.0]), np.array([4.0, 4.0, 4.0, 2.0])
    found = on_annotated("five", PAIRS, gold)
    assert (found.n, found.accuracy, found.order_holds) == (4, 0.75, 0.25)
    # Gaps by turns: r^{12} − r^{22} = 2.1 and 2; r^{21} − r^{11} = −2.5 and 1. Gold by turns: 1, 1, 0, −2.
    assert (found.gold_n, found.gold_agreement) == (3, pytest.approx(1 / 3))
    assert on_annotated("five", PAIRS, None).gold_n is None


def test_a_difference_of_rewards_has_no_position():
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 50))
    scores = PairScores.of_rewards(first, second)
    accuracy, order = eq1_order(scores)
    assert accuracy == order == np.mean(first > second)
    assert (scores.gap == first - second).all()


def test_a_better_score_measures_better_and_noise_measures_as_noise():
    random = np.random.default_rng(1)
    ahead = random.normal(size=4000)
    good = on_written("five", PairScores.of_rewards(ahead + 0.3 * random.normal(size=4000), np.zeros(4000)), ahead)
    noise = on_written("five", PairScores.of_rewards(random.normal(size=4000), np.zeros(4000)), ahead)
    assert good.gold_ci95[0] > 0.88 and good.gold_pearson > 0.9
    assert noise.gold_ci95[0] < 0.5 < noise.gold_ci95[1] and abs(noise.gold_spearman) < 0.05


def test_both_scores_are_measured_on_the_same_pairs():
    random = np.random.default_rng(2)
    scores = {
        name: {"reward": random.normal(size=4), "gold": random.normal(size=4)}
        for name in ("chosen", "rejected", "policy", "improver_1")
    }
    found = gap_measures("five", PAIRS, PAIRS, scores)
    assert [(m.score, m.pairs) for m in found] == [
        ("five", "annotated"), ("five", "written"), ("difference", "annotated"), ("difference", "written"),
    ]  # fmt: skip
    assert found[0].gold_n == found[2].gold_n and found[1].gold_n == found[3].gold_n
    assert found[2].accuracy == np.mean(scores["chosen"]["reward"] > scores["rejected"]["reward"])
    assert [m.score for m in gap_measures("difference", PAIRS, PAIRS, scores)] == ["difference"] * 2
    without_gold = {name: {"reward": judged["reward"]} for name, judged in scores.items()}
    assert [m.pairs for m in gap_measures("five", PAIRS, PAIRS, without_gold)] == ["annotated"] * 2


def test_nothing_is_said_where_nothing_differs():
    found = on_written("five", PAIRS, np.zeros(4))
    assert (found.n, found.accuracy, found.gold_n, found.gold_agreement, found.gold_pearson) == (0, None, 0, None, None)
