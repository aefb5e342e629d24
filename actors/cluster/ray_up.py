"""Files of `ray up`: what is wrong with one beyond Ray's own schema, and the nodes that it would start."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from actors.cluster.document import Document
from actors.cluster.node_types import AWS, GCP, NodeType
from actors.layout import Node
from pit_ray.errors import LINE, nearest, no_such_path, short

PROVIDER_KEYS = {
    "aws": {
        "type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "security_group", "key_pair",
        "aws_credentials", "cloudwatch", "disable_node_updaters",
    },
    "gcp": {
        "type", "region", "availability_zone", "project_id", "cache_stopped_nodes", "use_internal_ips",
        "gcp_credentials", "disable_node_updaters",
    },
    "local": {
        "type", "head_ip", "worker_ips", "external_head_ip", "coordinator_address", "use_internal_ips",
        "use_external_head_ip", "disable_node_updaters",
    },
}  # fmt: skip
"""What Ray 2.60 reads of `provider`; anything else it ignores without a word."""
REMOVED = {
    "head_node": "available_node_types and head_node_type",
    "worker_nodes": "available_node_types",
    "initial_workers": "available_node_types.NAME.min_workers",
    "autoscaling_mode": "upscaling_speed",
    "target_utilization_fraction": "upscaling_speed",
    "min_workers": "available_node_types.NAME.min_workers",
}
"""Top-level keys of older Ray versions, and what took their place."""
CLOUD_PACKAGES = {"aws": ("boto3", "aws"), "gcp": ("googleapiclient", "gcp")}
"""What `ray up` imports for a cloud, and our extra that brings it."""
HEAD, WORKER = "head_start_ray_commands", "worker_start_ray_commands"
STATED = ("cpus", "gpus", "memory_gib", "gpu_gib")
"""What `metadata.node` says of one machine where no type tells it."""


def unfinished(document: Document) -> list[str]:
    """What the user has still to give or to install, each with its place."""
    found = document.placeholders()
    for target, source in (document.tree.get("file_mounts") or {}).items():
        if Path(str(source)).name == "auth_token" and not Path(str(source)).expanduser().exists():
            place = document.at("file_mounts", target)
            found.append(f"{place}: there is no token yet; make it with: ray get-auth-token --generate")
    module, extra = CLOUD_PACKAGES.get(_provider_type(document), ("ray", ""))
    if importlib.util.find_spec(module) is None:
        found.append(
            f"{document.at('provider', 'type')}: ray up needs {module}: install what pyproject.toml lists under {extra}"
        )
    return found


def faults(document: Document, root: Path) -> list[str]:
    """Everything that is wrong with the file, each with its place. `root`: where `ray up` is run, from which relative
    paths of file_mounts count."""
    found = [*_removed(document), *_provider(document), *_mounts(document, root), *_stated(document)]
    found += [*_node_types(document), *_start_commands(document)]
    return found or _schema(document)


def nodes(document: Document) -> list[Node]:
    """The head, and as many workers of each type as the file allows; none where the file does not say what they are."""
    tree = document.tree
    if tree["provider"]["type"] == "local":
        return _stated_nodes(document)
    most, found = tree.get("max_workers", 0), []
    head = tree["head_node_type"]
    for name, node_type in sorted(tree["available_node_types"].items(), key=lambda item: item[0] != head):
        count = node_type.get("max_workers", 0 if name == head else most) + (name == head)
        found += [_node(document, name, i, count) for i in range(min(count, most + (name == head)))]
    return found[: most + 1]


def _node(document: Document, name: str, index: int, count: int) -> Node:
    known, given = _known(document, name), document.tree["available_node_types"][name].get("resources", {})
    cpus = given.get("CPU", known.cpus if known else 0)
    gpus = given.get("GPU", known.gpus if known else 0)
    memory = known.memory if known else given["memory"] / 2**30 if "memory" in given else None
    gpu_memory = known.gpu_memory or None if known else None
    return Node(name if count == 1 else f"{name}/{index}", float(cpus), float(gpus), memory, gpu_memory)


def _stated_nodes(document: Document) -> list[Node]:
    said = document.tree.get("metadata", {}).get("node")
    if not said:
        return []
    names = ["head", *(f"worker/{i}" for i, _ in enumerate(document.tree["provider"].get("worker_ips") or ()))]
    return [Node(name, **{key: float(said[key]) for key in STATED if key in said}) for name in names]


def _stated(document: Document) -> Iterator[str]:
    """What metadata.node says that no machine can be made from."""
    metadata = document.tree.get("metadata")
    said = metadata.get("node") if isinstance(metadata, dict) else None
    if said is None:
        return
    if not isinstance(said, dict) or "cpus" not in said:
        yield f"{document.at('metadata', 'node')}: give at least cpus, and gpus, memory_gib, gpu_gib where known"
        return
    for key, value in said.items():
        if key not in STATED:
            yield f"{document.at('metadata', 'node', key)}: there is no such key{nearest(str(key), STATED)}"
        elif isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{document.at('metadata', 'node', key)}: give a number, not '{short(value)}'"


def _known(document: Document, name: str) -> NodeType | None:
    config = document.tree["available_node_types"][name].get("node_config") or {}
    if document.tree["provider"]["type"] == "aws":
        return AWS.get(config.get("InstanceType", ""))
    return GCP.get(str(config.get("machineType", "")).rsplit("/", 1)[-1])


def _removed(document: Document) -> Iterator[str]:
    for key in document.tree:
        if key == "min_workers" and _provider_type(document) == "local":
            continue  # of a local cluster Ray still reads it
        if key in REMOVED:
            yield f"{document.at(key)}: Ray no longer reads this; use {REMOVED[key]}"


def _provider_type(document: Document) -> str:
    provider = document.tree.get("provider")
    return str(provider.get("type")) if isinstance(provider, dict) else ""


def _provider(document: Document) -> Iterator[str]:
    kind = _provider_type(document)
    if kind not in PROVIDER_KEYS:
        yield f"{document.at('provider', 'type')}: give one of {', '.join(PROVIDER_KEYS)}, not '{short(kind)}'"
        return
    for key in document.tree["provider"]:
        if key not in PROVIDER_KEYS[kind]:
            close = nearest(str(key), PROVIDER_KEYS[kind])
            yield f"{document.at('provider', key)}: Ray ignores this key of {kind}{close}"


def _mounts(document: Document, root: Path) -> Iterator[str]:
    for target, source in (document.tree.get("file_mounts") or {}).items():
        path = root / Path(str(source)).expanduser()
        if path.name != "auth_token" and not path.exists():
            yield f"{document.at('file_mounts', target)}: {no_such_path(path)}; paths count from where ray up is run"


def _node_types(document: Document) -> Iterator[str]:
    kind, types = _provider_type(document), document.tree.get("available_node_types")
    if kind not in CLOUD_PACKAGES or not isinstance(types, dict):
        return
    table, key = (AWS, "InstanceType") if kind == "aws" else (GCP, "machineType")
    for name, node_type in types.items():
        place = ("available_node_types", name, "node_config")
        config = (node_type or {}).get("node_config") or {}
        asked = str(config.get(key, "")).rsplit("/", 1)[-1]
        if asked not in table and "CPU" not in (node_type.get("resources") or {}):
            yield (
                f"{document.at(*place, key)}: pit-ray does not know the type '{short(asked)}'{nearest(asked, table)}; "
                "with resources: {CPU: …, GPU: …} beside node_config it takes your word for it"
            )
        yield from _launch_arguments(document, place, config) if kind == "aws" else _gcp_node(document, place, config)


def _launch_arguments(document: Document, place: tuple[str, ...], config: dict[str, Any]) -> Iterator[str]:
    """What EC2's RunInstances does not take, by the API's own description; Ray adds the counts."""
    if importlib.util.find_spec("botocore") is None:
        return
    from botocore.session import Session
    from botocore.validate import ParamValidator

    shape = Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    known = set(shape.members) | {"SubnetIds"}  # Ray's own: it takes one of them
    for key in config:
        if key not in known:
            yield f"{document.at(*place, key)}: EC2 has no such launch argument{nearest(str(key), known)}"
    arguments = {key: value for key, value in config.items() if key in shape.members} | {"MinCount": 1, "MaxCount": 1}
    report = ParamValidator().validate(arguments, shape).generate_report()
    if report:
        yield f"{document.at(*place)}: EC2 would refuse this: {short(' '.join(report.split()), LINE)}"
    if "ImageId" not in config:
        yield f"{document.at(*place)}: give ImageId, since Ray's own default images are years old"
    if "NetworkInterfaces" in config and (both := {"SubnetId", "SubnetIds", "SecurityGroupIds"} & config.keys()):
        yield f"{document.at(*place, min(both))}: goes into each of NetworkInterfaces, where these are given"


def _gcp_node(document: Document, place: tuple[str, ...], config: dict[str, Any]) -> Iterator[str]:
    table = GCP.get(str(config.get("machineType", "")).rsplit("/", 1)[-1])
    policies = [entry for entry in config.get("scheduling") or () if isinstance(entry, dict)]
    if table and table.gpus and not any(entry.get("onHostMaintenance") == "TERMINATE" for entry in policies):
        yield f"{document.at(*place)}: a machine with GPUs needs scheduling: [{{onHostMaintenance: TERMINATE}}]"


def _start_commands(document: Document) -> Iterator[str]:
    for key in (HEAD, WORKER):
        commands = document.tree.get(key) or []
        joined = "\n".join(map(str, commands if isinstance(commands, list) else [commands]))
        if "ray start" not in joined:
            yield f"{document.at(key)}: give the commands that start Ray; Ray's own default starts it without a token"
            continue
        if not re.search(r"RAY_AUTH_MODE=token", joined):
            yield f"{document.at(key)}: export RAY_AUTH_MODE=token before ray start; else who reaches it may run code"
        open_to_all = re.search(r"--dashboard-host[= ](0\.0\.0\.0|::)", joined)
        if open_to_all:
            yield f"{document.at(key)}: {open_to_all[0]} opens the dashboard to the network; it belongs on 127.0.0.1"
    if (document.tree.get("file_mounts") or {}).keys().isdisjoint({"~/.ray/auth_token"}):
        yield f"{document.at('file_mounts')}: mount ~/.ray/auth_token, the token that Ray is started with"


def _schema(document: Document) -> list[str]:
    """What Ray's own check says."""
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        with redirect_stdout(None), redirect_stderr(None):  # Ray has a word to say on every mounted file
            validate_config(prepare_config(document.tree))
    except ValidationError as error:
        keys: Sequence[str | int] = list(error.absolute_path)
        return [f"{document.at(*keys)}: {short(error.message, LINE)}"]
    except Exception as error:  # of many kinds; a local cluster is refused by a click exception
        return [f"{document.at()}: {short(' '.join(str(error).split()) or type(error).__name__, LINE)}"]
    return []
