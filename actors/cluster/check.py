"""`pit-ray cluster check`: what is wrong with a cluster file, and where each actor of a recipe would stand on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from actors.cluster import kubernetes, ray_up
from actors.cluster.document import Document, read_documents
from actors.layout import Node, describe_layout, lay_out, memory_faults
from actors.memory import ModelSize, needs
from actors.plan import plan_actors
from pit_ray.config import Config
from pit_ray.errors import ConfigError

UNCHECKED = "memory was not checked"


def read_cluster(path: Path, root: Path) -> tuple[list[Node], list[str]]:
    """The most nodes that a cluster file may start (none where it does not say what they are, or is too faulty to
    tell), and every fault of it with its place. `root`: where `ray up` is run from, whence file_mounts count.
    ConfigError when it is no cluster file."""
    whole = read_documents(path)
    documents = [found for found in whole if _is_cluster(found)]
    if len(documents) != 1:
        raise ConfigError(f"{path}: holds {len(documents)} clusters; give one file of ray up, RayCluster or RayJob")
    (document,) = documents
    if "kind" in document.tree:
        nodes, faults = kubernetes.nodes, kubernetes.faults(document)
        unfinished = [fault for part in whole for fault in part.placeholders()]
    else:
        nodes, faults, unfinished = ray_up.nodes, ray_up.faults(document, root), ray_up.unfinished(document)
    return [] if faults else nodes(document), [*unfinished, *faults]


def describe_nodes(nodes: list[Node]) -> str:
    """The nodes as lines for people, those of a kind together."""
    return describe_layout(nodes, None, {})


def describe_fit(config: Config, nodes: list[Node], model_size: Callable[[Config], ModelSize]) -> str:
    """Where each actor of a run would stand; ConfigError when they do not fit, by number or by memory. Where
    `model_size` finds no model, memory is left out, and that is said (UNCHECKED)."""
    standing = lay_out(plan_actors(config), nodes)
    try:
        need = needs(config, model_size(config))
    except ConfigError as error:
        return f"{describe_layout(nodes, standing, {})}\n{UNCHECKED}: {error}"
    if found := memory_faults(nodes, standing, need):
        raise ConfigError("the actors do not fit: " + "; ".join(found))
    return describe_layout(nodes, standing, need)


def _is_cluster(document: Document) -> bool:
    # A file for Kubernetes may hold a volume claim, a secret or a config map beside the cluster.
    return "kind" not in document.tree or document.tree["kind"] in kubernetes.KINDS
