"""Every claim of a replication fails where it should, and pools what belongs together."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.replication_claims import Claim, claims
from benchmarks.replication_page import page, verdict, write_results
from benchmarks.replication_runs import Finished
from pit_ray.evaluate.charts import Trajectory
from pit_ray.evaluate.contests import contests
from pit_ray.run_folder import environment

SEEDS = (1, 2)
N = 400
OUTCOMES = {"sft_improver": 0.05, "improver_1": 0.45, "improver_2": 0.5, "improver_stopped": 0.5, "best_of_2": 0.2}
"""Share of prompts that a system wins against the policy; it loses none."""
ENVIRONMENT = environment()
HEALTHY = {"tokens": 30.0, "truncated": 0.01, "distinct": 0.99, "copied": 0.2, "reward_length_correlation": 0.1}


def finished(seed: int, variant: str = "full", wins: float | None = None) -> Finished:
    """A run in which all is as it should be; `wins` is the improver's share where it is another."""
    shares = OUTCOMES | ({} if wins is None else {"improver_1": wins})
    scores = {"policy": np.full(N, 6.0), "chosen": np.full(N, 5.5), "sft_policy": np.full(N, 5.0)}
    for name, share in shares.items():
        scores[name] = 6.0 + (np.arange(N) < share * N)
    rows = []
    for name, k, rule, ours, _ in contests(2):
        delta = {"policy_vs_sft_policy": 30.0, "improver_vs_previous": 1.0}.get(name, 100 * shares.get(ours, 0.4))
        rows.append(
            {"name": name, "judge": "gold", "iterations": k, "stopping_rule": rule, "n": N, "win": delta, "lose": 0.0}
            | {"delta": delta, "ci95": [delta - 5, delta + 5]}
        )
    measure = {"n": N, "accuracy": 0.8, "order_holds": 0.6, "gold_n": N, "gold_agreement": 0.7}
    measure |= {"gold_ci95": [0.65, 0.75], "gold_pearson": 0.5}
    measures = [
        {"score": score, "pairs": pairs} | measure
        for pairs in ("annotated", "written")
        for score in ("five", "difference")
    ]
    summary = {
        "comparisons": rows, "length_controlled": copy.deepcopy(rows), "gap_reward": {"measures": measures},
        "health": {name: dict(HEALTHY) for name in ("policy", *OUTCOMES)}, "seconds": {"evaluate": 60.0},
        "kl": {"ppo_policy": 3.21, "ppo_improver": None},
    }  # fmt: skip
    rollouts = {"ppo_improver": 3200} | ({"ppo_policy": 6400} if variant == "full" else {})
    curve = Trajectory(np.arange(9.0), np.arange(9.0) / 9, 5 + np.arange(9.0) / 20)
    curves = {stage: [curve] for stage in rollouts}
    by_gold = {(name, "gold"): values for name, values in scores.items()}
    return Finished("notes", seed, variant, summary, ENVIRONMENT, np.arange(N), by_gold, rollouts, curves)


def whole(**wins: float) -> list[Finished]:
    """A replication of two seeds and all variants, with the share of wins of each variant's improver."""
    shares = {"full": 0.45, "annotated_only": 0.0, "on_policy_only": 0.1, "difference": 0.3} | wins
    return [finished(seed, variant, share) for seed in SEEDS for variant, share in shares.items()]


def found(runs: list[Finished], words: str) -> Claim:
    (claim,) = [c for c in claims(runs) if words in c.text]
    return claim


def change(runs: list[Finished], edit: Any) -> list[Finished]:
    """The runs, the full one of the second seed changed by `edit(summary)`."""
    runs = copy.deepcopy(runs)
    for run in runs:
        if (run.seed, run.variant) == (2, "full"):
            edit(run.summary)
    return runs


def comparison(summary: dict, name: str, at: str = "comparisons", **fields: Any) -> dict:
    wanted = {"name": name} | fields
    return next(row for row in summary[at] if all(row[key] == value for key, value in wanted.items()))


def test_all_holds_where_all_is_as_it_should_be():
    assert {c.holds for c in claims(whole())} == {True, None}
    assert "**no**" not in "".join(verdict(claims(whole())))


