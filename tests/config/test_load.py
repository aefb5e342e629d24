"""Recipes and overrides: what fits is read, and what does not is named with the nearest right key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pit_ray.config import load_config
from pit_ray.config.load import recipe_names
from pit_ray.errors import ConfigError

PHASE = "{name: a, drafts: annotated, steps: 3}"


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_parses(name: str) -> None:
    assert load_config(name).run == f"runs/{name}"


def test_importing_the_configuration_imports_no_torch() -> None:
    code = "import pit_ray.config, sys; print(sorted({'torch', 'ray', 'transformers', 'vllm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("seeed", "seed"),
        ("smapling.temperature", "sampling"),
        ("data.hold_out", "data.held_out"),
        ("data.lengths.promt.max_tokens", "data.lengths.prompt"),
        ("ppo_improver.kl.coeficient", "ppo_improver.kl.coefficient"),
        ("ppo_improver.optimizer.warmup", "ppo_improver.optimizer.warmup_steps"),
        ("ppo_improver.phases.0.stepps", "ppo_improver.phases.0.steps"),
        ("ppo_improver.phases.1.end.kl_limmit", "ppo_improver.phases.1.end.kl_limit"),
        ("model.from_scratch.layrs", "model.from_scratch.layers"),
        ("actors.learner.zero_stge", "actors.learner.zero_stage"),
    ],
)
def test_misspelt_override_gets_the_nearest_right_key(wrong: str, right: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", [f"{wrong}=1"])
    assert f"did you mean '{right}'?" in str(caught.value)


def test_a_key_without_its_section_gets_the_places_where_it_exists() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", ["kl.coefficient=1"])
    assert "unknown key 'kl': did you mean 'ppo_policy.kl' or 'ppo_improver.kl'?" in str(caught.value)


def test_a_recipe_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml': there is no such file"):
        load_config(str(tmp_path / "mine.yaml"))


def test_misspelt_key_in_a_recipe_list_gets_the_nearest_right_key(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "model: {path: somewhere}\ndata: {source: pairs.jsonl}\n"
        f"ppo_improver: {{phases: [{PHASE}, {{name: b, drafts: self, steps: 3, end: {{plateau_step: 2}}}}]}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(str(recipe))
    assert str(caught.value) == (
        f"{recipe}: unknown key 'ppo_improver.phases.1.end.plateau_step': "
        "did you mean 'ppo_improver.phases.1.end.plateau_steps'?"
    )


def test_overrides_replace_single_values_and_keep_the_rest() -> None:
    before = load_config("quickstart")
    after = load_config("quickstart", ["sft.optimizer.lr=1e-4", "data.validation=64", "ppo_improver.phases.0.steps=3"])
    assert after.sft.optimizer.lr == 1e-4 and after.sft.optimizer.schedule == before.sft.optimizer.schedule
    assert after.data == before.data.model_copy(update={"validation": 64})
    first, *others = after.ppo_improver.phases
    assert first == before.ppo_improver.phases[0].model_copy(update={"steps": 3})
    assert others == list(before.ppo_improver.phases[1:])


def test_a_list_can_be_replaced_whole() -> None:
    config = load_config("quickstart", [f"ppo_improver.phases=[{PHASE}]"])
    assert [phase.name for phase in config.ppo_improver.phases] == ["a"]


def test_a_recipe_without_a_model_is_told_both_ways_to_give_one(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {source: pairs.jsonl}\n")
    with pytest.raises(ConfigError, match=r"model: give model\.path=FOLDER_OR_NAME or model\.from_scratch=\{\}"):
        load_config(str(tmp_path / "mine.yaml"))


def test_a_recipe_may_give_one_key_of_a_section(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: {path: somewhere}\ndata: {source: pairs.jsonl}\nppo_policy: {clip: 0.3}\n")
    config = load_config(str(recipe))
    assert config.run == "runs/mine"
    assert config.ppo_policy.clip == 0.3 and config.ppo_policy.phases[0].drafts == "none"


@pytest.mark.parametrize(
    "override, said",
    [
        ("seed", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("seed=abc", "unable to parse string as an integer, not 'abc'"),
        ("model=null", "model: "),
        ("data=3", "data: "),
        ("actors.learner.zero_stage=7", "actors.learner.zero_stage: "),
        ("seed=[1", "do not fit"),
        ("data.pairs=${nope}", "do not fit"),
        ("ppo_improver.phases.9.steps=3", "ppo_improver.phases"),
        ("ppo_improver.minibatches=7", "must be a multiple of minibatches"),
        ("ppo_policy.phases=[" + PHASE + "]", "ppo_policy.phases must have drafts: none"),
        ("ppo_improver.phases=[]", "ppo_improver.phases: "),
        ("ppo_improver.phases.0.name=../../elsewhere", "ppo_improver.phases.0.name: "),
        ("sft.optimizer.lr=.inf", "sft.optimizer.lr: Input should be a finite number"),
        ("sampling.temperature=.nan", "sampling.temperature: "),
    ],
)
def test_an_override_that_does_not_fit_is_a_configuration_error(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", [override])
    assert said in str(caught.value)


@pytest.mark.parametrize("key", ["sft.batch_size", "gap_reward.batch_size", "data.validation"])
def test_every_learner_rank_needs_a_pair(key: str) -> None:
    assert load_config("quickstart", [f"{key}=2", "actors.learner.ranks=2"]).actors.learner.ranks == 2
    with pytest.raises(ConfigError, match=rf"{key} \(1\) must be at least actors.learner.ranks \(2\)"):
        load_config("quickstart", [f"{key}=1", "actors.learner.ranks=2"])


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [\n", "\x00"])
def test_a_recipe_that_is_no_mapping_is_named(tmp_path: Path, text: str) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml: "):
        load_config(str(recipe))


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        load_config("quikstart")


@pytest.mark.parametrize(
    "scratch, said",
    [
        ("hidden_size=60", "hidden_size (60) must be an even multiple of heads (4), for instance 64"),
        ("heads=3", "hidden_size (128) must be an even multiple of heads (3), for instance 126"),
        ("vocab_size=200", "model.from_scratch.vocab_size: Input should be greater than or equal to 258"),
    ],
)
def test_a_shape_that_no_model_has_is_refused(tmp_path: Path, scratch: str, said: str) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: {from_scratch: {hidden_size: 128}}\ndata: {source: pairs.jsonl}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(str(recipe), [f"model.from_scratch.{scratch}"])
    assert said in str(caught.value)


def test_many_faults_stay_one_bearable_message() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", [f"nonsense_{i}={i}" for i in range(500)] + [f"{'x' * 10**6}=1"])
    assert "unknown key 'nonsense_0'" in str(caught.value) and len(str(caught.value)) < 8000
