"""Which pod an attempt belongs to, and on what evidence.

In this order, the surest first:

    cgroup   the connecting process runs in a container of the pod
    netns    the attempt is made in the pod's own network namespace: also told of a process that was
             gone before it could be read, and of one of the host's that entered the namespace
    address  its source is the pod's own address, as the API knows it: for pods of which no process
             can be seen in their namespace (in a virtual machine, or behind another /proc). Others
             may use the same address: it is not asked where the process was read, nor of a pod
             that was met in another namespace

The node's own namespace and address belong to all that use the host's network: there, the cgroup
alone tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from tracer.host.nodepods import NodePods
from tracer.kube.names import Names
from tracer.kube.pod import eni_id
from tracer.model import Flow, NameSource, PodEvidence, PodIdentity, Process

REMEMBERED: Final = 8_192
"""Identities, some 400 bytes each: one for each container, and for what is known of none."""

_FROM_API: Final = (NameSource.API, NameSource.CACHE)


class _Tie(NamedTuple):
    """What an attempt is tied to, and the network namespace of a process that tied it."""

    uid: str
    container_id: str | None
    evidence: PodEvidence
    netns: int | None


class _Kept(NamedTuple):
    """An identity, and the names it was made from; None where it is to be completed."""

    identity: PodIdentity
    made_from: tuple[int, int | None] | None


class Pods:
    """Names the pods of attempts: by the API's objects, else by what the node knows.

    For one thread.
    """

    def __init__(
        self,
        node_name: str,
        node: NodePods,
        names: Names | None,
        names_wall_ns: Callable[[], int | None],
    ) -> None:
        """`names_wall_ns` tells when `names` were last known to be true; None: they are."""
        self._node_name = node_name
        self._node = node
        self._names = names
        self._names_wall_ns = names_wall_ns
        self._kept: dict[_Tie, _Kept] = {}

    def identify(
        self, process: Process | None, flow: Flow, begun_ns: int | None = None
    ) -> PodIdentity | None:
        """The pod that an attempt belongs to, as far as it is known now; None where none is.

        `begun_ns` is when the attempt was there already (CLOCK_MONOTONIC), None: not known. A pod
        that the API has named keeps its name when it is deleted. Never raises. 2 µs for a pod that
        is known, 10 µs where the names have changed, 0.5 ms for the first attempt of a container;
        see NodePods.pod_in for namespaces that are new.
        """
        tie = self._tie(process, flow, begun_ns)
        if tie is None:
            return None
        names = self._names
        now = (0 if names is None else names.version, self._names_wall_ns())
        kept = self._kept.get(tie)
        if kept is not None and kept.made_from == now:
            return kept.identity
        before = None if kept is None else kept.identity
        identity = self._describe(tie, now[1], before)
        complete = (
            identity.name is not None
            and identity.host_network is not None
            and (tie.container_id is None or identity.container is not None)
        )
        if identity == before:
            identity = before
        self._keep(tie, _Kept(identity, now if complete else None))
        return identity

    def _tie(self, process: Process | None, flow: Flow, begun_ns: int | None) -> _Tie | None:
        if process is not None and process.pod_uid is not None:
            return _Tie(process.pod_uid, process.container_id, PodEvidence.CGROUP, flow.netns)
        netns = flow.netns
        if netns is not None:
            if netns == self._node.host_netns:
                return None
            found = self._node.pod_in(netns, begun_ns)
            if found is not None:
                return _Tie(found, None, PodEvidence.NETNS, None)
        if self._names is None or _was_read(process):
            return None
        pod = self._names.pod_at(flow.source.address)
        if pod is None or pod.host_network:
            return None
        if netns is not None and self._node.namespace_of(pod.uid) not in (None, netns):
            return None
        return _Tie(pod.uid, None, PodEvidence.ADDRESS, None)

    def _describe(self, tie: _Tie, wall_ns: int | None, before: PodIdentity | None) -> PodIdentity:
        container = None if tie.container_id is None else self._container(tie.container_id)
        told = None if self._names is None else self._names.pod(tie.uid)
        if told is not None:
            return PodIdentity(
                namespace=told.namespace,
                name=told.name,
                uid=told.uid,
                node=told.node or self._node_name,
                eni_id=eni_id(told.annotations),
                container=container,
                workload=told.workload,
                host_network=told.host_network,
                evidence=tie.evidence,
                name_source=NameSource.API if wall_ns is None else NameSource.CACHE,
                names_wall_ns=wall_ns,
            )
        if before is not None and before.name_source in _FROM_API:
            return before if container is None else replace(before, container=container)
        known = self._node.pod(tie.uid, tie.container_id)
        return PodIdentity(
            namespace=None if known is None else known.namespace,
            name=None if known is None else known.name,
            uid=tie.uid,
            node=self._node_name,
            container=container,
            host_network=self._host_network(tie),
            evidence=tie.evidence,
            name_source=None if known is None else known.source,
        )

    def _host_network(self, tie: _Tie) -> bool | None:
        """Whether a pod uses the host's network, by where its attempts are made.

        A process may enter the namespace of another pod: what is not the node's own is the pod's
        only if it is known to be.
        """
        if tie.evidence is not PodEvidence.CGROUP:
            return False
        if tie.netns is None:
            return None
        if tie.netns == self._node.host_netns:
            return True
        return False if self._node.pod_in(tie.netns) == tie.uid else None

    def _container(self, container_id: str) -> str | None:
        told = None if self._names is None else self._names.container(container_id)
        return told or self._node.container(container_id)

    def _keep(self, tie: _Tie, kept: _Kept) -> None:
        if tie not in self._kept and len(self._kept) >= REMEMBERED:
            del self._kept[next(iter(self._kept))]
        self._kept[tie] = kept


def _was_read(process: Process | None) -> bool:
    """Whether /proc told more of a process than the kernel's record of its attempt."""
    return process is not None and any(
        told is not None
        for told in (process.unit, process.container_id, process.executable, process.command_line)
    )
