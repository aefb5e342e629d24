"""What is uploaded with a job, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.cluster import package
from actors.cluster.package import collect
from pit_ray.config import load_config
from pit_ray.errors import ConfigError


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for name in (
        "pyproject.toml", "README.md", "pit_ray/driver.py", "pit_ray/__pycache__/driver.pyc", "pit_ray/.cache/x",
        "actors/cli.py", "requirements/cpu.txt", "runs/quickstart/model.safetensors", ".git/config", ".env",
        "mine.yaml", "data/pairs.jsonl", "data/big.bin",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_only_source_recipe_and_what_was_named_goes_up(checkout: Path) -> None:
    found = collect(checkout, "mine.yaml", [Path("data/pairs.jsonl")])
    assert sorted(map(str, found.files)) == [
        "README.md", "actors/cli.py", "data/pairs.jsonl", "mine.yaml", "pit_ray/driver.py", "pyproject.toml",
        "requirements/cpu.txt",
    ]  # fmt: skip
    with found.folder() as folder:
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        assert files == sorted(map(str, found.files))
        assert (folder / "mine.yaml").read_text() == "mine.yaml"
    assert not folder.exists()


def test_its_size_is_told_by_what_takes_most(checkout: Path) -> None:
    (checkout / "data" / "big.bin").write_bytes(bytes(3 * 2**20))
    said = collect(checkout, "quickstart", [Path("data")]).describe()
    assert said.startswith("3.0 MiB in 7 files: data 3.0 MiB, ")


def test_more_than_ray_takes_is_refused_with_the_largest(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "LIMIT", 2**20)
    (checkout / "data" / "big.bin").write_bytes(bytes(3 * 2**20))
    found = collect(checkout, "quickstart", [Path("data")])
    with pytest.raises(ConfigError, match=r"3\.0 MiB to upload, and Ray takes 1\.0 MiB\. The largest: data/big\.bin 3"):
        found.check()
    collect(checkout, "quickstart", []).check()


@pytest.mark.parametrize(
    ("recipe", "include", "said"),
    [
        ("quickstart", "data/pair.jsonl", r"to be uploaded: .*pair\.jsonl.*pairs\.jsonl"),
        ("other.yaml", "data", r"to be uploaded: .*other\.yaml"),
        ("quickstart", "../outside", r"\.\./outside lies outside .*checkout"),
    ],
)
def test_what_cannot_go_up_is_named(checkout: Path, recipe: str, include: str, said: str) -> None:
    (checkout.parent / "outside").write_text("")
    with pytest.raises(ConfigError, match=said):
        collect(checkout, recipe, [Path(include)])


def test_elsewhere_than_in_a_checkout_the_installed_package_is_used(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("")
    assert list(collect(tmp_path, "mine.yaml", []).files) == [Path("mine.yaml")]


def test_data_and_models_that_would_not_be_there_are_named(checkout: Path) -> None:
    def check(*overrides: str, include: str = "data/pairs.jsonl") -> None:
        collect(checkout, "hh", [Path(include)]).check_paths(load_config("hh", overrides), checkout)

    check("data.source=data/pairs.jsonl", "model.path=/models/mine")
    check("data.source=data/pairs.jsonl", include="data")
    with pytest.raises(ConfigError, match=r"data\.source: data/big\.bin is here .*--include data/big\.bin"):
        check("data.source=data/big.bin")
    with pytest.raises(ConfigError, match=r"ready\.reward: runs/quickstart is here"):
        check("ready.reward=runs/quickstart")
