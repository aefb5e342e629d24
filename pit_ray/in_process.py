"""Every role in this process with plain PyTorch: for tests, and for stepping through a run with a debugger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pit_ray.config import Config
from pit_ray.data.randomness import derive_seed
from pit_ray.errors import GroupLost
from pit_ray.learn.engine import TorchEngine
from pit_ray.learn.supervised import fit
from pit_ray.learner import PpoLearner
from pit_ray.metrics import Metrics
from pit_ray.models.load import load_causal, torch_dtype
from pit_ray.models.logprobs import token_logprobs
from pit_ray.models.packing import collate
from pit_ray.recorder import RolloutRecorder
from pit_ray.records import Prompts, Ragged, Rollouts, Scores
from pit_ray.roles import FitJob, GenerateRequest, LearnerSpec, Ref, Resolved, ScoreKind
from pit_ray.scoring import ReferencePolicy, RewardModel
from pit_ray.store import Store


class TorchRollout:
    """A rollout pool of one model, sampling with transformers' `generate`."""

    def __init__(self, base: Path, eos: int, store: Store) -> None:
        self.model: Any = load_causal(base, torch.float32)
        self.eos, self.version, self.store = eos, 0, store

    def generate(self, prompts: Prompts, request: GenerateRequest) -> Resolved[Rollouts]:
        shards = [self._shard(shard, request) for shard in prompts.shards(request.shard_size)]
        return Resolved(Rollouts.concatenate(shards))

    def _shard(self, prompts: Prompts, request: GenerateRequest) -> Rollouts:
        contexts = prompts.contexts().rows()
        width = max(map(len, contexts))
        ids = torch.from_numpy(np.stack([np.pad(row.astype(np.int64), (width - len(row), 0)) for row in contexts]))
        attention = torch.arange(width) >= width - torch.tensor([[len(row)] for row in contexts])
        # At temperature 0 the likeliest token, as vLLM does, with its probability at temperature 1.
        drawn = {"do_sample": True, "temperature": request.temperature, "top_k": 0, "top_p": 1.0}
        how = drawn if request.temperature > 0 else {"do_sample": False}
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(derive_seed(request.seed, int(prompts.uid[0])))
            out = self.model.generate(
                input_ids=ids, attention_mask=attention.long(), max_new_tokens=request.max_new_tokens, **how,
                eos_token_id=self.eos, pad_token_id=self.eos, return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
        new = out.sequences[:, ids.shape[1] :].numpy()
        chosen = torch.stack([torch.log_softmax(s.float(), -1) for s in out.scores], dim=1)
        logprobs = chosen.gather(2, out.sequences[:, ids.shape[1] :].unsqueeze(2)).squeeze(2).numpy()
        finished = (new == self.eos).any(axis=1)
        lengths = np.where(finished, (new == self.eos).argmax(axis=1) + 1, new.shape[1])
        return Rollouts(
            prompts,
            Ragged.of(row[:n] for row, n in zip(new, lengths, strict=True)),
            Ragged.of((row[:n] for row, n in zip(logprobs, lengths, strict=True)), np.float32),
            finished,
            self.version,
            request.temperature,
        )

    def load(self, folder: Path, version: int) -> Resolved[None]:
        self.store.pull(folder)
        self.model, self.version = load_causal(folder, torch.float32), version
        return Resolved(None)

    def sync(self, weights: Ref[Any], version: int) -> Resolved[None]:
        self.model.load_state_dict(self.model.state_dict() | weights.result())  # a tied head goes by its embedding
        self.version = version
        return Resolved(None)

    def logprobs(self, rollouts: Rollouts) -> Resolved[Ragged]:
        contexts, response = rollouts.prompts.contexts(), rollouts.response
        with torch.inference_mode():
            batch = collate(contexts.rows(), response.rows(), torch.device("cpu"))
            found, _ = token_logprobs(self.model, batch)
        return Resolved(Ragged(found.numpy(), response.offsets))


class TorchScorer:
    """Reward and reference scorer over models in this process."""

    def __init__(self, config: Config, store: Store) -> None:
        self.config, self.store = config, store
        self.dtype = torch_dtype(config.model.dtype)
        self.model: Any = None

    def load(self, folder: Path, kind: ScoreKind | None = None, eos: int = 0) -> Resolved[None]:
        budget, trust = self.config.actors.scorer.batch_tokens, self.config.model.trust_remote_code
        device = torch.device("cpu")
        self.store.pull(folder)
        if kind is None:
            self.model = ReferencePolicy(folder, self.dtype, device, budget, trust)
        else:
            self.model = RewardModel(folder, kind, eos, self.dtype, device, budget, trust)
        return Resolved(None)

    def score(self, rollouts: Ref[Rollouts]) -> Resolved[Scores]:
        return Resolved(self.model.score(rollouts.result()))

    def logprobs(self, rollouts: Ref[Rollouts]) -> Resolved[Ragged]:
        return Resolved(self.model.logprobs(rollouts.result()))


class TorchLearner:
    """A learner of one rank."""

    learner: PpoLearner

    def start(self, spec: LearnerSpec, resume: Path | None) -> Resolved[None]:
        self.learner = PpoLearner(spec, TorchEngine)
        if resume is not None:
            self.learner.resume(resume)
        return Resolved(None)

    def learn(
        self, rollouts: Ref[Rollouts], scores: Ref[Scores], reference: Ref[Ragged], kl_coefficient: float, seed: int
    ) -> Resolved[Metrics]:
        return Resolved(
            self.learner.learn(rollouts.result(), scores.result(), reference.result(), kl_coefficient, seed)
        )

    def weights(self) -> Resolved[Any]:
        return Resolved(self.learner.whole())

    def verify(self, canary: Rollouts, answers: Ref[Ragged], version: int) -> Resolved[Metrics]:
        return Resolved(self.learner.verify(canary, answers.result(), version))

    def save(self, folder: Path) -> Resolved[None]:
        self.learner.save(folder)
        return Resolved(None)

    def write_model(self, folder: Path) -> Resolved[None]:
        self.learner.write_model(folder)
        return Resolved(None)


class InlineRecorder(RolloutRecorder):
    """The recorder, called in place."""

    def record(  # type: ignore[override]
        self, folder: Path | None, rollouts: Ref[Rollouts], scores: Ref[Scores]
    ) -> Resolved[Metrics]:
        return Resolved(super().record(folder, [(rollouts.result(), scores.result())]))


class InProcess:
    """A deployment without a second process."""

    def __init__(
        self, config: Config, store: Store, base: Callable[[], Path], renderer: Path, eos: Callable[[], int]
    ) -> None:
        self.config, self.store, self.base, self.renderer, self.eos = config, store, base, renderer, eos
        self.kept: dict[str, Any] = {}

    def fit(self, jobs: Sequence[FitJob]) -> Resolved[None]:
        for job in jobs:
            fit(job, TorchEngine)
        return Resolved(None)

    def rollout(self) -> TorchRollout:
        return self._once("rollout", lambda: TorchRollout(self.base(), self.eos(), self.store))

    def reward(self) -> TorchScorer:
        return self._once("reward", lambda: TorchScorer(self.config, self.store))

    def reference(self) -> TorchScorer:
        return self._once("reference", lambda: TorchScorer(self.config, self.store))

    def learner(self) -> TorchLearner:
        return self._once("learner", TorchLearner)

    def recorder(self) -> InlineRecorder:
        return self._once("recorder", lambda: InlineRecorder(self.renderer, self.config.data.source, self.store))

    def recover(self, lost: GroupLost) -> None:
        raise lost

    def activity(self) -> dict[str, dict[str, Any]]:
        return {}

    def observe(self, record: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        self.kept.clear()

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]
