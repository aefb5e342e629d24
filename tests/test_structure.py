"""The shape of the code: imports run one way, folders stand in an order, and files form no cycle."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pit_ray", "actors", "tests")
"""Each may import itself and those before it."""
FORBIDDEN = {"pit_ray": {"ray", "vllm", "deepspeed"}}
ORDER = (
    ("secrets", "errors", "records", "metrics"),
    ("config",),
    (
        "roles",
        "store",
        "endpoint",
        "run_folder",
        "checkpoint",
        "events",
        "interrupts",
        "progress",
        "tracking",
        "status",
        "lease",
    ),
    ("data",),
    ("maths",),
    ("models",),
    ("learn",),
    ("experience", "curriculum", "scoring", "canary"),
    ("improve",),
    ("improvers", "evaluate", "learner", "recorder"),
    ("stages",),
    ("methods",),
    ("driver", "in_process", "replay"),
)
"""Inside pit_ray: each may import its own group and those before it."""
RANK = {name: rank for rank, group in enumerate(ORDER) for name in group}


@cache
def modules() -> dict[str, Path]:
    """Our own modules and their files."""
    files = {path.relative_to(ROOT): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}
    return {".".join(short.with_suffix("").parts).removesuffix(".__init__"): path for short, path in files.items()}


def imported(module: str) -> Iterator[str]:
    """Everything `module` imports, anywhere in its file, as far down as it names a module."""
    path = modules()[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in modules() else base


@cache
def edges() -> tuple[tuple[str, str], ...]:
    """(importing module, imported name) over all our code."""
    return tuple((module, target) for module in modules() for target in imported(module))


def part_of_pit_ray(module: str) -> str | None:
    """The file or folder directly inside pit_ray that `module` belongs to."""
    top, _, rest = module.partition(".")
    return rest.split(".")[0] if top == "pit_ray" and rest else None


def file_of(module: str) -> str:
    return module


def folder_of(module: str) -> str:
    """A module's folder; a file directly in a top folder stands for itself."""
    path = modules()[module]
    folder = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return module if "." not in folder else folder


def test_imports_run_one_way_between_top_folders() -> None:
    height = {name: rank for rank, name in enumerate(FOLDERS)}
    wrong = [
        f"{module} imports {target}"
        for module, target in edges()
        if height.get(target.split(".")[0], -1) > height[module.split(".")[0]]
    ]
    assert not wrong


def test_the_method_knows_neither_ray_nor_its_engines() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, target in edges()
        if target.split(".")[0] in FORBIDDEN.get(module.split(".")[0], ())
    ]
    assert not wrong


def test_every_part_of_pit_ray_has_a_place() -> None:
    unplaced = {part for module in modules() if (part := part_of_pit_ray(module)) and part not in RANK}
    assert not unplaced, "give them a place in ORDER"


def test_imports_run_one_way_inside_pit_ray() -> None:
    wrong = []
    for module, target in edges():
        here, there = part_of_pit_ray(module), part_of_pit_ray(target)
        if here in RANK and there in RANK and RANK[there] > RANK[here]:
            wrong.append(f"{module} imports {target}")
    assert not wrong


@pytest.mark.parametrize("node", [file_of, folder_of], ids=["files", "folders"])
def test_imports_form_no_cycle(node: Callable[[str], str]) -> None:
    graph: dict[str, set[str]] = {}
    for module, target in edges():
        if target in modules() and node(target) != node(module):
            graph.setdefault(node(module), set()).add(node(target))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
