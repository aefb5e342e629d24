"""A YAML file whose every value knows its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pit_ray.errors import LINE, ConfigError, no_such_path, short

Keys = tuple[str | int, ...]
PLACEHOLDER = re.compile(r"FILL_IN")
"""What stands where a user's own value must go."""


@dataclass(frozen=True)
class Document:
    """One document of a YAML file, as plain values."""

    path: Path
    tree: dict[str, Any]
    lines: Mapping[Keys, int]

    def at(self, *keys: str | int) -> str:
        """FILE:LINE: KEY of a value; of the nearest one above it, where it does not exist."""
        shown = ".".join(map(str, keys))
        found = next((self.lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in self.lines), 1)
        return f"{self.path}:{found}: {shown}" if shown else f"{self.path}:{found}"

    def placeholders(self) -> list[str]:
        """What is still to be filled in, each line once (an anchor is told where it stands)."""
        found: dict[int, str] = {}
        for keys, value in _leaves(self.tree, ()):
            line = self.lines.get(keys, 1)
            if isinstance(value, str) and PLACEHOLDER.search(value) and line not in found:
                found[line] = f"{self.at(*keys)}: still to be filled in: '{short(value)}'"
        return [found[line] for line in sorted(found)]


def read_documents(path: Path) -> list[Document]:
    """The documents of a YAML file; ConfigError when it does not exist, is not YAML, or holds anything but mappings."""
    if not path.is_file():
        raise ConfigError(f"no cluster file: {no_such_path(path) if not path.exists() else f'{path} is no file'}")
    try:
        text = path.read_text(encoding="utf-8")
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
        trees = [tree for tree in yaml.safe_load_all(text) if tree is not None]
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        said = short(" ".join(str(error).split()) or type(error).__name__, LINE)
        raise ConfigError(f"{path}: not readable as YAML: {said}") from error
    if not trees or not all(isinstance(tree, dict) for tree in trees):
        raise ConfigError(f"{path}: a cluster file is a mapping of keys to values")
    return [Document(path, tree, dict(_lines(node, ()))) for node, tree in zip(nodes, trees, strict=True)]


def _lines(node: yaml.Node, keys: Keys) -> Iterator[tuple[Keys, int]]:
    yield keys, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*keys, key.value)
            yield from _lines(value, inner)
            # The value of an alias stands at its anchor, which is where it is to be mended.
            yield inner, min(key.start_mark.line, value.start_mark.line) + 1
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _lines(value, (*keys, i))


def _leaves(value: Any, keys: Keys) -> Iterator[tuple[Keys, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*keys, str(key)))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _leaves(inner, (*keys, i))
    else:
        yield keys, value
