"""The network interface that leads to the other nodes."""

from __future__ import annotations

import os

import psutil
import ray


def name_interface() -> None:
    """Tells gloo, in every process of a run, which interface to use. By itself it takes the one that the machine's own
    name resolves to: on many, the loopback interface, where no other node is found."""
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if address in {entry.address for entry in addresses}:
            os.environ["GLOO_SOCKET_IFNAME"] = name
