"""Models that are given ready: whether each is what its stage wants, and shares the base model's tokens."""

from __future__ import annotations

import json
from pathlib import Path

from pit_ray.config import Config
from pit_ray.data.templates import FILE, Renderer
from pit_ray.errors import DataError, cause
from pit_ray.models.folder import architecture, check_folder, check_head, weights
from pit_ray.models.load import fits, load_tokenizer

REWARDS = ("reward", "gap_reward")
IMPROVING = ("sft_improver", "gap_reward", "ppo_improver")
"""Stages whose models read the bridge between draft and revision."""
PROBE = "Improve THE response above: 1,234.5 naïve “words”\n\n\tdef f(x):  return x  # 🙂"
"""Two tokenizers of one vocabulary may still cut a text differently; on this they would."""


def check_ready(config: Config, renderer: Renderer | None, longest: int | None = None) -> None:
    """DataError when a model given ready is no safetensors folder, is of the wrong kind, takes fewer than `longest`
    tokens, or does not share the tokens of `renderer` (None: the base model's tokenizer is not trained yet)."""
    for stage, path in config.ready.model_dump().items():
        if path is None:
            continue
        try:
            _check_kind(stage, Path(path), config.model.trust_remote_code, longest)
            if renderer is not None:
                _check_tokens(stage, Path(path), config.model.trust_remote_code, renderer)
        except DataError as error:
            raise DataError(f"ready.{stage}: {error}") from error


def _check_kind(stage: str, folder: Path, trust: bool, longest: int | None) -> None:
    check_folder(folder)
    found = architecture(folder, trust)
    if stage in REWARDS:
        check_head(folder)
    elif scalar := [name for name in found.architectures or () if "ForSequenceClassification" in name]:
        raise DataError(f"'{folder}' is a reward model ({scalar[0]}); this stage wants a language model")
    weights(folder)
    limit = getattr(found, "max_position_embeddings", None)
    if longest is not None and limit is not None and limit < longest:
        raise DataError(
            f"'{folder}' has {limit} positions, and a sequence can take {longest} tokens; lower "
            "data.lengths.*.max_tokens or sampling.max_new_tokens"
        )


def _check_tokens(stage: str, folder: Path, trust: bool, renderer: Renderer) -> None:
    tokenizer, base = load_tokenizer(folder), renderer.tokenizer
    ours, theirs = base.get_vocab(), tokenizer.get_vocab()
    if ours != theirs:
        differs = min(ours.items() ^ theirs.items(), key=lambda item: item[1])
        raise DataError(
            f"'{folder}' has another tokenizer than the base model ({len(theirs)} tokens against {len(ours)}, and "
            f"{differs[0]!r} is {theirs.get(differs[0])} against {ours.get(differs[0])}); all models of a run share "
            "token ids, and nothing is encoded again"
        )
    if tokenizer.encode(PROBE, add_special_tokens=False) != base.encode(PROBE, add_special_tokens=False):
        raise DataError(f"'{folder}' has the base model's vocabulary, but its tokenizer cuts text differently")
    if not fits(folder, tokenizer, trust):
        raise DataError(
            f"'{folder}' has no pad token of its own (one that is not the end token) in tokenizer and config.json; "
            "add one to the base model and to this one"
        )
    if stage in IMPROVING and (folder / FILE).is_file():
        try:
            said = json.loads((folder / FILE).read_text(encoding="utf-8")).get("improve_instruction")
        except (ValueError, AttributeError) as error:
            raise DataError(f"'{folder}': {FILE} is damaged: {cause(error)}") from error
        if said != renderer.improve_instruction:
            raise DataError(
                f"'{folder}' was trained with the instruction {said!r}; model.improve_instruction is "
                f"{renderer.improve_instruction!r}"
            )
