"""The shipped cluster files, filled in as a user would: nothing wrong with them, by Ray, EC2's API and our own rules;
and each thing that can be wrong with one is told with its line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from actors.cli import main
from actors.cluster.check import describe_fit, describe_nodes, read_cluster
from actors.cluster.kubernetes import quantity
from actors.memory import ModelSize
from pit_ray.config import load_config
from pit_ray.errors import ConfigError

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "clusters").glob("*.yaml"))
LLAMA_8B = ModelSize(8_030_000_000, layers=32, hidden=4096, vocabulary=128_264, intermediate=14_336)
NODES = {
    "local": [(96, 8, 80)],
    "onprem": [(96, 8, 80), (96, 8, 80)],
    "a100": [(16, 0, None), (96, 8, 40), (96, 8, 40)],
    "h100": [(16, 0, None), (192, 8, 80), (192, 8, 80)],
    "gcp-a100": [(16, 0, None), (96, 8, 80), (96, 8, 80)],
    "kuberay": [(0, 0, None), (90, 8, 80), (90, 8, 80)],
    "rayjob": [(0, 0, None), (90, 8, 80), (90, 8, 80)],
}

Fill = Callable[..., Path]


@pytest.mark.parametrize("name", NODES)
def test_a_shipped_file_is_right_once_filled_in(filled: Fill, name: str) -> None:
    nodes, faults = read_cluster(filled(name), ROOT)
    assert [fault for fault in faults if "lists under gcp" not in fault] == []  # large, and not in the lock
    assert [(node.cpus, node.gpus, node.gpu_gib) for node in nodes] == NODES[name]


def test_every_shipped_file_is_looked_at() -> None:
    assert {path.stem for path in FILES} == set(NODES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_to_be_filled_in_is_told_with_its_line(path: Path) -> None:
    lines = path.read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if "FILL_IN" in line.split("#")[0]}
    _, faults = read_cluster(path, ROOT)
    told = {int(fault.split(":")[1]) for fault in faults if "still to be filled in" in fault}
    assert told == marked


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_file_can_be_used_as_its_head_says(path: Path) -> None:
    text = path.read_text()
    named = set(re.findall(r"clusters/[\w-]+\.yaml", text))
    assert named == {f"clusters/{path.name}"}
    if "ray up" in text:
        assert "RAY_AUTH_MODE=token" in text and "--dashboard-host=127.0.0.1" in text and "rocksdb" in text


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        ("a100", "max_workers: 2 ", "min_workers: 1\nmax_workers: 2 ", "min_workers: Ray no longer reads this"),
        ("a100", "region: us-east-1", "regoin: us-east-1", "ignores this key of aws; the nearest is 'region'"),
        ("a100", "InstanceType: p4d.24xlarge", "InstanceType: p4d.24xlrage", "the nearest is 'p4d.24xlarge'"),
        ("a100", "pit-ray/actors: actors", "pit-ray/actors: actor", "there is no 'actor' in .*the nearest is 'actors'"),
        ("a100", "ImageId: *image\n      IamInst", "IamInst", "give ImageId"),
        ("a100", "      NetworkInterfaces", "      SubnetIds: [*subnet]\n      NetworkInterfaces", "goes into each of"),
        ("a100", "VolumeType: gp3", "VolumeSort: gp3", "EC2 would refuse this.*VolumeSort"),
        ("a100", "IamInstanceProfile", "IamInstanceProfil", "launch argument; the nearest is 'IamInstanceProfile'"),
        ("a100", "idle_timeout_minutes: 20", "idle_timeout: 20", "'idle_timeout' was unexpected"),
        ("a100", "min_workers: 0", "min_workers: 3", "max_workers"),
        ("a100", "export RAY_AUTH_MODE=token RAY_gcs", "export RAY_gcs", "export RAY_AUTH_MODE=token before ray start"),
        ("a100", "dashboard-host=127.0.0.1", "dashboard-host=0.0.0.0", "opens the dashboard"),
        ("a100", "  ~/.ray/auth_token: ~/.ray/auth_token\n", "", "mount ~/.ray/auth_token"),
        ("gcp-a100", "onHostMaintenance: TERMINATE, ", "", "needs scheduling"),
        ("onprem", "  head_ip", "  headip", "ignores this key of local; the nearest is 'head_ip'"),
        ("onprem", "{cpus: 96, ", "{", "give at least cpus"),
        ("onprem", "gpus: 8", "gpu: 8", "there is no such key; the nearest is 'gpus'"),
        ("onprem", "memory_gib: 1000", "memory_gib: much", "give a number, not 'much'"),
        ("onprem", "type: local", "type: loacl", "give one of aws, gcp, local, not 'loacl'"),
        ("kuberay", "mode: token", "mode: disabled", "give mode: token"),
        ("kuberay", "groupName", "groupname", "has no such field; the nearest is 'groupName'"),
        ("kuberay", 'limits: {cpu: "90"', 'limits: {cpu: "80"', "give the same requests as limits"),
        ("kuberay", "minReplicas: 0", "minReplicas: 3", "is more than maxReplicas"),
        ("kuberay", '"2.60.0"', '"2.50.0"', f"give {re.escape(ray.__version__)}, which the lock has"),
        ("kuberay", "1000Gi", "1000Qi", "no Kubernetes quantity|same requests"),
        ("rayjob", "backoffLimit: 0", "backoffLimit: 2", "each try would be a new cluster"),
        ("rayjob", "shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "the GPUs stay"),
        ("rayjob", "entrypoint", "entryPoint", "the nearest is 'entrypoint'"),
        ("rayjob", "mountPath: /dev/shm", "mountPath: /dev/shn", "at /dev/shm"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_place(filled: Fill, name: str, before: str, after: str, said: str) -> None:
    path = filled(name, before, after)
    nodes, faults = read_cluster(path, ROOT)
    assert any(re.search(said, fault) for fault in faults), faults
    assert nodes == []
    for fault in faults:
        place = re.match(rf"{re.escape(str(path))}:(\d+)", fault)
        assert place, fault
        assert 1 <= int(place[1]) <= len(path.read_text().splitlines())


@pytest.mark.parametrize("text", ["", "[1]", "a: b: c", "{}", "kind: Deployment\n", "a: 1\n---\nb: 2\n", "\x00"])
def test_what_is_no_cluster_file_is_refused_in_one_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    try:
        _, faults = read_cluster(path, ROOT)
    except ConfigError as error:
        assert str(path) in str(error)
    else:
        assert faults


def test_a_type_that_is_not_known_is_taken_at_its_word(filled: Fill) -> None:
    path = filled("a100", "p4d.24xlarge", "p9.48xlarge")
    text = path.read_text()
    here = "max_workers: 2\n    resources: {"
    path.write_text(text.replace(here, f"{here}CPU: 8, GPU: 2"))
    nodes, faults = read_cluster(path, ROOT)
    assert faults == []
    assert [(node.cpus, node.gpus) for node in nodes[1:]] == [(8, 2), (8, 2)]


def test_a_recipe_stands_on_a_file_or_is_told_what_lacks(filled: Fill) -> None:
    said = describe_fit(load_config("hh"), read_cluster(filled("h100"), ROOT)[0], lambda _: LLAMA_8B)
    assert "learner/0 … 5" in said and "worker/0: 64.1 of 192 CPUs, 8 of 8 GPUs" in said
    with pytest.raises(ConfigError, match=r"of worker/0 have 40; raise actors\.learner\.ranks"):
        describe_fit(load_config("hh"), read_cluster(filled("a100"), ROOT)[0], lambda _: LLAMA_8B)
    with pytest.raises(ConfigError, match="needs 64 GPUs, the cluster has 16"):
        describe_fit(load_config("hh-8-nodes"), read_cluster(filled("h100"), ROOT)[0], lambda _: LLAMA_8B)


def test_without_a_model_the_layout_is_shown_all_the_same(filled: Fill) -> None:
    def no_model(_: Any) -> ModelSize:
        raise ConfigError("model.path: no model")

    said = describe_fit(load_config("hh"), read_cluster(filled("onprem"), ROOT)[0], no_model)
    assert "learner/0 … 5" in said and "memory was not checked: model.path: no model" in said


def test_the_command_tells_all_faults_and_its_exit_code(
    filled: Fill, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)

    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["pit-ray", "cluster", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    assert run(filled("h100")) == 0
    assert "worker/0 … worker/1 (2 nodes): 192 CPUs, 2048 GiB, 8 GPUs of 80 GiB" in capsys.readouterr().out
    assert run("clusters/h100.yaml") == 2
    said = capsys.readouterr()
    assert said.err.count("still to be filled in") == 5 and "worker/0" in said.out
    assert run(filled("a100"), "hh-8-nodes") == 2
    said = capsys.readouterr()
    assert "hh-8-nodes: the actors do not fit: needs " in said.err and "1 things to mend" in said.out
    assert run(filled("onprem", "  node: {", "  other: {"), "hh") == 2
    assert "metadata.node does not say what a machine has" in capsys.readouterr().err
    assert run("clusters/h1000.yaml") == 2
    assert "there is no 'h1000.yaml' in" in (err := capsys.readouterr().err) and "the nearest is 'h100.yaml'" in err


def test_quantities_of_kubernetes() -> None:
    assert [quantity(text) for text in ("2", "500m", "1Ki", "1.5Gi", "2G", 4)] == [2, 0.5, 1024, 1.5 * 2**30, 2e9, 4]
    with pytest.raises(ValueError, match="'1Qi' is no Kubernetes quantity"):
        quantity("1Qi")


def test_the_nodes_of_a_kind_are_told_together(filled: Fill) -> None:
    nodes, _ = read_cluster(filled("kuberay"), ROOT)
    assert describe_nodes(nodes).splitlines() == [
        "  head: 0 CPUs, 32 GiB, 0 GPUs",
        "  gpu/0 … gpu/1 (2 nodes): 90 CPUs, 1000 GiB, 8 GPUs of 80 GiB",
    ]


def test_the_pods_of_a_job_are_those_of_the_cluster() -> None:
    files = (ROOT / "clusters" / f"{name}.yaml" for name in ("kuberay", "rayjob"))
    cluster, job = (next(yaml.safe_load_all(path.read_text())) for path in files)
    assert job["spec"]["rayClusterSpec"]["workerGroupSpecs"] == cluster["spec"]["workerGroupSpecs"]
