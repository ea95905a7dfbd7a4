"""A node that exists in a test's head: what its kernel would answer about stuck attempts, and an
investigator that asks it. Time passes when the test says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tests.support.reports import HOST, POD, SECOND
from tracer.errors import SynsentError
from tracer.evidence.devices import Devices
from tracer.evidence.ears import Ears
from tracer.evidence.investigator import Investigator
from tracer.evidence.looks import Looks
from tracer.evidence.places import Places
from tracer.evidence.watching import Watching
from tracer.facts import (
    ConntrackTable,
    Drop,
    Handed,
    LocalPorts,
    Neighbour,
    Reset,
    ReversePath,
    Route,
)
from tracer.host.counters import ConntrackDrops, TcpCounters
from tracer.host.ctnetlink import Entry
from tracer.host.icmp import AboutPacket
from tracer.host.inet_diag import ListenSocket
from tracer.host.listeners import Owner
from tracer.host.netns import Namespace
from tracer.model import Attempt, Cause, Confidence, Endpoint, Flow, Nat, Report, Verdict

UNICAST = Route("unicast", "10.4.0.1", "eth0", None, 1)
LOCAL = Route("local", None, "lo", None, 1)
PEER = POD + 1
PEER_LLADDR = "02:00:00:00:00:99"


class Clock:
    """Seconds of CLOCK_MONOTONIC, which do not pass by themselves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Kernel:
    """What each namespace would answer, by its path; `asked` is what was asked of it.

    Namespaces are /pod, /node and /peer; the latter two have POD's and the node's neighbours. What
    is not said otherwise is in order, and leads through eth0.
    """

    routes: dict[tuple[str, str], Route] = field(default_factory=dict)
    """By path and destination address."""
    marked: dict[tuple[str, int], Route] = field(default_factory=dict)
    """Of packets with a mark, by path and mark."""
    lladdr: str | None = None
    knows_pod: bool = True
    overflows: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    table: tuple[int, int] = (1, 10)
    listening: dict[str, ListenSocket] = field(default_factory=dict)
    entry: Entry | OSError | None = None
    errors: dict[str, Exception] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    owners: dict[str, Owner] = field(default_factory=dict)
    virtual: set[str] = field(default_factory=set)
    leading_out: set[str] = field(default_factory=set)
    nat_rules: bool = False
    cpu_seconds_a_look: float = 0.0
    cpu_seconds: float = 0.0
    asked: list[tuple[str, str, object]] = field(default_factory=list)
    opened: int = 0
    closed: int = 0

    def note(self, what: str, path: str, about: object = None) -> None:
        self.asked.append((what, path, about))
        if path in self.errors:
            raise self.errors[path]

    def of(self, what: str) -> list[tuple[str, object]]:
        return [(path, about) for kind, path, about in self.asked if kind == what]

    def refuse(self, path: str, kind: str = "none") -> None:
        """Has a namespace without a route to anywhere."""
        for known in list(self.routes):
            if known[0] == path:
                del self.routes[known]
        self.routes[path, ""] = Route(kind, None, None, None, 1)

    def looks(self) -> Looks:
        return Looks(
            namespaces=self._namespaces,
            routes=lambda path: Netlink(self, path),
            entry=self._entry,
            table=self._table,
            tcp_counters=self._tcp_counters,
            conntrack_drops=self._conntrack_drops,
            listener=self._listener,
            reverse_path=self._reverse_path,
            ports=self._ports,
            may_translate=self._may_translate,
        )

    def places(self, clock: Clock | None = None) -> Places:
        clock = clock or Clock()
        return Places(
            HOST,
            "/node",
            self.looks(),
            owners=self,
            devices=Devices(
                HOST, lambda _netns: None, of_host=self.leading_out.__contains__, clock=clock
            ),
            clock=clock,
        )

    def cpu(self) -> float:
        return self.cpu_seconds

    # Owners.
    def owner_of(self, address: str) -> Owner | None:
        return self.owners.get(address)

    def is_virtual(self, address: str) -> bool:
        return address in self.virtual

    def _namespaces(self) -> Mapping[int, Namespace]:
        found = {POD: "/pod", HOST: "/node", PEER: "/peer"}
        return {
            inode: Namespace(inode, (7,), path)
            for inode, path in found.items()
            if path not in self.gone
        }

    def _entry(self, path: str, flow: Flow) -> Entry | None:
        self.note("entry", path, flow.destination)
        if isinstance(self.entry, OSError):
            raise self.entry
        return self.entry

    def _table(self, path: str) -> ConntrackTable:
        self.note("table", path)
        return ConntrackTable(POD if path == "/pod" else HOST, *self.table, 0, 1)

    def _tcp_counters(self, path: str) -> TcpCounters:
        self.note("counters", path)
        count = self.overflows.get(path, 3)
        return TcpCounters(count, count, 0, 0, 0)

    def _conntrack_drops(self, path: str) -> ConntrackDrops:
        self.note("drops", path)
        return ConntrackDrops(self.refused.get(path, 7))

    def _listener(self, path: str, local: Endpoint, _remote: Endpoint) -> ListenSocket | None:
        self.note("listener", path, local)
        return self.listening.get(path)

    def _reverse_path(self, path: str, _flow: Flow, device: str) -> ReversePath:
        self.note("reverse_path", path, device)
        return ReversePath(POD, device, 1, symmetric=True)

    def _may_translate(self, path: str) -> bool:
        self.note("nat rules", path)
        return self.nat_rules

    def _ports(self, path: str, _flow: Flow) -> LocalPorts:
        self.note("ports", path)
        return LocalPorts(1, 2, 1)


