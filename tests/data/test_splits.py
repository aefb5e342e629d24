"""Splits never share a prompt, and the data position is one number."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.config.tree import Data
from pit_ray.data.randomness import derive_seed, generator
from pit_ray.data.splits import Splits, draw_order, split_pairs
from pit_ray.errors import DataError
from pit_ray.records import PreferencePair

NAMES = ("sft", "reward", "rl", "validation", "held_out")


def make_pairs(group_sizes: list[int]) -> list[PreferencePair]:
    """Pairs of which so many share each prompt, the prompts taking turns."""
    texts = [f"prompt {i}" for row in range(max(group_sizes)) for i, size in enumerate(group_sizes) if row < size]
    return [PreferencePair(({"role": "user", "content": text},), "yes", "no", uid) for uid, text in enumerate(texts)]


def parts(splits: Splits) -> list[list[PreferencePair]]:
    return [getattr(splits, name) for name in NAMES]


@given(
    sizes=st.lists(st.integers(1, 4), min_size=30, max_size=80),
    held_out=st.integers(1, 15),
    validation=st.integers(1, 10),
    seed=st.integers(0, 2**40),
)
def test_numbers_are_exact_and_no_prompt_is_in_two_splits(
    sizes: list[int], held_out: int, validation: int, seed: int
) -> None:
    pairs = make_pairs(sizes)
    data = Data(held_out=held_out, validation=validation)
    splits = split_pairs(pairs, data, seed)
    assert len(splits.held_out) == held_out
    assert len(splits.validation) == validation
    thirds = [len(splits.sft), len(splits.reward), len(splits.rl)]
    assert max(thirds) - min(thirds) <= max(sizes)
    prompts = [{pair.prompt[0]["content"] for pair in part} for part in parts(splits)]
    assert sum(map(len, prompts)) == len(set.union(*prompts))
    uids = Counter(pair.uid for part in parts(splits) for pair in part)
    assert max(uids.values()) == 1
    # Only the rest of a cut prompt may be used nowhere, one for each of the two exact splits.
    assert len(pairs) - uids.total() <= 2 * (max(sizes) - 1)
    assert parts(split_pairs(pairs, data, seed)) == parts(splits)


def test_different_prompts_are_all_used_in_equal_parts() -> None:
    splits = split_pairs(make_pairs([1] * 100), Data(held_out=20, validation=11), seed=1)
    assert [len(part) for part in parts(splits)] == [23, 23, 23, 11, 20]


def test_single_prompts_make_the_number_before_a_prompt_is_cut() -> None:
    splits = split_pairs(make_pairs([3] * 20 + [1] * 20), Data(held_out=10, validation=10), seed=3)
    assert sum(map(len, parts(splits))) == 80


@pytest.mark.parametrize("seed", range(5))
def test_the_smallest_prompt_is_the_one_that_is_cut(seed: int) -> None:
    splits = split_pairs(make_pairs([4] * 9 + [2]), Data(held_out=1, validation=4), seed)
    assert [len(part) for part in parts(splits)][3:] == [4, 1]
    assert sum(map(len, parts(splits))) == 37


def test_seeds_give_different_splits() -> None:
    pairs = make_pairs([1] * 60)
    data = Data(held_out=20, validation=20)
    assert split_pairs(pairs, data, 1).held_out != split_pairs(pairs, data, 2).held_out


def test_a_prompt_is_the_same_with_other_spaces_but_not_after_other_turns() -> None:
    def pair(uid: int, *turns: str) -> PreferencePair:
        roles = ("user", "assistant", "user")
        prompt = tuple({"role": role, "content": text} for role, text in zip(roles, turns, strict=False))
        return PreferencePair(prompt, "yes", "no", uid)

    same = [pair(0, "hello"), pair(1, "hello\n"), pair(2, " hello")]
    others = [pair(3, "hello", "hi", "hello"), pair(4, "a"), pair(5, "b"), pair(6, "c")]
    splits = split_pairs([*same, *others], Data(held_out=1, validation=1), seed=0)
    assert sorted(len(part) for part in parts(splits)) == [1, 1, 1, 1, 3]
    assert {0, 1, 2} in [{p.uid for p in part} for part in parts(splits)]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([1] * 10, "10 usable pairs with 10 different prompts, and needed are at least 11"),
        ([5, 5, 1, 1], "12 usable pairs with 4 different prompts"),
    ],
)
def test_too_few_pairs_say_how_many_and_what_to_lower(sizes: list[int], said: str) -> None:
    with pytest.raises(DataError) as caught:
        split_pairs(make_pairs(sizes), Data(source="mine.jsonl", pairs=500, held_out=5, validation=3), seed=0)
    for part in ("mine.jsonl", said, "lower data.held_out or data.validation", "raise data.pairs (500)"):
        assert part in str(caught.value)


def test_no_pairs_at_all_is_too_few() -> None:
    with pytest.raises(DataError, match="0 usable pairs"):
        split_pairs([], Data(), seed=0)


def test_just_enough_pairs_are_enough() -> None:
    splits = split_pairs(make_pairs([1] * 11), Data(held_out=5, validation=3), seed=0)
    assert [len(part) for part in parts(splits)] == [1, 1, 1, 3, 5]


@given(
    size=st.integers(1, 20),
    start=st.integers(0, 200),
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_drawing_in_pieces_is_drawing_at_once(size: int, start: int, counts: list[int], seed: int) -> None:
    whole = draw_order(size, start, sum(counts), seed, "sft")
    at, pieces = start, []
    for count in counts:
        pieces.append(draw_order(size, at, count, seed, "sft"))
        at += count
    assert whole.dtype == np.int64
    assert np.array_equal(np.concatenate(pieces), whole)


@given(size=st.integers(1, 30), epoch=st.integers(0, 5))
def test_each_epoch_draws_every_row_once(size: int, epoch: int) -> None:
    assert sorted(draw_order(size, epoch * size, size, 7, "rl")) == list(range(size))


def test_epochs_names_and_seeds_shuffle_differently() -> None:
    draws = [
        draw_order(50, 0, 50, 1, "sft"),
        draw_order(50, 50, 50, 1, "sft"),
        draw_order(50, 0, 50, 1, "rl"),
        draw_order(50, 0, 50, 2, "sft"),
    ]
    assert len({tuple(draw) for draw in draws}) == 4


@pytest.mark.parametrize(("size", "start", "count"), [(0, 0, 1), (3, -1, 1), (3, 0, -1)])
def test_an_impossible_draw_is_refused(size: int, start: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"cannot draw {count} from position {start} of sft with {size} rows"):
        draw_order(size, start, count, 0, "sft")


def test_seeds_are_the_same_in_every_process_and_version() -> None:
    assert derive_seed(42, "sft", 0, 7) == 4786214506346930428
    assert derive_seed(42, "sft", np.int64(0), np.int32(7)) == 4786214506346930428


def test_parts_that_read_the_same_are_told_apart() -> None:
    seeds = [
        derive_seed(1),
        derive_seed(1, ""),
        derive_seed(1, "ab", "c"),
        derive_seed(1, "a", "bc"),
        derive_seed(1, "1"),
        derive_seed(1, 1),
        derive_seed(11),
        derive_seed(1, -1),
    ]
    assert len(set(seeds)) == len(seeds)
    with pytest.raises(TypeError):
        derive_seed(1, 1.0)  # type: ignore[arg-type]


@given(st.integers(0, 2**64), st.lists(st.integers(-(2**70), 2**70) | st.text("abc"), max_size=3))
def test_seeds_have_63_bits_and_repeat(seed: int, names: list[int | str]) -> None:
    assert 0 <= derive_seed(seed, *names) < 2**63
    assert generator(seed, *names).integers(2**62) == generator(seed, *names).integers(2**62)
