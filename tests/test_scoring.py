"""Scores of rollouts: which tokens each kind of scorer reads, one sequence at a time, and the baseline it subtracts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from pit_ray.improve import without_end
from pit_ray.records import Prompts, Ragged, Rollouts
from pit_ray.roles import ScoreKind
from pit_ray.scoring import ReferencePolicy, RewardModel, as_rollouts

EOS = 1
BRIDGE = [1, 9]
ASKED = [[5, 6], [7], [8, 9, 10]]
DRAFTS = [[20], [21, 22], [23, 24, 25]]
WRITTEN = [[30, 31], [32], [33, 34, 35]]
"""Responses without an end; the last did not end by itself."""
CPU = torch.device("cpu")


@pytest.fixture
def rollouts() -> Rollouts:
    prompts = Prompts(np.arange(3), Ragged.of(ASKED), Ragged.of(DRAFTS), np.ones(3, np.int8), np.array(BRIDGE))
    response = Ragged.of([[*WRITTEN[0], EOS], [*WRITTEN[1], EOS], WRITTEN[2]])
    zeros = Ragged(np.zeros(len(response.values), dtype=np.float32), response.offsets)
    return Rollouts(prompts, response, zeros, np.array([True, True, False]), temperature=0.6)


def rewards_alone(folder: Path, sequences: list[list[int]]) -> np.ndarray:
    """The reward of each sequence by transformers' classifier, one at a time, without padding."""
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    with torch.no_grad():
        return np.array([float(model(input_ids=torch.tensor([ids])).logits) for ids in sequences])


def read(contexts: list[list[int]], responses: list[list[int]]) -> list[list[int]]:
    return [[*context, *response, EOS] for context, response in zip(contexts, responses, strict=True)]


def expected(folder: Path, kind: ScoreKind) -> tuple[np.ndarray, np.ndarray]:
    """Score and baseline by definition; every response, the draft too, is read with one end token."""
    if kind == "reward":
        return rewards_alone(folder, read(ASKED, WRITTEN)), np.zeros(3)
    after = [[*x, *d, *BRIDGE] for x, d in zip(ASKED, DRAFTS, strict=True)] if kind == "gap" else ASKED
    baseline = rewards_alone(folder, read(after, DRAFTS))
    return rewards_alone(folder, read(after, WRITTEN)) - baseline, baseline


@pytest.mark.parametrize("budget", [1, 20, 10_000])
@pytest.mark.parametrize("kind", ["reward", "gap", "difference"])
def test_scores_are_those_of_each_sequence_alone(
    scalar: Path, rollouts: Rollouts, kind: ScoreKind, budget: int
) -> None:
    scores = RewardModel(scalar, kind, EOS, torch.float32, CPU, budget, False).score(rollouts)
    score, baseline = expected(scalar, kind)
    np.testing.assert_allclose(scores.score, score, atol=1e-5)
    np.testing.assert_allclose(scores.baseline, baseline, atol=1e-5)
    assert scores.score.dtype == scores.baseline.dtype == np.float32
    assert len(set(scores.score.tolist())) == 3


@pytest.mark.parametrize("kind", ["gap", "difference"])
def test_a_draft_given_back_has_a_gap_of_0(scalar: Path, rollouts: Rollouts, kind: ScoreKind) -> None:
    same = as_rollouts(rollouts.prompts, Ragged.of(DRAFTS), EOS)
    scores = RewardModel(scalar, kind, EOS, torch.float32, CPU, 10_000, False).score(same)
    np.testing.assert_allclose(scores.score, 0, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 10_000])
def test_reference_logprobs_are_at_the_temperature_of_the_rollouts(
    causal: Path, rollouts: Rollouts, budget: int
) -> None:
    found = ReferencePolicy(causal, torch.float32, CPU, budget, False).logprobs(rollouts)
    model = AutoModelForCausalLM.from_pretrained(str(causal)).eval()
    for i, response in enumerate(rollouts.response.rows()):
        ids = torch.tensor([[*ASKED[i], *DRAFTS[i], *BRIDGE, *response]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -len(response) - 1 : -1] / 0.6
        alone = torch.log_softmax(logits, -1)[range(len(response)), response]
        np.testing.assert_allclose(found[i], alone.numpy(), atol=1e-4)


def test_responses_that_nobody_sampled_become_finished_rollouts(rollouts: Rollouts) -> None:
    made = as_rollouts(rollouts.prompts, Ragged.of(WRITTEN), EOS)
    assert [row.tolist() for row in made.response.rows()] == [[*row, EOS] for row in WRITTEN]
    assert made.finished.all()
    assert [row.tolist() for row in without_end(made).rows()] == WRITTEN
    assert made.logprobs.lengths.tolist() == made.response.lengths.tolist()
