"""Questions with one right answer: tasks that are made here, each with a verifier (`task:NAME` in a recipe), and word
problems from files (`gsm8k:FILE`, `svamp:FILE`)."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import get_args

from pit_ray.data.tasks.arithmetic import MultistepArithmetic
from pit_ray.data.tasks.dates import DateUnderstanding
from pit_ray.data.tasks.deduction import LogicalDeduction
from pit_ray.data.tasks.problem import Answered, Problem, Task
from pit_ray.data.tasks.sorting import WordSorting
from pit_ray.data.tasks.worded import Form, Worded, load_worded
from pit_ray.errors import ConfigError

PREFIX = "task:"
BASE, BASE_FOLDER = "task:base", Path(__file__).parent / "base"
"""The tiny pretrained model that ships for the tasks: what `model.path` calls it, and where it is."""

TASKS: dict[str, Task] = {
    task.name: task for task in (MultistepArithmetic(), WordSorting(), DateUnderstanding(), LogicalDeduction())
}


def find_task(source: str, key: str = "data.source") -> Task | None:
    """The task that `task:NAME`, given as `key`, names; None when the source is no task; ConfigError when there is no
    such task."""
    if not source.startswith(PREFIX):
        return None
    name = source.removeprefix(PREFIX)
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1) or sorted(TASKS)
        raise ConfigError(f"{key}: no task '{name}'; did you mean '{PREFIX}{near[0]}'?")
    return TASKS[name]


def find_questions(source: str, key: str = "data.source") -> Answered | None:
    """What judges answers to the questions that a source names: a task, or exact match for word problems; None when the
    source holds no questions."""
    form = source.partition(":")[0]
    return Worded() if form in get_args(Form) else find_task(source, key)


def read_worded(source: str) -> list[Problem]:
    """The word problems of `gsm8k:FILE` or `svamp:FILE`. ConfigError when the source names none, DataError when they
    cannot be read."""
    form, _, path = source.partition(":")
    if form not in get_args(Form) or not path:
        raise ConfigError(f"'{source}' names no word problems, for instance gsm8k:train.jsonl.gz")
    return load_worded(Path(os.path.expanduser(path)), "gsm8k" if form == "gsm8k" else "svamp")
