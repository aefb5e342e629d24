"""`ray up clusters/onprem.yaml` on three hosts and training runs as jobs: a host cut off, the head without power."""

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
from tests.disturbed import before, differences

LACKING = missing()
pytestmark = [
    pytest.mark.cluster, pytest.mark.timeout(2400), pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]  # fmt: skip

ROOT = Path(__file__).parents[3]
ENVIRONMENT = HOME / "pit-ray-env"
PYTHON = str(ENVIRONMENT / "bin" / "python")
FILE = str(HOME / "onprem.yaml")
DASHBOARD = "http://127.0.0.1:8265"
SPREAD = ("actors.learner.cpus=1.2", "actors.rollout.cpus=0.8", "tracking.wandb=false")
"""On hosts of two CPUs each: a learner and a rollout worker on each of two, all others on the third."""
S3_PORT = 5000
AWS = {
    "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true",
    "PIT_RAY_MIRROR": str(HOME / "mirror"),
}  # fmt: skip


class Cluster:
    """The hosts, and what an operator does with them."""

    def __init__(self, operator: Host, head: Host, workers: list[Host]) -> None:
        self.operator, self.head, self.workers = operator, head, workers
        self.shared = operator.home.parents[1] / "shared"
        self._tunnel: subprocess.Popen | None = None

    def python(self, *arguments: str, seconds: float = 300, **environment: str) -> str:
        """What a Python of the operator says, from the checkout."""
        return self.operator.run([PYTHON, *arguments], ROOT, seconds, PYTHONPATH=str(ROOT), **environment)

    def ray(self, *arguments: str, seconds: float = 300, **environment: str) -> str:
        return self.python("-m", "ray.scripts.scripts", *arguments, seconds=seconds, **environment)

    def up(self) -> None:
        """`ray up`, and the way in to the dashboard; returns when all are there."""
        self.ray("up", "-y", FILE, RAY_UP_enable_autoscaler_v2="0")
        self.close_tunnel()
        ssh = ["ssh", "-N", "-o", "StrictHostKeyChecking=no", "-L", "8265:127.0.0.1:8265"]
        way_in = [*ssh, f"root@{self.head.address}"]
        self._tunnel = subprocess.Popen(self.operator.command(way_in, ROOT))
        deadline = time.monotonic() + 240
        while (alive := self._alive()) != 1 + len(self.workers):
            assert time.monotonic() < deadline, f"{alive} nodes"
            time.sleep(2)

    def down(self) -> None:
        self.ray("down", "-y", FILE, RAY_UP_enable_autoscaler_v2="0")
        self.close_tunnel()

    def close_tunnel(self) -> None:
        if self._tunnel is not None:
            self._tunnel.kill()
            self._tunnel.wait()

    def _alive(self) -> int:
        try:
            said = self._job("list", "nodes", "--format", "json")
        except AssertionError:  # the tunnel, or what is behind it, is not there yet
            return 0
        nodes = json.loads(said[said.index("[") :])
        return sum(node["state"] == "ALIVE" for node in nodes)

    def _job(self, command: str, *arguments: str) -> str:
        return self.ray(command, arguments[0], "--address", DASHBOARD, *arguments[1:], RAY_AUTH_MODE="token")

    def submit(self, run: str, **environment: str) -> str:
        """The plain form; the job's id."""
        said = self._job(
            "job", "submit", "--no-wait", "--working-dir", ".",
            "--runtime-env-json", json.dumps({"env_vars": environment}), "--",
            "pit-ray", "train", str(SHARED / "recipe.yaml"), f"run={run}", "actors.address=auto", *SPREAD,
        )  # fmt: skip
        found = re.search(r"raysubmit_\w+", said)
        assert found, said
        return found[0]

    def log(self, job: str, text: str, seconds: float = 900) -> str:
        """The job's log, once it says so."""
        deadline = time.monotonic() + seconds
        while text not in (said := self._job("job", "logs", job)):
            assert time.monotonic() < deadline and "failed" not in self._job("job", "status", job), said[-6000:]
            time.sleep(2)
        return said


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Iterator[Cluster]:
    """The shipped file with addresses and login filled in, started on three hosts by an operator on a fourth; the
    packages are in place, so that none is fetched."""
    with hosts(tmp_path_factory.mktemp("hosts"), 4) as made:
        for host in made:
            install(host)
        operator, head, *workers = made
        started = Cluster(operator, head, workers)
        fill_in(operator, head, workers)
        shutil.copy(recipe, started.shared / "recipe.yaml")
        started.ray("get-auth-token", "--generate")
        assert "nothing wrong found" in started.python("-m", "actors.cli", "cluster", "check", FILE)
        started.up()
        yield started
        started.down()
        for host in (head, *workers):
            quiet(host)


