"""What the cluster calls addresses and pods: the API server's objects, indexed for looking up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from threading import Lock
from typing import Final, Generic, TypeVar

from tracer.kube.index import (
    MAX_INCOMPLETE,
    EndpointIndex,
    Key,
    Named,
    NodePort,
    PodIndex,
    PolicyIndex,
    ServiceBackend,
    ServiceIndex,
    node_addresses,
)
from tracer.kube.pod import PodInfo
from tracer.kube.policy_records import NamespaceRecord, PolicyRecord, pieces
from tracer.kube.records import NodeRecord, ServiceRecord, SliceRecord, is_public
from tracer.model import Kind

__all__ = ["ROOM", "Key", "Named", "Names", "Record", "Resource", "ServiceBackend", "key_of"]

Record = PodInfo | ServiceRecord | SliceRecord | NodeRecord | PolicyRecord | NamespaceRecord
_R = TypeVar("_R", bound=Record)


class Resource(StrEnum):
    """What is listed and watched; the value is the resource's name in the API."""

    PODS = "pods"
    SERVICES = "services"
    ENDPOINT_SLICES = "endpointslices"
    NODES = "nodes"
    NETWORK_POLICIES = "networkpolicies"
    NAMESPACES = "namespaces"


ROOM: Final[Mapping[Resource, int]] = {
    Resource.PODS: 20_000,  # pods of this node, and their containers
    Resource.SERVICES: 100_000,  # services, and their ports at addresses
    Resource.ENDPOINT_SLICES: 200_000,  # slices, and endpoints
    Resource.NODES: 50_000,  # nodes, and addresses
    Resource.NETWORK_POLICIES: 200_000,  # policies, and what they are made of
    Resource.NAMESPACES: 200_000,  # namespaces, and labels
}
"""How much is kept of each resource: ten of the largest nodes, three of the largest clusters."""


def key_of(record: Record) -> Key:
    """Namespace and name, unique within a resource; nodes and namespaces have the namespace ""."""
    if isinstance(record, NodeRecord | NamespaceRecord):
        return "", record.name
    return record.namespace, record.name


