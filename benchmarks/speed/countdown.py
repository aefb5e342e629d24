"""A language model whose responses have the lengths that are wanted, whoever samples them: after a prompt it draws a
number, then counts down to the end token. Its layers compute as any model's, and add nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM

from benchmarks.speed.workloads import SHAPES
from pit_ray.data.templates import Renderer
from pit_ray.learn.documents import INSTRUCTION, word_tokenizer
from pit_ray.models.load import load_scalar, new_llama

LONGEST = 256
SURE = 60.0
"""Logit of the token that is certain to come."""
ASK = "ask"
"""The word that prompts end with."""


def chances(middle: float, spread: float, shortest: int, longest: int) -> np.ndarray:
    """(LONGEST + 1,): the probability of each length, log-normal about `middle`."""
    lengths = np.arange(LONGEST + 1)
    weight = np.exp(-(((np.log(np.maximum(lengths, 1)) - math.log(middle)) / spread) ** 2) / 2) / np.maximum(lengths, 1)
    weight[(lengths < shortest) | (lengths > longest)] = 0
    return weight / weight.sum()


def countdown(wanted: np.ndarray, root: Path) -> dict[str, Path]:
    """The folders of such a policy and of a reward model over it; `wanted`: the probability of each length."""
    numbers = [f"n{number}" for number in range(1, LONGEST)]
    renderer = Renderer(word_tokenizer([ASK, *numbers]), INSTRUCTION)
    # Wider than the vocabulary is long, so that the head can tell every token from every other.
    shape = SHAPES["1m"].model_copy(update={"hidden_size": 320, "layers": 2})
    tokenizer = renderer.tokenizer
    model = new_llama(shape, tokenizer, seed=1)
    model.config.tie_word_embeddings = False
    untied = LlamaForCausalLM(model.config)
    untied.load_state_dict(model.state_dict())
    ids = {word: tokenizer.vocab[word] for word in (ASK, *numbers)}
    with torch.no_grad():
        for name, weight in untied.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_(1e-3)  # so little that the embedding decides
        read = torch.nn.functional.normalize(untied.model.embed_tokens.weight.double(), dim=1)
        inverse = torch.linalg.pinv(read * math.sqrt(read.shape[1]))
        logits = torch.zeros(read.shape[0], read.shape[0], dtype=torch.double)
        for number in range(1, LONGEST):
            after = renderer.eos if number == 1 else ids[f"n{number - 1}"]
            logits[ids[f"n{number}"], after] = SURE
        for length in np.flatnonzero(wanted):
            first = renderer.eos if length == 1 else ids[f"n{length - 1}"]
            logits[ids[ASK], first] = SURE + math.log(wanted[length])
        untied.lm_head.weight.copy_((inverse @ logits).T)
    made = {"policy": root / "policy", "reward": root / "reward"}
    untied.save_pretrained(made["policy"])
    load_scalar(made["policy"], torch.float32, new_head_seed=2).save_pretrained(made["reward"])
    for folder in made.values():
        renderer.save(folder)
    return made
