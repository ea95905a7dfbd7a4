"""Finds names by address: what tracer.kube.names looks up, written by one thread at a time.

Readers take no lock. What a lookup returns hangs on one entry of one dictionary, which is immutable
and is exchanged whole: a reader gets what was there before a write or after it, and nothing
in between. Everything that a name needs is made at the write, so that a lookup costs about a
microsecond however large the cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from tracer.kube.pod import TCP, PodInfo
from tracer.kube.policy_records import PolicyRecord
from tracer.kube.records import (
    EndpointRecord,
    NodeRecord,
    ServicePort,
    ServiceRecord,
    SliceRecord,
    canonical,
)
from tracer.model import Endpoints, Kind

Key = tuple[str, str]
"""Namespace, "" of a node, and name."""

MAX_INCOMPLETE: Final = 50_000
"""Services of which it is remembered that not all their endpoints are known."""


@dataclass(frozen=True, slots=True)
class Named:
    """What an address is called; see model.Destination."""

    kind: Kind
    name: str
    ambiguous: bool = False
    endpoints: Endpoints | None = None


@dataclass(frozen=True, slots=True)
class PodIndex:
    """This node's pods, made anew at every change: there are some hundreds."""

    by_uid: Mapping[str, PodInfo] = field(default_factory=dict)
    containers: Mapping[str, str] = field(default_factory=dict)
    by_address: Mapping[str, PodInfo] = field(default_factory=dict)
    host_addresses: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, pods: Iterable[PodInfo]) -> PodIndex:
        """Where pods have an address in common, the one made last has it.

        A static pod's hash that several claim is none's: annotations are not for the node alone.
        Pods whose containers ended for good have no address any more. `host_addresses` are those
        of pods in the node's own network, with the node's name.
        """
        ordered = sorted(pods, key=lambda pod: pod.created or "")
        living = [
            (address, pod)
            for pod in ordered
            if not pod.gone
            for one in pod.pod_ips
            if (address := canonical(one)) is not None
        ]
        claims = Counter(pod.config_hash for pod in ordered)
        hashes = {
            pod.config_hash: pod
            for pod in ordered
            if pod.config_hash is not None and claims[pod.config_hash] == 1
        }
        return cls(
            by_uid=hashes | {pod.uid: pod for pod in ordered},
            containers={
                one.id: one.name for pod in ordered for one in pod.containers if one.id is not None
            },
            by_address={address: pod for address, pod in living if not pod.host_network},
            host_addresses={
                address: pod.node
                for address, pod in living
                if pod.host_network and pod.node is not None
            },
        )


def node_addresses(nodes: Iterable[NodeRecord]) -> dict[str, str]:
    """The node that has an address."""
    return {address: node.name for node in nodes for address in node.addresses}


class EndpointIndex:
    """Endpoints by address. Each is held by every slice that lists it, mostly one or two."""

    def __init__(self, slices: Iterable[SliceRecord] = ()) -> None:
        self._held: dict[str, EndpointRecord | tuple[EndpointRecord, ...]] = {}
        for one in slices:
            for endpoint in dict.fromkeys(one.endpoints):
                self._hold(endpoint)

    def exchange(
        self, old: tuple[EndpointRecord, ...], new: tuple[EndpointRecord, ...]
    ) -> tuple[EndpointRecord, ...]:
        """Holds a slice's `new` endpoints in place of its `old` ones; returns the objects held.

        Those that did not change stay as they are, and as old as they are.
        """
        before = {endpoint: endpoint for endpoint in reversed(old)}
        held = tuple(before.get(endpoint, endpoint) for endpoint in dict.fromkeys(new))
        for endpoint in held:
            if endpoint not in before:
                self._hold(endpoint)
        now = set(held)
        for endpoint in before.values():
            if endpoint not in now:
                self._release(endpoint)
        return held

    def __contains__(self, address: str) -> bool:
        return address in self._held

    def pod(self, address: str) -> tuple[str, bool] | None:
        """The "namespace/name" of the pod that has an address, as far as endpoints tell.

        The second is whether another pod is said to have it too: then the first is one that is
        ready, and that was heard of last. None where no pod has it.
        """
        held = self._held.get(address)
        if held is None:
            return None
        if isinstance(held, EndpointRecord):
            return None if held.pod is None else (held.pod, False)
        pods = {endpoint.pod for endpoint in held if endpoint.pod is not None}
        ready = {endpoint.pod for endpoint in held if endpoint.ready}
        for endpoint in reversed(held):
            if endpoint.pod is not None and (endpoint.ready or ready.isdisjoint(pods)):
                return endpoint.pod, len(pods) > 1
        return None

    def _hold(self, endpoint: EndpointRecord) -> None:
        held = self._held.get(endpoint.address)
        if held is None:
            self._held[endpoint.address] = endpoint
        elif isinstance(held, EndpointRecord):
            self._held[endpoint.address] = (held, endpoint)
        else:
            self._held[endpoint.address] = (*held, endpoint)

    def _release(self, endpoint: EndpointRecord) -> None:
        held = self._held.get(endpoint.address)
        if held is endpoint:
            del self._held[endpoint.address]
        elif isinstance(held, tuple):
            rest = tuple(one for one in held if one is not endpoint)
            self._held[endpoint.address] = rest[0] if len(rest) == 1 else rest


