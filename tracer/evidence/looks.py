"""The questions about a namespace that are put to the kernel for stuck attempts, and what they keep
open meanwhile.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from tracer.facts import ConntrackTable, LocalPorts, Neighbour, ReversePath, Route
from tracer.host.counters import ConntrackDrops, TcpCounters, conntrack_drops, conntrack_table
from tracer.host.counters import tcp_counters as read_tcp_counters
from tracer.host.ctnetlink import Conntrack, Entry
from tracer.host.inet_diag import ListenSocket
from tracer.host.listeners import listener
from tracer.host.nat_rules import may_translate
from tracer.host.netns import Namespace, list_namespaces
from tracer.host.ports import local_ports
from tracer.host.reverse_path import reverse_path
from tracer.host.rtnetlink import Rtnetlink, next_hop
from tracer.model import Endpoint, Flow

MAX_OPEN: Final = 16
"""Namespaces whose sockets are open at a time, during a batch."""

MAX_MARKS: Final = 16
"""Of rules by mark in a namespace; with more, routes are not known."""

_ANY_MARK: Final = 0xFFFF_FFFF


class Routes(Protocol):
    """See tracer.host.rtnetlink.Rtnetlink."""

    def knows(self, address: str) -> bool: ...
    def marks(self, family: int) -> frozenset[int]: ...
    def route(self, flow: Flow, mark: int | None = None) -> Route: ...
    def neighbour(self, address: str, device: str) -> Neighbour: ...
    def close(self) -> None: ...


def _entry(path: str, flow: Flow) -> Entry | None:
    with closing(Conntrack(path)) as kernel:
        return kernel.get(flow)


@dataclass(frozen=True, slots=True)
class Looks:
    """What is asked, each of a namespace's file; a test gives its own answers."""

    namespaces: Callable[[], Mapping[int, Namespace]] = list_namespaces
    routes: Callable[[str], Routes] = Rtnetlink
    entry: Callable[[str, Flow], Entry | None] = _entry
    table: Callable[[str], ConntrackTable] = conntrack_table
    tcp_counters: Callable[[str], TcpCounters] = read_tcp_counters
    conntrack_drops: Callable[[str], ConntrackDrops] = conntrack_drops
    listener: Callable[[str, Endpoint, Endpoint], ListenSocket | None] = listener
    reverse_path: Callable[[str, Flow, str], ReversePath | None] = reverse_path
    ports: Callable[[str, Flow], LocalPorts] = local_ports
    may_translate: Callable[[str], bool] = may_translate


class Way(NamedTuple):
    """How a namespace sends a flow's SYN on. `by_mark`: differently with some mark, so that it is
    not known.
    """

    route: Route | None = None
    neighbour: Neighbour | None = None
    by_mark: bool = False


class Ways:
    """Asks namespaces for routes. Sockets stay open within batch(). For one thread."""

    def __init__(self, open_routes: Callable[[str], Routes] = Rtnetlink) -> None:
        self._open_routes = open_routes
        self._open: dict[str, Routes] = {}
        self._marks: dict[tuple[str, int], frozenset[int]] = {}
        self._batch = False

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Many questions at once: within, what is open stays open, and rules are asked for once."""
        self._batch = True
        try:
            yield
        finally:
            self._batch = False
            self._close()

    def knows(self, path: str, address: str) -> bool:
        """Whether it has more than a default route to an address: Rtnetlink.knows()."""
        with self._asked(path) as kernel:
            return kernel.knows(address)

    def kind(self, path: str, flow: Flow) -> str:
        """The kind of the route alone, whatever marks may make of it."""
        with self._asked(path) as kernel:
            return kernel.route(flow).kind

    def way(self, path: str, flow: Flow) -> Way:
        """The route of a flow's SYN, and the state of its next hop.

        All raise OSError where the namespace cannot be entered or the kernel refuses.
        """
        with self._asked(path) as kernel:
            route = kernel.route(flow)
            if self._depends_on_mark(kernel, path, flow, route):
                return Way(by_mark=True)
            hop = next_hop(route, flow)
            if hop is None or route.device is None:
                return Way(route)
            return Way(route, kernel.neighbour(hop, route.device))

    def _depends_on_mark(self, kernel: Routes, path: str, flow: Flow, plain: Route) -> bool:
        known = self._marks.get((path, flow.family))
        if known is None:
            known = self._marks[path, flow.family] = _marks(kernel, flow.family)
        if len(known) > MAX_MARKS:
            return True
        return any(
            _course(kernel.route(flow, mark or _ANY_MARK)) != _course(plain) for mark in known
        )

    @contextmanager
    def _asked(self, path: str) -> Iterator[Routes]:
        kernel = self._open.get(path)
        if kernel is None:
            if len(self._open) >= MAX_OPEN:
                self._close()
            kernel = self._open[path] = self._open_routes(path)
        try:
            yield kernel
        finally:
            if not self._batch:
                self._close()

    def _close(self) -> None:
        for kernel in self._open.values():
            kernel.close()
        self._open.clear()
        self._marks.clear()


def _marks(kernel: Routes, family: int) -> frozenset[int]:
    try:
        return kernel.marks(family)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.EAFNOSUPPORT}:  # built without such rules
            return frozenset()
        raise


def _course(route: Route) -> object:
    return route.kind, route.gateway, route.device
