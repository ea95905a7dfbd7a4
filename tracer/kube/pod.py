"""What the Kubernetes API tells of a pod, read out of its JSON with nothing taken for granted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tracer.errors import KubeError

POD_ENI: Final = "vpc.amazonaws.com/pod-eni"
"""Branch network interfaces of a pod with security groups of its own (Amazon VPC CNI), in JSON."""
KEPT_ANNOTATIONS: Final = frozenset({POD_ENI})
_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A container of a pod. `id` is 64 hex digits, None until it was started once."""

    name: str
    id: str | None


@dataclass(frozen=True, slots=True)
class PodOwner:
    """The object that controls a pod: ReplicaSet, StatefulSet, DaemonSet, Job, Node."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class PodInfo:
    """What the API tells of a pod; None is unknown or not yet decided.

    pod_ips            all of them, `pod_ip` first; with `host_network` they are the node's own
    containers         in the order of the specification: the pod's own, then init containers
                       (sidecars are among these), then ephemeral ones
    default_container  the one that kubectl would take without -c
    annotations        the few of KEPT_ANNOTATIONS
    """

    namespace: str
    name: str
    uid: str
    node: str | None
    pod_ip: str | None
    pod_ips: tuple[str, ...]
    host_network: bool
    phase: str | None
    containers: tuple[ContainerInfo, ...]
    default_container: str | None
    annotations: Mapping[str, str]
    owner: PodOwner | None


def parse_pod(document: object, namespace: str, name: str) -> PodInfo:
    """A v1 Pod, as decoded from JSON. Raises KubeError where it is not that pod."""
    pod = mapping(document)
    metadata, spec, status = (mapping(pod.get(key)) for key in ("metadata", "spec", "status"))
    uid = text(metadata.get("uid"))
    if metadata.get("name") != name or metadata.get("namespace") != namespace or uid is None:
        raise KubeError(
            f"what the API server answered for pod {namespace}/{name} is not that pod",
            hint="is its address an API server, or a login page in front of one?",
        )
    ids = {
        text(one.get("name")): _container_id(one.get("containerID"))
        for kind in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
        for one in _mappings(status.get(kind))
    }
    names = [
        container
        for kind in ("containers", "initContainers", "ephemeralContainers")
        for one in _mappings(spec.get(kind))
        if (container := text(one.get("name"))) is not None
    ]
    annotations = {
        key: value
        for key, value in mapping(metadata.get("annotations")).items()
        if isinstance(value, str)
    }
    default = annotations.get(_DEFAULT_CONTAINER)
    first_ip = text(status.get("podIP"))
    ips = (first_ip, *(text(one.get("ip")) for one in _mappings(status.get("podIPs"))))
    return PodInfo(
        namespace=namespace,
        name=name,
        uid=uid,
        node=text(spec.get("nodeName")),
        pod_ip=first_ip,
        pod_ips=tuple(dict.fromkeys(ip for ip in ips if ip is not None)),
        host_network=spec.get("hostNetwork") is True,
        phase=text(status.get("phase")),
        containers=tuple(ContainerInfo(each, ids.get(each)) for each in names),
        default_container=default if default in names else next(iter(names), None),
        annotations=MappingProxyType(
            {key: value for key, value in annotations.items() if key in KEPT_ANNOTATIONS}
        ),
        owner=_owner(metadata),
    )


def _owner(metadata: Mapping[str, object]) -> PodOwner | None:
    for one in _mappings(metadata.get("ownerReferences")):
        kind, name = text(one.get("kind")), text(one.get("name"))
        if one.get("controller") is True and kind is not None and name is not None:
            return PodOwner(kind, name)
    return None


def _container_id(value: object) -> str | None:
    """The id behind the runtime's name: "containerd://<64 hex digits>"."""
    named = text(value)
    return None if named is None else named.rpartition("://")[2]


def mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[Mapping[str, object]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
