"""Pages for people: the templates of this folder, which load nothing from anywhere, and tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from pit_ray.secrets import masked
from pit_ray.tracking import visible


def template(name: str, filters: Mapping[str, Callable[..., Any]]) -> Template:
    """A template of this folder by its file's name; `page.html` has the look that all pages share."""
    # finalize sees every value that the page shows: nothing untrusted gets past it and the escaping behind it.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(masked(value)) if type(value) is str else value,
    )
    environment.filters |= filters
    return environment.get_template(name)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; what a cell holds cannot end it."""
    return [f"| {' | '.join(plain(cell) for cell in row)} |" for row in (head, ["---"] * len(head), *rows)]


def plain(text: str) -> str:
    """Text from outside as one line of Markdown that holds no HTML and ends no cell of a table."""
    whole = " ".join(visible(masked(text)).replace("|", "\\|").split())
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", whole)


def with_interval(value: float, ends: tuple[float, float], digits: int = 1, sign: str = "+") -> str:
    """A number with its interval: "+3.1 [−0.4, +6.6]"; without a plus where `sign` is empty."""
    shown, low, high = (f"{number:{sign}.{digits}f}".replace("-", "−") for number in (value, *ends))
    return f"{shown} [{low}, {high}]"
