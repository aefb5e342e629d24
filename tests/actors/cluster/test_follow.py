"""A job is followed to its end over a connection that breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import ServerDisconnectedError
from ray.job_submission import JobStatus, JobSubmissionClient

from actors.cluster import submit
from actors.cluster.submit import follow
from pit_ray.errors import InfraError

LOG = ("one\n", "two\n", "three\n")


class Shaky:
    """A job server that can be reached now and then."""

    def __init__(self, *faults: Exception | None) -> None:
        self.faults, self.asked = list(faults), 0

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        self.asked += 1
        for text in LOG[: self.asked]:
            yield text
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault

    def get_job_info(self, job: str) -> Any:
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault
        return SimpleNamespace(status=JobStatus.SUCCEEDED, driver_exit_code=7, message="")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "AGAIN_SECONDS", 0.0)


def test_every_line_is_shown_once_whatever_breaks() -> None:
    said = list[str]()
    client = Shaky(ServerDisconnectedError(), None, ConnectionError("no way"))
    assert follow(cast(JobSubmissionClient, client), "job", said.append) == 7
    assert [line for line in said if "interrupted" not in line] == list(LOG)
    assert len(said) == len(LOG) + 2


def test_a_cluster_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "TRIES", 3)
    client = Shaky(*(ConnectionError("no way") for _ in range(9)))
    with pytest.raises(InfraError, match=r"job can no longer be followed, but may go on: .*no way"):
        follow(cast(JobSubmissionClient, client), "job", lambda _: None)
