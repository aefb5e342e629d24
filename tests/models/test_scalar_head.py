"""Rewards are what transformers' own classifier gives for the saved model; a value is the reward of what was read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from pit_ray.models.load import load_scalar
from pit_ray.models.packing import Batch, collate
from pit_ray.models.scalar_head import rewards, values

LENGTHS = (5, 1, 12, 7)
PAD = 0


@pytest.fixture(scope="module")
def model(scalar: Path) -> PreTrainedModel:
    return load_scalar(scalar, torch.float32)


def sequences() -> list[np.ndarray]:
    """Four; id 1, the end token, stands inside and at the end of some."""
    rng = np.random.default_rng(3)
    rows = [rng.integers(2, 250, size=length) for length in LENGTHS]
    rows[0][2] = rows[2][11] = 1
    return rows


def batch(rows: list[np.ndarray], contexts: tuple[int, ...] = (1, 1, 1, 1)) -> Batch:
    cut = list(zip(rows, contexts, strict=False))
    return collate([row[:c] for row, c in cut], [row[c:] for row, c in cut], torch.device("cpu"))


def test_rewards_are_those_of_transformers_on_padded_batches(scalar: Path, model: PreTrainedModel) -> None:
    theirs = AutoModelForSequenceClassification.from_pretrained(str(scalar)).eval()
    assert theirs.config.pad_token_id != theirs.config.eos_token_id
    ids = torch.full((len(LENGTHS), max(LENGTHS)), PAD)
    for i, row in enumerate(sequences()):
        ids[i, : len(row)] = torch.from_numpy(row)
    attention = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=attention.long()).logits
        found = rewards(model, batch(sequences()))
    assert expected.shape == (len(LENGTHS), 1)
    torch.testing.assert_close(found, expected[:, 0])
    assert found.std() > 0.1


def test_the_value_before_a_token_is_the_reward_of_everything_before_it(model: PreTrainedModel) -> None:
    with torch.no_grad():
        found = values(model, batch(sequences()))
        expected = [rewards(model, batch([row[:t]])) for row in sequences() for t in range(1, len(row))]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-4)


def test_values_are_given_for_response_tokens_alone(model: PreTrainedModel) -> None:
    with torch.no_grad():
        every, found = values(model, batch(sequences())), values(model, batch(sequences(), (5, 1, 9, 7)))
    before = sum(length - 1 for length in LENGTHS[:2])
    torch.testing.assert_close(found, every[before + 8 : before + 11])
