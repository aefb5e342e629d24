"""The image of the Kubernetes files: its Dockerfile is linted everywhere and built where there is an engine."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.actors.cluster.conftest import ROOT

DOCKERFILE = ROOT / "clusters" / "Dockerfile"
TAG = "pit-ray-test"


def engine() -> str | None:
    """The command of a container engine that answers."""
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    return None


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_it_builds_and_knows_its_lock() -> None:
    if (name := engine()) is None:
        pytest.skip("no container engine answers here")
    subprocess.run([name, "build", "-f", DOCKERFILE, "--build-arg", "LOCK=cpu", "-t", TAG, ROOT], check=True)
    said = subprocess.check_output([name, "run", "--rm", TAG, "pit-ray", "recipes"], text=True)
    assert "quickstart" in said