class Names:
    """The index. Each resource is written by one thread; anyone may read, without a lock.

    `version` grows with every change, so that a reader knows when what it kept is out of date: it
    grows after the change, never before it. `current` are the resources of which every change is
    heard of now; that of others was true when it was told.
    """

    def __init__(self, room: Mapping[Resource, int] = ROOM) -> None:
        self.version = 0
        self.current: frozenset[Resource] = frozenset()
        self._writing = Lock()  # among writers: services and their endpoints share an index
        self._listed: frozenset[Resource] = frozenset()
        self._cached: frozenset[Resource] = frozenset()  # of those listed, by the cache alone
        self._pods = _Kept[PodInfo](room[Resource.PODS])
        self._services = _Kept[ServiceRecord](room[Resource.SERVICES])
        self._slices = _Kept[SliceRecord](room[Resource.ENDPOINT_SLICES])
        self._nodes = _Kept[NodeRecord](room[Resource.NODES])
        self._policies = _Kept[PolicyRecord](room[Resource.NETWORK_POLICIES])
        self._namespaces = _Kept[NamespaceRecord](room[Resource.NAMESPACES])
        self._pod_index = PodIndex()
        self._service_index = ServiceIndex(self._services.records)
        self._endpoint_index = EndpointIndex()
        self._node_addresses: Mapping[str, str] = {}
        self._policy_index = PolicyIndex()
        self._namespace_index: dict[str, NamespaceRecord] = {}
        self._node_names: frozenset[str] = frozenset()

    def replace(
        self, resource: Resource, records: Iterable[Record], *, cached: bool = False
    ) -> None:
        """Makes `records` all there is of a resource: the end of a list.

        Where they are `cached`, that is what there was: see destination(). Where iterating over
        them raises, nothing changes.
        """
        records = [*records]
        with self._writing:
            first = resource not in self._listed or resource in self._cached
            if resource is Resource.PODS:
                changed = self._pods.replace(_all(PodInfo, records))
                self._index_pods()
            elif resource is Resource.SERVICES:
                changed = self._services.replace(_all(ServiceRecord, records))
                self._service_index.replace_services(self._services.records)
            elif resource is Resource.ENDPOINT_SLICES:
                changed = self._replace_slices(records, cached=cached)
            elif resource is Resource.NODES:
                changed = self._nodes.replace(_all(NodeRecord, records))
                self._index_nodes()
            elif resource is Resource.NETWORK_POLICIES:
                changed = self._policies.replace(_all(PolicyRecord, records))
                self._policy_index = PolicyIndex(self._policies.records.values())
            else:
                changed = self._namespaces.replace(_all(NamespaceRecord, records))
                kept = self._namespaces.records.values()
                self._namespace_index = {one.name: one for one in kept}
            self._listed |= {resource}
            self._cached = self._cached | {resource} if cached else self._cached - {resource}
            if changed or first:
                self.version += 1

    def put(self, resource: Resource, record: Record) -> None:
        """An object that was added or modified."""
        with self._writing:
            if resource is Resource.PODS:
                if self._pods.put(_one(PodInfo, record)) is None:
                    return
                self._index_pods()
            elif resource is Resource.SERVICES:
                service = self._services.put(_one(ServiceRecord, record))
                if service is None:
                    return
                self._service_index.put_service(service.old, service.new)
            elif resource is Resource.ENDPOINT_SLICES:
                if not self._put_slice(_one(SliceRecord, record)):
                    return
            elif resource is Resource.NODES:
                if self._nodes.put(_one(NodeRecord, record)) is None:
                    return
                self._index_nodes()
            elif resource is Resource.NETWORK_POLICIES:
                policy = self._policies.put(_one(PolicyRecord, record))
                if policy is None:
                    return
                self._policy_index.exchange(policy.old, policy.new)
            else:
                namespace = self._namespaces.put(_one(NamespaceRecord, record))
                if namespace is None:
                    return
                self._put_namespace(record.name, namespace.new)
            self.version += 1

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        """An object that was deleted; nodes and namespaces have the namespace ""."""
        key = (namespace, name)
        with self._writing:
            if resource is Resource.PODS:
                if self._pods.remove(key) is None:
                    return
                self._index_pods()
            elif resource is Resource.SERVICES:
                service = self._services.remove(key)
                if service is None:
                    return
                self._service_index.put_service(service, None)
            elif resource is Resource.ENDPOINT_SLICES:
                one = self._slices.remove(key)
                if one is None:
                    return
                self._service_index.put_slice(one, None)
                self._endpoint_index.exchange(one.endpoints, ())
            elif resource is Resource.NODES:
                if self._nodes.remove(key) is None:
                    return
                self._index_nodes()
            elif resource is Resource.NETWORK_POLICIES:
                policy = self._policies.remove(key)
                if policy is None:
                    return
                self._policy_index.exchange(policy, None)
            else:
                if self._namespaces.remove(key) is None:
                    return
                self._put_namespace(name, None)
            self.version += 1

    def follows(self, resource: Resource, *, current: bool) -> None:
        """Whether every change of a resource is heard of from now on."""
        with self._writing:
            self.current = self.current | {resource} if current else self.current - {resource}

    def records(self, resource: Resource) -> list[Record]:
        """All there is of a resource, for the cache on disk."""
        with self._writing:
            return [*self._kept(resource).values()]

    def same(self, resource: Resource, record: Record) -> Record:
        """The record that is kept, if it equals `record`, else `record`.

        Whoever reads a list again page by page, and goes on with what this returns, holds no
        second copy of the cluster until it is put in place of the first.
        """
        kept = self._kept(resource).get(key_of(record))
        return kept if kept == record and kept is not None else record

    def listed(self, resource: Resource) -> bool:
        """Whether all there is of a resource was told once, by the API server or the cache."""
        return resource in self._listed

    def complete(self, resource: Resource) -> bool:
        """Whether it was listed, and there was room for all of it."""
        return resource in self._listed and not self._overflow[resource]

    @property
    def overflow(self) -> int:
        """How often a record was not kept for want of room, since its resource was last listed."""
        return sum(self._overflow.values())

    @property
    def _overflow(self) -> dict[Resource, int]:
        return {
            Resource.PODS: self._pods.overflow,
            Resource.SERVICES: self._services.overflow,
            Resource.ENDPOINT_SLICES: self._slices.overflow,
            Resource.NODES: self._nodes.overflow,
            Resource.NETWORK_POLICIES: self._policies.overflow,
            Resource.NAMESPACES: self._namespaces.overflow,
        }

    @property
    def has_pods(self) -> bool:
        """Whether there is any pod of this node."""
        return bool(self._pod_index.by_uid)

    def has_node(self, name: str) -> bool:
        return name in self._node_names

    def pod(self, uid: str) -> PodInfo | None:
        """By metadata.uid, or by the kubelet's hash that a static pod's cgroup carries."""
        return self._pod_index.by_uid.get(uid)

    def container(self, container_id: str) -> str | None:
        """The name of a container of this node's pods."""
        return self._pod_index.containers.get(container_id)

    def pod_at(self, address: str) -> PodInfo | None:
        """The pod of this node that has this address of its own, not the node's."""
        return self._pod_index.by_address.get(address)

    def destination(self, address: str, port: int | None) -> Named | None:
        """What answers at an address, as the kernel writes it, and port.

        A service's address comes before a node's, a node's before a pod's. At a service's address,
        a port that it does not have is called by the service's name alone, "shop/db", if no other
        service has the address too; a node's port may be a service's (its nodePort), which is then
        named with its own port. Its endpoints are counted from what the API server has told since
        the start: None before that, also where the cache told something.

        A node's address is ambiguous where pods in the node's network are known, or endpoints at
        this address. A pod's is where endpoints of different pods have it, and where nodes were
        never listed: whether it is the node's own cannot be told then, unless the pod is this
        node's. A public address is no pod's only because an endpoint says so: whoever may write
        slices could call any server a pod.

        None where the cluster has no name for it.
        """
        front = self._service_index.front(address)
        if front is not None and (named := front.named(port)) is not None:
            return named
        node = self._node_addresses.get(address) or self._pod_index.host_addresses.get(address)
        if node is not None:
            return self._at_node(node, address, port)
        return self._at_pod(address) if front is None else front.unserved

    def backends(self, address: str, port: int) -> Sequence[ServiceBackend] | None:
        """The endpoints, ready or not, of the service that destination() names.

        None where not all are known, or it cannot be told whose they are.
        """
        front = self._service_index.front(address)
        if front is not None and front.named(port) is not None:
            return self._service_index.backends(address, port)
        if address in self._node_addresses or address in self._pod_index.host_addresses:
            return self._service_index.backends(_node_port(address, port), port)
        return None

    def policies(self, namespace: str) -> Sequence[PolicyRecord]:
        """The NetworkPolicies of a namespace; whether they are all, complete() tells."""
        return self._policy_index.of(namespace)

    def namespaces(self) -> Mapping[str, NamespaceRecord]:
        """By name, those that are known."""
        return self._namespace_index

    def _at_node(self, node: str, address: str, port: int | None) -> Named:
        if port is not None:
            front = self._service_index.front(_node_port(address, port))
            if front is not None and (named := front.named(port)) is not None:
                return named
        shared = address in self._pod_index.host_addresses or address in self._endpoint_index
        return Named(Kind.NODE, node, ambiguous=shared)

    def _at_pod(self, address: str) -> Named | None:
        pod = self._pod_index.by_address.get(address)
        if pod is not None:
            return Named(Kind.POD, f"{pod.namespace}/{pod.name}")
        told = self._endpoint_index.pod(address)
        if told is None or is_public(address):
            return None
        name, shared = told
        return Named(Kind.POD, name, ambiguous=shared or Resource.NODES not in self._listed)

    def _kept(self, resource: Resource) -> Mapping[Key, Record]:
        if resource is Resource.PODS:
            return self._pods.records
        if resource is Resource.SERVICES:
            return self._services.records
        if resource is Resource.ENDPOINT_SLICES:
            return self._slices.records
        if resource is Resource.NODES:
            return self._nodes.records
        if resource is Resource.NETWORK_POLICIES:
            return self._policies.records
        return self._namespaces.records

    def _index_pods(self) -> None:
        self._pod_index = PodIndex.of(self._pods.records.values())

    def _index_nodes(self) -> None:
        self._node_addresses = node_addresses(self._nodes.records.values())
        self._node_names = frozenset(node.name for node in self._nodes.records.values())

    def _put_namespace(self, name: str, record: NamespaceRecord | None) -> None:
        if record is None:
            self._namespace_index.pop(name, None)
        else:
            self._namespace_index[name] = record

    def _replace_slices(self, records: Iterable[Record], *, cached: bool) -> bool:
        incomplete: set[Key] = set()

        def refuse(one: SliceRecord) -> None:
            if len(incomplete) <= MAX_INCOMPLETE:
                incomplete.add((one.namespace, one.service))

        changed = self._slices.replace(_all(SliceRecord, records), refuse)
        slices = self._slices.records
        self._endpoint_index = EndpointIndex(slices.values())
        self._service_index.replace_slices(slices.values(), incomplete, cached=cached)
        return changed

    def _put_slice(self, record: SliceRecord) -> bool:
        change = self._slices.put(record)
        if change is None:
            return False
        old, new = change.old, change.new
        held = self._endpoint_index.exchange(
            old.endpoints if old is not None else (), new.endpoints if new is not None else ()
        )
        if new is None:
            self._service_index.lose_slice((record.namespace, record.service))
        else:
            new = self._slices.records[key_of(new)] = replace(new, endpoints=held)
        self._service_index.put_slice(old, new)
        return True


