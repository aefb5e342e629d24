"""Stage `data` where the data are questions with answers: made by a task, or read from a file; splits, tokenised."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pit_ray.config import Config
from pit_ray.config.tree import FieldLength
from pit_ray.data.parquet import write_questions
from pit_ray.data.randomness import derive_seed, generator
from pit_ray.data.tasks import find_questions, find_task, read_worded
from pit_ray.data.tasks.problem import Problem
from pit_ray.data.templates import Renderer
from pit_ray.errors import ConfigError, DataError, short
from pit_ray.records import Questions, Ragged
from pit_ray.run_folder import write_json
from pit_ray.stages.context import RunContext

QUESTION_SPLITS = ("sft", "rl", "validation", "held_out", "unseen")
"""sft: with labels; rl: the other training questions; unseen: of a difficulty that no other split has."""
LEVELS = "levels.json"
"""In the folder of the stage `data`: uid -> level of difficulty, of the questions of a task that are tested on."""


@dataclass(frozen=True)
class QuestionSplits:
    """Disjoint lists of problems; uids are unique over all of them."""

    sft: list[Problem]
    rl: list[Problem]
    validation: list[Problem]
    held_out: list[Problem]
    unseen: list[Problem]


def split_questions(config: Config) -> tuple[QuestionSplits, str]:
    """The splits, and one line about where they come from.

    DataError when there are too few questions, or one that is tested on is also trained on.
    """
    data, task = config.data, find_task(config.data.source)
    if find_questions(data.source) is None:
        raise ConfigError(f"data.source: '{short(data.source)}' holds no questions, for instance task:word_sorting")
    if task is not None:
        seed = derive_seed(config.seed, "task")
        total = (data.pairs or 0) + data.validation + data.held_out
        seen = task.problems(total, seed, seen=True)
        unseen = task.problems(data.held_out, seed, seen=False)
        tested = seen[len(seen) - data.held_out :]
        training, said = seen[: len(seen) - data.held_out], f"data: {total} questions made by {data.source}"
    else:
        found = read_worded(data.source)[: None if data.pairs is None else data.pairs]
        order = generator(config.seed, "splits").permutation(len(found))
        training, unseen = [found[i] for i in order], []
        said = f"data: {len(found)} questions from {data.source}"
        if data.test_source is None:
            cut = max(0, len(training) - data.held_out)
            training, tested = training[:cut], training[cut:]
        else:
            tested = read_worded(data.test_source)[: data.held_out]
            said += f", tested on {len(tested)} from {data.test_source}"
    if len(training) < data.validation + 2 or not tested:
        raise DataError(
            f"{data.source}: too few questions: {len(training)} to train on and {len(tested)} to test on, and "
            f"data.validation takes {data.validation}; lower data.validation or data.held_out"
        )
    refuse_contamination(config, training, [*tested, *unseen])
    validation, rest = training[: data.validation], training[data.validation :]
    half = len(rest) // 2
    return _numbered(QuestionSplits(rest[:half], rest[half:], validation, tested, unseen)), said


def refuse_contamination(config: Config, training: Sequence[Problem], tested: Sequence[Problem]) -> None:
    """DataError, naming the first, when a question is both trained and tested on; spaces and case make no other."""
    where = {_key(problem): i for i, problem in enumerate(training)}
    both = [problem for problem in tested if _key(problem) in where]
    if both:
        source = config.data.test_source or config.data.source
        raise DataError(
            f"{source}: {len(both)} of {len(tested)} test questions are also trained on, the first is "
            f"{short(both[0].question)!r} (question {where[_key(both[0])]} of the training questions); take them out"
        )


def _key(problem: Problem) -> str:
    return " ".join(problem.question.lower().split())


def _numbered(splits: QuestionSplits) -> QuestionSplits:
    """With uids that are unique over all splits."""
    renumbered, start = [], 0
    for name in QUESTION_SPLITS:
        split: list[Problem] = getattr(splits, name)
        renumbered.append([replace(problem, uid=start + i) for i, problem in enumerate(split)])
        start += len(split)
    return QuestionSplits(*renumbered)


def tokenised(config: Config, renderer: Renderer, problems: Sequence[Problem]) -> tuple[Questions, str]:
    """The problems as token ids, without those that `data.lengths` drops, and how many are left. A question that is
    too long is never cut, since it would ask for something else."""
    prompts = [renderer.prompt_ids([{"role": "user", "content": problem.question}]) for problem in problems]
    answers = [renderer.response_ids(problem.rationale) for problem in problems]
    lengths = config.data.lengths
    kept = [
        i
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        if _fits("prompt", prompt, lengths.prompt, problems[i])
        and _fits("response", answer, lengths.response, problems[i])
    ]
    if problems and not kept:
        raise DataError(
            f"no question is left of {len(problems)}: the shortest has {min(map(len, prompts))} tokens, the shortest "
            f"answer {min(map(len, answers))}; raise data.lengths.prompt.max_tokens ({lengths.prompt.max_tokens}) or "
            f"data.lengths.response.max_tokens ({lengths.response.max_tokens})"
        )
    uid = np.array([problems[i].uid for i in kept], dtype=np.int64)
    questions = Questions(uid, Ragged.of(prompts[i] for i in kept), Ragged.of(answers[i] for i in kept))
    return questions, f"{len(kept)} of {len(problems)} questions left"


def _fits(field: str, ids: Sequence[int], limit: FieldLength, problem: Problem) -> bool:
    if len(ids) <= limit.max_tokens:
        return True
    if limit.policy == "error":
        raise DataError(
            f"the {field} of question {problem.uid} has {len(ids)} tokens, more than data.lengths.{field}.max_tokens = "
            f"{limit.max_tokens}; raise it, or set data.lengths.{field}.policy=drop"
        )
    return False


def texts(splits: QuestionSplits) -> list[str]:
    """Every text of the training questions, for a tokenizer."""
    return [text for problem in splits.sft for text in (problem.question, problem.rationale)]


def write_splits(context: RunContext, renderer: Renderer, splits: QuestionSplits) -> list[int]:
    """Each split as Parquet, and the levels of what is tested on; returns one rendered example."""
    folder = context.folder.stage("data")
    for name in QUESTION_SPLITS:
        found, said = tokenised(context.config, renderer, getattr(splits, name))
        write_questions(found, folder / f"{name}.parquet")
        context.tracker.note(f"{name}: {said}")
    if find_task(context.config.data.source) is not None:
        # Noted here, since nothing can tell a question's level again from its tokens.
        tested = (*splits.held_out, *splits.unseen)
        write_json(folder / LEVELS, {str(problem.uid): problem.level for problem in tested})
    first = splits.sft[0]
    prompt = renderer.prompt_ids([{"role": "user", "content": first.question}])
    return [*prompt, *renderer.response_ids(first.rationale), renderer.eos]


def read_levels(context: RunContext, uid: np.ndarray) -> list[str] | None:
    """The level of each question; None where that was not noted: no task's questions, or a run of before."""
    path = context.folder.stage("data") / LEVELS
    if not path.is_file():
        return None
    noted = json.loads(path.read_text(encoding="utf-8"))
    return [noted[str(i)] for i in uid]
