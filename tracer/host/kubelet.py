"""What the names in the kubelet's log folders tell: pods by uid, and containers by id.

    /var/log/pods/<namespace>_<pod>_<uid>/
        BuildPodLogsDirectory() in pkg/kubelet/kuberuntime/helpers.go
    /var/log/containers/<pod>_<namespace>_<container>-<id>.log
        logSymlink() in pkg/kubelet/kuberuntime/legacy.go, which cuts what is longer than 255
        characters: the id is then not whole, and such a name tells nothing

No part of a name has the underscore that stands between them. Nothing below is opened: the folders
are writable to whatever pod mounts the node's logs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

LOG_ROOT: Final = "/var/log/pods"
CONTAINER_LOG_ROOT: Final = "/var/log/containers"

MAX_ENTRIES: Final = 65_536
"""Read of one folder. A node has a few containers for each of some hundred pods, and the kubelet
keeps the logs of dead ones a while."""

# RFC 1123 label and subdomain, as the API validates them.
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAMESPACE: Final = re.compile(_LABEL)
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_NAME_CHARACTERS: Final = 253
# metadata.uid is a UUID and the kubelet's hash an MD5; a static pod's file may hold another.
_UID: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,127}")
_CONTAINER_LOG: Final = re.compile(
    rf"(?P<pod>[^_]+)_(?P<namespace>[^_]+)_(?P<container>{_LABEL})-(?P<id>[0-9a-f]{{64}})\.log"
)


def is_pod_name(namespace: str, name: str) -> bool:
    """Whether the API would take these as namespace and name of a pod."""
    return (
        _NAMESPACE.fullmatch(namespace) is not None
        and len(name) <= _MAX_NAME_CHARACTERS
        and _NAME.fullmatch(name) is not None
    )


def is_container_name(name: str) -> bool:
    return _NAMESPACE.fullmatch(name) is not None


def is_uid(uid: str) -> bool:
    return _UID.fullmatch(uid) is not None


def is_namespace(name: str) -> bool:
    return _NAMESPACE.fullmatch(name) is not None


def pods_by_uid(log_root: str = LOG_ROOT) -> dict[str, tuple[str, str]]:
    """Namespace and name of the pods that the kubelet keeps logs of, by the uid in cgroups.

    A uid with two names has none: somebody else made one of the folders. Empty where the folder
    cannot be read. 1 ms for 500 pods.
    """
    found: dict[str, tuple[str, str]] = {}
    disputed: set[str] = set()
    for folder in _names_in(log_root):
        namespace, _, rest = folder.partition("_")
        name, _, uid = rest.partition("_")
        if not (is_pod_name(namespace, name) and is_uid(uid)):
            continue
        if found.setdefault(uid, (namespace, name)) != (namespace, name):
            disputed.add(uid)
    for uid in disputed:
        del found[uid]
    return found


def containers_by_id(log_root: str = CONTAINER_LOG_ROOT) -> dict[str, str]:
    """Names of containers, dead ones too, by their ids. Empty where the folder cannot be read.

    The sandbox writes no log and is not among them. 5 ms for 1,000 containers.
    """
    found: dict[str, str] = {}
    for name in _names_in(log_root):
        match = _CONTAINER_LOG.fullmatch(name)
        if match is not None and is_pod_name(match["namespace"], match["pod"]):
            found[match["id"]] = match["container"]
    return found


def _names_in(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, MAX_ENTRIES):
                yield entry.name
    except OSError:
        return
