"""Which container, pod or systemd unit a process belongs to, told by its /proc/PID/cgroup.

A line reads `hierarchy:controllers:path` (cgroups(7)); cgroup v2 alone has the single line
`0::path`, v1 one line per hierarchy, a hybrid host both. Where the path names a pod depends on the
kubelet's cgroup driver and on the runtime:

    cgroupfs          /kubepods/burstable/pod<uid>/<id>
    systemd           /kubepods.slice/kubepods-burstable.slice/
                          kubepods-burstable-pod<uid, _ for ->.slice/cri-containerd-<id>.scope
    CRI-O             .../crio-<id>.scope, in newer releases with a `container` below it
    Docker            .../docker-<id>.scope, or /docker/<id>
    mixed             .../kubepods-burstable-pod<uid>.slice:cri-containerd:<id>
                      (the kubelet uses systemd's names, the runtime cgroupfs)

Guaranteed pods lack the middle level. Kubelets with a --cgroup-root of their own (kind) and those
inside a service (k3s) put more in front. Read from another cgroup namespace, a path starts with
`/..` (cgroup_namespaces(7)) and may lack everything above the pod. A removed cgroup's path ends
in " (deleted)".

Whoever may create cgroups below its own may give them any name: the *outermost* pod of a path is
the one that this node's kubelet made, and what is nested in it cannot change the answer.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

MAX_CGROUP_BYTES = 32 << 10
"""A v1 host has 13 hierarchies at most, deeply nested paths take some 300 bytes each."""

CONTAINER_ID_CHARACTERS = 64
"""Docker, containerd's CRI plugin and CRI-O all name containers by 32 random bytes in hex."""

# metadata.uid is a UUID; that of a static pod, which the kubelet makes, an MD5 in hex.
_POD_UID = re.compile(
    r"[0-9a-f]{8}([-_])[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}|[0-9a-f]{32}"
)
_POD_SLICE_PARENTS = ("kubepods", "kubepods-burstable", "kubepods-besteffort")
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
# systemd.unit(5): these characters, 255 at most.
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,247}\.(?:service|scope)")


@dataclass(frozen=True, slots=True)
class CgroupIdentity:
    """What a cgroup path tells; None is unknown.

    container_id  64 hex digits, as in a pod's status behind "containerd://"; the sandbox (pause)
                  has one too, which no status lists
    pod_uid       with dashes, as the API writes it. A static pod has the kubelet's hash: the API
                  knows its mirror pod by another uid, and the hash by the annotation
                  kubernetes.io/config.hash
    unit          systemd service or scope of a process that is in no container
    """

    container_id: str | None = None
    pod_uid: str | None = None
    unit: str | None = None


UNKNOWN = CgroupIdentity()


def parse_cgroup(text: str) -> CgroupIdentity:
    """Read the contents of a /proc/PID/cgroup. Never raises, whatever the text.

    Where hierarchies disagree, the line that tells most is believed, a pod before a container
    before a unit; among equals the first. Time is linear in the length of the text.
    """
    best, best_rank = UNKNOWN, 0
    previous = None
    # Not splitlines(): the kernel forbids the newline alone in a cgroup's name.
    for line in text.split("\n"):
        fields = line.split(":", 2)
        if len(fields) < 3 or fields[2] == previous:
            continue
        path = previous = fields[2]
        found = _identify(path)
        rank = (
            (found.pod_uid is not None) * 4
            + (found.container_id is not None) * 2
            + (found.unit is not None)
        )
        if rank > best_rank:
            best, best_rank = found, rank
        if best.pod_uid is not None and best.container_id is not None:
            break
    return best


def read_cgroup(pid: int, proc: str = "/proc") -> CgroupIdentity:
    """Read and parse the cgroup of a process. Raises OSError where it is gone or hidden."""
    descriptor = os.open(f"{proc}/{pid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # One read returns all of it: the kernel shows the file as a single seq_file record.
        data = os.read(descriptor, MAX_CGROUP_BYTES)
    finally:
        os.close(descriptor)
    return parse_cgroup(data.decode("utf-8", "replace"))


def _identify(path: str) -> CgroupIdentity:
    segments = path.removesuffix(" (deleted)").split("/")
    pod_uid: str | None = None
    container_id: str | None = None
    for segment in segments:
        for part in segment.split(":"):
            if pod_uid is None and (uid := _pod_uid(part)) is not None:
                # A container met before is the machine of this kubelet (kind), not the pod's.
                pod_uid, container_id = uid, None
            elif container_id is None:
                container_id = _container_id(part)
    if pod_uid is not None or container_id is not None:
        return CgroupIdentity(container_id=container_id, pod_uid=pod_uid)
    return CgroupIdentity(unit=_unit(segments))


def _pod_uid(part: str) -> str | None:
    if part.startswith("pod"):
        uid = part[3:]
    elif part.endswith(".slice"):
        parent, _, uid = part.removesuffix(".slice").rpartition("-pod")
        if not parent.endswith(_POD_SLICE_PARENTS):
            return None
    else:
        return None
    return uid.replace("_", "-") if _POD_UID.fullmatch(uid) else None


def _container_id(part: str) -> str | None:
    name = part.removesuffix(".scope")
    prefix, container_id = name[:-CONTAINER_ID_CHARACTERS], name[-CONTAINER_ID_CHARACTERS:]
    if not _CONTAINER_ID.fullmatch(container_id):
        return None
    # conmon watches over a container from a scope beside it: crio-conmon-<id>, libpod-conmon-<id>.
    if prefix and (not prefix.endswith("-") or prefix.endswith("conmon-")):
        return None
    return container_id


def _unit(segments: list[str]) -> str | None:
    """The unit as systemd itself finds it: the first name below the slices.

    What lies deeper belongs to a unit's own delegated tree, where names prove nothing.
    """
    for segment in segments:
        if segment in ("", "..") or segment.endswith(".slice"):
            continue
        return segment if _UNIT.fullmatch(segment) else None
    return None
