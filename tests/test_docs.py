"""README.md and docs/metrics.md say what is there: metrics, paths, commands, keys and recipes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from actors.cli import app
from pit_ray.config import load_config
from pit_ray.config.load import recipe_names
from pit_ray.evaluate.comparisons import Comparison

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
METRICS = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
CODE = "\n".join(re.findall(r"^```\w*\n(.*?)^```", README, re.M | re.S) + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", README))
"""The README's code, blocks and inline, where a command is meant as one."""
GROUPS = "objective|policy|loss|val|time|pit"


def logged_metrics() -> set[str]:
    """The metrics that the code names: "loss/sft", loss__sft=…, lr=… of a Metrics, and the parts that are timed."""
    found = set()
    for path in (path for folder in ("pit_ray", "actors") for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found |= {f"{group}/{name}" for group, name in re.findall(rf"\b({GROUPS})(?:/|__)([a-z]\w*)", text)}
        found |= {f"time/{part}" for part in re.findall(r'\.timed\("(\w+)"\)', text)}
        found |= set(re.findall(r"Metrics\.of\((lr)=", text))
    return found


def tree_paths() -> list[str]:
    """The paths of the annotated tree: a name a line, indented under its folder."""
    tree = README.partition("## The source")[2].split("```")[1]
    paths, folder = [], ""
    for line in tree.splitlines()[1:]:
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name if name.endswith("/") else ""
        paths.append(name if name == folder else folder + name)
    return paths


def test_the_glossary_has_every_metric_and_no_other() -> None:
    documented = set(re.findall(rf"^\| `((?:{GROUPS})/\w+|lr)` \|", METRICS, re.M))
    logged = logged_metrics()
    assert len(logged) > 30
    assert logged - documented == set(), "docs/metrics.md lacks these"
    assert documented - logged == set(), "docs/metrics.md has these, the code does not"


def test_the_glossary_has_every_field_of_a_comparison() -> None:
    assert [name for name in Comparison.model_fields if f"`{name}`" not in METRICS] == []


def test_readme_names_metrics_that_exist() -> None:
    named = {f"{group}/{name}" for group, name in re.findall(rf"`({GROUPS})/(\w+)`", README)}
    assert named and named <= logged_metrics()


def test_every_path_of_the_tree_exists() -> None:
    paths = tree_paths()
    assert len(paths) > 40 and len(set(paths)) == len(paths)
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("folder", ["actors", "pit_ray"])
def test_the_tree_leaves_nothing_out(folder: str) -> None:
    listed = {path.split("/")[1] for path in tree_paths() if path.startswith(f"{folder}/")}
    entries = (ROOT / folder).iterdir()
    here = {entry.name for entry in entries if entry.suffix == ".py" or any(entry.glob("*.py")) or entry.suffix == ""}
    assert here - listed - {"__init__.py", "__pycache__"} == set()


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    made = set(re.findall(r"\bmake ([a-z]+)", CODE))
    assert made and made <= set(re.findall(r"^([a-z]+):", makefile, re.M))
    called = set(re.findall(r"\bpit-ray ([a-z]+)", CODE))
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    commands |= {str(group.name) for group in app.registered_groups}
    assert called == commands, "the README shows every command"


def test_every_recipe_and_key_exists() -> None:
    reference = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    keys = set(re.findall(r"\b([a-z_]+(?:\.[a-z_]+)+)=", CODE)) | set(re.findall(r"`(ready\.\w+)`", README))
    assert keys and [key for key in keys if f"| `{key}` |" not in reference] == []
    recipes = {recipe for recipe in re.findall(r"pit-ray train (\S+)", CODE) if not recipe.endswith(".yaml")}
    assert recipes and recipes <= set(recipe_names())


def test_yaml_in_the_readme_is_a_recipe(tmp_path: Path) -> None:
    examples = re.findall(r"^```yaml\n(.*?)^```", README, re.M | re.S)
    assert examples
    for text in examples:
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        load_config(str(tmp_path / "recipe.yaml"))


def test_the_readmes_numbers_are_of_the_present_recipe() -> None:
    recipe = load_config("quickstart")
    rows = re.findall(
        r"^ (?:improver|sft improver|policy|best of 2) vs .*? gold +(?:–|up to \d|\d) +(\d+) ", README, re.M
    )
    assert len(rows) == 7 and {int(n) for n in rows} == {recipe.data.held_out}
    steps = {sum(phase.steps for phase in ppo.phases) for ppo in (recipe.ppo_policy, recipe.ppo_improver)}
    assert steps == {int(n) for n in re.findall(r"improver have (\d+) PPO steps each", " ".join(README.split()))}
    rollouts = 2 * max(steps) * recipe.ppo_policy.rollouts_per_step
    assert f"in {rollouts:,} rollouts of seed {recipe.seed}" in " ".join(README.split())


VARIANTS = {
    "both phases": ("full", "improver_vs_policy"),
    "phase `on_policy` alone": ("on_policy_only", "improver_vs_policy"),
    "phase `annotated` alone": ("annotated_only", "improver_vs_policy"),
    "SFT alone": ("full", "sft_improver_vs_policy"),
    "none: best of 2 of the policy": ("full", "best_of_2_vs_policy"),
}


def test_the_readmes_table_is_what_replication_found() -> None:
    rows = json.loads((ROOT / "results" / "replication.json").read_text(encoding="utf-8"))
    table = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", README, re.M)
    assert len(table) == 8
    for world, label, *cells in table:
        variant, name = VARIANTS[label]
        asked = {"world": world, "variant": variant, "name": name, "judge": "gold", "stopping_rule": False}
        found = [row for row in rows if row["iterations"] < 2 and asked.items() <= row.items()]
        shown = {row["seed"]: f"{row['delta']:+.1f} [{row['ci95'][0]:+.1f}, {row['ci95'][1]:+.1f}]" for row in found}
        assert [shown[seed] for seed in (201, 202, 203)] == cells
