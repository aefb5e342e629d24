"""Killed on the real engines and started again, a run ends as the undisturbed one did, to the bit; nothing is left."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from tests.actors.prometheus import PROGRAM, Prometheus, dashboard_queries, prometheus
from tests.disturbed import Disturbed, before, differences, lives

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_driver_and_learner_rank(recipe: Path, undisturbed: Path, tmp_path: Path) -> None:
    before("ppo_policy", undisturbed, tmp_path / "run")
    run = Disturbed(recipe, tmp_path / "run", "actors.faults.infrastructure=0")
    run.start()
    run.wait_for("ppo_policy   policy      1/")
    old = {*run.recorded(), *run.victims("learner"), *run.victims("rollout")}
    run.driver.kill()
    assert run.end() == -signal.SIGKILL

    run.start()
    run.wait_for("ppo_improver annotated   1/")
    assert not [process for process in old if lives(process)], "an orphan of the killed driver was let live"
    run.victims("learner")[-1].kill()
    left = run.recorded()
    assert run.end() == 1
    assert re.search(r"^error: .*\blearner/\d died: ", run.said, re.MULTILINE) and "Traceback" not in run.said
    assert not [process for process in left if lives(process)]

    run.start()
    assert run.end() == 0, run.said[-4000:]
    assert differences(run.run, undisturbed) == []


@pytest.fixture
def watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prometheus | None]:
    """A Prometheus, where this machine has one, and a temporary folder of Ray's own: the targets that Ray names there
    are those of the newest Ray that uses it."""
    # Of reports every second, with other tests beside this one, one was lost on the way, and with it an increment.
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "3000")
    if PROGRAM is None:
        yield None
        return
    with TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # short, for the paths of Ray's sockets
        monkeypatch.setenv("RAY_TMPDIR", folder)
        with prometheus(tmp_path) as started:
            yield started


def test_a_run_mends_itself_and_the_dashboard_shows_it(
    recipe: Path, undisturbed: Path, tmp_path: Path, watching: Prometheus | None
) -> None:
    before("ppo_policy", undisturbed, tmp_path / "run")
    run = Disturbed(recipe, tmp_path / "run")
    run.start()
    run.wait_for("ppo_policy   policy      1/")
    run.victims("rollout")[0].kill()
    run.wait_for("replaced rollout/")
    run.wait_for("ppo_improver annotated   1/")
    run.victims("learner")[-1].kill()
    run.wait_for("ppo_improver: goes on from the last checkpoint")
    run.wait_for("ppo_improver on_policy   4/")
    run.victims("reward")[0].kill()
    assert run.end() == 0, run.said[-4000:]
    assert "replaced reward/0 in " in run.said
    assert differences(run.run, undisturbed) == []
    if watching is None:
        pytest.skip("the dashboard's queries need prometheus")
    silent = {title for title, query in dashboard_queries("run").items() if not watching.series(query)}
    assert silent <= {"GPU of each node"}
    assert {series["metric"]["role"] for series in watching.series("ray_pit_ray_restarts_total")} == {
        "rollout", "reward", "learner",
    }  # fmt: skip
    (lag,) = {float(value) for series in watching.series("ray_pit_ray_policy_lag") for _, value in series["values"]}
    assert lag == 0


def test_ctrl_c_ends_a_supervised_stage_and_all_its_processes(recipe: Path, undisturbed: Path, tmp_path: Path) -> None:
    before("reward", undisturbed, tmp_path / "run")
    run = Disturbed(recipe, tmp_path / "run")
    run.start()
    while not run.victims("worker"):
        assert run.look(), run.said[-4000:]
    family = {*run.recorded(), *psutil.Process(run.driver.pid).children(recursive=True)}
    os.killpg(run.driver.pid, signal.SIGINT)  # a terminal sends it to all processes in the foreground
    assert run.end() == 128 + signal.SIGINT
    assert run.said.splitlines()[-1] == "interrupted; the same command goes on where this one stopped"
    assert "Traceback" not in run.said
    assert not [process for process in family if lives(process)]
