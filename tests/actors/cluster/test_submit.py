"""`pit-ray submit` against a real head with a token: runs that end well, go on, fail, and what is refused before."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
import ray

from tests.actors.cluster.conftest import ROOT
from tests.actors.cluster.head import Head, head

pytestmark = pytest.mark.slow

RECIPE = """
data: {source: "world:notes", pairs: 150, held_out: 12, validation: 8,
       lengths: {prompt: {max_tokens: 80}, draft: {max_tokens: 150}, response: {max_tokens: 150}}}
model:
  from_scratch: {vocab_size: 400, hidden_size: 32, layers: 1, heads: 2, intermediate_size: 48,
                 max_position_embeddings: 512}
  improve_instruction: improve
sampling: {max_new_tokens: 10}
sft: {batch_size: 8, epochs: 0.5}
reward: {batch_size: 8, epochs: 0.5}
gap_reward: {batch_size: 8, epochs: 0.5}
ppo_policy: {phases: [{name: policy, drafts: none, steps: 2}], rollouts_per_step: 8}
ppo_improver: {phases: [{name: annotated, drafts: annotated, steps: 2}], rollouts_per_step: 8, checkpoint_every: 1}
evaluation: {iterations: 1, bootstrap: 50, examples: 3}
actors: {deployment: in_process}
tracking: {wandb: false}
"""
"""Every stage, in the driver's own process: what is tested here is the way to it and back."""
LONG = RECIPE.replace("drafts: annotated, steps: 2", "drafts: annotated, steps: 5000")
RAYS_PATIENCE = 3.0
"""Seconds that Ray by default gives a job that it has told to stop."""
TORN = re.compile(r"\s+")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with head(tmp_path_factory.mktemp("head"), extra={"RAY_enable_autoscaler_v2": "1"}) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The user's working folder: two recipes, and a link to pit-ray's source."""
    for name in ("pit_ray", "actors", "requirements", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    (tmp_path / "long.yaml").write_text(LONG)
    return tmp_path


def command(cluster: Head, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "actors.cli", "submit", "--address", cluster.address, *arguments]


def submit(cluster: Head, folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and output of the command, its words on one line."""
    done = subprocess.run(
        command(cluster, *arguments), cwd=folder, env=cluster.environment | environment, capture_output=True, text=True,
        timeout=500,
    )  # fmt: skip
    return done.returncode, TORN.sub(" ", done.stdout + done.stderr)


def test_a_job_runs_to_its_report_and_the_same_command_resumes_it(cluster: Head, folder: Path) -> None:
    run = folder / "run"
    code, said = submit(cluster, folder, "mine.yaml", f"run={run}")
    assert code == 0, said
    assert re.search(r"to upload: \d\.\d MiB in \d+ files: .*cluster at http://\S+: 1 nodes, 4 CPUs, 0 GPUs ", said)
    assert re.search(r"job raysubmit_\w+: mine\.yaml in /", said)
    assert "ppo_improver" in said and "improver vs policy" in said and (run / "report.html").is_file()
    assert "it/s]" not in said, "a progress bar in the log"
    assert f'"commit": "{_commit()}' in (run / "environment.json").read_text()
    code, said = submit(cluster, folder, "mine.yaml", f"run={run}")
    assert code == 0 and f"resuming {run}" in said and "improver vs policy" in said


def test_the_drivers_own_exit_code_comes_back(cluster: Head, folder: Path) -> None:
    run = folder / "run"
    (run / "stages").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 77\n")
    code, said = submit(cluster, folder, "mine.yaml", f"run={run}")
    assert code == 2 and "holds a run with another configuration" in said, said


