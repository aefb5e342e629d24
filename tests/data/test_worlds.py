"""What all worlds share: labels, seeds, the split between pretraining text and pairs, edits, vocabulary."""

from __future__ import annotations

import numpy as np
import pytest

from pit_ray.data.worlds import WORLDS, base_folder, find_world
from pit_ray.data.worlds.slots import SlotWorld, text
from pit_ray.errors import ConfigError
from pit_ray.records import PreferencePair


@pytest.fixture(scope="module", params=sorted(WORLDS))
def world(request: pytest.FixtureRequest) -> SlotWorld:
    return WORLDS[request.param]


@pytest.fixture(scope="module")
def pairs(world: SlotWorld) -> list[PreferencePair]:
    return world.pairs(1500, seed=11)


def prompt_of(pair: PreferencePair) -> str:
    (turn,) = pair.prompt
    assert turn["role"] == "user"
    return turn["content"]


def test_worlds_are_found_by_name() -> None:
    assert find_world("world:notes") is WORLDS["notes"]
    assert find_world("data/notes.jsonl") is None
    with pytest.raises(ConfigError, match="did you mean 'world:notes'"):
        find_world("world:note")


def test_pairs_are_the_same_for_the_same_seed_and_do_not_depend_on_their_number(
    world: SlotWorld, pairs: list[PreferencePair]
) -> None:
    assert world.pairs(20, seed=11) == pairs[:20]
    assert world.pairs(20, seed=12) != pairs[:20]
    assert [pair.uid for pair in pairs] == list(range(len(pairs)))
    assert all(pair.chosen != pair.rejected for pair in pairs)


def test_prompts_of_the_pretraining_text_are_in_no_pair(world: SlotWorld, pairs: list[PreferencePair]) -> None:
    rng = np.random.default_rng(0)
    reserved = {world.draw_task(rng, reserved=True).prompt() for _ in range(300)}
    free = {world.draw_task(rng, reserved=False).prompt() for _ in range(300)}
    asked = {prompt_of(pair) for pair in pairs}
    # Too many prompts to meet one twice by chance; so the sums that set them apart are what is looked at.
    sums = [{sum(map(ord, prompt)) % 5 for prompt in prompts} for prompts in (reserved, free, asked)]
    assert sums == [{0}, {1, 2, 3, 4}, {1, 2, 3, 4}]


def test_labels_are_noisy_draws_from_the_gold_order(world: SlotWorld, pairs: list[PreferencePair]) -> None:
    ahead = np.array([world.gold(prompt_of(p), p.chosen) - world.gold(prompt_of(p), p.rejected) for p in pairs])
    assert 0.75 < (ahead[ahead != 0] > 0).mean() < 0.99
    # σ(4 · difference): half a point ahead wins 88 % of the time, one point 98 %, two points nearly always.
    for lowest, highest, share in ((0.5, 0.5, 0.881), (1.0, 1.0, 0.982), (2.0, 99.0, 1.0)):
        compared = ahead[(np.abs(ahead) >= lowest) & (np.abs(ahead) <= highest)]
        assert len(compared) > 50
        assert (compared > 0).mean() == pytest.approx(share, abs=4 * np.sqrt(0.25 / len(compared)))


def test_an_edit_leaves_most_slots_as_they_are(world: SlotWorld) -> None:
    rng = np.random.default_rng(3)
    same = []
    for _ in range(300):
        first, second = world.draw_pair(world.draw_task(rng, reserved=True), rng, edited=1.0)
        assert len(first) == len(second) and text(first) != text(second)
        same.append(np.mean([a == b for a, b in zip(first, second, strict=True)]))
    # Kept are 75 %; some of the slots written anew come out as they were.
    assert 0.75 < np.mean(same) < 0.95


def test_the_vocabulary_covers_every_text_once(world: SlotWorld, pairs: list[PreferencePair]) -> None:
    words = world.vocabulary()
    assert len(set(words)) == len(words)
    used = {word for pair in pairs for said in (prompt_of(pair), pair.chosen, pair.rejected) for word in said.split()}
    assert used | {"improve"} <= set(words)
    assert not set("".join(words)) & set(" \n<>")


def test_a_base_ships_with_the_quickstarts_world() -> None:
    assert (base_folder("notes") / "model.safetensors").stat().st_size < 5_000_000
