"""A recipe on top of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from pit_ray.config import load_config
from pit_ray.errors import ConfigError


def recipe(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def test_a_recipe_keeps_what_it_does_not_say_of_its_base(tmp_path: Path) -> None:
    mine = recipe(tmp_path, "mine", "base: quickstart\nseed: 9\nppo_policy: {rollouts_per_step: 64}\n")
    shipped, changed = load_config("quickstart"), load_config(mine, ["data.held_out=100"])
    assert (changed.seed, changed.ppo_policy.rollouts_per_step, changed.data.held_out) == (9, 64, 100)
    assert changed.run == "runs/mine"
    assert changed.ppo_policy.kl == shipped.ppo_policy.kl
    assert changed.ppo_improver == shipped.ppo_improver


def test_a_base_may_have_a_base_and_lie_beside_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe(tmp_path, "lower", "base: quickstart\nseed: 3\nsampling: {temperature: 0.5}\n")
    upper = recipe(tmp_path, "upper", "base: lower.yaml\nseed: 4\n")
    monkeypatch.chdir("/")
    config = load_config(upper)
    assert (config.seed, config.sampling.temperature) == (4, 0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: quickstar\n", "mine.yaml: base: no recipe 'quickstar': did you mean 'quickstart'"),
        ("base: mine.yaml\n", "base: leads back to"),
        ("base: quickstart\nsampling: [1]\n", "mine.yaml: sampling: Input should be"),
        ("base: [1, 2]\n", "base: no recipe"),
    ],
)
def test_a_base_that_does_not_hold_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("[", r"\[")):
        load_config(recipe(tmp_path, "mine", text))
