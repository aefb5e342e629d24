"""The run that the tests of this folder read."""

from __future__ import annotations

import pytest

from pit_ray.run_folder import RunFolder
from tests.in_process.small_run import config_for, run_to_the_end, with_lora


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run from nothing to its report, undisturbed."""
    return run_to_the_end(config_for(tmp_path_factory.mktemp("runs") / "undisturbed"))


@pytest.fixture(scope="session")
def finished_with_lora(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same with LoRA."""
    return run_to_the_end(with_lora(tmp_path_factory.mktemp("runs") / "lora"))
