"""Models and tokenizers are made and loaded as promised, and what does not fit is refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from pit_ray.config.tree import FromScratch
from pit_ray.errors import DataError
from pit_ray.models.load import (
    fits,
    load_causal,
    load_scalar,
    load_tokenizer,
    new_llama,
    torch_dtype,
    train_tokenizer,
    with_tokenizer,
)

SHAPE = FromScratch(hidden_size=16, layers=1, heads=2, intermediate_size=16)
EMBEDDING = "model.embed_tokens.weight"


def test_the_head_starts_with_deviation_one_over_root_of_h_plus_1(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    wide = FromScratch(hidden_size=768, layers=1, heads=1, intermediate_size=8)
    new_llama(wide, tokenizer, 0).save_pretrained(str(tmp_path))
    heads = [load_scalar(tmp_path, torch.float32, new_head_seed=s).state_dict()["score.weight"] for s in (5, 5, 6)]
    for head in heads:
        assert head.shape == (1, 768)
        # Deviation and mean of 768 draws, within four of their own standard errors.
        assert float(head.std()) == pytest.approx(1 / math.sqrt(769), rel=4 / math.sqrt(2 * 768))
        assert abs(float(head.mean())) < 4 / 768
    assert torch.equal(heads[0], heads[1])
    assert not torch.allclose(heads[0], heads[2], atol=1e-3)


def test_a_causal_model_is_no_reward_model_until_it_is_given_a_head(causal: Path) -> None:
    with pytest.raises(DataError, match="no trained reward head"):
        load_scalar(causal, torch.float32)


def test_a_saved_reward_model_comes_back_as_it_was(scalar: Path, tmp_path: Path) -> None:
    model = load_scalar(scalar, torch.float32)
    model.save_pretrained(str(tmp_path))
    before, again = model.state_dict(), load_scalar(tmp_path, torch.float32).state_dict()
    assert before.keys() == again.keys()
    assert all(torch.equal(before[name], again[name]) for name in before)
    anew = load_scalar(tmp_path, torch.float32, new_head_seed=9).state_dict()
    assert [name for name in before if not torch.equal(before[name], anew[name])] == ["score.weight"]


@pytest.mark.parametrize("load", [load_causal, load_scalar])
def test_a_folder_without_a_model_is_named(load: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing-here"):
        load(tmp_path / "nothing-here", torch.float32)


def test_loaded_models_have_dropout_off_and_the_asked_dtype(causal: Path, scalar: Path) -> None:
    for model in (load_causal(causal, torch.bfloat16), load_scalar(scalar, torch.bfloat16)):
        assert not any(module.training for module in model.modules())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_dtype_names() -> None:
    assert torch_dtype("float32") is torch.float32
    assert torch_dtype("bfloat16") is torch.bfloat16
    assert torch_dtype("auto") in (torch.float32, torch.bfloat16)


def test_a_new_model_is_the_same_for_the_same_seed_whatever_was_drawn_before(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    torch.manual_seed(1)
    first = new_llama(SHAPE, tokenizer, 4).state_dict()
    drawn = torch.rand(3)
    second, other = (new_llama(SHAPE, tokenizer, seed).state_dict() for seed in (4, 5))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first[EMBEDDING], other[EMBEDDING])
    # Nor does it move the draws of others.
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)


def test_a_new_model_fits_its_tokenizer(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = new_llama(SHAPE, tokenizer, 0)
    model.save_pretrained(str(tmp_path))
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert fits(tmp_path, tokenizer, False)


TEXT = st.text() | st.lists(st.sampled_from(["<|end|>", "<|pad|>", " ", "  ", "\n", "é", "e\u0301", "𝕏"])).map("".join)


@given(TEXT)
def test_a_trained_tokenizer_gives_every_text_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_trained_tokenizer_learns_words_within_its_size() -> None:
    words = ["improve the response"] * 5
    small, large = train_tokenizer(words, 258), train_tokenizer(words, 300)
    assert len(small) == 258
    assert len(large) <= 300
    assert len(large.encode(words[0])) < len(small.encode(words[0])) == len(words[0])


def word_level(path: Path, pad: str | None) -> PreTrainedTokenizerFast:
    """A saved tokenizer whose pad token is its end token, or missing."""
    ids = {"<unknown>": 0, "<end>": 1, "a": 2}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(ids, unk_token="<unknown>")), eos_token="<end>", pad_token=pad
    )
    made.save_pretrained(str(path))
    return made


@pytest.mark.parametrize("pad", ["<end>", None])
def test_a_tokenizer_without_a_pad_token_of_its_own_gets_one(pad: str | None, tmp_path: Path) -> None:
    before = word_level(tmp_path, pad)
    loaded = load_tokenizer(tmp_path)
    assert loaded.pad_token_id == len(before)
    assert loaded.eos_token_id == before.eos_token_id == 1


def larger(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer with another pad token, for which a model made for it has no embedding."""
    larger = copy.deepcopy(tokenizer)
    larger.add_special_tokens({"pad_token": "<|another|>"})
    return larger


def test_a_model_makes_room_for_a_larger_tokenizer(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model, more = new_llama(SHAPE, tokenizer, 0), larger(tokenizer)
    before = model.state_dict()[EMBEDDING].clone()
    model.save_pretrained(str(tmp_path / "before"))
    assert not fits(tmp_path / "before", more, False)
    with_tokenizer(model, more).save_pretrained(str(tmp_path / "after"))
    assert fits(tmp_path / "after", more, False)
    again = AutoModelForCausalLM.from_pretrained(str(tmp_path / "after"))
    assert torch.equal(again.state_dict()[EMBEDDING][: len(tokenizer)], before)
    assert again.config.pad_token_id == again.generation_config.pad_token_id == len(tokenizer)


def test_what_a_model_gets_for_a_larger_tokenizer_does_not_depend_on_earlier_draws(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    grown = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        grown.append(with_tokenizer(new_llama(SHAPE, tokenizer, 0), larger(tokenizer)).state_dict()[EMBEDDING])
    assert torch.equal(grown[0], grown[1])
