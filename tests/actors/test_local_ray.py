"""A local Ray is reached from this machine alone, and is gone with what needed it."""

from __future__ import annotations

import ipaddress
import os
import signal
import time

import psutil
import pytest
import ray

from actors.ray_session import begun_early, running, start_ray
from pit_ray.config import Config
from pit_ray.errors import DataError

pytestmark = pytest.mark.slow


@ray.remote(num_cpus=0.1)
class Echo:
    def ping(self) -> str:
        return ray.util.get_node_ip_address()


def listening() -> dict[int, tuple[str, str]]:
    """Port -> (address, process) of every socket on which this process and those it started wait for others."""
    me = psutil.Process()
    found = {}
    for process in (me, *me.children(recursive=True)):
        try:
            for socket in process.net_connections(kind="inet"):
                if socket.status == psutil.CONN_LISTEN:
                    found[socket.laddr.port] = (socket.laddr.ip, " ".join(process.cmdline())[:80])
        except psutil.Error:  # it has ended
            continue
    return found


def test_every_port_is_on_the_loopback_interface(local_ray: None) -> None:
    actor = Echo.remote()
    assert ray.get(actor.ping.remote()) == "127.0.0.1"
    time.sleep(3)  # the dashboard's agents open their ports a little later
    ports = listening()
    assert len(ports) >= 8, "GCS, raylet, agents, dashboard and workers each listen"
    elsewhere = {
        port: where
        for port, where in ports.items()
        if not ipaddress.ip_address(where[0].removeprefix("::ffff:")).is_loopback
    }
    assert not elsewhere
    ray.kill(actor)


def test_its_authentication_is_said_and_not_left_to_a_default(local_ray: None) -> None:
    assert os.environ["RAY_AUTH_MODE"] in ("disabled", "token")


def test_a_run_that_is_refused_while_ray_starts_leaves_nothing_behind(config: Config) -> None:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(DataError), begun_early(config):
        raise DataError("no such file")
    assert not running()
    assert set(psutil.Process().children(recursive=True)) <= before


def test_ray_that_has_begun_is_waited_for(config: Config) -> None:
    with begun_early(config):
        start_ray(config)
        assert running() and ray.cluster_resources()["CPU"] > 0
    assert not running()


def test_sigterm_stays_with_who_has_it(config: Config) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with begun_early(config):
            start_ray(config)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
