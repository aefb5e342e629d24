"""What a model folder says of itself before its weights are loaded: architecture, and names and shapes of weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig

from pit_ray.errors import LINE, DataError, cause, listed, no_such_path, short

HEAD = "score.weight"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def architecture(path: str | Path, trust_remote_code: bool) -> PreTrainedConfig:
    """The config.json of a local folder or a hub model; DataError when there is none that can be read."""
    try:
        return AutoConfig.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except Exception as error:  # a library's parsers raise many kinds
        own_code = "auto_map" in str(error) or "trust_remote_code" in str(error)
        hint = "; model.trust_remote_code=true lets it run code of its own, if you trust it" if own_code else ""
        raise DataError(f"no model at '{short(path, LINE)}': {cause(error)}{hint}") from error


def check_folder(folder: Path) -> None:
    """DataError when there is no such folder, or no model in it."""
    if not os.path.isdir(folder):  # False also for what cannot be a path
        found = "a file" if os.path.exists(folder) else f"no folder: {no_such_path(folder)}"
        raise DataError(f"'{short(folder, LINE)}' is {found}")
    if not (folder / "config.json").is_file():
        raise DataError(f"'{folder}' is no model folder (it has no config.json)")


def weights(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight, from the headers of a local folder's safetensors files.

    DataError when a file is missing or cannot be read, or the weights are only there as a pickle, which is never read.
    """
    files = {file.name: file for file in sorted(folder.glob("*.safetensors"))}
    if not files:
        pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
        found = f"; {listed(pickled)} is no substitute, since a pickle may run code: convert it where you trust it, "
        how = "with save_pretrained of a current transformers"
        raise DataError(f"'{folder}' has no weights in safetensors" + (found + how if pickled else ""))
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        index = folder / "model.safetensors.index.json"
        wanted = set(json.loads(index.read_bytes())["weight_map"].values()) if index.is_file() else set()
        if lacking := sorted(wanted - files.keys()):
            raise DataError(f"'{folder}' lacks {listed(lacking)}, which {index.name} names")
        for file in files.values():
            with safe_open(file, "pt") as opened:
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise DataError(f"'{folder}': its weights cannot be read: {cause(error)}") from error
    return shapes


def check_head(folder: Path) -> None:
    """DataError unless a local folder holds a reward model: one with a trained head `score` of one output."""
    shape = weights(folder).get(HEAD)
    if shape is None:
        raise DataError(f"'{folder}' has no trained reward head ({HEAD}); train one, or give a reward model")
    if shape[:1] != (1,):
        raise DataError(f"'{folder}': its head {HEAD} has shape {shape}; a reward model has one output (num_labels=1)")
