"""Scoring rollouts with one model: rewards, gaps, and the reference policy's log-probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pit_ray.learn.batches import micro_batches
from pit_ray.models.load import load_causal, load_scalar
from pit_ray.models.logprobs import token_logprobs
from pit_ray.models.packing import collate
from pit_ray.models.scalar_head import rewards
from pit_ray.records import Prompts, Ragged, Rollouts, Scores
from pit_ray.roles import ScoreKind


class RewardModel:
    """A reward or gap reward model that scores whole rollouts."""

    def __init__(
        self,
        folder: Path,
        kind: ScoreKind,
        eos: int,
        dtype: torch.dtype,
        device: torch.device,
        budget: int,
        trust: bool,
    ) -> None:
        self.kind, self.eos, self.device, self.budget = kind, eos, device, budget
        model: Any = load_scalar(folder, dtype, trust_remote_code=trust)
        self.model = model.to(device)

    def score(self, rollouts: Rollouts) -> Scores:
        """The score of each rollout and its baseline (see `Scores`); a response is read with one end token."""
        prompts = rollouts.prompts
        responses = [
            row[:-1] if done else row for row, done in zip(rollouts.response.rows(), rollouts.finished, strict=True)
        ]
        if self.kind == "reward":
            (score,) = self._rewards(prompts.prompt, responses)
            return Scores(score, np.zeros_like(score))
        contexts = prompts.contexts() if self.kind == "gap" else prompts.prompt
        score, baseline = self._rewards(contexts, responses, prompts.draft.rows())
        return Scores(score - baseline, baseline)

    def _rewards(self, contexts: Ragged, *responses: list[np.ndarray]) -> np.ndarray:
        """(columns of responses, prompts); a prompt's are read together, since their contexts are the same."""
        ended = [[np.append(row, self.eos) for row in column] for column in responses]
        lengths = len(ended) * contexts.lengths + np.sum([[len(row) for row in column] for column in ended], axis=0)
        scores = np.zeros((len(ended), len(lengths)), dtype=np.float32)
        for rows in micro_batches(lengths, 0, 1, self.budget):
            asked = [contexts[i] for i in rows] * len(ended)
            batch = collate(asked, [column[i] for column in ended for i in rows], self.device)
            with torch.inference_mode():
                scores[:, rows] = rewards(self.model, batch).cpu().numpy().reshape(len(ended), -1)
        return scores


class ReferencePolicy:
    """A frozen language model that gives log-probabilities of responses."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device, budget: int, trust: bool) -> None:
        self.device, self.budget = device, budget
        model: Any = load_causal(folder, dtype, trust)
        self.model = model.to(device)

    def logprobs(self, rollouts: Rollouts) -> Ragged:
        """(per row, response length) float32 log-probabilities at the rollouts' temperature."""
        contexts, response = rollouts.prompts.contexts(), rollouts.response
        found = np.zeros(len(response.values), dtype=np.float32)
        for rows in micro_batches(contexts.lengths + response.lengths, 0, 1, self.budget):
            batch = collate([contexts[i] for i in rows], [response[i] for i in rows], self.device)
            with torch.inference_mode():
                logprobs_N, _ = token_logprobs(self.model, batch, rollouts.temperature)
            at = np.concatenate([np.arange(response.offsets[i], response.offsets[i + 1]) for i in rows])
            found[at] = logprobs_N.cpu().numpy()
        return Ragged(found, response.offsets)


def as_rollouts(prompts: Prompts, responses: Ragged, eos: int) -> Rollouts:
    """Responses that nobody sampled (from data or a file), so that scorers can read them."""
    ended = Ragged.of(np.append(row, eos) for row in responses.rows())
    zeros = Ragged(np.zeros(len(ended.values), dtype=np.float32), ended.offsets)
    return Rollouts(prompts, ended, zeros, np.ones(len(prompts), dtype=bool))
