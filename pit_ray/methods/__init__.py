"""A method is a short list of stages over the same roles."""

from __future__ import annotations

from collections.abc import Callable

from pit_ray.config import Config
from pit_ray.config.tree import Method
from pit_ray.data.tasks import TASKS, find_questions, find_task
from pit_ray.data.worlds import find_world
from pit_ray.errors import LINE, ConfigError, short
from pit_ray.methods import distill, pit, self_evolution, self_refine, tripost
from pit_ray.methods.stage import Stage

OTHER = {
    "self_evolution.annotator": "self_evolution.annotator=endpoint",
    "self_refine.model": "self_refine.model=policy or endpoint",
    "self_refine.examples": "self_refine.examples=0",
}
"""What else to do where there is no verifier."""

METHODS: dict[Method, Callable[[Config], tuple[Stage, ...]]] = {
    "pit": pit.stages,
    "self_refine": self_refine.stages,
    "self_evolution": self_evolution.stages,
    "tripost": tripost.stages,
    "distill": distill.stages,
}


def check_method(config: Config) -> None:
    """ConfigError when the data are not of the kind that the configured method learns from."""
    source, method = config.data.source, config.method
    shown = short(source, LINE)
    asked, judged = find_questions(source) is not None, (find_world(source) or find_task(source)) is not None
    if method in ("pit", "self_refine", "distill") and asked:
        raise ConfigError(
            f"data.source: '{shown}' holds questions, and method {method} learns from preference pairs; give pairs, or "
            "method=self_evolution or method=tripost"
        )
    if method == "tripost" and find_task(source) is None:
        raise ConfigError(
            f"data.source: '{shown}' has no verifier that finds wrong steps, which method tripost needs; give one of "
            f"{', '.join(f'task:{name}' for name in TASKS)}"
        )
    section = config.self_refine
    wants = {
        "self_evolution.annotator": method == "self_evolution" and config.self_evolution.annotator == "verifier",
        "self_refine.model": method == "self_refine" and section.model == "taught",
        "self_refine.examples": method == "self_refine" and section.examples > 0,
    }
    for key, wanted in wants.items():
        if wanted and not judged:
            raise ConfigError(
                f"{key}: '{shown}' has no verifier; give world:NAME or task:NAME as data.source, or {OTHER[key]}"
            )


def stages_of(config: Config) -> tuple[Stage, ...]:
    """The stages of the configured method, in order."""
    return METHODS[config.method](config)
