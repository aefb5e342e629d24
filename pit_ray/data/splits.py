"""Who trains on which pairs: the cut into splits without a shared prompt, and the order in which a split is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pit_ray.config.tree import Data
from pit_ray.data.randomness import generator
from pit_ray.errors import DataError
from pit_ray.records import PreferencePair

Group = list[PreferencePair]
"""All pairs that have the same prompt."""


@dataclass(frozen=True)
class Splits:
    """Disjoint lists of pairs; a prompt stands in one of them only."""

    sft: list[PreferencePair]
    reward: list[PreferencePair]
    rl: list[PreferencePair]
    validation: list[PreferencePair]
    held_out: list[PreferencePair]


def split_pairs(pairs: list[PreferencePair], data: Data, seed: int) -> Splits:
    """Cut `pairs` by prompt: `data.held_out` and `data.validation` pairs exactly, the rest in three equal parts.

    The three parts differ by at most the pairs of one prompt. Where prompts with several pairs do not add up to the
    exact number, one of them is cut and its other pairs are used nowhere. Within a split the order is random, by
    `seed`. DataError if the numbers cannot be met, or a split would be left empty.
    """
    groups = _by_prompt(pairs)
    if len(pairs) < data.held_out + data.validation + 3 or len(groups) < 5:
        raise too_few(len(pairs), len(groups), data)
    order = generator(seed, "splits").permutation(len(groups))
    held_out, rest = _fill([groups[i] for i in order], data.held_out)
    validation, rest = _fill(rest, data.validation)
    if len(held_out) < data.held_out or len(validation) < data.validation or len(rest) < 3:
        raise too_few(len(pairs), len(groups), data)
    thirds: tuple[Group, Group, Group] = ([], [], [])
    for group in rest:
        min(thirds, key=len).extend(group)
    return Splits(*thirds, validation=validation, held_out=held_out)


def draw_order(size: int, start: int, count: int, seed: int, name: str) -> np.ndarray:
    """Rows to draw from a split of `size` rows: (count,) int64, the elements start … start + count − 1 of an endless
    row of shuffles, one per epoch. `start` is thus the whole state of the data, and nothing else need be saved.

    ValueError if there is nothing to draw from, or `start` or `count` is negative.
    """
    if size < 1 or start < 0 or count < 0:
        raise ValueError(f"cannot draw {count} from position {start} of {name} with {size} rows")
    drawn = [np.zeros(0, dtype=np.int64)]
    while count:
        epoch, within = divmod(start, size)
        drawn.append(_shuffled(size, seed, name, epoch)[within : within + count])
        start, count = start + len(drawn[-1]), count - len(drawn[-1])
    return np.concatenate(drawn)


@lru_cache(maxsize=2)  # else every step would shuffle all of a large split anew
def _shuffled(size: int, seed: int, name: str, epoch: int) -> np.ndarray:
    return generator(seed, name, epoch).permutation(size)


def _by_prompt(pairs: list[PreferencePair]) -> list[Group]:
    groups: dict[tuple[tuple[str, str], ...], Group] = {}
    for pair in pairs:
        # Spaces around a turn do not make another prompt.
        key = tuple((turn["role"], turn["content"].strip()) for turn in pair.prompt)
        groups.setdefault(key, []).append(pair)
    return list(groups.values())


def _fill(groups: list[Group], count: int) -> tuple[Group, list[Group]]:
    """Take whole groups, in order, as far as they fit into `count` pairs; then part of the smallest that is left."""
    taken: Group = []
    rest: list[Group] = []
    for group in groups:
        if len(taken) + len(group) <= count:
            taken.extend(group)
        else:
            rest.append(group)
    if len(taken) < count and rest:
        smallest = rest.pop(min(range(len(rest)), key=lambda i: len(rest[i])))
        taken.extend(smallest[: count - len(taken)])
    return taken, rest


def too_few(pairs: int, prompts: int, data: Data) -> DataError:
    """The error for so many pairs and different prompts that cannot meet the numbers of `data`."""
    needed = data.held_out + data.validation + 3
    raise_pairs = f", or raise data.pairs ({data.pairs})" if data.pairs is not None else ""
    return DataError(
        f"{data.source}: too few pairs to split: {pairs} usable pairs with {prompts} different prompts, and needed are "
        f"at least {needed} (held_out {data.held_out} + validation {data.validation} + one prompt each for sft, "
        f"reward and rl), with no prompt in two splits; lower data.held_out or data.validation{raise_pairs}"
    )
