"""Multistep arithmetic: `((5 + 9 * 4) - (3 + 2 + 8)) =`, after the idea of BIG-bench's task of this name.

Ours, so that a model of 0.7 M parameters can learn it: numbers from 0 to 9; + - * inside the innermost groups, with at
most one * in a group; + or - between groups; no number of the rationale beyond 50 in size. Depth counts brackets:
at depth 2 there are two groups, at depth 3 four. As in TriPosT (arXiv 2310.13522), groups of 3 or 4 numbers at depth 2
are seen; longer or deeper expressions are not.

A step reduces two numbers to one: `9 * 4 = 36`. The rationale finishes the leftmost group of numbers first, in it *
before + and -; the verifier takes any order that arithmetic allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Union

import numpy as np

from pit_ray.data.tasks.problem import Task, Work, WrongStep

LARGEST = 50
"""The size of every number in a rationale stays within this."""

Node = Union[int, "Group"]
Group = tuple[Union[int, str, "Group"], ...]
"""Numbers and groups, with an operator between each two."""

_QUESTION = re.compile(r"\([0-9\s()+*-]*\)\s*=")
_TOKEN = re.compile(r"[0-9]+|[()+*-]")
_NUMBER = r"(-?\s*[0-9]{1,9})"
_STEP = re.compile(rf"{_NUMBER}\s*([+*-])\s*{_NUMBER}\s*=\s*{_NUMBER}")


@dataclass(frozen=True)
class _Expression(Work):
    left: tuple[Node, ...]
    """What may be left: more than one where a step could mean two places."""

    @property
    def answer(self) -> str:
        return str(_value(self.left[0]))

    def after(self, step: str) -> _Expression:
        match = _STEP.fullmatch(step)
        if not match:
            raise WrongStep("a step reduces two numbers to one")
        a, b, result = (_integer(match[i]) for i in (1, 3, 4))
        pair = f"{a} {match[2]} {b}"
        left = dict.fromkeys(smaller for node in self.left for found, smaller in _reductions(node) if found == pair)
        if not left:
            raise WrongStep(f"{pair} is not a part of what is left")
        if result != (right := _calculated(a, match[2], b)):
            raise WrongStep(f"{pair} is {right}")
        return _Expression(tuple(left))

    def rest(self) -> list[str]:
        return list(_steps(self.left[0]))


class MultistepArithmetic(Task):
    """See the top of this file."""

    name = "multistep_arithmetic"

    def draw(self, rng: np.random.Generator, seen: bool) -> tuple[str, str]:
        longer = not seen and rng.random() < 0.5
        length = int(rng.integers(5, 7) if longer else rng.integers(3, 5))
        depth = 2 if seen or longer else 3
        while True:
            text = _draw_expression(length, depth, rng)
            numbers = re.findall(r"[0-9]+", " ".join(_steps(_parse(text))))
            if max(map(int, numbers)) <= LARGEST:
                return f"{text} =", f"length {length}, depth {depth}"

    def read(self, prompt: str) -> Work:
        return _Expression((_parse(self.find(_QUESTION, prompt)[0]),))

    def normalised(self, answer: str) -> str:
        number = re.fullmatch(rf"\s*{_NUMBER}\s*", answer)
        return str(_integer(number[1])) if number else " ".join(answer.split())


def _draw_expression(length: int, depth: int, rng: np.random.Generator) -> str:
    if depth == 1:
        operators = ["+-"[i] for i in rng.integers(2, size=length - 1)]
        if rng.random() < 0.6:
            operators[int(rng.integers(length - 1))] = "*"
        numbers = [str(number) for number in rng.integers(10, size=length)]
        parts = [numbers[0], *(f"{op} {number}" for op, number in zip(operators, numbers[1:], strict=True))]
    else:
        first, second = (_draw_expression(length, depth - 1, rng) for _ in range(2))
        parts = [first, "+-"[int(rng.integers(2))], second]
    return f"({' '.join(parts)})"


def _parse(text: str) -> Node:
    """The tree of an expression in brackets; ValueError where it is none."""
    stack: list[list[int | str | Group]] = [[]]
    for token in _TOKEN.findall(text):
        if token == "(":
            stack.append([])
        elif token != ")":
            stack[-1].append(int(token) if token.isdigit() else token)
        elif len(stack) > 1 and _is_group(group := stack.pop()):
            stack[-1].append(tuple(group))
        else:
            raise ValueError(f"not an expression: {text!r}")
    if len(stack) != 1 or len(stack[0]) != 1 or not isinstance(stack[0][0], tuple):
        raise ValueError(f"not an expression: {text!r}")
    return stack[0][0]


def _is_group(items: list[int | str | Group]) -> bool:
    """Whether operators stand between numbers and groups, and nowhere else."""
    return len(items) >= 3 and len(items) % 2 == 1 and all(isinstance(x, str) == i % 2 for i, x in enumerate(items))


def _reductions(node: Node) -> Iterator[tuple[str, Node]]:
    """Every pair of numbers that can be reduced next, with what is left then; the canonical one first."""
    if isinstance(node, int):
        return
    for i, inner in enumerate(node):
        if isinstance(inner, tuple):
            for pair, smaller in _reductions(inner):
                yield pair, (*node[:i], smaller, *node[i + 1 :])
    for i in sorted(range(1, len(node), 2), key=lambda i: node[i] != "*"):
        a, operator, b = node[i - 1 : i + 2]
        if isinstance(a, int) and isinstance(b, int) and _may_go_first(node, i):
            shorter = (*node[: i - 1], _calculated(a, str(operator), b), *node[i + 2 :])
            only = shorter[0]
            yield f"{a} {operator} {b}", only if len(shorter) == 1 and not isinstance(only, str) else shorter


def _may_go_first(group: Group, i: int) -> bool:
    """Whether reducing around operator i before the others leaves the group's value as it is."""
    before, after = (group[j] if 0 < j < len(group) else None for j in (i - 2, i + 2))
    return group[i] == "*" or (before in (None, "+") and after != "*")


def _steps(node: Node) -> Iterator[str]:
    """The canonical steps that are left."""
    while not isinstance(node, int):
        pair, node = next(_reductions(node))
        a, operator, b = pair.split()
        yield f"{pair} = {_calculated(int(a), operator, int(b))}"


def _value(node: Node) -> int:
    while not isinstance(node, int):
        _, node = next(_reductions(node))
    return node


def _calculated(a: int, operator: str, b: int) -> int:
    return a * b if operator == "*" else a + b if operator == "+" else a - b


def _integer(text: str) -> int:
    return int("".join(text.split()))
