"""What the Kubernetes API tells of a pod, read out of its JSON with nothing taken for granted."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

from tracer.errors import KubeError
from tracer.model import Workload

POD_ENI: Final = "vpc.amazonaws.com/pod-eni"
"""Branch network interfaces of a pod with security groups of its own (Amazon VPC CNI), in JSON."""
_ENI_ID: Final = re.compile(r"eni-[0-9a-f]{8,17}")
_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
# Of a static pod, by the kubelet (pkg/kubelet/types/pod_update.go): what it calls the pod, and the
# same again in the pod that mirrors it in the API, whose owner is the node.
_CONFIG_HASH: Final = "kubernetes.io/config.hash"
_CONFIG_MIRROR: Final = "kubernetes.io/config.mirror"

# What controllers put on pods of their ReplicaSets: the hash that ends the ReplicaSet's name
# (Kubernetes pkg/controller/deployment, Argo Rollouts utils/replicaset).
_TEMPLATE_HASHES: Final = (
    ("pod-template-hash", "Deployment"),
    ("rollouts-pod-template-hash", "Rollout"),
)

# A CronJob's Jobs are called NAME-MINUTES, of the scheduled time since the epoch (getJobName in
# pkg/controller/cronjob/utils.go); the controller before Kubernetes 1.21 took seconds. 1.21 came in
# April 2021: a date (20260131) is too small to be minutes of a time since.
_CRON_JOB: Final = re.compile(r"(?P<name>.+)-(?:(?P<minutes>[0-9]{8})|(?P<seconds>[0-9]{10}))")
_EARLIEST_SECONDS: Final = 26_900_000 * 60
# A Job starts late by startingDeadlineSeconds at most, its pods may be replaced for as long as it
# runs; clocks of the control plane differ a little.
_LATEST_PODS_SECONDS: Final = 366 * 86_400
_CLOCKS_DIFFER_SECONDS: Final = 3_600

_GONE_PHASES: Final = frozenset({"Succeeded", "Failed"})

TCP: Final = "TCP"
_MAX_PORT: Final = 65_535


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
    annotations        none but POD_ENI, and of that no more than eni_id() returns
    workload           what it belongs to in the end, as far as names tell: see read_pod
    config_hash        of a static pod: what its cgroup carries in place of `uid`
    created            RFC 3339, in UTC, so that texts sort as times do
    named_ports        numbers of the named TCP ports of its containers: see named_ports()
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
    labels: Mapping[str, str] = field(default_factory=dict)
    workload: Workload | None = None
    config_hash: str | None = None
    created: str | None = None
    named_ports: Mapping[str, int] | None = None

    @property
    def gone(self) -> bool:
        """All its containers have ended for good: its addresses may be another pod's by now."""
        return self.phase in _GONE_PHASES


def parse_pod(document: object, namespace: str, name: str) -> PodInfo:
    """A v1 Pod, as decoded from JSON. Raises KubeError where it is not that pod."""
    pod = read_pod(document)
    if pod is None or (pod.namespace, pod.name) != (namespace, name):
        raise KubeError(
            f"what the API server answered for pod {namespace}/{name} is not that pod",
            hint="is its address an API server, or a login page in front of one?",
        )
    return pod


def read_pod(document: object) -> PodInfo | None:
    """A v1 Pod, as decoded from JSON; None where it has no name, namespace or uid (a bookmark).

    `workload` is told by names alone. A ReplicaSet is a Deployment's where the pod has the label
    pod-template-hash and the ReplicaSet's name ends in it, an Argo Rollout's likewise; a Job is a
    CronJob's where its name ends in a time at which a CronJob may have made it. Any other owner,
    and one of another API group, stands for itself: a StatefulSet, a DaemonSet, a static pod's
    Node. A pod without a controller has none.
    """
    pod = mapping(document)
    metadata, spec, status = (mapping(pod.get(key)) for key in ("metadata", "spec", "status"))
    namespace, name, uid = (text(metadata.get(key)) for key in ("namespace", "name", "uid"))
    if namespace is None or name is None or uid is None:
        return None
    names = _container_names(spec)
    annotations = texts(metadata.get("annotations"))
    labels = texts(metadata.get("labels"))
    default = annotations.get(_DEFAULT_CONTAINER)
    created = text(metadata.get("creationTimestamp"))
    controller = _controller(metadata)
    owner = _owner(controller)
    ips = _pod_ips(status)
    return PodInfo(
        namespace=sys.intern(namespace),
        name=name,
        uid=uid,
        node=shared_text(spec.get("nodeName")),
        pod_ip=next(iter(ips), None) if text(status.get("podIP")) else None,
        pod_ips=ips,
        host_network=spec.get("hostNetwork") is True,
        phase=shared_text(status.get("phase")),
        containers=_containers(names, status),
        default_container=default if default in names else next(iter(names), None),
        annotations=MappingProxyType(_kept_annotations(annotations)),
        owner=owner,
        labels=MappingProxyType({sys.intern(key): sys.intern(labels[key]) for key in labels}),
        workload=None
        if owner is None
        else _workload(owner, text(controller.get("apiVersion")), labels, created),
        config_hash=_config_hash(annotations, owner),
        created=created,
        named_ports=named_ports(pod),
    )