@dataclass(frozen=True, slots=True)
class _Change(Generic[_R]):
    """What a record was and is now: None is nothing, or nothing that there was room for."""

    old: _R | None
    new: _R | None


class _Kept(Generic[_R]):
    """The records of a resource by key, as far as there is room."""

    def __init__(self, room: int) -> None:
        self.records: dict[Key, _R] = {}
        self.overflow = 0
        self._room = room
        self._used = 0

    def replace(
        self, records: Iterable[_R], refused: Callable[[_R], None] = lambda _: None
    ) -> bool:
        """Makes `records` all there are; returns whether that changed any.

        Records that are as they were stay the objects they were: a list that is read again costs
        no memory for long. Calls `refused` with those that there is no room for.
        """
        before, self.records = self.records, {}
        self._used = self.overflow = 0
        for record in records:
            key = key_of(record)
            old = before.get(key)
            self.remove(key)  # one that was listed twice
            if not self._admit(key, record if old is None or old != record else old):
                refused(record)
        return self.records != before

    def put(self, record: _R) -> _Change[_R] | None:
        """Adds or exchanges one; None where it is as it was."""
        key = key_of(record)
        old = self.records.get(key)
        if old == record:
            return None
        self.remove(key)
        return _Change(old, record if self._admit(key, record) else None)

    def remove(self, key: Key) -> _R | None:
        record = self.records.pop(key, None)
        if record is not None:
            self._used -= _size(record)
        return record

    def _admit(self, key: Key, record: _R) -> bool:
        size = _size(record)
        if self._used + size > self._room:
            self.overflow += 1
            return False
        self._used += size
        self.records[key] = record
        return True


def _size(record: Record) -> int:
    """In units of ROOM."""
    if isinstance(record, PodInfo):
        return 1 + len(record.containers)
    if isinstance(record, ServiceRecord):
        return 1 + len(record.addresses) * len(record.ports)
    if isinstance(record, SliceRecord):
        return 1 + len(record.endpoints)
    if isinstance(record, NodeRecord):
        return 1 + len(record.addresses)
    if isinstance(record, NamespaceRecord):
        return 1 + len(record.labels or ())
    return pieces(record)


def _node_port(address: str, port: int) -> NodePort:
    return 6 if ":" in address else 4, port


def _one(kind: type[_R], record: Record) -> _R:
    """Raises TypeError for a record of another resource."""
    if not isinstance(record, kind):
        raise TypeError(f"{type(record).__name__} is no {kind.__name__}")
    return record


def _all(kind: type[_R], records: Iterable[Record]) -> Iterable[_R]:
    return (_one(kind, record) for record in records)
