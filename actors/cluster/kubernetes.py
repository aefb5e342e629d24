"""RayCluster and RayJob files of KubeRay: the rules of its resource definitions that such a file can break, and the
pods that it would start.

The rules are those of the ray.io/v1 definitions and of the operator's own validation (KubeRay 1.6), for the fields that
a training cluster uses; a field that is not among them is refused, since Kubernetes would drop it without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import ray
from jsonschema import Draft202012Validator

from actors.cluster.document import Document
from actors.layout import Node
from pit_ray.errors import LINE, nearest, short

KINDS = ("RayCluster", "RayJob")
LARGEST_NAME = 63 - len("-worker-xxxxx-xxxxx")
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
GPU = "nvidia.com/gpu"
GPU_MEMORY = "pit-ray/gpu-gib"
"""Label of a worker group's pods: the memory of one of their GPUs, in GiB, which Kubernetes does not tell."""


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


TEXT, WHOLE, YES = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
ANY: dict[str, Any] = {"type": "object"}


def _list(items: dict[str, Any], least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least}


QUANTITY = {"type": ["string", "integer"], "pattern": r"^[0-9.]+[A-Za-z]*$"}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
CONTAINER = _object(
    "name image resources", name=TEXT, image=TEXT, imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    command=_list(TEXT), args=_list(TEXT), env=_list(_object("name", name=TEXT, value=TEXT, valueFrom=ANY)),
    envFrom=_list(ANY), ports=_list(ANY), resources=_object("requests limits", requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=_list(_object("name mountPath", name=TEXT, mountPath=TEXT, subPath=TEXT, readOnly=YES)),
    securityContext=ANY, lifecycle=ANY, livenessProbe=ANY, readinessProbe=ANY, workingDir=TEXT,
)  # fmt: skip
POD = _object(
    "spec",
    metadata=_object(labels=TEXTS, annotations=TEXTS),
    spec=_object(
        "containers", containers=_list(CONTAINER, 1), initContainers=_list(ANY), volumes=_list(ANY), nodeSelector=TEXTS,
        tolerations=_list(ANY), affinity=ANY, serviceAccountName=TEXT, imagePullSecrets=_list(ANY), hostNetwork=YES,
        securityContext=ANY, priorityClassName=TEXT, restartPolicy=TEXT, terminationGracePeriodSeconds=WHOLE,
        topologySpreadConstraints=_list(ANY), runtimeClassName=TEXT, schedulerName=TEXT,
        automountServiceAccountToken=YES,
    ),
)  # fmt: skip
HEAD = _object(
    "template", template=POD, rayStartParams=TEXTS, serviceType=TEXT, enableIngress=YES, headService=ANY,
    resources=TEXTS, labels=TEXTS,
)  # fmt: skip
WORKERS = _object(
    "groupName minReplicas maxReplicas template", groupName=TEXT, replicas=WHOLE, minReplicas=WHOLE, maxReplicas=WHOLE,
    idleTimeoutSeconds=WHOLE, numOfHosts=WHOLE, rayStartParams=TEXTS, template=POD, suspend=YES, scaleStrategy=ANY,
    resources=TEXTS, labels=TEXTS, priority=WHOLE,
)  # fmt: skip
CLUSTER = _object(
    "headGroupSpec", headGroupSpec=HEAD, workerGroupSpecs=_list(WORKERS), rayVersion=TEXT, enableInTreeAutoscaling=YES,
    autoscalerOptions=_object(
        version={"enum": ["v1", "v2"]}, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        idleTimeoutSeconds=WHOLE, resources=ANY, env=_list(ANY), envFrom=_list(ANY), image=TEXT, imagePullPolicy=TEXT,
        securityContext=ANY, volumeMounts=_list(ANY), command=_list(TEXT), args=_list(TEXT),
    ),
    authOptions=_object("mode", mode={"enum": ["token", "disabled"]}, secretName=TEXT, enableK8sTokenAuth=YES),
    gcsFaultToleranceOptions=ANY, suspend=YES, managedBy=TEXT, headServiceAnnotations=TEXTS, upgradeStrategy=ANY,
)  # fmt: skip
JOB = _object(
    "entrypoint rayClusterSpec", entrypoint=TEXT, rayClusterSpec=CLUSTER, runtimeEnvYAML=TEXT, jobId=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]}, backoffLimit=WHOLE,
    shutdownAfterJobFinishes=YES, ttlSecondsAfterFinished=WHOLE, activeDeadlineSeconds=WHOLE, suspend=YES,
    preRunningDeadlineSeconds=WHOLE, entrypointNumCpus={"type": "number"}, entrypointNumGpus={"type": "number"},
    entrypointResources=TEXT, metadata=TEXTS, submitterPodTemplate=POD, submitterConfig=ANY, managedBy=TEXT,
    clusterSelector=TEXTS, deletionStrategy=ANY,
)  # fmt: skip
NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": LARGEST_NAME}
FILE = _object(
    "apiVersion kind metadata spec", apiVersion={"const": "ray.io/v1"}, kind={"enum": list(KINDS)},
    metadata=_object("name", name=NAME, namespace=TEXT, labels=TEXTS, annotations=TEXTS), spec=ANY,
)  # fmt: skip


