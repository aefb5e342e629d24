"""Packed sequences stand there whole, share what they begin with, and get what each of them gets alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from pit_ray.models import packing
from pit_ray.models.logprobs import token_logprobs
from pit_ray.models.packing import LEAST_SHARED, Batch, collate, use_packing

CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(2, 4), max_size=9)
BEGINNING = list(range(5, 5 + LEAST_SHARED))


@st.composite
def cut(draw: st.DrawFn) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Contexts and responses of a few sequences, of which many begin alike."""
    contexts, responses = [], []
    for _ in range(draw(st.integers(1, 8))):
        start = BEGINNING * draw(st.integers(0, 2)) + draw(TOKENS)
        row = np.array([*start, draw(st.integers(2, 4))])
        context = draw(st.integers(1, len(row)))
        contexts.append(row[:context])
        responses.append(row[context:])
    return contexts, responses


def places(batch: Batch, row: int) -> list[int]:
    return [place for span in batch.spans[row] for place in range(*span)]


@given(cut())
def test_every_sequence_stands_there_whole(case: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    contexts, responses = case
    batch = collate(contexts, responses, CPU)
    before: list[int] = []
    for row, (context, response) in enumerate(zip(contexts, responses, strict=True)):
        at = places(batch, row)
        assert batch.ids_T[at].tolist() == [*context, *response]
        assert batch.positions_T[at].tolist() == list(range(len(at)))
        assert batch.last_B[row] == at[-1]
        before += at[len(context) - 1 : -1]
    assert batch.before_N.tolist() == before
    assert batch.tokens_N.tolist() == np.concatenate(responses).tolist()


@given(cut())
def test_every_token_of_the_row_is_one_sequence_s_own(case: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    batch = collate(*case, CPU)
    own = sorted(place for row in batch.spans for place in range(*row[-1]))
    assert own == list(range(len(batch.ids_T)))
    assert all(stop > start for row in batch.spans for start, stop in row)


def test_a_common_beginning_is_there_once() -> None:
    prompt, draft, other = np.arange(2, 42), np.arange(50, 80), np.arange(90, 110)
    contexts = [np.concatenate([prompt, read]) for read in (draft, other, draft, other)]
    batch = collate(contexts, [draft, draft, other, other], CPU)
    assert len(batch.ids_T) == 40 + 3 * 30 + 3 * 20
    assert len(collate([prompt] * 3, [draft[:1]] * 3, CPU).ids_T) == 40 + 3, "the last token is always its own"


@given(cut())
def test_packed_sequences_get_what_each_gets_alone(
    new_model: Callable[[int], PreTrainedModel], case: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    contexts, responses = case
    model = packed(new_model)
    with torch.no_grad():
        together, entropies = token_logprobs(model, collate(contexts, responses, CPU))
        alone = [token_logprobs(model, collate([c], [r], CPU)) for c, r in zip(contexts, responses, strict=True)]
    torch.testing.assert_close(together, torch.cat([found for found, _ in alone]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(entropies, torch.cat([found for _, found in alone]), rtol=1e-4, atol=1e-4)


def packed(new_model: Callable[[int], PreTrainedModel]) -> PreTrainedModel:
    model = new_model(3)
    use_packing(model)
    return model


def test_a_beginning_that_is_short_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [np.arange(2, 12)] * 3
    assert len(collate(rows, rows, CPU).ids_T) == 20 + 1 + 1
    monkeypatch.setattr(packing, "LEAST_SHARED", 20)
    assert len(collate(rows, rows, CPU).ids_T) == 60
