"""`ray up clusters/a100.yaml` where hosts stand in for the instances of a simulated Amazon: the head is launched, a
submitted run waits for the GPU node that the autoscaler launches for it, and `ray down` ends both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.actors.cluster.amazon import Amazon, amazon
from tests.actors.cluster.conftest import ROOT
from tests.actors.cluster.hosts import HOME, SHARED, missing, network
from tests.actors.cluster.operator import PULL, PUSH, Cluster, install, s3
from tests.disturbed import before, differences

LACKING = missing()
pytestmark = [
    pytest.mark.cluster, pytest.mark.timeout(1500), pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]  # fmt: skip


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[tuple[Cluster, Amazon]]:
    """The shipped file with the account's values filled in, and where a VPN takes the operator there."""
    with network(tmp_path) as hosts:
        operator = hosts.boot("10.77.0.1")
        install(operator, "gpu")
        with amazon(hosts, operator) as account:
            text = (ROOT / "clusters" / "a100.yaml").read_text()
            for name, value in account.values.items():
                (line,) = (line for line in text.splitlines() if f"&{name} " in line)
                text = text.replace(line, f"{line.split('&')[0]}&{name} {value}")
            text = text.replace("  ssh_proxy_command: ssh -W %h:%p ubuntu@BASTION_FILL_IN\n", "")
            (operator.home / "a100.yaml").write_text(text)
            cluster = Cluster(operator, HOME / "a100.yaml")
            said = cluster.python("-m", "actors.cli", "cluster", "check", str(cluster.file))
            assert "nothing wrong found" in said
            try:
                yield cluster, account
            finally:
                cluster.close()


def test_a_run_brings_its_gpu_node_and_ray_down_ends_all(
    launched: tuple[Cluster, Amazon], recipe: Path, undisturbed: Path
) -> None:
    cluster, account = launched
    run = s3(cluster.operator, "a100")
    before("ppo_improver", undisturbed, cluster.shared / "seed")
    cluster.python("-c", PUSH, run, str(SHARED / "seed"))
    (cluster.shared / "recipe.yaml").write_text(recipe.read_text())
    cluster.up(nodes=1)
    assert account.kinds == ["m6i.4xlarge"]

    job = cluster.submit(
        str(SHARED / "recipe.yaml"), f"run={run}", "actors.learner.cpus=20", "actors.rollout.cpus=10",
        "actors.placement_deadline=300",
    )  # fmt: skip
    job.wait_for("waiting for room: needs ")
    said = job.end()
    assert "report: " in said and account.kinds == ["m6i.4xlarge", "p4d.24xlarge"]
    cluster.python("-c", PULL, run, str(SHARED / "copy"))
    assert differences(cluster.shared / "copy", undisturbed) == []

    cluster.down()
    deadline = time.monotonic() + 60
    while account.hosts:
        assert time.monotonic() < deadline, account.hosts
        time.sleep(0.5)
    assert account.failure is None