def faults(document: Document) -> list[str]:
    """Everything that is wrong with the file, each with its place."""
    found = [*_against(FILE, document, ())]
    if document.tree.get("kind") in KINDS and isinstance(document.tree.get("spec"), dict):
        found += _against(CLUSTER if document.tree["kind"] == "RayCluster" else JOB, document, ("spec",))
    return found or list(_rules(document))


def nodes(document: Document) -> list[Node]:
    """The head's pod, and as many of each worker group as the file allows."""
    spec, _ = _cluster(document)
    found = [_node("head", spec["headGroupSpec"])]
    for group in spec.get("workerGroupSpecs", ()):
        most = group["maxReplicas"] * group.get("numOfHosts", 1)
        found += [_node(f"{group['groupName']}/{i}", group) for i in range(most)]
    return found


def quantity(text: str | int) -> float:
    """A Kubernetes quantity as a number, memory in bytes; ValueError when it is none."""
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if match is None or match[2] not in UNITS:
        raise ValueError(f"{text!r} is no Kubernetes quantity")
    return float(match[1]) * UNITS[match[2]]


def _node(name: str, group: dict[str, Any]) -> Node:
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    stated = group.get("rayStartParams", {})
    cpus = quantity(stated.get("num-cpus", limits.get("cpu", 0)))
    gpus = quantity(stated.get("num-gpus", limits.get(GPU, 0)))
    memory = quantity(limits["memory"]) / 2**30 if "memory" in limits else None
    label = group["template"].get("metadata", {}).get("labels", {}).get(GPU_MEMORY)
    return Node(name, cpus, gpus, memory, float(label) if label else None)


def _cluster(document: Document) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The cluster that the file describes, and where."""
    spec = document.tree["spec"]
    if document.tree["kind"] == "RayJob":
        return spec["rayClusterSpec"], ("spec", "rayClusterSpec")
    return spec, ("spec",)


def _against(schema: dict[str, Any], document: Document, place: tuple[str, ...]) -> Iterator[str]:
    value: Any = document.tree
    for key in place:
        value = value[key]
    for error in Draft202012Validator(schema).iter_errors(value):
        keys = (*place, *error.absolute_path)
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            for unknown in sorted(set(error.instance) - set(known)):
                yield f"{document.at(*keys, unknown)}: {place_name(keys)} has no such field{nearest(unknown, known)}"
        else:
            yield f"{document.at(*keys)}: {short(error.message, LINE)}"


def place_name(keys: tuple[str | int, ...]) -> str:
    """The last named key on a path."""
    return next((str(key) for key in reversed(keys) if isinstance(key, str)), "the file")


def _rules(document: Document) -> Iterator[str]:
    """What the operator, or a run on the cluster, asks beyond the fields' types."""
    spec, place = _cluster(document)
    if spec.get("authOptions", {}).get("mode") != "token":
        yield f"{document.at(*place, 'authOptions')}: give mode: token; else whoever reaches the cluster may run code"
    if spec.get("rayVersion") != ray.__version__:
        yield f"{document.at(*place, 'rayVersion')}: give {ray.__version__}, which the lock has"
    groups: list[tuple[tuple[str | int, ...], Any]] = [(("headGroupSpec",), spec["headGroupSpec"])]
    groups += [(("workerGroupSpecs", i), group) for i, group in enumerate(spec.get("workerGroupSpecs", ()))]
    for keys, group in groups:
        yield from _pod_rules(document, (*place, *keys), group)
    if document.tree["kind"] == "RayJob":
        job = document.tree["spec"]
        if job.get("backoffLimit", 0):
            yield f"{document.at('spec', 'backoffLimit')}: give 0; each try would be a new cluster"
        if not job.get("shutdownAfterJobFinishes"):
            yield f"{document.at('spec', 'shutdownAfterJobFinishes')}: give true, or the GPUs stay after the job"


def _pod_rules(document: Document, place: tuple[str | int, ...], group: dict[str, Any]) -> Iterator[str]:
    container = (*place, "template", "spec", "containers", 0, "resources")
    resources = group["template"]["spec"]["containers"][0]["resources"]
    if group.get("minReplicas", 0) > group.get("maxReplicas", 0):
        yield f"{document.at(*place, 'minReplicas')}: is more than maxReplicas"
    if resources["requests"] != resources["limits"]:
        yield f"{document.at(*container)}: give the same requests as limits; Ray counts with the limits"
    for kind, size in resources["limits"].items():
        try:
            quantity(size)
        except ValueError as error:
            yield f"{document.at(*container, 'limits', kind)}: {error}"
    mounts = group["template"]["spec"]["containers"][0].get("volumeMounts", ())
    if "/dev/shm" not in {mount["mountPath"] for mount in mounts}:
        yield f"{document.at(*place)}: mount an emptyDir of medium Memory at /dev/shm, where Ray keeps its objects"