class PolicyIndex:
    """Policies by their namespace; each namespace's are exchanged whole."""

    def __init__(self, policies: Iterable[PolicyRecord] = ()) -> None:
        grouped: dict[str, list[PolicyRecord]] = {}
        for one in policies:
            grouped.setdefault(one.namespace, []).append(one)
        self._of = {namespace: tuple(those) for namespace, those in grouped.items()}

    def of(self, namespace: str) -> tuple[PolicyRecord, ...]:
        return self._of.get(namespace, ())

    def exchange(self, old: PolicyRecord | None, new: PolicyRecord | None) -> None:
        """Holds `new` in place of `old`: one was added, modified or deleted."""
        changed = old or new
        if changed is None:
            return
        namespace = changed.namespace
        rest = tuple(one for one in self.of(namespace) if one is not old)
        those = rest if new is None else (*rest, new)
        if those:
            self._of[namespace] = those
        else:
            self._of.pop(namespace, None)


@dataclass(frozen=True, slots=True)
class ServiceBackend:
    """An endpoint of a service, and the port that it serves there; None: all of them."""

    endpoint: EndpointRecord
    port: int | None


NodePort = tuple[int, int]
"""Address family, 4 or 6, and a port that every node serves."""
Place = str | NodePort
"""Where services answer: at an address of their own, or at a port of the nodes."""


@dataclass(frozen=True, slots=True)
class Front:
    """What services answer at one place.

    ports  by the port that is connected to
    alone  the service whose own address this is, if it is no other's too
    """

    ports: Mapping[int, Named]
    alone: Key | None

    def named(self, port: int | None) -> Named | None:
        """What answers at a port."""
        return None if port is None else self.ports.get(port)

    @property
    def unserved(self) -> Named | None:
        """What a port is called at which nothing answers; None where several might have it."""
        return None if self.alone is None else Named(Kind.SERVICE, "/".join(self.alone))


