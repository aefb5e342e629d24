"""Gaps and reference log-probabilities, packed in the order of lengths within a budget of tokens, against a plain loop
over padded batches of BATCH in the order of arrival, with transformers' own classes. Lengths are log-normal.

usage: python -m benchmarks.speed.scoring FINDINGS [1m | 25m]
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks.speed.bare import PROMPT
from benchmarks.speed.findings import FINDINGS, Finding, finding, in_turn, median_ratio, table
from benchmarks.speed.workloads import ids, models, response_lengths, vocabulary
from pit_ray.config.actors import ScorerActors
from pit_ray.data.templates import Renderer
from pit_ray.records import Prompts, Ragged, Rollouts
from pit_ray.scoring import ReferencePolicy, RewardModel, as_rollouts

WORK = {"1m": (256, 7), "25m": (64, 3)}
"""Rollouts, rounds."""
BATCH, LONGEST = 32, 220
BRIDGE = np.array([2, 3, 4], dtype=np.int32)
Rows = Sequence[np.ndarray]


def rollouts(count: int, tokens: int, eos: int) -> Rollouts:
    """Improver's: a prompt, a draft, the bridge, a revision that ends."""

    def drawn(seed: int) -> Ragged:
        return Ragged.of(ids(np.minimum(response_lengths(count, seed), LONGEST), tokens, seed))

    prompt = Ragged.of(ids(np.full(count, PROMPT), tokens, 1))
    return as_rollouts(Prompts(np.arange(count), prompt, drawn(2), np.ones(count, np.int8), BRIDGE), drawn(3), eos)


def padded(rows: Rows, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, longest): tokens, and where they are."""
    lengths = torch.tensor([len(row) for row in rows])
    there = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.full(there.shape, pad)
    tokens[there] = torch.from_numpy(np.concatenate(rows)).long()
    return tokens, there


def batches(rows: Rows) -> list[Rows]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def padded_gaps(folder: Path, made: Rollouts, eos: int) -> Callable[[], np.ndarray]:
    """(n,): of every revision and every draft, after the same context, the reward; the gap is their difference."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    before = made.prompts.contexts().rows()
    drafts = [np.append(row, eos) for row in made.prompts.draft.rows()]

    @torch.inference_mode()
    def do() -> np.ndarray:
        read = []
        for written in (made.response.rows(), drafts):
            whole = [np.concatenate(row) for row in zip(before, written, strict=True)]
            found = []
            for batch in batches(whole):
                tokens, there = padded(batch, model.config.pad_token_id)
                found.append(model(input_ids=tokens, attention_mask=there.long(), use_cache=False).logits[:, 0])
            read.append(torch.cat(found))
        return (read[0] - read[1]).numpy()

    return do


def padded_logprobs(folder: Path, made: Rollouts) -> Callable[[], np.ndarray]:
    """(response tokens,), response by response."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    before, after = made.prompts.contexts().rows(), made.response.rows()
    whole = [np.concatenate(row) for row in zip(before, after, strict=True)]

    @torch.inference_mode()
    def do() -> np.ndarray:
        found = []
        for start, batch in zip(range(0, len(whole), BATCH), batches(whole), strict=True):
            tokens, there = padded(batch, 0)
            logits = model(input_ids=tokens, attention_mask=there.long(), use_cache=False).logits[:, :-1]
            logprobs = torch.log_softmax(logits, -1).gather(2, tokens[:, 1:, None]).squeeze(2)
            for row, one in enumerate(batch):
                found.append(logprobs[row, len(before[start + row]) - 1 : len(one) - 1])
        return torch.cat(found).numpy()

    return do


def measure(size: str, root: Path) -> list[Finding]:
    count, rounds = WORK[size]
    folders, cpu, budget = models(size, root), torch.device("cpu"), ScorerActors().batch_tokens
    eos = Renderer.load(folders["policy"]).eos
    made = rollouts(count, vocabulary(folders["policy"]), eos)
    gap = RewardModel(folders["reward"], "gap", eos, torch.float32, cpu, budget, False)
    reference = ReferencePolicy(folders["policy"], torch.float32, cpu, budget, False)
    work: dict[str, Callable[[], np.ndarray]] = {
        "gaps": lambda: gap.score(made).score,
        "gaps, padded": padded_gaps(folders["reward"], made, eos),
        "log-probabilities": lambda: reference.logprobs(made).values,
        "log-probabilities, padded": padded_logprobs(folders["policy"], made),
    }
    for name in ("gaps", "log-probabilities"):
        np.testing.assert_allclose(work[name](), work[f"{name}, padded"](), atol=1e-4)
    seconds = in_turn(work, rounds)
    print(table(f"scoring, {size}: {count} rollouts, lengths log-normal", seconds), flush=True)
    packed, plain = (
        np.add(seconds[f"gaps{end}"], seconds[f"log-probabilities{end}"]).tolist() for end in ("", ", padded")
    )
    return [finding(f"scoring_vs_padded_{size}", median_ratio(plain, packed))]


def main() -> list[Finding]:
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        return [f for size in sys.argv[2:] or WORK for f in measure(size, Path(folder))]


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(main()))