@dataclass
class Netlink:
    """An open socket to a kernel's routes."""

    kernel: Kernel
    path: str

    def __post_init__(self) -> None:
        self.kernel.note("opened", self.path)
        self.kernel.opened += 1

    def close(self) -> None:
        self.kernel.closed += 1

    def knows(self, address: str) -> bool:
        self.kernel.note("knows", self.path, address)
        return self.kernel.knows_pod

    def marks(self, family: int) -> frozenset[int]:
        self.kernel.note("marks", self.path, family)
        return frozenset(mark for path, mark in self.kernel.marked if path == self.path)

    def route(self, flow: Flow, mark: int | None = None) -> Route:
        self.kernel.note("route", self.path, flow.destination)
        if mark is not None:
            return self.kernel.marked.get((self.path, mark), UNICAST)
        if self.path == "/pod":
            self.kernel.cpu_seconds += self.kernel.cpu_seconds_a_look
        routes = self.kernel.routes
        anywhere = routes.get((self.path, ""), UNICAST)
        return routes.get((self.path, flow.destination.address), anywhere)

    def neighbour(self, address: str, device: str) -> Neighbour:
        self.kernel.note("neighbour", self.path, address)
        return Neighbour(address, device, "REACHABLE", 1, self.kernel.lladdr)


@dataclass
class Network:
    """ICMP errors that come next, and how many were lost, by the namespace's path."""

    coming: dict[str, list[AboutPacket]] = field(default_factory=dict)
    lost: dict[str, int | None] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    refusals: dict[str, OSError] = field(default_factory=dict)
    failure: OSError | None = None

    def listener(self, path: str) -> Heard:
        refusal = self.refusals.get(path)
        if refusal is not None:
            raise refusal
        self.opened.append(path)
        return Heard(self, path)


@dataclass
class Heard:
    network: Network
    path: str

    def read(self) -> list[AboutPacket]:
        if self.network.failure is not None:
            raise self.network.failure
        return self.network.coming.pop(self.path, [])

    def lost(self) -> int | None:
        return self.network.lost.get(self.path, 0)

    def close(self) -> None:
        self.network.closed.append(self.path)


class Probe:
    """What a DropProbe would see, as the test says."""

    lacking: tuple[str, ...] = ("something",)

    def __init__(self) -> None:
        self.watched: dict[str, Attempt] = {}
        self.drops: dict[str, tuple[Drop, ...]] = {}
        self.handed: dict[str, tuple[Handed, ...]] = {}
        self.resets: dict[str, tuple[Reset, ...]] = {}
        self.handing = False
        self.closed = False
        self.lost = 0

    def watch(self, attempts: Iterable[Attempt]) -> None:
        self.watched = {one.id: one for one in attempts}

    def watched_ns(self, attempt_id: str) -> int | None:
        return 11 * SECOND if attempt_id in self.watched else None

    def watch_handed(self, on: bool) -> None:
        self.handing = on

    def read(self) -> dict[str, tuple[tuple[Drop, ...], tuple[Handed, ...]]]:
        return {
            name: (self.drops.get(name, ()), self.handed.get(name, ())) for name in self.watched
        }

    def reset_of(self, attempt_id: str) -> tuple[Reset, ...] | None:
        return self.resets.get(attempt_id, ()) if attempt_id in self.watched else None

    def close(self) -> None:
        self.closed = True


class Bench:
    """An investigator of such a node, without its thread: the test says when a round is due."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - of Investigator
        self.clock = Clock()
        self.kernel = Kernel()
        self.network = Network()
        self.probes: list[Probe] = []
        self.refusal: SynsentError | None = None
        self.load_seconds = 0.0
        self.nat: dict[str, Nat] = {}
        self.places = self.kernel.places(self.clock)
        self.it = Investigator(
            host_netns=HOST,
            host_path="/node",
            nat_of=self.nat.get,
            places=self.places,
            ears=Ears(self.network.listener, clock=self.clock),
            watching=Watching(self._probe, clock=self.clock),
            clock=self.clock,
            cpu=self.kernel.cpu,
            **options,
        )

    def _probe(self) -> Probe:
        if self.refusal is not None:
            raise self.refusal
        self.clock.now += self.load_seconds
        self.probes.append(Probe())
        return self.probes[-1]

    @property
    def probe(self) -> Probe:
        return self.probes[-1]

    def note(self, *reports: Report) -> list[Report]:
        return self.it.note(reports)

    def end(self, report: Report) -> Verdict:
        """What an attempt's end is told with."""
        (told,) = self.note(report)
        assert told.verdict is not None
        return told.verdict

    def round(self, after: float = 0.0) -> list[tuple[str, Verdict]]:
        """One round of the thread, some seconds later; what it has to say."""
        self.clock.now += after
        self.it.round()
        return [(report.change.attempt.id, verdict) for report, verdict in self.it.news()]

    def causes(self, after: float = 0.0) -> list[tuple[str, Cause, Confidence]]:
        return [(name, found.cause, found.confidence) for name, found in self.round(after)]

    def looked_up(self) -> list[object]:
        """Destinations of which routes were asked in the pod, in that order."""
        return [about for path, about in self.kernel.of("route") if path == "/pod"]


def has_peer(kernel: Kernel, address: str, *, on_the_way: bool = True) -> None:
    """Another namespace of the node has an address, and is where the node's route to it ends."""
    kernel.owners[address] = Owner(Namespace(PEER, (9,), "/peer"), frozenset({PEER_LLADDR}))
    kernel.routes["/node", address] = replace(UNICAST, gateway=None, device="to-peer")
    kernel.lladdr = PEER_LLADDR if on_the_way else "02:00:00:00:00:01"


@contextmanager
def running(bench: Bench) -> Iterator[Bench]:
    """With its thread."""
    bench.it.start()
    try:
        yield bench
    finally:
        bench.it.stop()
