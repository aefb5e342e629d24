"""What a worker group that failed says."""

from __future__ import annotations

from ray.train import WorkerGroupError

from actors.train_jobs import reason
from pit_ray.errors import InfraError, TrainingError


def test_an_error_of_ours_is_told_as_it_was() -> None:
    ours = TrainingError("reward, step 3: the loss is not finite")
    failed = WorkerGroupError("", {0: RuntimeError("connection closed by peer"), 1: ours})
    assert reason(failed, restarts=1) is ours


def test_other_failures_are_told_by_rank_in_a_line() -> None:
    failures = {1: RuntimeError("Traceback …\n  in here\nsocket closed\n"), 0: ValueError("no rank 1")}
    told = reason(WorkerGroupError("", failures), restarts=1)
    assert isinstance(told, InfraError)
    assert str(told).endswith("(actors.learner.max_failures: 1): rank 0: no rank 1; rank 1: socket closed")