def pod_document(pod: PodInfo) -> dict[str, object]:
    """A v1 Pod with what is known of `pod` and nothing else: read_pod() returns the same again."""
    annotations = dict(pod.annotations)
    if pod.default_container is not None:
        annotations[_DEFAULT_CONTAINER] = pod.default_container
    if pod.config_hash is not None:
        annotations[_CONFIG_HASH] = annotations[_CONFIG_MIRROR] = pod.config_hash
    metadata: dict[str, object] = {
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
        "creationTimestamp": pod.created,
        "labels": dict(pod.labels),
        "annotations": annotations,
    }
    if pod.owner is not None:
        metadata["ownerReferences"] = [_owner_document(pod.owner, pod.workload)]
    return {
        "metadata": metadata,
        "spec": {
            "nodeName": pod.node,
            "hostNetwork": pod.host_network,
            **_containers_document(pod),
        },
        "status": {
            "phase": pod.phase,
            "podIP": pod.pod_ip,
            "podIPs": [{"ip": one} for one in pod.pod_ips],
            "containerStatuses": [
                {"name": one.name, "containerID": one.id} for one in pod.containers
            ],
        },
    }


def named_ports(document: object) -> Mapping[str, int] | None:
    """The numbers of a v1 Pod's named TCP ports; None where its containers cannot be read.

    Where two containers use one name, the first one's stands (kubernetes pkg/api/v1/pod, FindPort).
    Of init containers only those that keep running, sidecars, have ports.
    """
    spec = mapping(mapping(document).get("spec"))
    if not isinstance(spec.get("containers"), list):
        return None
    sidecars = [
        one for one in mappings(spec.get("initContainers")) if one.get("restartPolicy") == "Always"
    ]
    found: dict[str, int] = {}
    for container in (*mappings(spec.get("containers")), *sidecars):
        for port in mappings(container.get("ports")):
            name, number = shared_text(port.get("name")), port_number(port.get("containerPort"))
            if name and number is not None and (text(port.get("protocol")) or TCP) == TCP:
                found.setdefault(name, number)
    return MappingProxyType(found)


def _containers_document(pod: PodInfo) -> dict[str, object]:
    """Containers with their names, and one without a name that has all the named ports."""
    named: list[object] = [{"name": one.name} for one in pod.containers]
    if pod.named_ports is None:  # of init containers alone no ports are known
        return {"initContainers": named}
    ports = [{"name": name, "containerPort": port} for name, port in pod.named_ports.items()]
    return {"containers": [*named, {"ports": ports}] if ports else named}


def _container_names(spec: Mapping[str, object]) -> list[str]:
    return [
        name
        for kind in ("containers", "initContainers", "ephemeralContainers")
        for one in mappings(spec.get(kind))
        if (name := text(one.get("name"))) is not None
    ]


def _containers(names: list[str], status: Mapping[str, object]) -> tuple[ContainerInfo, ...]:
    ids = {
        text(one.get("name")): _container_id(one.get("containerID"))
        for kind in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
        for one in mappings(status.get(kind))
    }
    return tuple(ContainerInfo(sys.intern(each), ids.get(each)) for each in names)


def _pod_ips(status: Mapping[str, object]) -> tuple[str, ...]:
    listed = (text(one.get("ip")) for one in mappings(status.get("podIPs")))
    ips = (text(status.get("podIP")), *listed)
    return tuple(dict.fromkeys(ip for ip in ips if ip is not None))