def quiet(host: Host, seconds: float = 180) -> None:
    """Returns when nothing of Ray is left on a host; a worker's raylet ends once it has missed its head for a while."""
    deadline = time.monotonic() + seconds
    while "raylet" in (running := host.run(["ps", "-A", "-o", "comm"], ROOT)):
        assert time.monotonic() < deadline, f"{host.name}: {running}"
        time.sleep(2)


def install(host: Host) -> None:
    """An environment as clusters/setup-node.sh would make it, whose packages are the ones that run this test."""
    here = host.home / ENVIRONMENT.relative_to(HOME)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", here], check=True)
    libraries = next(here.glob("lib/python*/site-packages"))
    (libraries / "packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (here / "bin" / "ray").write_text(
        f"#!{PYTHON}\nimport sys\nfrom ray.scripts.scripts import main\nsys.exit(main())\n"
    )
    (here / "bin" / "pip").write_text(f'#!/bin/sh\nexec {PYTHON} -m pip "$@"\n')
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


def test_a_host_is_cut_off_and_comes_back(cluster: Cluster, undisturbed: Path) -> None:
    before("gap_reward", undisturbed, cluster.shared / "run")
    job = cluster.submit(str(SHARED / "run"))
    standing = at_work(cluster.shared / "run")
    cut_off = next(host for host in cluster.workers if host.name in (standing["learner/0"], standing["learner/1"]))
    cut_off.link("down")
    cluster.log(job, "waiting for learner/")
    cut_off.link("up")
    said = cluster.log(job, "report: ")
    assert re.search(r"ppo_\w+: goes on from the last checkpoint", said)
    assert differences(cluster.shared / "run", undisturbed) == []


def test_the_head_loses_power_and_its_disk_and_the_run_goes_on_from_s3(cluster: Cluster, undisturbed: Path) -> None:
    run = f"s3://runs/hosts?endpoint_override={cluster.operator.address}:{S3_PORT}&scheme=http&region=us-east-1"
    serve = f"from moto.server import main; main(['-H', '0.0.0.0', '-p', '{S3_PORT}'])"
    server = subprocess.Popen(
        cluster.operator.command([PYTHON, "-c", serve], ROOT), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        before("ppo_policy", undisturbed, cluster.shared / "seed")
        cluster.python("-c", PUSH, run, str(SHARED / "seed"), **AWS)
        job = cluster.submit(run, **AWS)
        cluster.log(job, "ppo_policy   policy      3/3")
        cluster.head.run(["bash", "-c", POWER_OFF], ROOT)
        shutil.rmtree(cluster.head.home / "mirror")
        cluster.up()
        cluster.log(cluster.submit(run, **AWS), "report: ")
        cluster.python("-c", PULL, run, str(SHARED / "copy"), **AWS)
    finally:
        server.kill()
        server.wait()
    assert differences(cluster.shared / "copy", undisturbed) == []


POWER_OFF = "kill -9 $(ps -A -o pid=,args= | awk '$1 > 1 && !/sshd|bash|awk|ps -A/ { print $1 }'); true"
PUSH = f"""
import shutil, sys, time, boto3
from pit_ray.store import store_of
client = boto3.client("s3", endpoint_url="http://127.0.0.1:{S3_PORT}", region_name="us-east-1")
for attempt in range(60):
    try:
        client.create_bucket(Bucket="runs")
        break
    except Exception:
        time.sleep(0.5)
store = store_of(sys.argv[1])
shutil.copytree(sys.argv[2], store.root)
store.push(store.root)
"""
PULL = """
import shutil, sys
from pit_ray.store import store_of
store = store_of(sys.argv[1])
store.pull(store.root)
shutil.copytree(store.root, sys.argv[2])
"""


def at_work(run: Path, seconds: float = 600) -> dict[str, str]:
    """The host of each actor, once PPO has done a step."""
    deadline = time.monotonic() + seconds
    while '"ppo_policy"' not in (run / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    actors = json.loads((run / "status.json").read_text())["actors"]
    return {name: actor["node"] for name, actor in actors.items()}
