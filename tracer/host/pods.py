"""Find a pod on this node without asking the API server, which may be what cannot be reached.

The kubelet names a pod's log folder `<namespace>_<name>_<uid>`; the cgroups of the pod's processes
carry the uid; the processes lead to the network namespace.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field

from tracer.errors import NotPermitted, UsageError
from tracer.host.cgroup import read_cgroup
from tracer.host.kubelet import LOG_ROOT, is_pod_name
from tracer.host.netns import inode_of_process, pids_in


@dataclass(frozen=True, slots=True)
class PodOnNode:
    """A running pod of this node.

    `uid` is the one in cgroups: a static pod's is the kubelet's hash, not its mirror pod's uid.
    `netns` are inode numbers, more than one where a container has made namespaces of its own.
    With `host_network` one of them is the node's own: it holds other processes' sockets too, and
    the pod's are told by `uid` alone.
    """

    namespace: str
    name: str
    uid: str
    netns: frozenset[int]
    host_network: bool


@dataclass(slots=True)
class _Seen:
    """What the processes of one pod showed."""

    containers: set[int] = field(default_factory=set)
    others: set[int] = field(default_factory=set)
    denied: int = 0

    @property
    def netns(self) -> frozenset[int]:
        """Containers' namespaces; without any, those of whatever runs in the pod's cgroup.

        A runtime's helper there (conmon, a shim) lives in the node's namespace and says nothing of
        the pod's, yet the virtual machine of a sandboxed pod (Kata) has no container's cgroup.
        """
        return frozenset(self.containers or self.others)


def find_pod(spec: str, *, log_root: str = LOG_ROOT, proc: str = "/proc") -> PodOnNode:
    """The running pod that `spec`, NAMESPACE/NAME, names.

    Folders of several uids (a StatefulSet's pod keeps its name) are tried newest first; the first
    that has live processes is it. Raises UsageError for a malformed `spec` and where no such pod
    runs here, saying what was looked at; NotPermitted where its processes are there but their
    namespaces may not be read.
    """
    namespace, name = parse_spec(spec)
    uids = _uids(namespace, name, log_root)
    seen = _processes_of(uids, proc)
    for uid in uids:
        pod = seen.get(uid)
        if pod is None:
            continue
        if not pod.netns:
            raise NotPermitted(
                f"cannot read the network namespaces of pod {spec}: {pod.denied} processes of "
                f"uid {uid} in {proc} deny it",
                hint="run as root with CAP_SYS_PTRACE",
            )
        return PodOnNode(
            namespace=namespace,
            name=name,
            uid=uid,
            netns=pod.netns,
            host_network=host_netns(proc) in pod.netns,
        )
    raise UsageError(
        f"no pod {spec} runs on this node: {log_root} knows it by uid {', '.join(uids)}, which no "
        f"process in {proc} carries in its cgroup",
        hint=f"{_where_to_look(namespace, name)}; in a container, the trace needs the host's "
        "process namespace (hostPID)",
    )


def parse_spec(spec: str) -> tuple[str, str]:
    """Namespace and name of a pod as --pod gives it. Raises UsageError for anything else."""
    namespace, _, name = spec.partition("/")
    if not is_pod_name(namespace, name):
        raise UsageError(
            f"--pod {spec!r} does not name a pod",
            hint="give it as NAMESPACE/NAME, for example default/web-0",
        )
    return namespace, name


def _uids(namespace: str, name: str, log_root: str) -> list[str]:
    """The uids that log folders of this pod carry, the newest folder first; never empty."""
    prefix = f"{namespace}_{name}_"
    folders: list[tuple[float, str]] = []
    try:
        with os.scandir(log_root) as entries:
            for entry in entries:
                if not entry.name.startswith(prefix):
                    continue
                try:
                    modified = entry.stat().st_mtime
                except OSError:  # removed since it was listed
                    continue
                folders.append((modified, entry.name.removeprefix(prefix)))
    except OSError as error:
        raise UsageError(
            f"cannot tell whether pod {namespace}/{name} runs on this node: {log_root}: "
            f"{error.strerror}",
            hint="--pod works on a Kubernetes node; in a container, mount the node's folder",
        ) from error
    if not folders:
        raise UsageError(
            f"no pod {namespace}/{name} on this node: {log_root} has no folder {prefix}*",
            hint=_where_to_look(namespace, name),
        )
    return [uid for _, uid in sorted(folders, reverse=True)]


def _processes_of(uids: Collection[str], proc: str) -> dict[str, _Seen]:
    """What the processes of each pod show, for the pods that have any; one pass over /proc."""
    seen: dict[str, _Seen] = {}
    for pid in pids_in(proc):
        try:
            cgroup = read_cgroup(pid, proc)
        except OSError:  # gone, or hidden
            continue
        if cgroup.pod_uid is None or cgroup.pod_uid not in uids:
            continue
        try:
            inode = inode_of_process(pid, proc)
        except PermissionError:
            seen.setdefault(cgroup.pod_uid, _Seen()).denied += 1
        except OSError:  # gone, or a zombie
            continue
        else:
            pod = seen.setdefault(cgroup.pod_uid, _Seen())
            (pod.others if cgroup.container_id is None else pod.containers).add(inode)
    return seen


def host_netns(proc: str = "/proc") -> int | None:
    """The node's own network namespace: that of its first process.

    Where that may not be read (pid 1 may hold capabilities that this process lacks), this process's
    own, as the trace runs in the node's network; None where neither can be told.
    """
    for pid in (1, "self"):
        try:
            return inode_of_process(pid, proc)
        except OSError:
            continue
    return None


def _where_to_look(namespace: str, name: str) -> str:
    return f"`kubectl get pod -n {namespace} {name} -o wide` shows its node"