def _controller(metadata: Mapping[str, object]) -> Mapping[str, object]:
    """The owner reference of what controls the pod: one at most, of a kind and name."""
    for one in mappings(metadata.get("ownerReferences")):
        if one.get("controller") is True and text(one.get("kind")) and text(one.get("name")):
            return one
    return {}


def _owner(controller: Mapping[str, object]) -> PodOwner | None:
    kind, name = shared_text(controller.get("kind")), shared_text(controller.get("name"))
    return None if kind is None or name is None else PodOwner(kind, name)


def _config_hash(annotations: Mapping[str, str], owner: PodOwner | None) -> str | None:
    """Of a static pod. Anyone may write the annotation: it counts on what mirrors one alone."""
    digest = annotations.get(_CONFIG_HASH)
    if not digest or annotations.get(_CONFIG_MIRROR) != digest:
        return None
    return digest if owner is not None and owner.kind == "Node" else None


def _kept_annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    """An annotation may have 256 KiB."""
    interface = eni_id(annotations)
    if interface is None or not _ENI_ID.fullmatch(interface):
        return {}
    return {POD_ENI: json.dumps([{"eniId": interface}])}


_FOREIGN: Final = "foreign/v0"


def _owner_document(owner: PodOwner, workload: Workload | None) -> dict[str, object]:
    """With an API group that makes nothing more of the owner where nothing more was made of it."""
    reference = {"controller": True, "kind": owner.kind, "name": owner.name}
    if workload == Workload(owner.kind, owner.name):
        reference["apiVersion"] = _FOREIGN
    return reference


def _workload(
    owner: PodOwner, api_version: str | None, labels: Mapping[str, str], created: str | None
) -> Workload:
    group = None if api_version is None else api_version.rpartition("/")[0]
    if owner.kind == "ReplicaSet" and group in {None, "apps"}:
        for label, kind in _TEMPLATE_HASHES:
            name, _, suffix = owner.name.rpartition("-")
            if name and suffix == labels.get(label):
                return Workload(kind, sys.intern(name))
    if owner.kind == "Job" and group in {None, "batch"}:
        cron_job = _cron_job(owner.name, created)
        if cron_job is not None:
            return Workload("CronJob", sys.intern(cron_job))
    return Workload(owner.kind, owner.name)


def _cron_job(job: str, created: str | None) -> str | None:
    """The CronJob that made a Job; `created` is when the Job's pod was."""
    parts = _CRON_JOB.fullmatch(job)
    if parts is None:
        return None
    scheduled = int(parts["minutes"]) * 60 if parts["minutes"] else int(parts["seconds"])
    if scheduled < _EARLIEST_SECONDS:
        return None
    pod_seconds = _seconds(created)
    if pod_seconds is not None:
        late = pod_seconds - scheduled
        if not -_CLOCKS_DIFFER_SECONDS <= late <= _LATEST_PODS_SECONDS:
            return None
    return parts["name"]


def _seconds(time: str | None) -> float | None:
    """Of an RFC 3339 time, since the epoch."""
    try:
        parsed = datetime.fromisoformat(time or "")
        return parsed.timestamp() if parsed.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _container_id(value: object) -> str | None:
    """The id behind the runtime's name: "containerd://<64 hex digits>"."""
    named = text(value)
    return None if named is None else named.rpartition("://")[2] or None


def mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[Mapping[str, object]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def texts(value: object) -> dict[str, str]:
    """What in a mapping is text, empty text too."""
    return {key: one for key, one in mapping(value).items() if isinstance(one, str)}


def port_number(value: object) -> int | None:
    """A port; None for what is none, and for "all ports"."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_PORT:
        return value
    return None


def shared_text(value: object) -> str | None:
    """Text that many objects have in common, kept once."""
    return sys.intern(value) if isinstance(value, str) and value else None


def eni_id(annotations: Mapping[str, str]) -> str | None:
    """The pod's own network interface, which the VPC CNI plugin notes as JSON; None without one."""
    try:
        interfaces = json.loads(annotations.get(POD_ENI, "null"))
    except (ValueError, RecursionError):
        return None
    first = interfaces[0] if isinstance(interfaces, list) and interfaces else None
    return text(first.get("eniId")) if isinstance(first, dict) else None
