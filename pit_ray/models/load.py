"""Loading and making models: causal, scalar (reward and value), from scratch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from pit_ray.config.tree import FromScratch, Model
from pit_ray.errors import DataError

EOS, PAD = "<|end|>", "<|pad|>"


def torch_dtype(name: str) -> torch.dtype:
    """The configuration's dtype name; auto is bfloat16 where a CUDA device has it, else float32."""
    if name == "auto":
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return getattr(torch, name)


def load_causal(path: str | Path, dtype: torch.dtype, trust_remote_code: bool = False) -> PreTrainedModel:
    """A causal language model with dropout off; DataError when the folder holds none."""
    model = _load(AutoModelForCausalLM, path, dtype, trust_remote_code)
    return model


def load_scalar(
    path: str | Path, dtype: torch.dtype, *, new_head_seed: int | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """A model with one scalar head `score` (h → 1, no bias) in the layout of AutoModelForSequenceClassification.

    With `new_head_seed` the folder is a causal model and the head is drawn anew, std 1/√(h + 1); without it a folder
    that has no trained head is refused with DataError.
    """
    model, info = _load(
        AutoModelForSequenceClassification, path, dtype, trust_remote_code, num_labels=1, output_loading_info=True
    )
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear):
        raise DataError(f"{path}: {type(model).__name__} has no linear head 'score'")
    if new_head_seed is not None:
        generator = torch.Generator().manual_seed(new_head_seed % 2**63)
        std = 1 / math.sqrt(head.in_features + 1)
        with torch.no_grad():
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * std)
    elif any("score" in key for key in info["missing_keys"]):
        raise DataError(f"{path}: this model has no trained reward head 'score'; train one, or give a reward model")
    return model


def _load(kind, path: str | Path, dtype: torch.dtype, trust_remote_code: bool, **options):
    try:
        loaded = kind.from_pretrained(str(path), dtype=dtype, trust_remote_code=trust_remote_code, **options)
    except (OSError, ValueError) as error:
        raise DataError(f"no model could be loaded from '{path}': {error}") from error
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    model.eval()  # dropout stays off in every stage
    return loaded


def load_tokenizer(model: Model, path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, with a pad token that is not the end token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise DataError(f"no tokenizer could be loaded from '{path}': {error}") from error
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def fits(path: str | Path, tokenizer: PreTrainedTokenizerBase, trust_remote_code: bool) -> bool:
    """Whether the model at `path` has an embedding for every token and the tokenizer's pad id in its configuration."""
    config = AutoConfig.from_pretrained(str(path), trust_remote_code=trust_remote_code)
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
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS)


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