class ServiceIndex:
    """Services by where they answer, each with its endpoints.

    The mapping of services belongs to the caller, who changes it before saying so.
    """

    def __init__(self, services: Mapping[Key, ServiceRecord]) -> None:
        self._services = services
        self._slices: dict[Key, tuple[SliceRecord, ...]] = {}
        # Who answers at a place, the newest last, and what follows from that.
        self._claims: dict[Place, tuple[Key, ...]] = {}
        self._fronts: dict[Place, Front] = {}
        # Whether all endpoints are known, but for those of some services.
        self._slices_known = False
        self._incomplete: set[Key] = set()

    def front(self, place: Place) -> Front | None:
        return self._fronts.get(place)

    def backends(self, place: Place, port: int) -> tuple[ServiceBackend, ...] | None:
        """The endpoints behind what answers at a place and port, ready or not.

        None where they are not known: not all slices are, several services answer, or the one has
        no slice of that family. That is not what a service without endpoints has: its controller
        leaves it an empty one.
        """
        found: list[tuple[Key, str]] = []
        for key in self._claims.get(place, ()):
            service = self._services.get(key)
            if service is not None:
                found += [(key, one.name) for one in _ports_at(service, place, port)]
        if len(found) != 1:
            return None
        key, port_name = found[0]
        slices = self._known_slices(key)
        family = _family(place) if isinstance(place, str) else place[0]
        those = [one for one in slices or () if one.family == family]
        if not those:
            return None
        return tuple(
            ServiceBackend(endpoint, number)
            for one in those
            for name, number in one.ports
            if name == port_name
            for endpoint in one.endpoints
        )

    def replace_services(self, services: Mapping[Key, ServiceRecord]) -> None:
        """Takes `services` for all there are, in place of the mapping there was."""
        self._services = services
        claims: dict[Place, tuple[Key, ...]] = {}
        for key, service in services.items():
            alone = (key,)  # shared by all its places
            for place in dict.fromkeys(_places(service)):
                others = claims.get(place)
                claims[place] = alone if others is None else (*others, key)
        self._claims = claims
        self._renew_all()

    def put_service(self, old: ServiceRecord | None, new: ServiceRecord | None) -> None:
        """One service was added, modified or deleted."""
        before = dict.fromkeys(_places(old)) if old is not None else {}
        now = dict.fromkeys(_places(new)) if new is not None else {}
        for service, places, others in ((old, before, now), (new, now, before)):
            if service is None:
                continue
            key = (service.namespace, service.name)
            for place in places.keys() - others.keys():
                rest = tuple(one for one in self._claims.get(place, ()) if one != key)
                self._claims[place] = (*rest, key) if service is new else rest
        self._renew(before | now)

    def replace_slices(
        self, slices: Iterable[SliceRecord], incomplete: set[Key], *, cached: bool
    ) -> None:
        """Takes `slices` for all there are, but for those of services in `incomplete`.

        Where they are `cached`, what they were is known, but no service's endpoints as they are.
        """
        grouped: dict[Key, tuple[SliceRecord, ...]] = {}
        for one in slices:
            key = (one.namespace, one.service)
            grouped[key] = (*grouped.get(key, ()), one)
        self._slices_known = False  # nobody is to read the one without the other
        self._slices = grouped
        self._incomplete = incomplete
        self._slices_known = not cached and len(incomplete) <= MAX_INCOMPLETE
        self._renew_all()

    def put_slice(self, old: SliceRecord | None, new: SliceRecord | None) -> None:
        """One slice was added, modified, moved to another service or deleted."""
        changed: dict[Key, None] = {}
        for one in (old, new):
            if one is None:
                continue
            key = (one.namespace, one.service)
            changed[key] = None
            rest = tuple(
                each
                for each in self._slices.get(key, ())
                if (each.namespace, each.name) != (one.namespace, one.name)
            )
            slices = (*rest, one) if one is new else rest
            if slices:
                self._slices[key] = slices
            else:
                self._slices.pop(key, None)
        self._renew_services(changed)

    def lose_slice(self, key: Key) -> None:
        """From now on not all endpoints of a service are known."""
        if not self._slices_known:
            return
        self._incomplete.add(key)
        if len(self._incomplete) > MAX_INCOMPLETE:
            self._slices_known = False
            self._renew_all()
        else:
            self._renew_services((key,))

    def _renew_services(self, keys: Iterable[Key]) -> None:
        services = (self._services.get(key) for key in keys)
        self._renew(
            place for service in services if service is not None for place in _places(service)
        )

    def _renew_all(self) -> None:
        self._fronts = {place: self._make(place, keys) for place, keys in self._claims.items()}

    def _renew(self, places: Iterable[Place]) -> None:
        for place in places:
            keys = self._claims.get(place)
            if keys:
                self._fronts[place] = self._make(place, keys)
            else:
                self._claims.pop(place, None)
                self._fronts.pop(place, None)

    def _make(self, place: Place, keys: tuple[Key, ...]) -> Front:
        ports: dict[int, Named] = {}
        for key in keys:
            service = self._services[key]
            for number, named in self._named_ports(place, key, service):
                taken = number in ports
                ports[number] = replace(named, ambiguous=True) if taken else named
        return Front(ports, keys[0] if len(keys) == 1 and isinstance(place, str) else None)

    def _named_ports(
        self, place: Place, key: Key, service: ServiceRecord
    ) -> Iterable[tuple[int, Named]]:
        family = _family(place) if isinstance(place, str) else place[0]
        for port in service.ports:
            if not _answers(port, place):
                continue
            named = Named(
                Kind.SERVICE,
                f"{service.namespace}/{service.name}:{port.port}",
                endpoints=self._count(key, service, family, port.name),
            )
            yield port.port if isinstance(place, str) else place[1], named

    def _count(
        self, key: Key, service: ServiceRecord, family: int, port_name: str
    ) -> Endpoints | None:
        """Of a service's endpoints those that serve a port; None where not all are known.

        That includes a service with a selector of which no slice was heard of yet: its controller
        makes one for each family, an empty one where there are no pods (k8s.io/endpointslice,
        reconciler.go).
        """
        known = self._known_slices(key)
        if known is None:
            return None
        slices = [one for one in known if one.family == family]
        if service.has_selector and not slices:
            return None
        total: set[str] = set()
        ready: set[str] = set()
        for one in slices:
            if any(name == port_name for name, _ in one.ports):
                total.update(endpoint.address for endpoint in one.endpoints)
                ready.update(endpoint.address for endpoint in one.endpoints if endpoint.ready)
        return _endpoints(len(ready), len(total))

    def _known_slices(self, key: Key) -> tuple[SliceRecord, ...] | None:
        """A service's slices; None where not all are known."""
        slices = self._slices.get(key, ())
        return slices if self._slices_known and key not in self._incomplete else None


def _places(service: ServiceRecord) -> Iterable[Place]:
    yield from service.addresses
    families = dict.fromkeys(_family(address) for address in service.addresses)
    for port in service.ports:
        if port.node_port is not None and port.protocol == TCP:
            yield from ((family, port.node_port) for family in families)


def _answers(port: ServicePort, place: Place) -> bool:
    return port.protocol == TCP and (isinstance(place, str) or port.node_port == place[1])


def _ports_at(service: ServiceRecord, place: Place, number: int) -> Iterable[ServicePort]:
    """The ports of a service that answer at a place, to connects to a port."""
    for port in service.ports:
        if _answers(port, place) and (not isinstance(place, str) or port.port == number):
            yield port


def _family(address: str) -> int:
    return 6 if ":" in address else 4


@lru_cache(4_096)
def _endpoints(ready: int, total: int) -> Endpoints:
    """Most services have the same few counts."""
    return Endpoints(ready, total)
