"""A run on three nodes, of which one is taken away and another comes: it ends as the undisturbed run on one did."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import ray
from ray._private.internal_api import memory_summary
from ray.cluster_utils import Cluster
from ray.util.state import list_actors

from actors.heart import Heart
from actors.plan import Bundle
from pit_ray.run_folder import RunFolder
from tests.actors.conftest import supervised
from tests.disturbed import TITLES, Disturbed, before, differences, recovery, tell_cost

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SPREAD = ("actors.address=auto", "actors.learner.cpus=0.6", "actors.rollout.cpus=0.4", "actors.placement_deadline=120")
"""On nodes of one CPU each: a learner and a rollout worker on each of two, all others on the third."""
HEAD = {"num_cpus": 1, "dashboard_port": None, "dashboard_agent_listen_port": None}
"""A first node whose ports are searched for: the usual ones may be another Ray's, of a test that runs beside."""
BIG = 24 * 2**20
"""Bytes of one array; the object store holds four."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    nodes = Cluster(initialize_head=True, head_node_args=HEAD | {"include_dashboard": True})
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    yield nodes
    nodes.shutdown()


def where(cluster: Cluster) -> dict[str, str]:
    """The node of each living actor of a run."""
    found = list_actors(address=cluster.address, filters=[("state", "=", "ALIVE")], limit=1000)
    return {actor.name: actor.node_id for actor in found if "/" in (actor.name or "")}


def test_a_node_lost_and_another_come(recipe: Path, undisturbed: Path, tmp_path: Path, cluster: Cluster) -> None:
    before("ppo_policy", undisturbed, tmp_path / "run")
    run = Disturbed(recipe, tmp_path / "run", *SPREAD, address=cluster.address)
    run.start()
    run.wait_for("ppo_policy   policy      1/")
    standing = where(cluster)
    assert standing["learner/0"] != standing["learner/1"]
    assert standing["rollout/0"] != standing["rollout/1"]
    head = cluster.head_node.node_id
    lost = next(
        node
        for node in cluster.list_all_nodes()
        if node.node_id in (standing["learner/0"], standing["learner/1"]) and node.node_id != head
    )
    struck = time.time()
    cluster.remove_node(lost, allow_graceful=False)
    run.wait_for("waiting for ")
    cluster.add_node(num_cpus=1)
    assert run.end() == 0, run.said[-4000:]
    assert "goes on from the last checkpoint" in run.said
    assert differences(run.run, undisturbed) == []
    how = "a raylet of three killed with all on it; another node joins once the run waits for it"
    tell_cost("a node is lost for good", how, recovery(run.run, struck))
    for stage in ("ppo_policy", "ppo_improver"):
        for step in sorted((run.run / "rollouts" / stage).iterdir()):
            assert [file.name for file in sorted(step.iterdir())] == ["shard-00.parquet", "shard-01.parquet"]
            uids = pq.read_table(step, columns=["uid"])["uid"].to_pylist()
            assert len(uids) == len(set(uids)) == 16


def test_nodes_lost_in_a_supervised_stage(recipe: Path, undisturbed: Path, tmp_path: Path, cluster: Cluster) -> None:
    before("gap_reward", undisturbed, tmp_path / "run")
    run = Disturbed(recipe, tmp_path / "run", *SPREAD, address=cluster.address)
    run.start()
    run.wait_for("gap_reward: 4 steps")
    workers = [
        process
        for process in psutil.Process().children(recursive=True)
        if re.match(TITLES["worker"], " ".join(process.cmdline()))
    ]
    run.wait_for("gap_reward               1/")
    for worker in workers:  # a raylet takes longer to die than the last steps do
        worker.kill()
    for node in [node for node in cluster.list_all_nodes() if node != cluster.head_node]:
        cluster.remove_node(node, allow_graceful=False)
    run.wait_for("waiting for room: needs 1.2 CPUs, Ray has 1")
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    run.wait_for("ppo_policy   policy      1/")
    run.driver.terminate()
    run.end()
    ours, theirs = (RunFolder(path).model("gap_reward") / "model.safetensors" for path in (run.run, undisturbed))
    assert ours.read_bytes() == theirs.read_bytes()


@ray.remote(num_cpus=0)
class Maker:
    """Makes and sums arrays that are large for the object store below."""

    def __init__(self, bundle: Bundle) -> None:
        self.heart = Heart(bundle.name)

    def ready(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def make(self, value: int) -> np.ndarray:
        return np.full(BIG // 4, value, dtype=np.int32)

    def total(self, *arrays: np.ndarray) -> int:
        return sum(int(array.sum(dtype=np.int64)) for array in arrays)


def test_what_the_object_store_cannot_hold_goes_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    node = Cluster(initialize_head=True, head_node_args=HEAD | {"object_store_memory": 4 * BIG})
    ray.init(address=node.address, namespace="pit-ray-full", log_to_driver=False)
    try:
        makers = supervised("rollout", Maker.remote, 2)
        made = [makers.share(i, "make", i) for i in range(16)]
        ref = makers.ref([makers.share(i, "total", call) for i, call in enumerate(made)], "sums", 120.0, sum)
        assert ref.result() == sum(range(16)) * (BIG // 4)
        assert "Spilled" in memory_summary(node.address, stats_only=True)
    finally:
        ray.shutdown()
        node.shutdown()
