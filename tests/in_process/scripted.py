"""Whole runs of the methods with a verifier, whose rollout workers follow a rule instead of a model, so that what the
stages make of what is written is known beforehand: SFT, scoring and files are real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pit_ray.data.randomness import generator
from pit_ray.data.tasks import TASKS
from pit_ray.data.templates import Renderer
from pit_ray.data.verifiers import Review
from pit_ray.in_process import InProcess
from pit_ray.records import Prompts, Ragged, Rollouts
from pit_ray.roles import GenerateRequest, Resolved
from pit_ray.run_folder import RunFolder
from tests.in_process.small_run import config_for

FEEDBACK, REFINE, QUESTION = "Feedback:", "Updated Answer:", "A new question."
SORTING = TASKS["word_sorting"]
FAST = {"epochs": 0.5, "batch_size": 8, "checkpoint_every": 50, "optimizer": {"lr": 1e-3, "warmup_steps": 1}}
"""A supervised stage of a few steps."""


def task_config(run: Path | str, method: str, **changes: Any):
    """A run on word sorting that takes seconds."""
    plain: dict[str, Any] = {
        "method": method,
        "data": {"source": "task:word_sorting", "pairs": 60, "held_out": 10, "validation": 4},
        "sampling": {"max_new_tokens": 256},
        "self_evolution": {
            "rounds": 2, "questions": 12, "question_instruction": QUESTION, "qa": FAST, "meta": FAST,
            "votes": 3, "direct_weight": 2.0,
        },
        "tripost": {
            "iterations": 2, "questions": 12, "attempts": 2, "rationale": FAST, "sft": FAST, "lmsi_samples": 2,
        },
        "evaluation": {"iterations": 2, "bootstrap": 50, "examples": 2, "temperature": 0.0},
    }  # fmt: skip
    model = {
        "from_scratch": {
            "vocab_size": 500, "hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 48,
            "max_position_embeddings": 2048,
        },
        "dtype": "float32", "improve_instruction": "improve", "feedback_instruction": FEEDBACK,
        "refine_instruction": REFINE,
    }  # fmt: skip
    return config_for(run, **(plain | {"model": model} | changes))


class ScriptedRollout:
    """Answers wrongly now and then, is mostly right about its own answers, and mends what a review finds. How often
    each goes wrong is told by `slips`; the draw derives from seed and uid."""

    def __init__(self, renderer: Callable[[], Renderer], slips: dict[str, float]) -> None:
        self._renderer, self.slips = renderer, slips

    def load(self, folder: Path, version: int) -> Resolved[None]:
        assert (folder / "model.safetensors").is_file(), "a stage's model is missing"
        return Resolved(None)

    def generate(self, prompts: Prompts, request: GenerateRequest) -> Resolved[Rollouts]:
        renderer, said = self._renderer(), []
        for uid, x in zip(prompts.uid, prompts.contexts().rows(), strict=True):
            rng = generator(request.seed, int(uid))
            words = self.says(renderer.tokenizer.decode(x), rng)
            said.append([*renderer.response_ids(words), renderer.eos])
        response = Ragged.of(said)
        zeros = Ragged(np.zeros(len(response.values), dtype=np.float32), response.offsets)
        return Resolved(Rollouts(prompts, response, zeros, np.ones(len(prompts), dtype=bool)))

    def says(self, context: str, rng: np.random.Generator) -> str:
        """The next answer of a conversation as the plain template writes it."""
        question, *later = [turn.strip() for turn in context.split("User:\n")[1:]]
        if question.startswith(QUESTION):
            return SORTING.problems(1, int(rng.integers(10**6)), seen=True)[0].question
        if not later:
            return self.attempt(question, rng)
        answer = self._said(question)
        review = SORTING.review(question, answer)
        if not later[-1].startswith(FEEDBACK):
            assert later[-1].startswith(REFINE), context
            return SORTING.mended(question, answer, review)
        if rng.random() < self.slips["feedback"]:
            return "hm ." if review.correct or self.slips["feedback"] == 1 else SORTING.feedback(answer, Review())
        return SORTING.feedback(answer, review)

    def attempt(self, question: str, rng: np.random.Generator) -> str:
        right = SORTING.mended(question, "", SORTING.review(question, ""))
        if rng.random() >= self.slips["attempt"]:
            return right
        words = right.partition("The answer is ")[2].rstrip(".").split()
        swapped = [words[1], words[0], *words[2:]]
        said = " ".join(f"Step {i}: {word}." for i, word in enumerate(swapped, 1))
        return f"{said} The answer is {' '.join(swapped)}."

    @staticmethod
    def _said(turn: str) -> str:
        return turn.partition("Assistant:\n")[2].replace("<|end|>", "").strip()


class Scripted(InProcess):
    """A deployment in this process with scripted rollout workers."""

    slips: ClassVar[dict[str, float]] = {"attempt": 0.5, "feedback": 0.25}

    def rollout(self) -> Any:
        return self._once("rollout", lambda: ScriptedRollout(lambda: Renderer.load(self.renderer), self.slips))


def scripted(config: Any) -> Callable[..., Scripted]:
    """What the driver is given to deploy them."""

    def deploy(folder: RunFolder, note: Callable[[str], None] = print) -> Scripted:
        data = folder.stage("data")
        return Scripted(
            config, folder.store, folder.base, data / "renderer", lambda: Renderer.load(data / "renderer").eos
        )

    return deploy
