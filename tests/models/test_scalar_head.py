"""Rewards are what transformers' own classifier gives for the saved model; a value is the reward of what was read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from pit_ray.models.load import load_scalar
from pit_ray.models.scalar_head import rewards, values

LENGTHS = (5, 1, 12, 7)
PAD = 0


@pytest.fixture(scope="module")
def model(scalar: Path) -> PreTrainedModel:
    return load_scalar(scalar, torch.float32)


def batch(width: int = 12, fill: int = PAD) -> tuple[Tensor, Tensor]:
    """ids and attention of four rows; id 1, the end token, stands inside and at the end of some."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(2, 250, (len(LENGTHS), 12), generator=generator)
    ids[0, 2] = ids[2, 11] = 1
    ids = torch.nn.functional.pad(ids, (0, width - 12))
    attention = torch.arange(width)[None, :] < torch.tensor(LENGTHS)[:, None]
    return ids.where(attention, fill), attention


def test_rewards_are_those_of_transformers_on_padded_batches(scalar: Path, model: PreTrainedModel) -> None:
    theirs = AutoModelForSequenceClassification.from_pretrained(str(scalar)).eval()
    assert theirs.config.pad_token_id != theirs.config.eos_token_id
    ids, attention = batch()
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=attention.long()).logits
        found = rewards(model, ids, attention)
    assert expected.shape == (len(LENGTHS), 1)
    torch.testing.assert_close(found, expected[:, 0])
    assert found.std() > 0.1


def test_rewards_do_not_depend_on_the_padding(model: PreTrainedModel) -> None:
    with torch.no_grad():
        narrow, wide = rewards(model, *batch()), rewards(model, *batch(width=20, fill=77))
    torch.testing.assert_close(wide, narrow)


def test_the_value_before_a_token_is_the_reward_of_everything_before_it(model: PreTrainedModel) -> None:
    ids, attention = batch()
    mask = attention.clone()
    mask[:, 0] = False
    with torch.no_grad():
        found = values(model, ids, mask)
        expected = [
            rewards(model, ids[i : i + 1, :t], attention[i : i + 1, :t])
            for i, length in enumerate(LENGTHS)
            for t in range(1, length)
        ]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-4)


def test_values_are_given_for_masked_tokens_alone(model: PreTrainedModel) -> None:
    ids, attention = batch()
    everything, last = attention.clone(), torch.zeros_like(attention)
    everything[:, 0] = False
    last[2, 9:] = True
    with torch.no_grad():
        every, found = values(model, ids, everything), values(model, ids, last)
    before = sum(length - 1 for length in LENGTHS[:2])
    torch.testing.assert_close(found, every[before + 8 : before + 11])
