"""Models that are given ready fit their stage and share the base model's tokens, or are refused by key and folder."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from pit_ray.config.load import parse_config
from pit_ray.config.tree import FromScratch
from pit_ray.data.templates import Renderer
from pit_ray.errors import DataError
from pit_ray.models.load import load_scalar, new_llama, train_tokenizer
from pit_ray.stages.ready import check_ready

SHAPE = FromScratch(hidden_size=32, layers=1, heads=2, intermediate_size=16)


@pytest.fixture(scope="module")
def renderer(tokenizer: PreTrainedTokenizerFast) -> Renderer:
    return Renderer(copy.deepcopy(tokenizer), "Improve it.")


@pytest.fixture(scope="module")
def policy(new_model: Callable[[int], PreTrainedModel], renderer: Renderer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ready") / "policy"
    new_model(1).save_pretrained(str(folder))
    renderer.save(folder)
    return folder


@pytest.fixture(scope="module")
def reward(policy: Path, renderer: Renderer) -> Path:
    folder = policy.with_name("reward")
    load_scalar(policy, torch.float32, new_head_seed=2).save_pretrained(str(folder))
    renderer.save(folder)
    return folder


def check(renderer: Renderer | None, longest: int | None = None, **ready: Path) -> None:
    plain = {"data": {"source": "a.jsonl"}, "model": {"path": "base"}, "ready": {k: str(v) for k, v in ready.items()}}
    check_ready(parse_config(plain, "test"), renderer, longest)


def test_models_that_fit_pass(renderer: Renderer, policy: Path, reward: Path) -> None:
    check(renderer, 256, sft_policy=policy, ppo_improver=policy, reward=reward, gap_reward=reward)
    check(None, 256, ppo_policy=policy, reward=reward)


def test_each_kind_is_refused_in_the_others_place(renderer: Renderer, policy: Path, reward: Path) -> None:
    for stage in ("reward", "gap_reward"):
        with pytest.raises(DataError, match=rf"^ready\.{stage}: '{policy}' has no trained reward head"):
            check(renderer, **{stage: policy})
    with pytest.raises(DataError, match=r"^ready\.ppo_policy: .* is a reward model \(LlamaForSequenceClassification\)"):
        check(renderer, ppo_policy=reward)


def test_a_missing_folder_names_the_nearest(renderer: Renderer, policy: Path) -> None:
    with pytest.raises(DataError, match=r"^ready\.ppo_policy: .*there is no 'polcy' in .*the nearest is 'policy'"):
        check(renderer, ppo_policy=policy.with_name("polcy"))


def test_too_few_positions(renderer: Renderer, policy: Path) -> None:
    with pytest.raises(
        DataError, match=r"^ready\.ppo_policy: .* has 256 positions, and a sequence can take 257 tokens"
    ):
        check(renderer, 257, ppo_policy=policy)


def test_another_vocabulary_is_refused_and_says_where_it_differs(renderer: Renderer, tmp_path: Path) -> None:
    other = train_tokenizer(["wholly other words were here", "words of another world"] * 3, 280)
    new_llama(SHAPE, other, 1).save_pretrained(str(tmp_path))
    other.save_pretrained(str(tmp_path))
    with pytest.raises(DataError, match=r"^ready\.sft_improver: .* another tokenizer than the base model \(280 tokens"):
        check(renderer, sft_improver=tmp_path)


def test_the_same_vocabulary_cut_differently_is_refused(
    renderer: Renderer, policy: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    shutil.copytree(policy, tmp_path / "model")
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    other.save_pretrained(str(tmp_path / "model"))
    with pytest.raises(DataError, match=r"^ready\.ppo_policy: .* cuts text differently"):
        check(renderer, ppo_policy=tmp_path / "model")


def test_a_model_without_a_pad_id_is_refused(renderer: Renderer, policy: Path, tmp_path: Path) -> None:
    shutil.copytree(policy, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"pad_token_id": config["eos_token_id"]}))
    with pytest.raises(DataError, match="no pad token of its own"):
        check(renderer, ppo_policy=tmp_path / "model")


def test_an_improver_of_another_instruction_is_refused_a_policy_is_not(renderer: Renderer, policy: Path) -> None:
    other = Renderer(copy.deepcopy(renderer.tokenizer), "Mend it.")
    with pytest.raises(DataError, match=r"^ready\.ppo_improver: .*instruction 'Improve it\.'.* is 'Mend it\.'"):
        check(other, ppo_improver=policy)
    check(other, ppo_policy=policy)


def test_weights_are_not_loaded(
    renderer: Renderer, policy: Path, reward: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (AutoModelForCausalLM, torch.nn.Module):
        monkeypatch.setattr(kind, "__init__", lambda *_: pytest.fail("a model was made"))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    check(renderer, 256, ppo_policy=policy, reward=reward)
