"""What every stage is given: the configuration, the run folder, who plays the roles, and where metrics go."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from pit_ray.config import Config
from pit_ray.data.lengths import longest_sequence
from pit_ray.data.parquet import read_pairs, read_questions
from pit_ray.data.randomness import derive_seed
from pit_ray.data.tasks import find_questions, find_task
from pit_ray.data.templates import Renderer
from pit_ray.data.verifiers import Verifier
from pit_ray.data.worlds import find_world
from pit_ray.interrupts import Interrupts
from pit_ray.records import Pairs, Questions
from pit_ray.roles import Deployment, GenerateRequest, ScoreKind
from pit_ray.run_folder import RunFolder
from pit_ray.tracking import Tracker

DATA = "data"


@dataclass(frozen=True)
class RunContext:
    """One run, as its stages see it."""

    config: Config
    folder: RunFolder
    deployment: Deployment
    tracker: Tracker
    interrupts: Interrupts = field(default_factory=Interrupts)

    @cached_property
    def renderer(self) -> Renderer:
        return Renderer.load(self.renderer_folder)

    @cached_property
    def feedback_bridge(self) -> np.ndarray:
        """The token ids between a response and the feedback on it."""
        return self.renderer.bridge_to(self.config.model.feedback_instruction)

    @cached_property
    def refine_bridge(self) -> np.ndarray:
        """The token ids between a feedback and the revision that follows it."""
        return self.renderer.bridge_to(self.config.model.refine_instruction)

    @property
    def renderer_folder(self) -> Path:
        return self.folder.stage(DATA) / "renderer"

    @property
    def base(self) -> Path:
        """Where every stage's weights start."""
        return self.folder.base()

    def split_path(self, split: str) -> Path:
        """Where a split lies: tokenised pairs, or questions where the data are a task's."""
        return self.folder.stage(DATA) / f"{split}.parquet"

    def pairs(self, split: str) -> Pairs:
        """A split's tokenised pairs: sft, reward, rl, validation or held_out."""
        return read_pairs(self.split_path(split))

    def questions(self, split: str) -> Questions:
        """A split's prompts, each with a good response: a pair's y_w, a task's rationale."""
        if find_questions(self.config.data.source) is not None:
            return read_questions(self.split_path(split))
        pairs = self.pairs(split)
        return Questions(pairs.uid, pairs.prompt, pairs.chosen)

    @property
    def verifier(self) -> Verifier | None:
        """What can tell where a response goes wrong; None where only people, or other models, could."""
        return find_world(self.config.data.source) or find_task(self.config.data.source)

    def model(self, stage: str) -> Path:
        """A stage's model: the ready one of the configuration, or what the stage wrote."""
        ready = getattr(self.config.ready, stage, None)
        return Path(ready) if ready else self.folder.model(stage)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that the engines take."""
        return longest_sequence(self.config)

    def has(self, stage: str) -> bool:
        """Whether a stage's model is there."""
        return self.folder.seconds(stage) is not None or getattr(self.config.ready, stage, None) is not None

    def gap_model(self) -> Path:
        """What the gap scorer loads: R_PIT, or R_P for its `difference` variant."""
        return self.model("gap_reward" if self.config.gap_reward.variant == "five" else "reward")

    def gap_kind(self) -> ScoreKind:
        """How the gap scorer reads rollouts with that model."""
        return "gap" if self.config.gap_reward.variant == "five" else "difference"

    def request(self, purpose: str, *parts: int | str, temperature: float | None = None) -> GenerateRequest:
        """How to sample for a purpose (a stage's name, a step, …); its draws derive from the seed and these parts."""
        sampling = self.config.sampling
        return GenerateRequest(
            temperature=sampling.temperature if temperature is None else temperature,
            max_new_tokens=sampling.max_new_tokens,
            seed=derive_seed(self.config.seed, purpose, *parts),
            shard_size=self.config.ppo_improver.shard_size,
        )
