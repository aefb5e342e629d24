"""What all worlds share: labels, seeds, the split between pretraining text and pairs, edits, vocabulary."""

from __future__ import annotations

import numpy as np
import pytest

from pit_ray.data.templates import Renderer
from pit_ray.data.worlds import WORLDS, base_folder, find_world
from pit_ray.data.worlds.slots import Slot, SlotWorld, edited, text
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


def test_an_edit_keeps_nine_slots_in_ten_and_half_of_those_with_a_slip() -> None:
    rng = np.random.default_rng(3)
    old, new = Slot(["old"], False), Slot(["new"], False)
    slipped = old._replace(slipped=True)
    assert np.mean([edited(old, new, rng) is old for _ in range(2000)]) == pytest.approx(0.9, abs=0.03)
    assert np.mean([edited(slipped, new, rng) is slipped for _ in range(2000)]) == pytest.approx(0.5, abs=0.05)


def test_slots_with_a_slip_are_those_that_cost_points(world: SlotWorld) -> None:
    rng = np.random.default_rng(4)
    for _ in range(100):
        task = world.draw_task(rng, reserved=True)
        written = world.write(task, rng)
        scores = [world.gold(task.prompt(), text(written))]
        while any(slot.slipped for slot in written):
            i = next(i for i, slot in enumerate(written) if slot.slipped)
            while written[i].slipped:
                written[i] = world.write(task, rng)[i]
            scores.append(world.gold(task.prompt(), text(written)))
        assert scores == sorted(set(scores))  # each mended slot raises the score


def test_the_second_response_is_mostly_an_edit_and_never_the_same(world: SlotWorld) -> None:
    rng = np.random.default_rng(3)
    same = []
    for _ in range(300):
        first, second = world.draw_pair(world.draw_task(rng, reserved=True), rng)
        assert len(first) == len(second) and text(first) != text(second)
        same.append(np.mean([a == b for a, b in zip(first, second, strict=True)]))
    assert 0.6 < np.mean(same) < 0.8


def test_the_vocabulary_covers_every_text_once(world: SlotWorld, pairs: list[PreferencePair]) -> None:
    words = world.vocabulary()
    assert len(set(words)) == len(words)
    used = {word for pair in pairs for said in (prompt_of(pair), pair.chosen, pair.rejected) for word in said.split()}
    assert used | {"improve"} <= set(words)
    assert not set("".join(words)) & set(" \n<>")


@pytest.mark.parametrize("name", WORLDS)
def test_a_base_ships_with_every_world(name: str) -> None:
    folder = base_folder(name)
    assert (folder / "model.safetensors").stat().st_size < 5_000_000
    known = Renderer.load(folder).tokenizer.get_vocab()
    assert set(WORLDS[name].vocabulary()) <= set(known)
