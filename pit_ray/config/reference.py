"""Renders the configuration tree as a Markdown page: `python -m pit_ray.config.reference > docs/configuration.md`."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pit_ray.config.tree import Config

INTRODUCTION = """\
# Configuration

Every key of a recipe, made from `pit_ray/config/tree.py` by `make docs`. A recipe is a YAML file that gives some of
these keys; the others keep their defaults. On the command line any key can be replaced by its dotted name:

    pit-ray train quickstart seed=7 ppo_improver.kl.coefficient=0.1

In a list, a number stands for the place, counted from 0 and written N below. `pit-ray train RECIPE --dry-run` shows
the configuration as resolved."""

PLAIN = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "NoneType": "null"}
BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def reference() -> str:
    """The whole tree as one Markdown page."""
    return "\n\n".join([INTRODUCTION, *_section(Config, None, "")]) + "\n"


def _section(section: type[BaseModel], values: BaseModel | None, path: str, about: str = "") -> Iterator[str]:
    """Heading, text and table of a section whose defaults are `values` (None: those of its class), then its parts."""
    if path:
        depth = path.replace(".N", "").count(".")
        yield f"{'#' * min(depth + 2, 6)} `{path}`"
    yield _one_line(f"{about} {section.__doc__ or ''}")
    rows = []
    parts = []
    for name, field in section.model_fields.items():
        key = f"{path}.{name}" if path else name
        default = field.get_default(call_default_factory=True) if values is None else getattr(values, name)
        inner, many = _part_in(field.annotation)
        if inner and not many and default is not None:
            parts.append((inner, default if isinstance(default, BaseModel) else None, key, field.description or ""))
            continue
        rows.append(f"| `{key}` | {_type(field.annotation, field)} | {_default(default)} | {_text(field)} |")
        if inner:
            parts.append((inner, None, f"{key}.N" if many else key, ""))
    if rows:
        yield "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])
    for part in parts:
        yield from _section(*part)


def _part_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section inside an annotation, if it has one, and whether there may be many of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for argument in get_args(annotation):
        inner, many = _part_in(argument)
        if inner:
            return inner, many or get_origin(annotation) in (tuple, list)
    return None, False


def _type(annotation: Any, field: FieldInfo | None = None) -> str:
    bounds = _bounds(field.metadata) if field else ""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0]) + _bounds(arguments[1:])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments) + bounds
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}s"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return PLAIN.get(annotation.__name__, annotation.__name__) + bounds


def _bounds(metadata: Any) -> str:
    found = [
        f"{sign} {value:g}"
        for constraint in metadata
        for name, sign in BOUNDS.items()
        if (value := getattr(constraint, name, None)) is not None
    ]
    return " " + " and ".join(found) if found else ""


def _default(default: Any) -> str:
    if default is PydanticUndefined:
        return "required"
    return f"`{json.dumps(_plain(default), ensure_ascii=False)}`"


def _plain(value: Any) -> Any:
    """As a recipe would write it: sections without the keys that have their defaults."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _text(field: FieldInfo) -> str:
    return _one_line(field.description or "").replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    print(reference(), end="")
