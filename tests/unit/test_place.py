"""What is looked up about a namespace and a destination, and what stays unknown."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pytest

from tests.support.reports import CLIENT, HOST, POD, THERE
from tracer.evidence import place as place_module
from tracer.evidence.place import PlaceFacts, Places
from tracer.facts import ConntrackTable, Listener, LocalPorts, Neighbour, ReversePath, Route
from tracer.host.counters import ConntrackDrops, TcpCounters
from tracer.host.ctnetlink import Entry
from tracer.host.inet_diag import ListenSocket
from tracer.host.netns import Namespace
from tracer.model import Endpoint, Flow, Scope

PEER = POD + 1
FLOW = Flow(POD, 4, CLIENT, THERE)
BACKEND = Endpoint("10.4.7.99", 8443)
UNICAST = Route("unicast", "10.4.0.1", "eth0", None, 1)


@dataclass
class Kernel:
    """What each namespace would answer, by its path; `asked` is what was asked of it."""

    routes: dict[str, Route] = field(default_factory=lambda: {"/pod": UNICAST, "/node": UNICAST})
    knows_pod: bool = True
    overflows: int = 3
    refused: int = 7
    listening: ListenSocket | None = None
    entry: Entry | OSError | None = None
    errors: dict[str, OSError] = field(default_factory=dict)
    asked: list[tuple[str, str, object]] = field(default_factory=list)

    def note(self, what: str, path: str, about: object = None) -> None:
        self.asked.append((what, path, about))
        if path in self.errors:
            raise self.errors[path]

    def of(self, what: str) -> list[tuple[str, object]]:
        return [(path, about) for kind, path, about in self.asked if kind == what]


@dataclass
class Netlink:
    kernel: Kernel
    path: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def knows(self, address: str) -> bool:
        self.kernel.note("knows", self.path, address)
        return self.kernel.knows_pod

    def route(self, flow: Flow) -> Route:
        self.kernel.note("route", self.path, flow.destination)
        return self.kernel.routes[self.path]

    def neighbour(self, address: str, device: str) -> Neighbour:
        self.kernel.note("neighbour", self.path, address)
        return Neighbour(address, device, "REACHABLE", 1)


@dataclass
class Tracking:
    kernel: Kernel
    path: str

    def get(self, flow: Flow) -> Entry | None:
        self.kernel.note("entry", self.path, flow.destination)
        if isinstance(self.kernel.entry, OSError):
            raise self.kernel.entry
        return self.kernel.entry

    def close(self) -> None:
        self.kernel.note("closed", self.path)


@dataclass
class Owners:
    owner: Namespace | None = None

    def owner_of(self, _address: str) -> Namespace | None:
        return self.owner


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    found: Mapping[int, Namespace] = {POD: Namespace(POD, (7,), "/pod")}

    def counters(path: str) -> TcpCounters:
        made.note("counters", path)
        return TcpCounters(made.overflows, made.overflows, 0, 0, 0)

    def drops(path: str) -> ConntrackDrops:
        made.note("drops", path)
        return ConntrackDrops(made.refused, 0, 0)

    def table(path: str, since: ConntrackDrops | None) -> ConntrackTable:
        made.note("table", path)
        return ConntrackTable(POD, 1, 10, made.refused - (since.drop if since else 0), 1)

    def listener(path: str, local: Endpoint, _remote: Endpoint) -> ListenSocket | None:
        made.note("listener", path, local)
        return made.listening

    def reverse_path(path: str, _flow: Flow, device: str) -> ReversePath:
        made.note("reverse_path", path, device)
        return ReversePath(POD, device, 1, symmetric=True)

    def local_ports(path: str, _flow: Flow) -> LocalPorts:
        made.note("ports", path)
        return LocalPorts(1, 2, 1)

    fakes: dict[str, Callable[..., Any]] = {
        "list_namespaces": lambda: found,
        "Rtnetlink": lambda path: Netlink(made, path),
        "Conntrack": lambda path: Tracking(made, path),
        "read_tcp_counters": counters,
        "conntrack_drops": drops,
        "conntrack_table": table,
        "listener": listener,
        "reverse_path": reverse_path,
        "local_ports": local_ports,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(place_module, name, fake)
    return made


def places(owner: Namespace | None = None) -> Places:
    made = Places(HOST, "/node")
    made._owners = Owners(owner)  # type: ignore[assignment]
    return made


def test_a_pods_way_is_looked_up_in_its_own_namespace_and_then_in_the_nodes(kernel: Kernel) -> None:
    found = places().look(FLOW, Scope.VPC, None)
    assert found.route == found.host_route == UNICAST
    assert kernel.of("route") == [("/pod", THERE), ("/node", THERE)]
    assert kernel.of("neighbour") == [("/pod", "10.4.0.1"), ("/node", "10.4.0.1")]
    assert [path.device for path in found.reverse_paths] == ["eth0", "eth0"]
    assert len(found.conntrack) == 2
    assert found.listener is None
    assert found.ports is None


def test_the_node_is_asked_for_the_way_to_the_backend(kernel: Kernel) -> None:
    places().look(FLOW, Scope.VPC, BACKEND)
    assert kernel.of("route") == [("/pod", THERE), ("/node", BACKEND)]


@pytest.mark.usefixtures("kernel")
def test_where_nobody_knows_the_backend_the_nodes_way_is_not_looked_up() -> None:
    peer = Namespace(PEER, (9,), "/peer")
    found = places(peer).look(FLOW, Scope.VPC, None, translated=True)
    assert found.route == UNICAST
    assert (found.host_route, found.host_neighbour, found.listener) == (None, None, None)
    assert len(found.conntrack) == 2


def entry(backend: Endpoint) -> Entry:
    return Entry(backend, CLIENT, "SYN_SENT", replied=False, assured=False, timeout_seconds=1)


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        (None, True),
        (entry(THERE), True),
        (OSError(errno.EPROTONOSUPPORT, "nf_conntrack is not loaded"), True),
        (entry(BACKEND), False),
        (PermissionError(errno.EPERM, "no"), False),
    ],
)
def test_a_backend_whose_name_is_on_its_way_is_waited_for(
    kernel: Kernel, found: Entry | OSError | None, asked: bool
) -> None:
    kernel.entry = found
    told = places().look(FLOW, Scope.VPC, None)
    assert (told.host_route is not None) == asked
    assert kernel.of("entry") == [("/node", THERE)]
    assert kernel.of("closed") == [("/node", None)]


def test_nat_of_a_port_that_is_not_known_is_not_either(kernel: Kernel) -> None:
    unknown = replace(FLOW, source=Endpoint(CLIENT.address, None))
    assert places().look(unknown, Scope.VPC, None).host_route is None
    assert kernel.of("entry") == []


def test_a_node_that_forwards_nothing_for_the_pod_is_not_asked(kernel: Kernel) -> None:
    kernel.knows_pod = False
    found = places().look(FLOW, Scope.VPC, None)
    assert found.route == UNICAST
    assert found.host_route is None
    assert len(found.conntrack) == 1


@pytest.mark.usefixtures("kernel")
def test_what_begins_on_the_node_is_looked_up_once() -> None:
    made = places()
    made._namespaces = {HOST: Namespace(HOST, (1,), "/node")}
    made._listed = float("inf")
    found = made.look(replace(FLOW, netns=HOST), Scope.VPC, None)
    assert (found.route, found.host_route) == (UNICAST, None)
    assert len(found.conntrack) == 1


def test_ports_are_counted_only_where_that_is_asked_for(kernel: Kernel) -> None:
    assert places().look(FLOW, Scope.VPC, None, ports=True).ports == LocalPorts(1, 2, 1)
    assert kernel.of("ports") == [("/pod", None)]


def test_of_counters_counts_what_they_grew_by_since_the_first_look(kernel: Kernel) -> None:
    kernel.listening = ListenSocket(2, 1)
    made = places(Namespace(PEER, (9,), "/peer"))
    made.watch(POD)
    kernel.refused += 5
    first = made.look(FLOW, Scope.VPC, BACKEND)
    kernel.overflows += 2
    second = made.look(FLOW, Scope.VPC, BACKEND)
    assert first.conntrack[0].refused == 5
    assert first.listener is not None
    assert second.listener is not None
    assert (first.listener.overflows, second.listener.overflows) == (0, 2)
    assert (second.listener.netns, second.listener.listening) == (PEER, True)
    assert kernel.of("listener") == [("/peer", BACKEND)] * 2
    made.forget(frozenset())
    assert made.look(FLOW, Scope.VPC, BACKEND).conntrack[0].refused == 0


@pytest.mark.usefixtures("kernel")
def test_loopback_listens_in_the_pods_own_namespace() -> None:
    found = places().look(FLOW, Scope.LOOPBACK, None)
    assert found.listener is not None
    assert (found.listener.netns, found.listener.listening) == (POD, False)


def test_a_namespace_that_is_gone_or_closed_leaves_unknown_what_it_would_have_told(
    kernel: Kernel,
) -> None:
    kernel.errors = {"/pod": FileNotFoundError(2, "gone")}
    made = places()
    found = made.look(FLOW, Scope.VPC, None)
    assert (found.route, found.host_route) == (None, UNICAST)
    assert made.refused is None
    kernel.errors = {"/pod": PermissionError(1, "Operation not permitted")}
    assert made.look(FLOW, Scope.VPC, None).route is None
    assert made.refused == "Operation not permitted"


@pytest.mark.usefixtures("kernel")
def test_an_attempt_whose_namespace_is_not_known_has_no_place_of_its_own() -> None:
    found = places().look(replace(FLOW, netns=PEER), Scope.VPC, None)
    assert found.route is None
    assert found.host_route == UNICAST


def test_what_a_verdict_may_turn_on_does_not_change_with_time_alone() -> None:
    first = PlaceFacts(
        route=UNICAST,
        conntrack=(ConntrackTable(POD, 10, 10, 1, 1),),
        listener=Listener(PEER, True, 2, 1, 1, 1, 1),
        ports=LocalPorts(1, 2, 1),
    )
    later = PlaceFacts(
        route=replace(UNICAST, at_ns=9),
        conntrack=(ConntrackTable(POD, 11, 10, 8, 9),),
        listener=Listener(PEER, True, 3, 1, 9, 9, 9),
        ports=LocalPorts(1, 2, 9),
    )
    assert first.gist == later.gist
    assert first.gist != replace(first, route=replace(UNICAST, kind="blackhole")).gist
    assert first.gist != replace(first, listener=None).gist
    assert first.gist != replace(first, conntrack=()).gist
