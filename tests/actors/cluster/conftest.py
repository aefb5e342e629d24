"""Cluster files as a user would have them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

Fill = Callable[..., Path]


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fill:
    """A shipped file with a user's values in it, a token in the user's home, and maybe one text replaced."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")

    def fill(name: str, before: str = "", after: str = "") -> Path:
        text = (ROOT / "clusters" / f"{name}.yaml").read_text()
        text = re.sub(r"(ami|subnet|sg)-FILL_IN", r"\1-0123456789abcdef0", text)
        text = text.replace("REGISTRY_FILL_IN", "registry.example").replace("CLASS_FILL_IN", "nfs")
        text = text.replace("FILL_IN", "10.0.0.1")
        assert before in text, f"{name}.yaml no longer holds {before!r}"
        path = tmp_path / f"{name}.yaml"
        path.write_text(text.replace(before, after, 1) if before else text)
        return path

    return fill
