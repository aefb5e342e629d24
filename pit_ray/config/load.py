"""Reads a recipe (a shipped name or a YAML file) and dotted overrides into a Config, with errors that name the key."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from omegaconf import OmegaConf
from pydantic import BaseModel, ValidationError

from pit_ray.config.tree import Config
from pit_ray.errors import LINE, LONGEST, SHOWN, ConfigError, cause, listed, short
from pit_ray.secrets import masked

RECIPES = Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    """The shipped recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_config(recipe: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration of `recipe` (a shipped name or a path to a YAML file) with `key.sub=value` overrides.

    Raises ConfigError when the recipe does not exist, is no YAML mapping, or does not fit the tree.
    """
    tree = _read(_find(recipe), ())
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"'{short(override)}' is not of the form key=value, for instance seed=7")
    try:
        merged = OmegaConf.create(_over(_defaults() | {"run": f"runs/{Path(recipe).stem}"}, tree))
        merged.merge_with_dotlist(list(overrides))
        plain = OmegaConf.to_container(merged, resolve=True)
    except Exception as error:  # OmegaConf lets errors of many kinds through
        given = f"the overrides {listed(overrides)} do not fit" if overrides else "it cannot be read"
        raise ConfigError(f"{recipe}: {given}: {cause(error)}") from error
    return parse_config(plain, where=recipe)


def parse_config(plain: Any, where: str) -> Config:
    """A plain mapping as a Config; ConfigError lists every wrong key with the nearest right one, and refuses values
    that hold a secret, since the configuration is written to the run folder."""
    if held := [path for path, value in _texts(plain, "") if masked(value) != value]:
        raise ConfigError(
            f"{where}: {listed(held)}: a password, token or key has no place in a configuration, which is written to "
            "the run folder; give it by the environment (HF_TOKEN, WANDB_API_KEY) or a credentials file"
        )
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise ConfigError(f"{where}: " + "; ".join(lines[:SHOWN]) + more) from None


def _texts(plain: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text in a plain tree, with its dotted key."""
    if isinstance(plain, str):
        yield path, plain
    elif isinstance(plain, Mapping | list):
        inner = plain.items() if isinstance(plain, Mapping) else enumerate(plain)
        for key, value in inner:
            yield from _texts(value, f"{path}.{short(key)}" if path else short(key))


def _defaults() -> dict[str, Any]:
    """The tree's defaults as plain values, so that a recipe may give one key of a section and keep the others."""
    fields = Config.model_fields.items()
    return {
        name: field.default.model_dump(mode="json") if isinstance(field.default, BaseModel) else field.default
        for name, field in fields
        if not field.is_required()
    }


def _find(recipe: str) -> Path:
    shipped, path = RECIPES / f"{recipe}.yaml", Path(recipe)
    if os.path.isfile(shipped):
        return shipped
    if os.path.isfile(path):  # False also for what cannot be a path
        return path
    if path.suffix in (".yaml", ".yml"):
        raise ConfigError(f"no recipe '{short(recipe, LINE)}': there is no such file in {Path.cwd()}")
    near = difflib.get_close_matches(recipe[:LONGEST], recipe_names(), n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise ConfigError(
        f"no recipe '{short(recipe, LINE)}': {hint}Shipped: {', '.join(recipe_names())}; or give a path to a YAML file"
    )


def _over(lower: Any, upper: Any) -> Any:
    """Two plain trees as one: where both hold mappings, key by key; else the upper one."""
    if not (isinstance(lower, dict) and isinstance(upper, dict)):
        return upper
    return lower | {key: _over(lower.get(key), value) for key, value in upper.items()}


def _read(path: Path, above: tuple[Path, ...]) -> dict[Any, Any]:
    """A recipe on top of its `base`, as plain values; `above` are the recipes that led here."""
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # of the file, of YAML, of OmegaConf; RecursionError where it is nested too deeply
        said = short(" ".join(str(error).split()) or type(error).__name__, LINE)
        raise ConfigError(f"{path}: not readable as YAML: {said}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values")
    if "base" not in tree:
        return tree
    base = _base(path, str(tree.pop("base")))
    if base in (*above, path):
        raise ConfigError(f"{path}: base: leads back to {base}")
    return _over(_read(base, (*above, path)), tree)


def _base(path: Path, name: str) -> Path:
    """The recipe that another builds on: a shipped name, or a file, whose path counts from the other's folder."""
    beside = path.parent / name
    try:
        return beside if os.path.isfile(beside) else _find(name)
    except ConfigError as error:
        raise ConfigError(f"{path}: base: {error}") from error


def _explain(problem: Any) -> str:
    location = ".".join(short(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = short(problem["msg"].removeprefix("Value error, "), LINE)
        if problem["type"] == "missing":
            message = "give model.path=FOLDER_OR_NAME or model.from_scratch={}" if location == "model" else "not given"
        elif message.startswith("Input should be"):
            message += f", not {short(repr(problem['input']))}"
        return f"{location}: {message}" if location else message
    *parents, last = problem["loc"]
    known = list(_section_at(parents).model_fields)
    near = difflib.get_close_matches(short(last), known, n=1)
    nearest = ".".join([str(part) for part in parents] + near)
    hint = f"did you mean '{nearest}'?" if near else f"known here: {', '.join(known)}"
    elsewhere = [] if near else [path for path in _paths(Config) if path.endswith(f".{last}")]
    if elsewhere:
        hint = f"did you mean {' or '.join(map(repr, elsewhere))}?"
    return f"unknown key '{location}': {hint}"


def _paths(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of a section's keys and of all below them; lists of sections are left out."""
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _paths(field.annotation, f"{prefix}{name}.")


def _section_at(parents: Sequence[str | int]) -> type[BaseModel]:
    section: type[BaseModel] = Config
    for part in parents:
        if isinstance(part, int):
            continue
        section = _section_in(section.model_fields[part].annotation)
    return section


def _section_in(annotation: Any) -> type[BaseModel]:
    """The section inside an annotation such as `Ppo`, `FromScratch | None` or `tuple[Phase, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(_section_in(arg) for arg in get_args(annotation) if _holds_section(arg))


def _holds_section(annotation: Any) -> bool:
    if isinstance(annotation, type):
        return issubclass(annotation, BaseModel)
    return any(_holds_section(arg) for arg in get_args(annotation))
