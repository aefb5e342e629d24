"""What decides the evaluation's numbers: validation prompts alone the margin, and equal texts are ties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pit_ray import driver
from pit_ray.data.parquet import read_pairs
from pit_ray.errors import DataError
from pit_ray.in_process import InProcess, TorchScorer
from pit_ray.records import Rollouts, Scores
from pit_ray.roles import Ref, Resolved
from pit_ray.run_folder import RunFolder
from tests.in_process.small_run import (
    CAUSAL,
    REWARDS,
    before,
    config_for,
    deployment,
    run_to_the_end,
    summary,
)


class FickleScorer(TorchScorer):
    """Gives held-out prompts other scores each time it is asked."""

    held_out: frozenset[bytes] = frozenset()
    asked = 0

    def score(self, rollouts: Ref[Rollouts]) -> Resolved[Scores]:
        scores = super().score(rollouts).result()
        self.asked += 1
        for i, prompt in enumerate(rollouts.result().prompts.prompt.rows()):
            if prompt.tobytes() in self.held_out:
                scores.score[i] += 0.1 * self.asked * (i % 2)  # not evened out in the mean
        return Resolved(scores)


class Fickle(InProcess):
    """A deployment with that scorer."""

    def __init__(self, *arguments: Any, held_out: Path) -> None:
        super().__init__(*arguments)
        self.prompts = frozenset(row.tobytes() for row in read_pairs(held_out).prompt.rows())

    def reward(self) -> TorchScorer:
        scorer = self._once("reward", lambda: FickleScorer(self.config, self.store))
        scorer.held_out = self.prompts
        return scorer


def test_held_out_prompts_do_not_decide_the_margin(finished: RunFolder, tmp_path: Path) -> None:
    folder = before("evaluate", finished, tmp_path / "run")
    config = config_for(folder.path)
    driver.train(config, deployment(config, Fickle, held_out=folder.stage("data") / "held_out.parquet"))
    assert summary(folder)["margin"] == summary(finished)["margin"]
    assert summary(folder)["means"]["policy"]["reward"] != summary(finished)["means"]["policy"]["reward"]


def test_the_same_answer_ties_with_itself_whatever_scores_it(finished: RunFolder, tmp_path: Path) -> None:
    given = {stage: str(finished.model(stage)) for stage in (*REWARDS, *CAUSAL)} | {
        "sft_policy": str(finished.model("ppo_policy"))
    }
    # As good as greedy, so that both policies and both samples of one write the same.
    cold = {"temperature": 1e-4, "iterations": 1, "bootstrap": 50, "examples": 1}
    config = config_for(tmp_path / "cold", ready=given, evaluation=cold)
    driver.train(config, deployment(config, Fickle, held_out=finished.stage("data") / "held_out.parquet"))
    rows = {(row["name"], row["judge"]): row for row in summary(RunFolder(config.run))["comparisons"]}
    for name in ("policy_vs_sft_policy", "best_of_2_vs_policy"):
        assert (rows[name, "reward"]["win"], rows[name, "reward"]["lose"]) == (0, 0)


def test_a_validation_split_that_lengths_leave_too_small_is_refused_before_anything_is_trained(
    finished: RunFolder, tmp_path: Path
) -> None:
    lengths = {"prompt": {"max_tokens": 45, "policy": "drop"}}
    data = {"source": "world:notes", "pairs": 150, "held_out": 12, "validation": 2, "lengths": lengths}
    config = config_for(tmp_path / "short", data=data, actors={"deployment": "in_process", "learner": {"ranks": 2}})
    with pytest.raises(DataError, match=r"leaves 1 validation pairs, and 2 learner ranks need one each"):
        run_to_the_end(config)
