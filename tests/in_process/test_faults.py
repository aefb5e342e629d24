"""Deaths, signals, full disks and workers that start again: nothing is lost, nothing counts twice."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pit_ray import driver
from pit_ray.config import Config
from pit_ray.errors import GroupLost, InfraError
from pit_ray.in_process import InProcess, TorchLearner, TorchRollout
from pit_ray.metrics import Metrics
from pit_ray.records import Prompts, Ragged, Rollouts, Scores
from pit_ray.roles import GenerateRequest, LearnerSpec, Ref, Resolved
from pit_ray.run_folder import RunFolder, write_json
from pit_ray.stages import supervised
from pit_ray.stages.context import RunContext
from pit_ray.tracking import Tracker, read_metrics
from tests.in_process.small_run import (
    CAUSAL,
    REWARDS,
    before,
    config_for,
    deployment,
    rollout_tables,
    run_to_the_end,
    summary,
    with_lora,
    without_time,
)

Act = Callable[[], None]


def die() -> None:
    raise InfraError("learner/0 died")


def stop_by(number: int) -> Act:
    """What `kill -NUMBER` does to the driver."""
    return lambda: os.kill(os.getpid(), number)


class DisturbedRollout(TorchRollout):
    """Acts when it is asked for revisions for the time given, counted from 0."""

    calls, act, at = 0, staticmethod(die), -1

    def generate(self, prompts: Prompts, request: GenerateRequest) -> Resolved[Rollouts]:
        if prompts.bridge is not None:
            self.calls += 1
            if self.calls == self.at + 1:
                self.act()
        return super().generate(prompts, request)


class DisturbedLearner(TorchLearner):
    """Acts when it is asked to learn from drafts for the time given, counted from 0."""

    calls, act, at = 0, staticmethod(die), -1

    def start(self, spec: LearnerSpec, resume: Path | None) -> Resolved[None]:
        self.improving = spec.ppo.phases[0].drafts != "none"
        return super().start(spec, resume)

    def learn(
        self, rollouts: Ref[Rollouts], scores: Ref[Scores], reference: Ref[Ragged], kl_coefficient: float, seed: int
    ) -> Resolved[Metrics]:
        if self.improving:
            self.calls += 1
            if self.calls == self.at + 1:
                self.act()
        return super().learn(rollouts, scores, reference, kl_coefficient, seed)


class Disturbed(InProcess):
    """A deployment in which something happens in the improver's step that comes after `at` others."""

    def __init__(self, *arguments: Any, while_doing: str, at: int, act: Act) -> None:
        super().__init__(*arguments)
        self.where, self.at, self.act = while_doing, at, act

    def learner(self) -> TorchLearner:
        return self._once("learner", lambda: self._disturbed(DisturbedLearner(), "learn"))

    def rollout(self) -> TorchRollout:
        return self._once(
            "rollout", lambda: self._disturbed(DisturbedRollout(self.base(), self.eos(), self.store), "generate")
        )

    def _disturbed(self, role: Any, where: str) -> Any:
        if where == self.where:
            role.at, role.act = self.at, self.act
        return role


def one_behind(run: Path) -> Config:
    """A configuration whose PPO samples a step ahead."""
    config = config_for(run)
    ahead = {name: getattr(config, name).model_copy(update={"lag": 1}) for name in ("ppo_policy", "ppo_improver")}
    return config.model_copy(update=ahead)


