"""`ray up clusters/onprem.yaml` on three hosts, a training run as a job, a host cut off and back, `ray down`."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.actors.cluster.hosts import HOME, SHARED, Host, hosts, missing
from tests.actors.test_kills import before
from tests.disturbed import differences

pytestmark = [
    pytest.mark.cluster, pytest.mark.timeout(2400), pytest.mark.skipif(missing() is not None, reason=str(missing())),
]  # fmt: skip

ROOT = Path(__file__).parents[3]
ENVIRONMENT = HOME / "pit-ray-env"
DASHBOARD = "http://127.0.0.1:8265"
TOKEN = {"RAY_AUTH_MODE": "token"}
SPREAD = ("actors.learner.cpus=1.2", "actors.rollout.cpus=0.8", "tracking.wandb=false")
"""On hosts of two CPUs each: a learner and a rollout worker on each of two, all others on the third."""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    """An operator's machine and three to be a cluster, with the packages in place so that none is fetched."""
    with hosts(tmp_path_factory.mktemp("hosts"), 4) as made:
        for host in made:
            install(host)
        yield made


def install(host: Host) -> None:
    """An environment as clusters/setup-node.sh would make it, whose packages are the ones that run this test."""
    here = host.home / ENVIRONMENT.relative_to(HOME)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", here], check=True)
    libraries = next(here.glob("lib/python*/site-packages"))
    (libraries / "packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (here / "bin" / "ray").write_text(
        f"#!{ENVIRONMENT}/bin/python\nimport sys\nfrom ray.scripts.scripts import main\nsys.exit(main())\n"
    )
    (here / "bin" / "pip").write_text(f'#!/bin/sh\nexec {ENVIRONMENT}/bin/python -m pip "$@"\n')
    for script in ("ray", "pip"):
        (here / "bin" / script).chmod(0o755)
    digest = hashlib.sha256((ROOT / "requirements" / "cpu.txt").read_bytes()).hexdigest()
    (here / "lock.sha256").write_text(f"{digest}  -\n")


def fill_in(operator: Host, head: Host, workers: list[Host]) -> None:
    """The shipped file with addresses and login, for machines without GPUs."""
    text = (ROOT / "clusters" / "onprem.yaml").read_text()
    text = text.replace("head_ip: FILL_IN", f"head_ip: {head.address}")
    text = text.replace("    - FILL_IN\n", "".join(f"    - {worker.address}\n" for worker in workers))
    text = text.replace("ssh_user: FILL_IN", "ssh_user: root").replace("setup-node.sh gpu", "setup-node.sh cpu")
    text = text.replace("node: {cpus: 96, gpus: 8, memory_gib: 1000, gpu_gib: 80}", "node: {cpus: 2, memory_gib: 8}")
    assert "FILL_IN" not in text.replace("marked FILL_IN", "")
    (operator.home / "onprem.yaml").write_text(text)


def test_a_training_run_on_three_hosts(machines: list[Host], recipe: Path, undisturbed: Path, tmp_path: Path) -> None:
    operator, head, *workers = machines
    shared = operator.home.parents[1] / "shared"
    fill_in(operator, head, workers)
    cluster = str(HOME / "onprem.yaml")

    def ray(*arguments: str, seconds: float = 300, **environment: str) -> str:
        command = [str(ENVIRONMENT / "bin" / "python"), "-m", "ray.scripts.scripts", *arguments]
        return operator.run(command, ROOT, seconds, PYTHONPATH=str(ROOT), **environment)

    ray("get-auth-token", "--generate")
    check = [str(ENVIRONMENT / "bin" / "python"), "-m", "actors.cli", "cluster", "check", cluster]
    assert "nothing wrong found" in operator.run(check, ROOT, PYTHONPATH=str(ROOT))
    ray("up", "-y", cluster, RAY_UP_enable_autoscaler_v2="0")
    tunnel = subprocess.Popen(
        operator.command(
            ["ssh", "-N", "-o", "StrictHostKeyChecking=no", "-L", "8265:127.0.0.1:8265", f"root@{head.address}"], ROOT
        )
    )
    try:
        wait_for_nodes(ray, 3)
        before("gap_reward", undisturbed, shared / "run")
        shutil.copy(recipe, shared / "recipe.yaml")
        job = submit(ray)
        standing = at_work(shared / "run")
        (cut_off,) = [host for host in workers if host.name in (standing["learner/0"], standing["learner/1"])][:1]
        cut_off.link("down")
        log_of(ray, job, "waiting for learner/")
        cut_off.link("up")
        said = log_of(ray, job, "report: ", seconds=1500)
        assert re.search(r"ppo_\w+: goes on from the last checkpoint", said)
        assert "succeeded" in ray("job", "status", "--address", DASHBOARD, job, **TOKEN)
    finally:
        tunnel.kill()
        tunnel.wait()
    assert differences(shared / "run", undisturbed) == []
    ray("down", "-y", cluster, RAY_UP_enable_autoscaler_v2="0")
    for host in (head, *workers):
        assert "raylet" not in host.run(["ps", "-A", "-o", "comm"], ROOT)


def submit(ray) -> str:
    """The plain form; the job's id."""
    said = ray(
        "job", "submit", "--address", DASHBOARD, "--no-wait", "--working-dir", ".", "--",
        "pit-ray", "train", str(SHARED / "recipe.yaml"), f"run={SHARED / 'run'}", "actors.address=auto", *SPREAD,
        **TOKEN,
    )  # fmt: skip
    return re.search(r"raysubmit_\w+", said)[0]


def wait_for_nodes(ray, count: int, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while True:
        said = ray("list", "nodes", "--address", DASHBOARD, "--format", "json", **TOKEN)
        alive = [node for node in json.loads(said[said.index("[") :]) if node["state"] == "ALIVE"]
        if len(alive) == count:
            return
        assert time.monotonic() < deadline, said
        time.sleep(2)


def at_work(run: Path, seconds: float = 600) -> dict[str, str]:
    """The host of each actor, once PPO has done a step."""
    deadline = time.monotonic() + seconds
    while '"ppo_policy"' not in (run / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    actors = json.loads((run / "status.json").read_text())["actors"]
    return {name: actor["node"] for name, actor in actors.items()}


def log_of(ray, job: str, text: str, seconds: float = 600) -> str:
    """The job's log, once it says so."""
    deadline = time.monotonic() + seconds
    while True:
        said = ray("job", "logs", "--address", DASHBOARD, job, **TOKEN)
        if text in said:
            return said
        assert time.monotonic() < deadline and "FAILED" not in said, said[-6000:]
        time.sleep(5)
