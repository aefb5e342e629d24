"""A model folder is judged by its own files, before weights are loaded, and never by unpickling them."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pit_ray.data.templates import FILE, Renderer
from pit_ray.errors import DataError
from pit_ray.models.folder import architecture, check_folder, check_head, weights
from pit_ray.models.load import load_causal, load_scalar, load_tokenizer


@pytest.fixture
def folder(scalar: Path, tmp_path: Path) -> Path:
    """A copy of a reward model's folder, to be damaged."""
    return Path(shutil.copytree(scalar, tmp_path / "model"))


def test_names_and_shapes_are_those_of_the_tensors(scalar: Path) -> None:
    state = load_file(scalar / "model.safetensors")
    assert weights(scalar) == {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert weights(scalar)["score.weight"] == (1, 32)


def test_sharded_weights_are_all_there_or_the_missing_file_is_named(causal: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(str(causal)).save_pretrained(str(tmp_path), max_shard_size="20KB")
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 1 and weights(tmp_path) == weights(causal)
    (tmp_path / shards[1]).unlink()
    with pytest.raises(DataError, match=rf"lacks {shards[1]}, which model.safetensors.index.json names"):
        load_causal(tmp_path, torch.float32)


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


def test_a_pickle_is_never_read(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Trap(tmp_path / "ran"), file)
    for load in (lambda: check_head(folder), lambda: load_scalar(folder, torch.float32)):
        with pytest.raises(DataError, match=r"no weights in safetensors; pytorch_model\.bin is no substitute"):
            load()
    with pytest.raises(DataError, match="no weights in safetensors"):
        load_causal(folder, torch.float32)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 20, b"{" * 999])
def test_damaged_weights_are_named(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="its weights cannot be read"):
        check_head(folder)


def test_weights_that_were_cut_off_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="its weights cannot be read"):
        load_scalar(folder, torch.float32)


def test_a_head_must_be_trained_and_have_one_output(causal: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="no trained reward head"):
        check_head(causal)
    state = load_file(folder / "model.safetensors")
    state["score.weight"] = state["score.weight"].repeat(3, 1)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"shape \(3, 32\); a reward model has one output \(num_labels=1\)"):
        load_scalar(folder, torch.float32)


def test_a_model_that_lacks_a_weight_is_refused_not_completed_by_chance(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"no weights for .*layers\.1\.mlp\.up_proj\.weight"):
        load_scalar(folder, torch.float32)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": "nonesuch"}', '{"model_type": 3}', "null"])
def test_a_damaged_config_is_a_data_error(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(DataError, match="no model at"):
        architecture(folder, False)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_a_data_error(tokenizer: PreTrainedTokenizerFast, tmp_path: Path, content: str) -> None:
    tokenizer.save_pretrained(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match="no tokenizer could be loaded"):
        load_tokenizer(tmp_path)


def test_code_of_a_model_folder_runs_only_if_the_user_says_so(
    folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("nobody may be asked"))
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"import pathlib; pathlib.Path({str(ran)!r}).mkdir()\n")
    config = json.loads((folder / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config | own))
    with pytest.raises(DataError, match=r"model\.trust_remote_code=true"):
        architecture(folder, False)
    with pytest.raises(DataError):
        load_causal(folder, torch.float32)
    Renderer(load_tokenizer_of(tokenizer, folder), "improve").save(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | own))
    for load in (load_tokenizer, Renderer.load):
        with contextlib.suppress(DataError):  # or it comes out as the plain tokenizer that its files describe
            load(folder)
    assert (folder / FILE).is_file() and not ran.exists()


def load_tokenizer_of(tokenizer: PreTrainedTokenizerFast, folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer of its own for a folder."""
    tokenizer.save_pretrained(str(folder))
    return load_tokenizer(folder)  # type: ignore[return-value]


def test_what_is_no_model_folder_is_said_with_the_nearest(causal: Path, tmp_path: Path) -> None:
    (tmp_path / "my-policy").mkdir()
    with pytest.raises(DataError, match=r"there is no 'my-polcy' in .*; the nearest is 'my-policy'"):
        check_folder(tmp_path / "my-polcy")
    with pytest.raises(DataError, match=r"has no config\.json"):
        check_folder(tmp_path / "my-policy")
    with pytest.raises(DataError, match="is a file"):
        check_folder(causal / "config.json")
    check_folder(causal)
