"""What is installed on the nodes of a cluster, compared with the driver: an actor whose packages differ fails in ways
that nobody can read."""

from __future__ import annotations

import hashlib
import platform
import socket
import sys
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pit_ray.errors import ConfigError, InfraError, listed
from pit_ray.run_folder import installed

LOCK_FILE = Path(sys.prefix) / "lock.sha256"
"""Hash of the lock that this environment was installed from; clusters/setup-node.sh and the Dockerfile write it."""
ANSWER_SECONDS = 120.0
"""A node that has just joined first fetches the job's files."""


@ray.remote(num_cpus=0, max_retries=2)
def node_packages() -> dict[str, Any]:
    """Name, versions and lock of the node that this runs on."""
    lock = LOCK_FILE.read_text(encoding="utf-8").split()[0] if LOCK_FILE.is_file() else None
    return {"host": socket.gethostname(), "versions": _versions(), "lock": lock}


def check_nodes() -> None:
    """ConfigError when a node has another Python or other packages than this driver, or was set up from another lock
    than the ones beside this source; InfraError when a node does not answer."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    asked = [
        node_packages.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in nodes
    ]
    try:
        found = ray.get(asked, timeout=ANSWER_SECONDS)
    except GetTimeoutError:
        raise InfraError(f"not every one of the {len(nodes)} nodes has answered within {ANSWER_SECONDS:g} s") from None
    except RayError as error:
        raise InfraError(f"a node could not be asked for its packages: {error}") from error
    if faults := [fault for node in found for fault in differences(node, _versions(), locks())]:
        raise ConfigError(
            f"the nodes' environments are not the driver's: {listed(faults)}. Bring them to this checkout: "
            "give the `ray up` of the cluster file again, or build the image anew"
        )


def differences(node: dict[str, Any], mine: dict[str, str], known: set[str]) -> list[str]:
    """What of a node is not as here, in words; `known` are the hashes of the locks beside this source."""
    theirs = node["versions"]
    faults = [
        f"{node['host']} has {name} {theirs.get(name, 'not at all')}, the driver {mine.get(name, 'has none')}"
        for name in sorted(mine.keys() | theirs.keys())
        if theirs.get(name) != mine.get(name)
    ]
    if not faults and known and node["lock"] is not None and node["lock"] not in known:
        faults.append(f"{node['host']} was set up from another lock than this checkout's requirements/")
    return faults


def locks() -> set[str]:
    """Hashes of the locks beside this source; none where pit-ray was installed as a package."""
    folder = Path(__file__).parents[1] / "requirements"
    return {hashlib.sha256(lock.read_bytes()).hexdigest() for lock in folder.glob("?pu.txt")}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **installed()}
