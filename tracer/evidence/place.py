"""What is true of every attempt of one namespace to one destination: routes, neighbours, tables.

Looked up once for all of them, again every few seconds while something there is stuck: what it
costs grows with the destinations, not with the attempts.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, TypeVar

from tracer.facts import (
    ConntrackTable,
    Listener,
    LocalPorts,
    Neighbour,
    ReversePath,
    Route,
)
from tracer.host.counters import ConntrackDrops, TcpCounters, conntrack_drops, conntrack_table
from tracer.host.counters import tcp_counters as read_tcp_counters
from tracer.host.ctnetlink import Conntrack
from tracer.host.listeners import AddressOwners, listener
from tracer.host.netns import Namespace, list_namespaces
from tracer.host.ports import local_ports
from tracer.host.reverse_path import reverse_path
from tracer.host.rtnetlink import Rtnetlink, next_hop
from tracer.model import Endpoint, Flow, Scope

_Told = TypeVar("_Told")

_LIST_SECONDS: Final = 2.0


class PlaceKey(NamedTuple):
    """One namespace's attempts to one destination, which NAT on the node leads to one `backend`;
    None where it does not, or is not known to.
    """

    netns: int
    destination: Endpoint
    backend: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class PlaceFacts:
    """The facts that attempts of a place share; see facts.Facts."""

    neighbour: Neighbour | None = None
    route: Route | None = None
    host_route: Route | None = None
    host_neighbour: Neighbour | None = None
    conntrack: tuple[ConntrackTable, ...] = ()
    listener: Listener | None = None
    reverse_paths: tuple[ReversePath, ...] = ()
    ports: LocalPorts | None = None

    @property
    def gist(self) -> object:
        """What a verdict may turn on: times and numbers that only grow are left out."""
        return (
            self.route and replace(self.route, at_ns=0),
            self.host_route and replace(self.host_route, at_ns=0),
            self.neighbour and replace(self.neighbour, at_ns=0),
            self.host_neighbour and replace(self.host_neighbour, at_ns=0),
            tuple((table.count >= table.maximum, table.refused > 0) for table in self.conntrack),
            self.listener and _pressure(self.listener),
            self.reverse_paths,
            self.ports and (self.ports.used >= self.ports.available),
        )


def _pressure(found: Listener) -> object:
    full = found.queued is not None and found.backlog is not None and found.queued > found.backlog
    return found.listening, full, found.overflows > 0, found.drops > 0


@dataclass(slots=True)
class _Baseline:
    """Counters of a namespace as they were when something there was first looked at."""

    tcp: TcpCounters | None = None
    conntrack: ConntrackDrops | None = None


@dataclass(slots=True)
class Places:
    """Looks places up. For one thread.

    `refused` is why something could not be looked at, for people; None where everything could.
    """

    host_netns: int | None
    host_path: str | None
    refused: str | None = None
    _owners: AddressOwners = field(default_factory=AddressOwners)
    _namespaces: Mapping[int, Namespace] = field(default_factory=dict)
    _listed: float = 0.0
    _baselines: dict[int, _Baseline] = field(default_factory=dict)

    def look(
        self,
        flow: Flow,
        scope: Scope,
        backend: Endpoint | None,
        *,
        ports: bool = False,
        translated: bool = False,
    ) -> PlaceFacts:
        """What is to be known about a flow's place now. Never raises: what may not be looked at, or
        is gone, stays None.

        `backend` is where NAT on the node leads, None where it is not known to. `translated` tells
        that it leads somewhere: without a backend nobody knows where the node sends it then, and
        nothing is said of the way there.
        `ports` asks how many local ports are in use too, which costs milliseconds.
        """
        namespace = self._namespace(flow.netns)
        path = namespace.path if namespace is not None else None
        host_path = self._node_on_the_way(flow)
        beyond = flow if backend is None else replace(flow, destination=backend)
        astray = backend is None and (translated or self._led_elsewhere(host_path, flow))
        route, neighbour = self._way(path, flow)
        host_route, host_neighbour = self._way(None if astray else host_path, beyond)
        return PlaceFacts(
            route=route,
            neighbour=neighbour,
            host_route=host_route,
            host_neighbour=host_neighbour,
            conntrack=tuple(
                table
                for where, inode in ((path, flow.netns), (host_path, self.host_netns))
                if where is not None and (table := self._table(where, inode)) is not None
            ),
            listener=(
                None
                if astray
                else self._listener(beyond, namespace if scope is Scope.LOOPBACK else None)
            ),
            reverse_paths=tuple(
                found
                for where, way in ((path, route), (host_path, host_route))
                if where is not None
                and way is not None
                and way.device is not None
                and way.kind == "unicast"
                and (found := self._try(reverse_path, where, flow, way.device)) is not None
            ),
            ports=self._try(local_ports, path, flow) if ports and path is not None else None,
        )

    def path_of(self, netns: int) -> str | None:
        """The file of a namespace; None where it is gone."""
        namespace = self._namespace(netns)
        return None if namespace is None else namespace.path

    def watch(self, netns: int) -> None:
        """Notes what a namespace's counters stand at, unless that is known: growth counts."""
        path = self.path_of(netns)
        if path is not None:
            self._baseline(path, netns)

    def forget(self, keep: frozenset[int]) -> None:
        """Drops what is known of namespaces in which nothing is stuck any more."""
        for netns in self._baselines.keys() - keep:
            del self._baselines[netns]

    def _namespace(self, netns: int | None) -> Namespace | None:
        if netns is None:
            return None
        now = time.monotonic()
        if netns not in self._namespaces or now - self._listed >= _LIST_SECONDS:
            with suppress(OSError):
                self._namespaces = list_namespaces()
                self._listed = now
        return self._namespaces.get(netns)

    def _node_on_the_way(self, flow: Flow) -> str | None:
        """The file of the node's namespace where a pod's packets pass through it; else None: what
        the node would do with them says nothing.
        """
        path = self.host_path
        if path is None or flow.netns == self.host_netns:
            return None
        return path if self._try(_knows, path, flow.source.address) else None

    def _led_elsewhere(self, host_path: str | None, flow: Flow) -> bool:
        """Whether the node's NAT sends this very flow elsewhere, or may: NAT is looked up beside
        this thread (enrich/nat.py), and its word may be on its way. The node's route to a service's
        own address is nobody's.
        """
        if host_path is None:
            return False
        if None in {flow.source.port, flow.destination.port}:
            return True
        try:
            with closing(Conntrack(host_path)) as kernel:
                entry = kernel.get(flow)
        except OSError as error:
            return error.errno != errno.EPROTONOSUPPORT  # nothing is tracked, so nothing translated
        return entry is not None and entry.reply_source != flow.destination

    def _way(self, path: str | None, flow: Flow) -> tuple[Route | None, Neighbour | None]:
        if path is None:
            return None, None
        return self._try(_way, path, flow) or (None, None)

    def _baseline(self, path: str, netns: int) -> _Baseline:
        known = self._baselines.get(netns)
        if known is None:
            known = self._baselines[netns] = _Baseline(
                self._try(read_tcp_counters, path), self._try(conntrack_drops, path)
            )
        return known

    def _table(self, path: str, netns: int | None) -> ConntrackTable | None:
        since = None if netns is None else self._baseline(path, netns).conntrack
        return self._try(conntrack_table, path, since)

    def _listener(self, flow: Flow, own: Namespace | None) -> Listener | None:
        owner = own or self._try(self._owners.owner_of, flow.destination.address)
        if owner is None:
            return None
        before = self._baseline(owner.path, owner.inode).tcp
        now = self._try(read_tcp_counters, owner.path)
        try:
            found = listener(owner.path, flow.destination, flow.source)
        except (OSError, ValueError):
            return None
        return Listener(
            netns=owner.inode,
            listening=found is not None,
            queued=None if found is None else found.queued,
            backlog=None if found is None else found.backlog,
            overflows=_grown(before, now, "listen_overflows"),
            drops=_grown(before, now, "listen_drops"),
            at_ns=time.monotonic_ns(),
        )

    def _try(self, look: Callable[..., _Told], *arguments: object) -> _Told | None:
        try:
            return look(*arguments)
        except PermissionError as error:
            self.refused = error.strerror or "not permitted"
        except (OSError, ValueError):  # gone meanwhile, or the kernel lacks it
            pass
        return None


def _knows(path: str, address: str) -> bool:
    with Rtnetlink(path) as kernel:
        return kernel.knows(address)


def _way(path: str, flow: Flow) -> tuple[Route, Neighbour | None]:
    """The route of a flow's SYN in a namespace, and the state of its next hop."""
    with Rtnetlink(path) as kernel:
        route = kernel.route(flow)
        hop = next_hop(route, flow)
        if hop is None or route.device is None:
            return route, None
        return route, kernel.neighbour(hop, route.device)


def _grown(before: TcpCounters | None, now: TcpCounters | None, counter: str) -> int:
    first: int | None = getattr(before, counter, None)
    last: int | None = getattr(now, counter, None)
    return 0 if first is None or last is None else max(0, last - first)