def test_a_second_job_on_a_run_is_refused_and_ctrl_c_asks_whether_to_stop_the_first(
    cluster: Head, folder: Path
) -> None:
    run = folder / "run"
    ours, theirs = pty.openpty()
    first = subprocess.Popen(
        command(cluster, "long.yaml", f"run={run}"), cwd=folder, env=cluster.environment, stdin=theirs, stdout=theirs,
        stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    _read_until(ours, "3/5000")
    code, said = submit(cluster, folder, "long.yaml", f"run={run}")
    assert code == 2 and re.search(rf"run={run} is being worked on by job raysubmit_\w+; follow it with", said), said
    first.send_signal(signal.SIGINT)
    _read_until(ours, "Stop the job?")
    driver = psutil.Process(json.loads((run / "status.json").read_text())["driver"]["pid"])
    driver.suspend()  # like one that has much to write
    os.write(ours, b"y\n")
    _read_until(ours, "the same command resumes the run")
    assert first.wait(60) == 130
    time.sleep(2 * RAYS_PATIENCE)
    driver.resume()
    newest = _newest(run)  # the stopped driver writes a checkpoint in its time
    assert newest >= 3
    os.close(ours)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine.yaml", "run=runs/here"], "on a cluster a relative folder lies in the job's temporary one"),
        (
            ["mine.yaml", "run=/tmp/x", "actors.rollout.workers=20"],
            "do not fit: needs .* the cluster with its 1",
        ),
        (["mine.yaml", "run=/tmp/x", "actors.learner.gpus=1"], "needs 1 GPUs, the cluster with its 1 nodes has 0"),
        (["mine.yaml", "run=ftp://x/y"], "'ftp://' is no storage"),
        (["my.yaml", "run=/tmp/x"], r"my\.yaml"),
        (["mine.yaml", "run=/tmp/x", "--include", "big.bin"], r"takes 100\.0 MiB\. The largest: big\.bin 101\.0 MiB"),
    ],
)
def test_what_would_fail_is_refused_before_it_is_sent(
    cluster: Head, folder: Path, arguments: list[str], said: str
) -> None:
    (folder / "big.bin").touch()
    os.truncate(folder / "big.bin", 101 * 2**20)
    code, output = submit(cluster, folder, *arguments)
    assert code == 2 and re.search(said, output), output
    assert "job raysubmit" not in output


def test_a_job_whose_run_would_go_with_it_is_refused(cluster: Head, folder: Path) -> None:
    ray_job = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.address]
    train = ["--working-dir", str(folder), "--", "python", "-m", "actors.cli", "train", "mine.yaml"]
    done = subprocess.run([*ray_job, *train], env=cluster.environment, capture_output=True, text=True, timeout=200)
    said = TORN.sub(" ", done.stdout + done.stderr)
    assert done.returncode == 1 and "run=runs/mine: on a cluster a relative folder lies in the job" in said, said


def test_a_wrong_token_and_a_missing_one_are_told(cluster: Head, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("b" * 64)
    code, said = submit(cluster, folder, "mine.yaml", "run=/tmp/x", RAY_AUTH_TOKEN_PATH=str(tmp_path / "wrong"))
    assert code == 2 and "refuses the token: export RAY_AUTH_MODE=token" in said, said
    code, said = submit(cluster, folder, "mine.yaml", "run=/tmp/x", RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN_PATH="")
    assert code == 2 and "Missing authentication token" in said, said


def test_without_a_word_on_tokens_nothing_is_asked(cluster: Head, folder: Path) -> None:
    code, said = submit(cluster, folder, "mine.yaml", "run=/tmp/x", RAY_AUTH_MODE="")
    assert code == 2 and "RAY_AUTH_MODE is not set" in said and "to upload" not in said, said


def test_nobody_at_the_address(cluster: Head, folder: Path) -> None:
    nobody = Head("http://127.0.0.1:9", cluster.environment)
    code, said = submit(nobody, folder, "mine.yaml", "run=/tmp/x")
    assert code == 1 and "no cluster answers at http://127.0.0.1:9; open the way with `ray dashboard" in said, said


def test_a_cluster_that_cannot_grow_to_the_plan_says_so(cluster: Head, folder: Path) -> None:
    placed = ["actors.deployment=ray", "actors.address=auto", "model.from_scratch.heads=1", "actors.rollout.workers=20"]
    code, said = submit(cluster, folder, "mine.yaml", f"run={folder / 'run'}", "--grow", *placed)
    assert code == 2 and re.search(r"needs [\d.]+ CPUs, the cluster, to which no machine can be added, has 4", said), (
        said
    )


def test_a_cluster_of_another_ray_is_refused(cluster: Head, folder: Path) -> None:
    class Older(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"version": "4", "ray_version": "2.9.0", "ray_commit": "x"}).encode())

    with HTTPServer(("127.0.0.1", 0), Older) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        older = Head(f"http://127.0.0.1:{server.server_port}", cluster.environment)
        code, said = submit(older, folder, "mine.yaml", "run=/tmp/x")
        server.shutdown()
    assert code == 2 and f"runs Ray 2.9.0, this machine Ray {ray.__version__}; both take theirs from" in said, said


def _commit() -> str:
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()


def _read_until(terminal: int, text: str, seconds: float = 200) -> str:
    seen, deadline = "", time.monotonic() + seconds
    while text not in seen:
        assert time.monotonic() < deadline, seen[-3000:]
        if select.select([terminal], [], [], 1.0)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
    return seen


def _newest(run: Path, seconds: float = 60) -> int:
    """The step of the last checkpoint, once the driver has gone."""
    deadline = time.monotonic() + seconds
    while '"state": "running"' in (run / "status.json").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return max(int(path.name.split("-")[1]) for path in run.glob("stages/*ppo_improver/checkpoints/step-*"))