@pytest.mark.parametrize(
    ("words", "edit"),
    [
        ("beats the SFT policy", lambda s: comparison(s, "policy_vs_sft_policy").update(ci95=[-0.1, 9])),
        ("seed by seed", lambda s: comparison(s, "improver_vs_policy", iterations=1).update(ci95=[25, 50])),
        ("one revision: Δ", lambda s: comparison(s, "improver_vs_policy", iterations=1).update(delta=22.9)),
        ("its upper end", lambda s: comparison(s, "sft_improver_vs_policy").update(ci95=[0, 41])),
        ("at most a third", lambda s: comparison(s, "sft_improver_vs_policy").update(delta=15.1)),
        ("at equal length", lambda s: comparison(s, "improver_vs_policy", "length_controlled").update(ci95=[-1, 9])),
        ("correlation", lambda s: s["health"]["improver_1"].update(reward_length_correlation=-0.6)),
        ("truncated", lambda s: s["health"]["improver_1"].update(truncated=0.06)),
        ("distinct", lambda s: s["health"]["improver_1"].update(distinct=0.8)),
        ("copy the draft", lambda s: s["health"]["improver_1"].update(copied=0.7)),
        (
            "with the stopping rule, quality",
            lambda s: comparison(s, "improver_vs_previous", stopping_rule=True).update(delta=-4.0, ci95=[-7, -1]),
        ),
    ],
)
def test_one_seed_that_fails_is_not_hidden(words, edit):
    runs = change(whole(), edit)
    assert found(whole(), words).holds is True
    assert found(runs, words).holds is False
    failing = next(line for line in page(runs, "abc").splitlines() if words in line)
    assert failing.endswith("| **no** |")


def test_a_fall_without_the_stopping_rule_is_reported_and_no_failure():
    def fall(summary: dict) -> None:
        comparison(summary, "improver_vs_previous", stopping_rule=False).update(delta=-4.0, ci95=[-7, -1])

    claim = found(change(whole(), fall), "without it, quality")
    assert claim.holds is None and "1: no fall<br>2: 1→2 -4.0 [-7.0, -1.0]" in claim.found


def test_the_opponent_must_be_as_good_as_the_data_and_as_long_trained():
    runs = whole()
    weak = [replace(r, scores=r.scores | {("policy", "gold"): np.full(N, 5.4)}) for r in runs]
    assert found(weak, "y_w").holds is False
    short = [replace(r, rollouts=r.rollouts | {"ppo_policy": 3199}) for r in runs]
    assert found(short, "as many rollouts").holds is False
    given = [replace(r, rollouts={"ppo_improver": 3200}) for r in runs]
    assert found(given, "as many rollouts").holds is False, "a policy that was not trained here"


def test_the_curriculum_is_compared_prompt_by_prompt_over_all_seeds():
    claim = found(whole(), "full − Δ annotated_only")
    assert claim.found.startswith("+45.0 [")
    assert claim.holds is True
    # Equal, then worse: neither is a win of the curriculum, and both are said.
    same = found(whole(on_policy_only=0.45), "full − Δ on_policy_only")
    assert (same.found, same.holds) == ("+0.0 [+0.0, +0.0]", False)
    assert found(whole(on_policy_only=0.6), "full − Δ on_policy_only").holds is False
    assert "1: +10.0" in found(whole(), "on_policy_only: Δ").found


def test_variants_with_fewer_rollouts_are_told():
    runs = [replace(r, rollouts={"ppo_improver": 3000}) if r.variant == "annotated_only" else r for r in whole()]
    assert found(runs, "full and annotated_only saw").holds is False
    assert found(runs, "full and on_policy_only saw").holds is True


def test_what_was_not_run_is_not_claimed():
    texts = [c.text for c in claims([r for r in whole() if r.variant == "full"])]
    assert texts and not [text for text in texts if "annotated_only" in text or "trained on the difference" in text]


def test_a_tree_with_changes_is_told():
    runs = whole()
    clean = [replace(r, environment=r.environment | {"commit": "abc"}) for r in runs]
    assert "frozen in a commit before it ran: **yes** (trained at abc; judged at abc)" in page(clean, "abc")
    # The targets may have been moved since.
    assert "frozen in a commit before it ran: **no** (trained at abc; judged at def)" in page(clean, "def")
    dirty = [replace(r, environment=r.environment | {"commit": "abc-dirty"}) for r in runs]
    assert "frozen in a commit before it ran: **no**" in page(dirty, "abc-dirty")
    assert "frozen in a commit before it ran: **no**" in page([dirty[0], *clean[1:]], "abc")


def test_what_is_written(tmp_path):
    write_results(whole(), tmp_path)
    text = (tmp_path / "replication.md").read_text()
    assert "| 2 | no | +45.0 [+40.0, +50.0] | +50.0 [+45.0, +55.0] |" in text
    assert "| 1 | improver_1 | 6.45 | 30.0 | 0.010 | 0.990 | 0.200 | +0.10 |" in text
    assert "1: policy 3.2, improver –<br>2: policy 3.2, improver –" in text
    assert "](over_optimisation.svg)" in text
    drawing = (tmp_path / "over_optimisation.svg").read_text()
    assert "ppo_improver: gap (blue, left)" in drawing and len(drawing) < 200_000
