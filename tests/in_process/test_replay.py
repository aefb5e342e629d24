"""Runs that stop themselves, and steps that are run again beside the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from actors.cli import app
from pit_ray import driver
from pit_ray.config.tree import Config
from pit_ray.errors import ConfigError, DataError, TrainingError
from pit_ray.in_process import InProcess, TorchRollout, TorchScorer
from pit_ray.records import Rollouts, Scores
from pit_ray.replay import replay
from pit_ray.roles import Ref, Resolved
from pit_ray.run_folder import RunFolder
from pit_ray.stages.stop import read_stop
from pit_ray.tracking import read_metrics
from tests.in_process.small_run import (
    CAUSAL,
    PER_STEP,
    REWARDS,
    config_for,
    deployment,
)


class PoisonedScorer(TorchScorer):
    """A reward model that gives one response of its second step no number."""

    calls = 0

    def score(self, rollouts: Ref[Rollouts]) -> Resolved[Scores]:
        scores = super().score(rollouts).result()
        self.calls += 1
        if self.calls == 2:
            scores.score[3] = np.nan
        return Resolved(scores)


class Poisoned(InProcess):
    """A deployment with that scorer."""

    def reward(self) -> TorchScorer:
        return self._once("reward", lambda: PoisonedScorer(self.config, self.store))


class ForgetfulRollout(TorchRollout):
    """Takes the first weights that it is sent and no more."""

    def sync(self, weights: Ref[Any], version: int) -> Resolved[None]:
        return super().sync(weights, version) if version == 0 else Resolved(None)


class Forgetful(InProcess):
    """A deployment with those rollout workers."""

    def rollout(self) -> TorchRollout:
        return self._once("rollout", lambda: ForgetfulRollout(self.base(), self.eos(), self.store))


def stamps(run: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder of a run, and what stands beside it, with size and time of change."""
    found = {str(path): path.lstat() for path in [*run.parent.iterdir(), *run.rglob("*")]}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def replayed(config: Config, stage: str, step: int) -> bool:
    """Replays with sound roles; the run must stay as it is."""
    before = stamps(Path(config.run))
    same = replay(config, RunFolder(config.run), stage, step, deployment(config))
    assert stamps(Path(config.run)) == before
    return same


def test_a_step_that_is_replayed_comes_out_as_recorded(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    # From a checkpoint inside a phase of own drafts.
    assert replayed(config_for(finished.path), "ppo_improver", 6)
    assert "ppo_improver, step 6: all 2" in capsys.readouterr().out


def test_the_command_replays_from_the_stages_start_where_no_checkpoint_is_that_early(finished: RunFolder) -> None:
    said = CliRunner().invoke(app, ["replay", str(finished.path), "1", "--stage", "ppo_policy"])
    assert (said.exit_code, said.output.count("step 1: all 2")) == (0, 1), said.output


def test_a_record_that_does_not_fit_is_shown(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.path, tmp_path / "copy")
    records = read_metrics(finished.path)
    for record in records:
        if (record["stage"], record["step"]) == ("ppo_policy", 0):
            record["objective/score"] += 1
    (tmp_path / "copy" / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert not replayed(config_for(tmp_path / "copy"), "ppo_policy", 0)
    said = capsys.readouterr().out
    assert "step 0: 1 of" in said and "objective/score" in said


def test_only_recorded_steps_of_ppo_can_be_replayed(finished: RunFolder, tmp_path: Path) -> None:
    config = config_for(finished.path)
    with pytest.raises(DataError, match=r"no record of step 7 of ppo_improver; recorded are 0 to 6"):
        replayed(config, "ppo_improver", 7)
    with pytest.raises(ConfigError, match=r"--stage reward: .* ppo_policy and ppo_improver"):
        replayed(config, "reward", 0)
    (tmp_path / "new").mkdir()
    with pytest.raises(DataError, match="ppo_policy has no record"):
        replayed(config_for(tmp_path / "new"), "ppo_policy", 0)


def policy_run(finished: RunFolder, run: Path, **ppo: Any) -> Config:
    """A run that tunes the policy alone, from finished models, with some settings changed."""
    given = {stage: str(finished.model(stage)) for stage in (*REWARDS, *CAUSAL) if stage != "ppo_policy"}
    plain = config_for(run, ready=given).model_dump()
    return Config.model_validate(plain | {"ppo_policy": plain["ppo_policy"] | ppo})


def test_a_step_that_fails_is_saved_and_fails_again_in_its_replay(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = policy_run(finished, tmp_path / "poisoned", checkpoint_every=1)
    folder = RunFolder(config.run)
    said = (
        r"ppo_policy, step 1: the loss is not finite.*good checkpoint: .*step-000001-0; .*pit-ray replay .* 1 --stage"
    )
    with pytest.raises(TrainingError, match=said):
        driver.train(config, deployment(config, Poisoned))
    assert [record["step"] for record in read_metrics(folder.path)] == [0]
    stage = folder.stage("ppo_policy")
    assert [path.name for path in (stage / "checkpoints").glob("step-*")] == ["step-000001-0"]
    found = read_stop(stage, 1)
    assert found is not None
    assert np.isnan(found[0].scores.score).tolist() == [i == 3 for i in range(PER_STEP)]
    assert found[0].rollouts.version == 1
    recorded = pq.read_table(folder.path / "rollouts" / "ppo_policy" / "step-000001")
    assert [row.tolist() for row in found[0].rollouts.response.rows()] == recorded["response_ids"].to_pylist()
    # These roles score every response, so that the fault can only come from what was saved.
    assert replayed(config, "ppo_policy", 1)
    assert "step 1 stops the run: the loss is not finite" in capsys.readouterr().out
    # What went before is sound, and so is the run once its scores are.
    assert replayed(config, "ppo_policy", 0)
    driver.train(config, deployment(config))
    assert folder.seconds("ppo_policy") is not None


def test_a_policy_that_left_its_reference_is_stopped_before_it_is_kept(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = policy_run(finished, tmp_path / "far", token_kl_limit=0.1, checkpoint_every=1)
    # The checkpoint of step 1 holds what was found wanting in that step.
    said = r"ppo_policy, step 1: the policy has left its reference: KL .* token_kl_limit 0\.1; .*good checkpoint: none"
    with pytest.raises(TrainingError, match=said):
        driver.train(config, deployment(config))
    assert replayed(config, "ppo_policy", 1)
    said = capsys.readouterr().out
    assert "stops the run: the policy has left its reference" in said and "values as recorded" in said


def test_a_policy_that_has_become_too_sure_is_stopped(finished: RunFolder, tmp_path: Path) -> None:
    # One step at this rate leaves large weights, and so a policy that is sure of whatever it says.
    leap = {"lr": 0.5, "warmup_steps": 0}
    config = policy_run(finished, tmp_path / "sure", entropy_floor=0.9, token_kl_limit=None, optimizer=leap)
    with pytest.raises(TrainingError, match="ppo_policy, step 1: the policy's entropy has collapsed"):
        driver.train(config, deployment(config))


def test_a_sync_that_did_not_happen_stops_the_run(finished: RunFolder, tmp_path: Path) -> None:
    config = policy_run(finished, tmp_path / "forgetful")
    with pytest.raises(TrainingError, match=r"rollout/0 and the learner disagree .* policy version 1: .*stale weights"):
        driver.train(config, deployment(config, Forgetful))
    assert read_metrics(RunFolder(config.run).path) == []