@pytest.fixture(scope="session")
def finished_one_behind(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_to_the_end(one_behind(tmp_path_factory.mktemp("runs") / "undisturbed"))


@pytest.mark.parametrize(
    ("configure", "undisturbed", "calls_before"),
    [(config_for, "finished", 1), (one_behind, "finished_one_behind", 2), (with_lora, "finished_with_lora", 1)],
)
def test_a_run_that_died_and_was_stopped_ends_as_if_it_had_not(
    configure: Callable[[Path], Config], undisturbed: str, calls_before: int, request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:  # fmt: skip
    """`calls_before`: calls of `generate` before the one in which the phase's second step is being sampled, or, one
    step ahead, its third."""
    config, finished = configure(tmp_path / "disturbed"), request.getfixturevalue(undisturbed)
    folder = RunFolder(config.run)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for while_doing, at, act, ends_in, checkpoint in (
        ("learn", 3, die, InfraError, "step-000002-1"),  # the second phase, after a step that no checkpoint holds
        ("generate", calls_before, stop_by(signal.SIGTERM), 143, "step-000003-1"),  # the step is given up
        ("learn", 0, stop_by(signal.SIGINT), 130, "step-000004-1"),  # the step is finished
        ("learn", 2, die, InfraError, "step-000006-2"),  # between the last two steps of the third phase
    ):
        with pytest.raises(SystemExit if isinstance(ends_in, int) else ends_in) as end:
            driver.train(config, deployment(config, Disturbed, while_doing=while_doing, at=at, act=act))
        assert not isinstance(end.value, SystemExit) or end.value.code == ends_in
        assert max((folder.stage("ppo_improver") / "checkpoints").glob("step-*")).name == checkpoint
        assert folder.seconds("ppo_policy") is not None
        assert folder.seconds("ppo_improver") is None
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    run_to_the_end(config)
    for stage in CAUSAL + REWARDS:
        ours, theirs = (load_file(f.model(stage) / "model.safetensors") for f in (folder, finished))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), stage
    assert without_time(folder) == without_time(finished)
    assert rollout_tables(folder) == rollout_tables(finished)
    ours, theirs = summary(folder), summary(finished)
    assert ours | {"seconds": None} == theirs | {"seconds": None}


def test_one_step_behind_only_the_first_step_of_a_phase_samples_with_its_own_weights(
    finished_one_behind: RunFolder,
) -> None:
    steps = [record for record in read_metrics(finished_one_behind.path) if record["stage"] == "ppo_improver"]
    phases = [record["phase"] for record in steps]
    behind = [0 if phase not in phases[:i] else 1 for i, phase in enumerate(phases)]
    assert [record["step"] - record["val/policy_version"] for record in steps] == behind
    assert sum(behind) == 4
    for record, lag in zip(steps, behind, strict=True):
        assert (record["val/sampler_mismatch_max"] > 1e-4) == bool(lag)


def test_a_second_signal_before_any_step_leaves_the_checkpoint_alone(finished: RunFolder, tmp_path: Path) -> None:
    folder = before("ppo_improver", finished, tmp_path / "run")
    config, manifests = config_for(folder.path), []
    for at in (3, 0, 0):
        with pytest.raises(SystemExit):
            driver.train(
                config, deployment(config, Disturbed, while_doing="generate", at=at, act=stop_by(signal.SIGTERM))
            )
        newest = max((folder.stage("ppo_improver") / "checkpoints").glob("step-*"))
        manifests.append((newest.name, (newest / "manifest.json").stat().st_ino))
    assert len(set(manifests)) == 1


class TwiceLost(InProcess):
    """Loses its learner in the first step, and again while the new one is brought up."""

    lost = 0

    def learner(self) -> TorchLearner:
        self.lost += 1
        if self.lost == 1:
            raise GroupLost("learner/0 died")
        return super().learner()

    def recover(self, lost: GroupLost) -> None:
        self.lost += 1
        if self.lost == 2:
            raise GroupLost("learner/1 died")


def test_a_death_while_the_dead_are_replaced_is_recovered_from_too(finished: RunFolder, tmp_path: Path) -> None:
    folder = before("ppo_improver", finished, tmp_path / "run")
    config = config_for(folder.path)
    driver.train(config, deployment(config, TwiceLost))
    assert without_time(folder) == without_time(finished)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def contents(folder: RunFolder) -> dict[str, bytes]:
    """Every file's bytes but those of what tells what the run is doing just now."""
    files = [path for path in folder.path.rglob("*") if path.is_file() and path.name != "status.json"]
    return {str(path.relative_to(folder.path)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("stage", "size", "named"),
    [
        ("ppo_policy", 100_000, "checkpoints/.part"),
        ("evaluate", 2_000, "evaluation/outcomes.parquet"),
        ("evaluate", 20_000, "report.html"),
    ],
)
def test_a_full_disk_is_one_error_and_what_is_there_stays(
    finished: RunFolder, tmp_path: Path, stage: str, size: int, named: str
) -> None:
    folder = before(stage, finished, tmp_path / "run")
    config = config_for(folder.path)
    there = contents(folder)
    with pytest.raises(InfraError, match=rf"{folder.path}/.*{named}\S* cannot be written: "), largest_file(size):
        driver.train(config, deployment(config))
    now = contents(folder)
    assert all(now[name].startswith(content) for name, content in there.items())
    assert not [name for name in now if "part" in name]
    run_to_the_end(config)
    assert without_time(folder) == without_time(finished)
    assert summary(folder) | {"seconds": None} == summary(finished) | {"seconds": None}


def test_a_report_that_cannot_be_written_is_named_and_all_else_is_there(finished: RunFolder, tmp_path: Path) -> None:
    folder = before("evaluate", finished, tmp_path / "run")
    (folder.path / "report.html").mkdir()
    with pytest.raises(InfraError, match=rf"{folder.path}/report.html cannot be written: Is a directory"):
        run_to_the_end(config_for(folder.path))
    assert summary(folder) | {"seconds": None} == summary(finished) | {"seconds": None}
    assert folder.seconds("evaluate") is not None


class Restarted:
    """A worker group that dies in its third step, goes on from a checkpoint after the first, and finishes."""

    def __init__(self, folder: Path) -> None:
        lines = [json.dumps({"step": step, "loss/sft": [step, 1.0]}) + "\n" for step in range(4)]
        self.folder = folder
        self.written = iter([lines[:2], lines[:1], lines[:1], lines[:3], lines])

    def result(self, timeout: float | None = None) -> None:
        lines = next(self.written, None)
        if lines is None:
            write_json(self.folder / "finished.json", {"seconds": 1.0})
        else:
            (self.folder / "metrics.jsonl").write_text("".join(lines))


def test_steps_that_a_worker_group_does_again_are_recorded_once(finished: RunFolder, tmp_path: Path) -> None:
    folder = before("sft_policy", finished, tmp_path / "run")
    config = config_for(folder.path)
    tracker = Tracker(folder.path, config.tracking, {})
    context = RunContext(config, folder, deployment(config)(folder), tracker)
    item = supervised.pair_job(context, "sft_policy")
    supervised.follow(context, item, Restarted(item.folder))
    assert [record["step"] for record in read_metrics(folder.path)] == [0, 1, 2, 3]
