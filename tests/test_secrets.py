"""No password, token or key is shown or written: not by an error, a note, a report, and never in a configuration."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from actors.cli import fail
from pit_ray.config import load_config
from pit_ray.config.tree import Tracking
from pit_ray.errors import ConfigError, InfraError
from pit_ray.evaluate.report import write_report
from pit_ray.secrets import masked
from pit_ray.tracking import Tracker

HELD = "correct-horse-battery-staple"
SECRETS = {
    "url": ("https://ann:{}@data.example/a.parquet", "s3cr3t-pass"),
    "token as user": ("https://{}@data.example/a", "A1b2C3d4E5f6G7h8I9j0K"),
    "query": ("https://data.example/a?x=1&token={}", "0123456789abcdef"),
    "header": ("401 for Authorization: Bearer {}", "eyJhbGciOiJIUzI1NiJ9.e30"),
    "hub": ("no access with {}", "hf_" + "aB3" * 11),
    "openai": ("{} is not valid", "sk-proj-" + "x9" * 12),
    "github": ("{}", "ghp_" + "Z0" * 18),
    "aws": ("key {} unknown", "AKIAIOSFODNN7EXAMPLE"),
    "environment": ("login with {} failed", HELD),
}
EACH = pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", HELD)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/ann/.ray/auth_token")
    monkeypatch.setenv("SHORT_TOKEN", "no")


@EACH
def test_what_is_shown_is_masked(text: str, secret: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    whole = text.format(secret)
    assert secret not in str(ConfigError(whole)) and "***" in str(ConfigError(whole))
    for error in (InfraError(whole), RuntimeError(whole)):
        with pytest.raises(SystemExit):
            fail(error)
    out = io.StringIO()
    Tracker(tmp_path, Tracking(wandb=False), {}, console=Console(file=out, width=60)).note(whole)
    assert secret not in capsys.readouterr().err + out.getvalue()
    (tmp_path / "config.yaml").write_text(f"note: {json.dumps(whole)}\n")
    assert secret not in write_report(tmp_path).read_text(encoding="utf-8")


@EACH
@pytest.mark.parametrize("key", ["data.source", "model.path", "ready.reward", "ppo_policy.phases.0.name", "nonsense"])
def test_a_configuration_with_a_secret_is_refused_by_its_key(text: str, secret: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", [f"{key}={json.dumps(text.format(secret))}"])
    assert str(caught.value).startswith(f"quickstart: {key}: a password, token or key") and secret not in str(
        caught.value
    )
    assert "HF_TOKEN" in str(caught.value)


def test_a_secret_that_the_environment_would_bring_in_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"quickstart: data\.source: a password, token or key"):
        load_config("quickstart", ["data.source=${oc.env:MY_API_KEY}"])


@pytest.mark.parametrize(
    "harmless",
    [
        "https://data.example/a?page=2",
        "git@github.com:ann/pit.git",
        "/home/ann/.ray/auth_token",
        "no matter",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "2e3afd2f0c4b8a1d9e7c6b5a4f3e2d1c0b9a8f7e",
        "http://127.0.0.1:8265",
        "a task-oriented risk-aware sk-learn model",
    ],
)
def test_what_is_no_secret_stays(harmless: str) -> None:
    assert masked(harmless) == harmless


@given(st.text())
def test_masking_twice_is_masking_once(text: str) -> None:
    assert masked(masked(text)) == masked(text)
