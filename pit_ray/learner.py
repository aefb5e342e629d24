"""One rank of the PPO learner: policy and value model in an engine; builds experience and learns from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pit_ray import canary
from pit_ray.data.randomness import derive_seed
from pit_ray.data.templates import Renderer
from pit_ray.experience import build_experience
from pit_ray.learn import ppo
from pit_ray.learn.engine import EngineFactory, clear_mirror, push_parts
from pit_ray.learn.modules import ActorCritic
from pit_ray.metrics import Metrics
from pit_ray.models.load import load_causal, load_scalar, torch_dtype
from pit_ray.models.lora import Adapter, adapt, adapter_weights
from pit_ray.models.packing import collate
from pit_ray.records import Ragged, Rollouts, Scores
from pit_ray.roles import LearnerSpec
from pit_ray.run_folder import writing

CANARY_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.3}
"""Nats between a sampler's and the learner's log-probability of one token of the canary."""


class PpoLearner:
    """Policy and value model of one rank, and the update of both."""

    def __init__(self, spec: LearnerSpec, make_engine: EngineFactory) -> None:
        self.spec = spec
        for folder in (spec.policy, spec.value, spec.renderer):
            spec.store.pull(folder)
        self.dtype = torch_dtype(spec.dtype)
        self.policy = load_causal(spec.policy, self.dtype, spec.trust_remote_code)
        # The value model starts from the reward model's backbone; its head is new, since a value is no reward.
        head_seed = derive_seed(spec.seed, "value head")
        value = load_scalar(spec.value, self.dtype, new_head_seed=head_seed, trust_remote_code=spec.trust_remote_code)
        if spec.lora is not None:
            adapt(self.policy, spec.lora, derive_seed(spec.seed, "policy lora"))
            adapt(value, spec.lora, derive_seed(spec.seed, "value lora"))
        updates = spec.total_steps * spec.ppo.epochs * spec.ppo.minibatches
        self.engine = make_engine(ActorCritic(self.policy, value), spec.ppo.optimizer, updates)
        self.answers: canary.Answers | None = None
        self.updates = 0

    def learn(self, rollouts: Rollouts, scores: Scores, reference: Ragged, kl_coefficient: float, seed: int) -> Metrics:
        """One PPO step; this rank's part of the metrics."""
        self.updates += 1
        with self._traced(self.spec.trace if self.updates == 2 and self.engine.rank == 0 else None):
            experience, seen = build_experience(self.engine, rollouts, scores, reference, kl_coefficient, self.spec.ppo)
            learned = ppo.step(self.engine, experience, self.spec.ppo, seed, ppo.RATIO_LIMIT[self.dtype])
        return seen | learned if self.engine.rank == 0 else learned

    @contextmanager
    def _traced(self, path: Path | None) -> Iterator[None]:
        """Writes what torch's profiler saw, where a path is given. The first update would show how caches fill."""
        if path is None:
            yield
            return
        with torch.profiler.profile() as profiler:
            yield
        path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(path))
        self.spec.store.push(path)

    def whole(self) -> dict[str, Tensor]:
        """The whole policy on rank 0, {} elsewhere."""
        return self.engine.full_state("policy")

    def weights(self) -> dict[str, Tensor] | Adapter:
        """What samplers are given: the whole policy, or its adapter where that is synced; on other ranks {}."""
        lora = self.spec.lora
        if lora is None or lora.sync == "merged":
            return self.whole()
        learned = self.engine.full_state("policy", adapter_weights)
        return Adapter(self.spec.policy, lora, learned) if self.engine.rank == 0 else {}

    def verify(self, asked: Rollouts, answers: Ragged, version: int) -> Metrics:
        """Compares the samplers' answers (a row each) with this learner's; every rank must call, rank 0 compares."""
        batch = collate(asked.prompts.contexts().rows(), asked.response.rows(), self.engine.device)
        with torch.no_grad():
            logprobs_T, *_ = self.engine(batch)
        if self.engine.rank != 0:
            return Metrics()
        now = canary.Answers(version, logprobs_T.float().cpu().numpy(), np.stack(answers.rows()))
        before, self.answers = self.answers, now
        return canary.check(now, before, CANARY_TOLERANCE[self.dtype])

    def write_model(self, folder: Path) -> None:
        """Writes policy, tokenizer and renderer as a Hugging Face folder (rank 0; every rank must call)."""
        state = self.whole()
        if self.engine.rank == 0:
            with writing(folder):
                self.policy.save_pretrained(str(folder), state_dict=state)
                Renderer.load(self.spec.renderer).save(folder)
            self.spec.store.push(folder)

    def save(self, folder: Path) -> None:
        """Writes the state to resume from; every rank must call."""
        clear_mirror(self.engine, folder.parents[1], self.spec.store)
        with writing(folder):
            self.engine.save(folder)
        push_parts(self.engine, folder, self.spec.store)

    def resume(self, folder: Path) -> None:
        """Goes on from what `save` wrote; every rank must call."""
        self.spec.store.pull(folder)
        self.engine.load(folder)
