"""What every process of a run does first."""

from __future__ import annotations

import gc
import os


def set_up() -> None:
    """Run by Ray in each of its processes, before that does anything else."""
    gc.set_threshold(1_000_000)
    name_interface()


def collect_seldom() -> None:
    """Importing torch, transformers and vLLM makes a million objects that stay. By Python's own thresholds the search
    for dead ones among them takes a quarter of the time."""
    gc.set_threshold(50_000, 20, 100)


def imported() -> None:
    """What there is by now is not searched again."""
    gc.freeze()
    collect_seldom()


def name_interface() -> None:
    """Tells gloo which network interface leads to the other nodes. By itself it takes the one that the machine's own
    name resolves to: on many, the loopback interface, where no other node is found."""
    import psutil  # the command imports this file before it knows whether it needs these
    import ray

    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if address in {entry.address for entry in addresses}:
            os.environ["GLOO_SOCKET_IFNAME"] = name
