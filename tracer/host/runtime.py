"""What a container runtime keeps of a container on disk, read without asking the runtime.

A runtime's socket belongs to root and can start containers: a tracer has no business there. What it
would say of a container's pod is in the files that the runtime starts containers from:

    containerd   <state>/io.containerd.runtime.v2.task/k8s.io/<id>/config.json, an OCI specification
                 whose annotations DefaultCRIAnnotations() of internal/cri/annotations writes: the
                 container's name (pull request containerd/cri#1436, release 1.4), the pod's name
                 and namespace (containerd#4922, release 1.5) and its uid (containerd#7697, release
                 1.7, and 1.6.11)
    CRI-O        <run root>/overlay-containers/<id>/userdata/config.json, an OCI specification whose
                 annotations hold the kubelet's labels (SpecAddAnnotations() of
                 internal/factory/container, labels last, so that no annotation of the pod's own
                 replaces them)
    cri-dockerd  /var/lib/docker/containers/<id>/config.v2.json, Docker's description of the
                 container, whose labels hold the kubelet's

Annotations are believed under the keys of the runtime that wrote the file, and no others: a runtime
may be configured to pass on annotations that the owner of a pod chose.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tracer.host.kubelet import is_container_name, is_pod_name, is_uid

MAX_FILE_BYTES: Final = 1 << 20
"""A specification takes 10-60 KB: a seccomp profile, mounts, and the environment."""

_CONTAINER_ID: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RuntimeContainer:
    """What a runtime noted of a container; None where it did not, or nothing that is a name.

    namespace, pod  the pod's; both or none
    pod_uid         as in cgroups: the kubelet's hash of a static pod
    name            of the container in its pod; None for the sandbox (pause)
    """

    namespace: str | None = None
    pod: str | None = None
    pod_uid: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a runtime keeps a container's file, and what is where in it.

    `section` leads to an object of strings. `kind` is the key of the container's kind there, and
    `sandbox` its value for the sandbox.
    """

    path: str
    section: tuple[str, ...]
    namespace: str
    pod: str
    pod_uid: str
    name: str
    kind: str
    sandbox: str = "sandbox"


def _containerd(state: str) -> _Layout:
    return _Layout(
        path=f"{state}/io.containerd.runtime.v2.task/k8s.io/{{}}/config.json",
        section=("annotations",),
        namespace="io.kubernetes.cri.sandbox-namespace",
        pod="io.kubernetes.cri.sandbox-name",
        pod_uid="io.kubernetes.cri.sandbox-uid",
        name="io.kubernetes.cri.container-name",
        kind="io.kubernetes.cri.container-type",
    )


def _kubelet_labels(path: str, section: tuple[str, ...], kind: str, sandbox: str) -> _Layout:
    """The keys of pkg/kubelet/kuberuntime/labels.go."""
    return _Layout(
        path=path,
        section=section,
        namespace="io.kubernetes.pod.namespace",
        pod="io.kubernetes.pod.name",
        pod_uid="io.kubernetes.pod.uid",
        name="io.kubernetes.container.name",
        kind=kind,
        sandbox=sandbox,
    )


_LAYOUTS: Final = (
    _containerd("run/containerd"),
    _containerd("run/k3s/containerd"),  # and RKE2
    _containerd("run/k0s/containerd"),
    _containerd("var/snap/microk8s/common/run/containerd"),
    _kubelet_labels(
        "run/containers/storage/overlay-containers/{}/userdata/config.json",
        ("annotations",),
        "io.kubernetes.cri-o.ContainerType",
        "sandbox",
    ),
    _kubelet_labels(
        "var/lib/docker/containers/{}/config.v2.json",
        ("Config", "Labels"),
        "io.kubernetes.docker.type",
        "podsandbox",
    ),
)


def find_container(container_id: str, root: str = "/") -> RuntimeContainer | None:
    """What a runtime of this node notes of a container, by its 64 hex digits; None without any.

    `root` is where the node's file system is seen. Files are taken as hostile: bounded, and every
    text in the answer is a name as the API allows it. Never raises. Takes 30 µs where there is
    none, 0.2 to 0.5 ms to read one.
    """
    if _CONTAINER_ID.fullmatch(container_id) is None:
        return None
    for layout in _LAYOUTS:
        data = _read(os.path.join(root, layout.path.format(container_id)))  # noqa: PTH118
        if data is not None:
            return _container(data, layout)
    return None


def _container(data: bytes, layout: _Layout) -> RuntimeContainer | None:
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    for key in layout.section:
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        return None
    namespace, pod = _text(found, layout.namespace), _text(found, layout.pod)
    named = is_pod_name(namespace, pod)
    uid, name = _text(found, layout.pod_uid), _text(found, layout.name)
    of_sandbox = found.get(layout.kind) == layout.sandbox
    return RuntimeContainer(
        namespace=namespace if named else None,
        pod=pod if named else None,
        pod_uid=uid if is_uid(uid) else None,
        name=name if is_container_name(name) and not of_sandbox else None,
    )


def _text(section: Mapping[str, object], key: str) -> str:
    value = section.get(key)
    return value if isinstance(value, str) else ""


def _read(path: str) -> bytes | None:
    """A file that is one, and no larger than allowed; None for anything else."""
    # O_NONBLOCK: opening a FIFO must not wait for its other end.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            return None
        return os.read(descriptor, MAX_FILE_BYTES)
    except OSError:
        return None
    finally:
        os.close(descriptor)
