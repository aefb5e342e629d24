"""`ray up clusters/onprem.yaml` on three hosts and training runs as jobs: a host cut off, the head without power."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.actors.cluster.conftest import ROOT
from tests.actors.cluster.hosts import HOME, MIRROR, SHARED, Host, missing, network
from tests.actors.cluster.operator import AWS, PULL, PUSH, PYTHON, S3_PORT, Cluster, install, s3
from tests.disturbed import before, differences, recovery, tell_cost

LACKING = missing()
pytestmark = [
    pytest.mark.cluster, pytest.mark.timeout(2400), pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]  # fmt: skip

SPREAD = ("actors.learner.cpus=1.2", "actors.rollout.cpus=0.8")
"""On hosts of two CPUs each: a learner and a rollout worker on each of two, all others on the third."""
RECIPE = str(SHARED / "recipe.yaml")


class Machines(Cluster):
    """The cluster with its hosts: the head, and two workers."""

    def __init__(self, operator: Host, head: Host, workers: list[Host]) -> None:
        self.head, self.workers = head, workers
        super().__init__(operator, HOME / "onprem.yaml", RAY_UP_enable_autoscaler_v2="0")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Iterator[Machines]:
    """The shipped file with addresses and login filled in, started on three hosts by an operator on a fourth; the
    packages are in place, so that none is fetched."""
    with network(tmp_path_factory.mktemp("hosts")) as hosts:
        made = [hosts.boot(f"10.77.0.{number}") for number in range(1, 5)]
        for host in made:
            install(host, "cpu")
        operator, head, *workers = made
        fill_in(operator, head, workers)
        started = Machines(operator, head, workers)
        shutil.copy(recipe, started.shared / "recipe.yaml")
        assert "nothing wrong found" in started.python("-m", "actors.cli", "cluster", "check", str(started.file))
        started.up(nodes=3)
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


def fill_in(operator: Host, head: Host, workers: list[Host]) -> None:
    """The shipped file with addresses and login, for machines without GPUs."""
    text = (ROOT / "clusters" / "onprem.yaml").read_text()
    text = text.replace("head_ip: FILL_IN", f"head_ip: {head.address}")
    text = text.replace("    - FILL_IN\n", "".join(f"    - {worker.address}\n" for worker in workers))
    text = text.replace("ssh_user: FILL_IN", "ssh_user: root").replace("setup-node.sh gpu", "setup-node.sh cpu")
    text = text.replace("node: {cpus: 96, gpus: 8, memory_gib: 1000, gpu_gib: 80}", "node: {cpus: 2, memory_gib: 8}")
    assert "FILL_IN" not in text.replace("marked FILL_IN", "")
    (operator.home / "onprem.yaml").write_text(text)


def test_a_host_is_cut_off_and_comes_back(cluster: Machines, undisturbed: Path) -> None:
    run = cluster.shared / "run"
    before("ppo_policy", undisturbed, run)
    job = cluster.submit(RECIPE, f"run={SHARED / 'run'}", *SPREAD)
    job.wait_for("ppo_policy   policy      1/3")
    actors = json.loads((run / "status.json").read_text())["actors"]
    standing = {actors[name]["node"] for name in ("learner/0", "learner/1")}
    cut_off = next(host for host in cluster.workers if host.name in standing)
    struck = time.time()
    cut_off.link("down")
    job.wait_for("waiting for learner/")
    cut_off.link("up")
    assert re.search(r"ppo_\w+: goes on from the last checkpoint", job.end())
    assert differences(run, undisturbed) == []
    how = "its cable pulled, and put back once the run waits for it"
    tell_cost("a host is cut off from the others", how, recovery(run, struck))


def test_the_head_loses_power_and_the_run_goes_on_from_s3(cluster: Machines, undisturbed: Path) -> None:
    run = s3(cluster.operator, "hosts")
    environment = json.dumps({"env_vars": AWS})
    serve = f"from moto.server import main; main(['-H', '0.0.0.0', '-p', '{S3_PORT}'])"
    server = subprocess.Popen(
        cluster.operator.command([PYTHON, "-c", serve], ROOT), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        before("ppo_improver", undisturbed, cluster.shared / "seed")
        cluster.python("-c", PUSH, run, str(SHARED / "seed"), **AWS)
        cluster.submit(RECIPE, f"run={run}", *SPREAD, environment=environment).wait_for("annotated   2/5")
        struck = time.time()
        cluster.head.run(["bash", "-c", POWER_OFF], ROOT)
        cluster.head.wipe(MIRROR)
        cluster.up(nodes=3)
        said = cluster.submit(RECIPE, f"run={run}", *SPREAD, environment=environment).end()
        assert "report: " in said
        cluster.python("-c", PULL, run, str(SHARED / "copy"), **AWS)
    finally:
        server.kill()
        server.wait()
    assert differences(cluster.shared / "copy", undisturbed) == []
    how = "`kill -9` of all on it, the copy deleted; the run lies in S3; `ray up` and the same job again"
    tell_cost("the head loses power, and its copy of the run", how, recovery(cluster.shared / "copy", struck))


POWER_OFF = "kill -9 $(ps -A -o pid=,args= | awk '$1 > 1 && !/sshd|bash|awk|ps -A/ { print $1 }'); true"
