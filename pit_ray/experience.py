"""Rollouts and scores to experience: per-token rewards, values, advantages; built beside the learners."""

from __future__ import annotations

import numpy as np
import torch

from pit_ray.config.training import Ppo
from pit_ray.learn.batches import micro_batches
from pit_ray.learn.engine import Engine
from pit_ray.maths.correction import importance_weights
from pit_ray.maths.gae import advantages
from pit_ray.maths.kl import k1, k3
from pit_ray.maths.masked import explained_variance, row_sums, whiten
from pit_ray.metrics import Metrics
from pit_ray.models.packing import collate
from pit_ray.records import Experience, Ragged, Rollouts, Scores


def build_experience(
    engine: Engine, rollouts: Rollouts, scores: Scores, reference: Ragged, kl_coefficient: float, ppo: Ppo
) -> tuple[Experience, Metrics]:
    """The PPO batch of a step, equal on every rank, and its metrics (objective/*, val/*).

    The reward of token t is −β (log π − log π_ref), plus the score at the last token (PIT Eq. 3 to 5), less the
    penalty for a response that did not end by itself. `reference` holds the reference policy's log-probabilities.
    """
    contexts = rollouts.prompts.contexts()
    logprobs, entropies, values = _forward(engine, contexts, rollouts, ppo.optimizer.micro_batch_tokens)
    kl = Ragged(k1(logprobs.values, reference.values), logprobs.offsets)
    score = scores.score - np.where(rollouts.finished, 0.0, ppo.missing_eos_penalty)
    rewards = -kl_coefficient * kl.values
    rewards[kl.offsets[1:] - 1] += score
    rows = [
        advantages(rewards[a:b], values.values[a:b], ppo.gamma, ppo.gae_lambda)
        for a, b in zip(kl.offsets[:-1], kl.offsets[1:], strict=True)
    ]
    experience = Experience(
        context=contexts,
        response=rollouts.response,
        logprobs=logprobs,
        advantages=whiten(Ragged.of((a for a, _ in rows), np.float32)),
        returns=Ragged.of((r for _, r in rows), np.float32),
        values=values,
        weights=Ragged(importance_weights(logprobs.values, rollouts.logprobs.values, ppo.weight_cap), logprobs.offsets),
        temperature=rollouts.temperature,
    )
    seen = _metrics(rollouts, score, logprobs, entropies, reference, kl, kl_coefficient)
    explained = explained_variance(values.values, experience.returns.values)
    return experience, seen | Metrics.of(val__explained_variance=explained)


def _forward(engine: Engine, contexts: Ragged, rollouts: Rollouts, budget: int) -> tuple[Ragged, Ragged, Ragged]:
    """Log-probabilities, entropies and values of every response token, each rank computing a share."""
    response = rollouts.response
    mine: list[tuple[np.ndarray, np.ndarray]] = []
    for rows in micro_batches(contexts.lengths + response.lengths, engine.rank, engine.world, budget):
        batch = collate([contexts[i] for i in rows], [response[i] for i in rows], engine.device)
        with torch.no_grad():
            columns = engine(batch, rollouts.temperature)
        mine.append((rows, torch.stack(columns).float().cpu().numpy()))
    joined = np.zeros((3, len(response.values)), dtype=np.float32)
    for rows, columns in (part for parts in engine.gather(mine) for part in parts):
        at = np.concatenate([np.arange(response.offsets[i], response.offsets[i + 1]) for i in rows])
        joined[:, at] = columns
    logprobs, entropies, values = (Ragged(column, response.offsets) for column in joined)
    return logprobs, entropies, values


def _metrics(
    rollouts: Rollouts,
    score: np.ndarray,
    logprobs: Ragged,
    entropies: Ragged,
    reference: Ragged,
    kl: Ragged,
    coefficient: float,
) -> Metrics:
    lengths = rollouts.response.lengths
    varied = len(set(lengths)) > 1 and float(np.std(score)) > 0
    mismatch = np.abs(logprobs.values - rollouts.logprobs.values)
    tokens = Metrics.of(
        len(mismatch),
        objective__entropy=float(entropies.values.mean()),
        objective__kl_k3_token=float(k3(logprobs.values, reference.values).mean()),
        val__sampler_mismatch=float(mismatch.mean()),
    )
    samples = Metrics.of(
        len(lengths),
        objective__kl=float(row_sums(kl).mean()),
        objective__score=float(score.mean()),
        objective__kl_coefficient=coefficient,
        val__eos_rate=float(rollouts.finished.mean()),
        val__response_length=float(lengths.mean()),
        val__score_length_correlation=float(np.corrcoef(score, lengths)[0, 1]) if varied else 0.0,
    )
    return tokens | samples | Metrics.of(val__sampler_mismatch_max=float(mismatch.max()))
