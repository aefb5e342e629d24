"""docs/configuration.md is made from the tree; these tests hold that it is current and leaves nothing out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pit_ray.config import load_config
from pit_ray.config.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def leaves(tree: Any, path: str = "") -> Iterator[str]:
    """The dotted keys of all values in a dumped configuration; N for a place in a list."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from leaves(value, f"{path}.N")
    else:
        yield path


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: make docs"


def test_every_key_is_on_the_page() -> None:
    page = reference()
    missing = [key for key in leaves(load_config("quickstart").model_dump()) if f"| `{key}` |" not in page]
    assert not missing


def test_every_key_has_a_meaning() -> None:
    assert not [line for line in reference().splitlines() if line.endswith("|  |")]


def test_rows_tell_type_default_and_meaning() -> None:
    lines = reference().splitlines()
    assert "| `seed` | integer ≥ 0 | `42` | Every random draw derives from it. |" in lines
    assert "| `data.lengths.prompt.max_tokens` | integer > 0 | `512` | Longest allowed, in tokens. |" in lines
    schedule = next(line for line in lines if line.startswith("| `ppo_improver.optimizer.schedule`"))
    assert '`constant`, `cosine` | `"constant"`' in schedule  # the default of this section, not of the class
    steps = next(line for line in lines if line.startswith("| `ppo_improver.phases.N.steps`"))
    assert "integer > 0 | required" in steps
