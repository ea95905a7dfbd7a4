"""Looks up what is true of every attempt of a place: routes, neighbours, listener, tables.

Once for all of them, again every few seconds while something there is stuck: what it
costs grows with the destinations, not with the attempts.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import Final, Protocol, TypeVar

from tracer.evidence.devices import Devices
from tracer.evidence.ledger import Ledger, Reading
from tracer.evidence.looks import Looks, Way, Ways
from tracer.evidence.place import PlaceFacts
from tracer.facts import ConntrackTable, Listener, ReversePath, Route
from tracer.host.listeners import AddressOwners, Owner
from tracer.host.netns import Namespace
from tracer.model import NANOSECONDS, Endpoint, Flow, Scope

_Told = TypeVar("_Told")

_LIST_SECONDS: Final = 2.0
_LIST_AGAIN_SECONDS: Final = 0.2
"""The same where a namespace is missing, which may be new, or gone for good."""

_TABLE_SECONDS: Final = 0.5
"""A table is its namespace's, not a destination's: it is not read for each of them."""

_MISSING: Final = frozenset({"none", "throw", "unreachable"})
"""Kinds of route of an address for which nobody made one: some end their tables with the last."""

_MAX_HERE: Final = 4_096
"""Senders of ICMP errors of which it is kept whether they are this node."""


class Owners(Protocol):
    """See tracer.host.listeners.AddressOwners."""

    def owner_of(self, address: str) -> Owner | None: ...
    def is_virtual(self, address: str) -> bool: ...


class Places:
    """Looks places up. For one thread.

    `refused` is why something could not be looked at, for people; None where everything could.
    """

    def __init__(
        self,
        host_netns: int | None,
        host_path: str | None,
        looks: Looks | None = None,
        *,
        owners: Owners | None = None,
        devices: Devices | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is in seconds, of CLOCK_MONOTONIC."""
        self._clock = clock
        self.host_netns = host_netns
        self.host_path = host_path
        self.refused: str | None = None
        self.devices = devices or Devices(host_netns, self.path_of, clock=clock)
        self._looks = looks or Looks()
        self._ways = Ways(self._looks.routes)
        self._owners: Owners = owners or AddressOwners()
        self._namespaces: Mapping[int, Namespace] = {}
        self._listed: float | None = None
        self._ledgers: dict[int, Ledger] = {}
        self._tables: dict[str, tuple[float, ConntrackTable | None]] = {}
        self._here: dict[tuple[int | None, str], tuple[float, bool | None]] = {}

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Many looks at once share what they open."""
        with self._ways.batch():
            yield

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

        `backend` is where NAT leads, None where it is not known to. `translated` tells that it
        leads somewhere: without a backend nobody knows where the node sends it then, and nothing is
        said of the way there. What NAT leads to loopback, or to the client's own address, never
        comes to the node: a service mesh does so.
        `ports` asks how many local ports are in use too, which costs milliseconds.
        """
        namespace = self._namespace(flow.netns)
        path = None if namespace is None else namespace.path
        beyond = flow if backend is None else replace(flow, destination=backend)
        inside = scope is Scope.LOOPBACK or (backend is not None and _is_loopback(backend))
        own = self._way(path, beyond if inside else flow)
        stays = inside or self._is_own(path, own, None if backend is None else beyond)
        node = None if inside else self._node_on_the_way(flow)
        host_path = None if stays else node
        astray = not stays and backend is None and (translated or self._led_elsewhere(node, flow))
        host = self._way(None if astray else host_path, beyond)
        if backend is None and self._is_no_ones(host.route, scope, host_path):
            host = Way()
        by_mark = own.by_mark or host.by_mark
        found = None if astray else self._end(namespace, stays, host_path, own, host, beyond)
        listener = None if found is None else self._listener(*found, beyond)
        where = [(path, flow.netns), (node, self.host_netns)]
        return PlaceFacts(
            route=own.route,
            neighbour=own.neighbour,
            host_route=host.route,
            host_neighbour=host.neighbour,
            conntrack=tuple(
                table
                for file, _ in where
                if file is not None and (table := self._table(file)) is not None
            ),
            listener=listener,
            reverse_paths=tuple(self._reverse_paths(flow, (path, own), (host_path, host))),
            ports=self._try(self._looks.ports, path, flow) if ports and path is not None else None,
            by_mark=by_mark,
            ledgers={
                netns: self._ledger(file, netns)
                for file, netns in (
                    *where,
                    *(() if found is None else ((found[0].path, found[0].inode),)),
                )
                if file is not None and netns is not None
            },
        )

    def path_of(self, netns: int) -> str | None:
        """The file of a namespace; None where it is gone."""
        namespace = self._namespace(netns)
        return None if namespace is None else namespace.path

    def is_here(self, flow: Flow, address: str) -> bool | None:
        """Whether an address is the client's own, or of the node that its packets pass through;
        None where neither could be asked.
        """
        now, key = self._clock(), (flow.netns, address)
        at, known = self._here.get(key, (None, None))
        if at is not None and now - at < _LIST_SECONDS:
            return known
        namespace = self._namespace(flow.netns)
        to = replace(flow, destination=Endpoint(address, None))
        files = (None if namespace is None else namespace.path, self._node_on_the_way(flow))
        kinds = {self._try(self._ways.kind, path, to) for path in files if path is not None}
        told = None if not kinds or kinds == {None} else "local" in kinds
        if len(self._here) >= _MAX_HERE:
            self._here.clear()
        self._here[key] = now, told
        return told

    def watch(self, netns: int) -> None:
        """Notes now and then what a namespace's counters stand at: growth counts."""
        path = self.path_of(netns)
        if path is not None:
            self._ledger(path, netns)

    def forget(self, keep: frozenset[int]) -> None:
        """Drops what is known of namespaces in which nothing is stuck any more."""
        for netns in self._ledgers.keys() - keep:
            del self._ledgers[netns]
        self._tables.clear()
        self._here.clear()
        self.devices.forget()

    def _now_ns(self) -> int:
        return int(self._clock() * NANOSECONDS)

    # --- namespaces ------------------------------------------------------------------------------

    def _namespace(self, netns: int | None) -> Namespace | None:
        if netns is None:
            return None
        now = self._clock()
        wait = _LIST_SECONDS if netns in self._namespaces else _LIST_AGAIN_SECONDS
        if self._listed is None or now - self._listed >= wait:
            self._listed = now
            with suppress(OSError):
                self._namespaces = self._looks.namespaces()
        return self._namespaces.get(netns)

    def _node_on_the_way(self, flow: Flow) -> str | None:
        """The file of the node's namespace where a pod's packets pass through it; else None: what
        the node would do with them says nothing.
        """
        path = self.host_path
        if path is None or flow.netns == self.host_netns:
            return None
        return path if self._try(self._ways.knows, path, flow.source.address) else None

    # --- the way ---------------------------------------------------------------------------------

    def _way(self, path: str | None, flow: Flow) -> Way:
        if path is None:
            return Way()
        return self._try(self._ways.way, path, flow) or Way()

    def _is_own(self, path: str | None, own: Way, beyond: Flow | None) -> bool:
        """Whether the destination, or what NAT leads it to, is an address of the client's own."""
        if own.route is not None and own.route.kind == "local":
            return True
        if path is None or beyond is None:
            return False
        return self._try(self._ways.kind, path, beyond) == "local"

    def _led_elsewhere(self, node: str | None, flow: Flow) -> bool:
        """Whether the node's NAT sends this very flow elsewhere, or may: NAT is looked up beside
        this thread (enrich/nat.py), and its word may be on its way. The node's route to a service's
        own address is nobody's.
        """
        if node is None:
            return False
        if None in {flow.source.port, flow.destination.port}:
            return True
        try:
            entry = self._looks.entry(node, flow)
        except OSError as error:
            return error.errno != errno.EPROTONOSUPPORT  # nothing is tracked, so nothing translated
        return entry is not None and entry.reply_source != flow.destination

    def _is_no_ones(self, route: Route | None, scope: Scope, host_path: str | None) -> bool:
        """Whether the lack of a route on the node may be a service's address that never needs one:
        where it is translated and then dropped, connection tracking has no entry. Outside the VPC
        hardly any service is; a route that discards was made for the address.
        """
        if host_path is None or scope is Scope.EXTERNAL or route is None:
            return False
        return (
            route.kind in _MISSING and self._try(self._looks.may_translate, host_path) is not False
        )

    def _end(
        self,
        namespace: Namespace | None,
        stays: bool,
        host_path: str | None,
        own: Way,
        host: Way,
        beyond: Flow,
    ) -> tuple[Namespace, bool | None] | None:
        """The namespace of this node where the way ends, and whether it does for certain.

        Its address alone does not make a namespace the end: clusters and tests beside each other
        use the same ones. The last hop's hardware address, or the lack of any hop, tells.
        """
        if stays:
            return None if namespace is None else (namespace, True)
        address = beyond.destination.address
        if self._try(self._owners.is_virtual, address):
            return None
        last, netns = (own, beyond.netns) if host_path is None else (host, self.host_netns)
        if host_path is not None and last.route is not None and last.route.kind == "local":
            return (
                None
                if self.host_netns is None
                else (Namespace(self.host_netns, (), host_path), True)
            )
        owner = self._try(self._owners.owner_of, address)
        if owner is None or owner.namespace.inode == netns:
            return None
        certain = self._leads_to(last, netns, owner)
        return None if certain is False else (owner.namespace, certain)

    def _leads_to(self, last: Way, netns: int | None, owner: Owner) -> bool | None:
        """Whether the last hop is a namespace's; None where that is not known."""
        route, hop = last.route, last.neighbour
        if route is None:
            return None
        if route.kind != "unicast" or route.device is None:
            return False
        if hop is not None and hop.lladdr is not None:
            if hop.lladdr in owner.lladdrs:
                return True
            if route.gateway is None:
                return False
        return False if self.devices.leads_out(route.device, netns) else None

    # --- what is there ---------------------------------------------------------------------------

    def _reverse_paths(self, flow: Flow, *ways: tuple[str | None, Way]) -> Iterator[ReversePath]:
        for path, (route, _, _) in ways:
            if path is None or route is None or route.device is None or route.kind != "unicast":
                continue
            found = self._try(self._looks.reverse_path, path, flow, route.device)
            if found is not None:
                yield found

    def _ledger(self, path: str, netns: int) -> Ledger:
        ledger = self._ledgers.get(netns)
        if ledger is None:
            ledger = self._ledgers[netns] = Ledger()
        if ledger.is_due(self._now_ns()):
            self._note(ledger, path)
        return ledger

    def _note(self, ledger: Ledger, path: str) -> None:
        tcp = self._try(self._looks.tcp_counters, path)
        conntrack = self._try(self._looks.conntrack_drops, path)
        ledger.note(Reading(self._now_ns(), tcp, conntrack))

    def _table(self, path: str) -> ConntrackTable | None:
        now = self._clock()
        at, table = self._tables.get(path, (None, None))
        if at is None or now - at >= _TABLE_SECONDS:
            table = self._try(self._looks.table, path)
            self._tables[path] = now, table
        return table

    def _listener(self, owner: Namespace, on_the_way: bool | None, flow: Flow) -> Listener | None:
        try:
            found = self._looks.listener(owner.path, flow.destination, flow.source)
        except (OSError, ValueError):
            return None
        return Listener(
            netns=owner.inode,
            listening=found is not None,
            queued=None if found is None else found.queued,
            backlog=None if found is None else found.backlog,
            overflows=0,
            drops=0,
            at_ns=self._now_ns(),
            on_the_way=on_the_way,
        )

    def _try(self, look: Callable[..., _Told], *arguments: object) -> _Told | None:
        try:
            return look(*arguments)
        except PermissionError as error:
            self.refused = error.strerror or "not permitted"
        except (OSError, ValueError):  # gone meanwhile, or the kernel lacks it
            pass
        return None


def _is_loopback(one: Endpoint) -> bool:
    try:
        return ip_address(one.address).is_loopback
    except ValueError:
        return False
