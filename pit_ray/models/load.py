"""Loading and making models: causal, scalar (reward and value), from scratch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from pit_ray.config.tree import FromScratch
from pit_ray.errors import LINE, DataError, cause, listed, short
from pit_ray.models.folder import HEAD, architecture, check_folder, check_head, weights
from pit_ray.models.packing import use_packing

EOS, PAD = "<|end|>", "<|pad|>"
LONG_RUN = re.compile(r"\S{257}|\s{257}")


def torch_dtype(name: str) -> torch.dtype:
    """The configuration's dtype name; auto is bfloat16 where a CUDA device has it, else float32."""
    if name == "auto":
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return getattr(torch, name)


def load_causal(path: str | Path, dtype: torch.dtype, trust_remote_code: bool = False) -> PreTrainedModel:
    """A causal language model with dropout off; DataError when the folder holds none."""
    return _load(AutoModelForCausalLM, path, dtype, trust_remote_code)


def load_scalar(
    path: str | Path, dtype: torch.dtype, *, new_head_seed: int | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """A model with one scalar head `score` (h → 1, no bias) in the layout of AutoModelForSequenceClassification.

    With `new_head_seed` the folder may be a causal model's and the head is drawn anew, std 1/√(h + 1); without it a
    folder that has no trained head is refused with DataError.
    """
    if new_head_seed is None:
        check_folder(Path(path))
        check_head(Path(path))
    model = _load(AutoModelForSequenceClassification, path, dtype, trust_remote_code, drawn={HEAD}, num_labels=1)
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear):
        raise DataError(f"{path}: {type(model).__name__} has no linear head 'score'")
    if new_head_seed is not None:
        generator = torch.Generator().manual_seed(new_head_seed % 2**63)
        std = 1 / math.sqrt(head.in_features + 1)
        with torch.no_grad():
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * std)
    return model


def _load(
    kind: Any, path: str | Path, dtype: torch.dtype, trust_remote_code: bool, drawn: Set[str] = frozenset(), **options
) -> PreTrainedModel:
    """A model from safetensors alone. DataError when it lacks weights other than `drawn`, which transformers would
    initialise and go on."""
    if Path(path).is_dir():
        weights(Path(path))
    try:
        model, info = kind.from_pretrained(
            str(path), dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True,
            output_loading_info=True, **options,
        )  # fmt: skip
    except Exception as error:  # a library's parsers raise many kinds
        raise DataError(f"no model could be loaded from '{short(path, LINE)}': {cause(error)}") from error
    if lacking := sorted(set(info["missing_keys"]) - drawn):
        raise DataError(f"'{path}' has no weights for {listed(lacking)} of {type(model).__name__}")
    model.eval()  # dropout stays off in every stage
    use_packing(model)
    return model


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, with a pad token that is not the end token. It never runs code of its own, since
    every process of a run loads it."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except Exception as error:  # a library's parsers raise many kinds
        raise DataError(f"no tokenizer could be loaded from '{short(path, LINE)}': {cause(error)}") from error
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def fits(path: str | Path, tokenizer: PreTrainedTokenizerBase, trust_remote_code: bool) -> bool:
    """Whether the model at `path` has an embedding for every token and the tokenizer's pad id in its configuration."""
    config = architecture(path, trust_remote_code)
    return len(tokenizer) <= config.vocab_size and config.pad_token_id == tokenizer.pad_token_id


def with_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model with room for every token and the tokenizer's pad and end ids."""
    if len(tokenizer) > model.config.vocab_size:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # new rows are drawn; the same for every run
            model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    if model.generation_config is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`; every string encodes, and decodes to itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for text in texts for piece in _pieces(text)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS)


def _pieces(text: str) -> list[str]:
    """The text, in pieces if it holds a very long word: learning merges takes the square of the longest's length."""
    return [text[i : i + 256] for i in range(0, len(text), 256)] if LONG_RUN.search(text) else [text]


def llama_config(shape: FromScratch, vocab_size: int) -> LlamaConfig:
    """The architecture of a `from_scratch` model, drawn with std 1/√hidden_size: the usual 0.02 suits wide models."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=shape.max_position_embeddings,
        tie_word_embeddings=True,
        initializer_range=1 / math.sqrt(shape.hidden_size),
        bos_token_id=None,
    )


def new_llama(shape: FromScratch, tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """A randomly initialised Llama of the given shape, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed % 2**63)
        model = LlamaForCausalLM(llama_config(shape, len(tokenizer)))
    with_tokenizer(model, tokenizer)
    return model
