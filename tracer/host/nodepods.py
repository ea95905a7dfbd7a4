"""The pods of this node as the node itself knows them, without the API server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from tracer.host.cgroup import read_cgroup
from tracer.host.kubelet import CONTAINER_LOG_ROOT, LOG_ROOT, containers_by_id, pods_by_uid
from tracer.host.netns import pids_in
from tracer.host.podnetns import PodNamespaces
from tracer.host.runtime import RuntimeContainer, find_container
from tracer.model import NANOSECONDS, NameSource

REMEMBERED: Final = 8_192
"""Pods, and containers, some 300 bytes each: those of a node's last days."""

_AGAIN_NS: Final = NANOSECONDS // 4
"""What was not found is looked for again after this: a runtime's file is there before the
container's first process, the kubelet's log link may come after."""
_LISTED_NS: Final = 2 * NANOSECONDS
"""A folder that seems unchanged is listed again after this: its time has the resolution of a
timer tick."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class KnownPod:
    """What the node tells of a pod. `source` is who told its name, None where it has none."""

    uid: str
    namespace: str | None = None
    name: str | None = None
    source: NameSource | None = None


class NodePods:
    """Pods by uid and network namespace. For one thread.

    What a uid or a container's id stands for never changes: what was found once is kept.
    """

    def __init__(
        self,
        *,
        root: str = "/",
        proc: str = "/proc",
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`root` is where the node's file system is seen: "/host" in some containers."""
        self._root = root
        self._proc = proc
        self._clock_ns = clock_ns
        self._namespaces = PodNamespaces(proc, clock_ns)
        self._pods = _Memory[KnownPod]()
        self._containers = _Memory[RuntimeContainer]()
        self._containers_of: dict[str, tuple[str, ...]] = {}
        self._pod_logs = _Listing(pods_by_uid, _below(root, LOG_ROOT))
        self._container_logs = _Listing(containers_by_id, _below(root, CONTAINER_LOG_ROOT))

    def pod(self, uid: str, container_id: str | None = None) -> KnownPod | None:
        """By the uid that a cgroup carries; None where the node tells nothing of it.

        A container or sandbox of the pod, given here or met by pod_in(), leads to what the runtime
        noted; the kubelet's log folders are asked next. Without a name, the uid alone where
        pod_in() met it. Never raises. 0.5 µs where the answer is known.
        """
        now_ns = self._clock_ns()
        return self._pods.get(uid, now_ns, lambda: self._find(uid, container_id, now_ns))

    def container(self, container_id: str) -> str | None:
        """The name of a container; None for a sandbox, and where nothing tells it. Never raises."""
        now_ns = self._clock_ns()
        noted = self._noted(container_id, now_ns)
        if noted is not None and noted.name is not None:
            return noted.name
        return self._container_logs.get(container_id, now_ns)

    def pod_in(self, netns: int, begun_ns: int | None = None) -> str | None:
        """The uid of the pod whose own network namespace this is; None for the node's own, and
        while no process of a pod was met in it. PodNamespaces says what `begun_ns` is, and what it
        costs.
        """
        found = self._namespaces.pod_in(netns, begun_ns)
        if found is None:
            return None
        _put(self._containers_of, found.uid, found.containers)
        return found.uid

    def running(self) -> set[tuple[str, str]]:
        """Namespace and name of the pods that processes run in, as far as the node names them.

        20 µs for each process of the node. Never raises.
        """
        containers: dict[str, str | None] = {}
        try:
            pids = pids_in(self._proc)
        except OSError:
            pids = []
        for pid in pids:
            try:
                cgroup = read_cgroup(pid, self._proc)
            except OSError:  # gone, or hidden
                continue
            if cgroup.pod_uid is not None and containers.get(cgroup.pod_uid) is None:
                containers[cgroup.pod_uid] = cgroup.container_id
        known = (self.pod(uid, container_id) for uid, container_id in containers.items())
        return {
            (pod.namespace, pod.name)
            for pod in known
            if pod is not None and pod.namespace is not None and pod.name is not None
        }

    def namespace_of(self, uid: str) -> int | None:
        """A pod's own network namespace, where pod_in() met it and it is still there."""
        return self._namespaces.namespace_of(uid)

    @property
    def host_netns(self) -> int | None:
        """The node's own network namespace."""
        return self._namespaces.host_netns

    def _find(
        self, uid: str, container_id: str | None, now_ns: int
    ) -> tuple[KnownPod | None, bool]:
        """A pod, and whether that is the last word on it."""
        met = self._containers_of.get(uid)
        given = () if container_id is None else (container_id,)
        for one in (*given, *(met or ())):
            noted = self._noted(one, now_ns)
            # Releases that note no uid are taken at the cgroup's word.
            if noted is not None and noted.pod is not None and noted.pod_uid in (None, uid):
                return KnownPod(uid, noted.namespace, noted.pod, NameSource.RUNTIME), True
        logged = self._pod_logs.get(uid, now_ns)
        if logged is not None:
            return KnownPod(uid, *logged, NameSource.KUBELET), True
        return (None if met is None else KnownPod(uid)), False

    def _noted(self, container_id: str, now_ns: int) -> RuntimeContainer | None:
        def find() -> tuple[RuntimeContainer | None, bool]:
            found = find_container(container_id, self._root)
            return found, found is not None

        return self._containers.get(container_id, now_ns, find)


class _Memory(Generic[_Value]):
    """Answers by key; what is no last word is looked for again after a while."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[_Value | None, int | None]] = {}

    def get(
        self, key: str, now_ns: int, find: Callable[[], tuple[_Value | None, bool]]
    ) -> _Value | None:
        known = self._answers.get(key)
        if known is not None and (known[1] is None or now_ns < known[1]):
            return known[0]
        value, settled = find()
        _put(self._answers, key, (value, None if settled else now_ns + _AGAIN_NS))
        return value


class _Listing(Generic[_Value]):
    """What the names in a folder tell, listed anew for what is not among them."""

    def __init__(self, read: Callable[[str], dict[str, _Value]], folder: str) -> None:
        self._read = read
        self._folder = folder
        self._known: dict[str, _Value] = {}
        self._changed_ns = 0
        self._listed_ns: int | None = None

    def get(self, key: str, now_ns: int) -> _Value | None:
        known = self._known.get(key)
        if known is None and self._is_due(now_ns):
            self._known = self._read(self._folder)
            self._listed_ns = now_ns
            known = self._known.get(key)
        return known

    def _is_due(self, now_ns: int) -> bool:
        listed_ns = self._listed_ns
        if listed_ns is not None and now_ns - listed_ns < _AGAIN_NS:
            return False
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns  # noqa: PTH116
        except OSError:
            changed_ns = 0
        before_ns, self._changed_ns = self._changed_ns, changed_ns
        return listed_ns is None or changed_ns != before_ns or now_ns - listed_ns >= _LISTED_NS


def _put(memory: dict[str, _Value], key: str, value: _Value) -> None:
    """Keeps a value, at the cost of the one that was kept first where there are REMEMBERED."""
    if key not in memory and len(memory) >= REMEMBERED:
        del memory[next(iter(memory))]
    memory[key] = value


def _below(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))  # noqa: PTH118
