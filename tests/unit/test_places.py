"""What is looked up about a namespace and a destination, and what stays unknown."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from tests.support.evidence import LOCAL, PEER, UNICAST, Clock, Kernel, has_peer
from tests.support.reports import CLIENT, HOST, POD, SECOND, THERE
from tracer.evidence.place import PlaceFacts
from tracer.evidence.places import Places
from tracer.facts import ConntrackTable, Listener, LocalPorts
from tracer.host.ctnetlink import Entry
from tracer.host.inet_diag import ListenSocket
from tracer.host.netns import Namespace
from tracer.model import Endpoint, Flow, Scope

FLOW = Flow(POD, 4, CLIENT, THERE)
BACKEND = Endpoint("10.4.7.99", 8443)
SIDECAR = Endpoint("127.0.0.1", 15_001)
OWN = Endpoint(CLIENT.address, 443)
START = 100 * SECOND


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def places(kernel: Kernel) -> Places:
    return kernel.places()


# --- the way -------------------------------------------------------------------------------------


def test_a_pods_way_is_looked_up_in_its_own_namespace_and_then_in_the_nodes(
    kernel: Kernel, places: Places
) -> None:
    found = places.look(FLOW, Scope.VPC, None)
    assert found.route == found.host_route == UNICAST
    assert kernel.of("route") == [("/pod", THERE), ("/node", THERE)]
    assert kernel.of("neighbour") == [("/pod", "10.4.0.1"), ("/node", "10.4.0.1")]
    assert [path.device for path in found.reverse_paths] == ["eth0", "eth0"]
    assert [table.netns for table in found.conntrack] == [POD, HOST]
    assert found.listener is None
    assert found.ports is None
    assert not found.by_mark


def test_the_node_is_asked_for_the_way_to_the_backend(kernel: Kernel, places: Places) -> None:
    assert places.look(FLOW, Scope.VPC, BACKEND).host_route == UNICAST
    assert kernel.of("route")[-1] == ("/node", BACKEND)


def test_where_nobody_knows_the_backend_the_nodes_way_is_not_looked_up(
    kernel: Kernel, places: Places
) -> None:
    has_peer(kernel, THERE.address)
    found = places.look(FLOW, Scope.VPC, None, translated=True)
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
    kernel: Kernel, places: Places, found: Entry | OSError | None, asked: bool
) -> None:
    kernel.entry = found
    told = places.look(FLOW, Scope.VPC, None)
    assert (told.host_route is not None) == asked
    assert kernel.of("entry") == [("/node", THERE)]


def test_nat_of_a_port_that_is_not_known_is_not_either(kernel: Kernel, places: Places) -> None:
    unknown = replace(FLOW, source=Endpoint(CLIENT.address, None))
    assert places.look(unknown, Scope.VPC, None).host_route is None
    assert kernel.of("entry") == []


def test_a_node_that_forwards_nothing_for_the_pod_is_not_asked(
    kernel: Kernel, places: Places
) -> None:
    kernel.knows_pod = False
    found = places.look(FLOW, Scope.VPC, None)
    assert found.route == UNICAST
    assert found.host_route is None
    assert len(found.conntrack) == 1


def test_what_begins_on_the_node_is_looked_up_once(places: Places) -> None:
    found = places.look(replace(FLOW, netns=HOST), Scope.VPC, None)
    assert (found.route, found.host_route) == (UNICAST, None)
    assert len(found.conntrack) == 1


def test_a_route_that_some_mark_would_change_is_not_known(kernel: Kernel, places: Places) -> None:
    kernel.refuse("/node", "unreachable")
    kernel.marked["/node", 7] = UNICAST
    found = places.look(FLOW, Scope.VPC, None)
    assert (found.host_route, found.host_neighbour) == (None, None)
    assert found.by_mark
    assert found.route == UNICAST


def test_a_route_that_no_mark_changes_is_known(kernel: Kernel, places: Places) -> None:
    kernel.marked["/node", 0x80] = replace(UNICAST, at_ns=99)
    found = places.look(FLOW, Scope.VPC, None)
    assert found.host_route == UNICAST
    assert not found.by_mark


def test_with_very_many_rules_by_mark_no_route_is_known(kernel: Kernel, places: Places) -> None:
    kernel.marked = {("/node", mark): UNICAST for mark in range(1, 100)}
    assert places.look(FLOW, Scope.VPC, None).by_mark
    assert len(kernel.of("route")) == 2


# --- what stays in the pod -----------------------------------------------------------------------


def test_what_a_sidecar_takes_never_comes_to_the_node(kernel: Kernel, places: Places) -> None:
    kernel.routes["/pod", SIDECAR.address] = LOCAL
    kernel.listening["/pod"] = ListenSocket(2, 1)
    kernel.refuse("/node")
    found = places.look(FLOW, Scope.VPC, SIDECAR)
    assert found.route == LOCAL
    assert (found.host_route, found.host_neighbour) == (None, None)
    assert [table.netns for table in found.conntrack] == [POD]
    assert found.listener is not None
    assert (found.listener.netns, found.listener.queued) == (POD, 2)
    assert kernel.of("listener") == [("/pod", SIDECAR)]
    assert "/node" not in [path for _, path, _ in kernel.asked]


def test_a_pods_own_address_is_looked_up_in_itself(kernel: Kernel, places: Places) -> None:
    kernel.routes["/pod", OWN.address] = LOCAL
    kernel.listening["/pod"] = ListenSocket(2, 1)
    found = places.look(replace(FLOW, destination=OWN), Scope.VPC, None)
    assert found.listener is not None
    assert (found.listener.netns, found.listener.on_the_way) == (POD, True)
    assert found.host_route is None


def test_a_service_that_leads_back_to_the_pod_is_looked_up_in_itself(
    kernel: Kernel, places: Places
) -> None:
    kernel.routes["/pod", OWN.address] = LOCAL
    found = places.look(FLOW, Scope.VPC, OWN)
    assert found.route == UNICAST
    assert found.host_route is None
    assert found.listener is not None
    assert (found.listener.netns, found.listener.listening) == (POD, False)


def test_loopback_listens_in_the_pods_own_namespace(kernel: Kernel, places: Places) -> None:
    kernel.routes["/pod", THERE.address] = LOCAL
    found = places.look(FLOW, Scope.LOOPBACK, None)
    assert found.listener is not None
    assert (found.listener.netns, found.listener.listening) == (POD, False)


# --- who listens ---------------------------------------------------------------------------------


def test_what_the_node_routes_to_itself_listens_there(kernel: Kernel, places: Places) -> None:
    kernel.routes["/node", THERE.address] = LOCAL
    found = places.look(FLOW, Scope.VPC, None).listener
    assert found is not None
    assert (found.netns, found.on_the_way) == (HOST, True)
    assert kernel.of("listener") == [("/node", THERE)]


def test_an_address_that_only_has_packets_come_in_listens_nowhere(
    kernel: Kernel, places: Places
) -> None:
    kernel.routes["/node", THERE.address] = LOCAL
    kernel.virtual.add(THERE.address)
    assert places.look(FLOW, Scope.VPC, None).listener is None


def test_a_peer_listens_where_the_last_hop_is_a_device_of_its_own(
    kernel: Kernel, places: Places
) -> None:
    has_peer(kernel, THERE.address)
    kernel.listening["/peer"] = ListenSocket(1, 128)
    found = places.look(FLOW, Scope.VPC, None).listener
    assert found is not None
    assert (found.netns, found.listening, found.on_the_way) == (PEER, True, True)


def test_a_namespace_that_has_the_same_address_by_chance_is_not_the_peer(
    kernel: Kernel, places: Places
) -> None:
    has_peer(kernel, THERE.address, on_the_way=False)
    assert places.look(FLOW, Scope.VPC, None).listener is None
    kernel.lladdr = None
    kernel.leading_out.add("to-peer")
    assert places.look(FLOW, Scope.VPC, None).listener is None
    kernel.refuse("/node")
    assert places.look(FLOW, Scope.VPC, None).listener is None
    assert kernel.of("listener") == []


def test_where_the_last_hop_does_not_tell_nobody_knows_whether_it_is_the_peer(
    kernel: Kernel, places: Places
) -> None:
    has_peer(kernel, THERE.address)
    kernel.lladdr = None
    found = places.look(FLOW, Scope.VPC, None).listener
    assert found is not None
    assert (found.netns, found.on_the_way) == (PEER, None)
    kernel.lladdr = "02:00:00:00:00:01"
    kernel.routes["/node", THERE.address] = UNICAST
    router = places.look(FLOW, Scope.VPC, None).listener
    assert router is not None
    assert router.on_the_way is None


# --- what is counted -----------------------------------------------------------------------------


def test_ports_are_counted_only_where_that_is_asked_for(kernel: Kernel, places: Places) -> None:
    assert places.look(FLOW, Scope.VPC, None, ports=True).ports == LocalPorts(1, 2, 1)
    assert kernel.of("ports") == [("/pod", None)]


def test_of_counters_counts_what_they_grew_by_since_an_attempt_is_watched(kernel: Kernel) -> None:
    clock = Clock()
    places = kernel.places(clock)
    has_peer(kernel, THERE.address)
    kernel.listening["/peer"] = ListenSocket(2, 1)
    kernel.overflows["/peer"], kernel.refused["/pod"] = 3, 7
    places.watch(POD)
    places.look(FLOW, Scope.VPC, None)
    clock.now += 10
    kernel.overflows["/peer"], kernel.refused["/pod"] = 5, 12
    found = places.look(FLOW, Scope.VPC, None)
    early, late = found.since(START), found.since(START + 10 * SECOND)
    assert early.listener is not None
    assert late.listener is not None
    assert (early.listener.overflows, early.conntrack[0].refused) == (2, 5)
    assert (late.listener.overflows, late.conntrack[0].refused) == (0, 0)
    assert found.grown(START) != found.grown(START + 10 * SECOND)
    assert found.grown(START + 9 * SECOND) == found.grown(START + 10 * SECOND)


def test_what_is_forgotten_is_counted_from_anew(kernel: Kernel) -> None:
    clock = Clock()
    places = kernel.places(clock)
    places.watch(POD)
    clock.now += 1
    places.forget(frozenset())
    kernel.refused["/pod"] = 99
    assert places.look(FLOW, Scope.VPC, None).since(START).conntrack[0].refused == 0


# --- what it costs -------------------------------------------------------------------------------


def test_looks_of_a_batch_share_sockets_rules_and_tables(kernel: Kernel, places: Places) -> None:
    with places.batch():
        for port in range(50):
            there = Endpoint(THERE.address, port)
            places.look(replace(FLOW, destination=there), Scope.VPC, None)
    assert (kernel.opened, kernel.closed) == (2, 2)
    assert len(kernel.of("marks")) == 2
    assert len(kernel.of("table")) == 2
    assert len(kernel.of("route")) == 100


def test_outside_a_batch_nothing_stays_open(kernel: Kernel, places: Places) -> None:
    places.look(FLOW, Scope.VPC, None)
    assert kernel.opened == kernel.closed > 0


def test_of_very_many_namespaces_few_are_open_at_a_time(kernel: Kernel, places: Places) -> None:
    with places.batch():
        for number in range(50):
            places._ways.knows(f"/{number}", THERE.address)
            assert kernel.opened - kernel.closed <= 16
    assert kernel.opened == kernel.closed == 50


# --- what cannot be looked at --------------------------------------------------------------------


def test_a_namespace_that_is_gone_or_closed_leaves_unknown_what_it_would_have_told(
    kernel: Kernel, places: Places
) -> None:
    kernel.errors = {"/pod": FileNotFoundError(2, "gone")}
    found = places.look(FLOW, Scope.VPC, None)
    assert (found.route, found.host_route) == (None, UNICAST)
    assert places.refused is None
    kernel.errors = {"/pod": PermissionError(1, "Operation not permitted")}
    assert places.look(FLOW, Scope.VPC, None).route is None
    assert places.refused == "Operation not permitted"


def test_an_attempt_whose_namespace_is_not_known_has_no_place_of_its_own(
    kernel: Kernel, places: Places
) -> None:
    kernel.gone.add("/pod")
    found = places.look(FLOW, Scope.VPC, None)
    assert found.route is None
    assert found.host_route == UNICAST


def test_a_namespace_that_stays_missing_is_not_listed_for_every_look() -> None:
    clock = Clock()
    listed: list[float] = []
    kernel = Kernel()
    looks = kernel.looks()

    def nothing() -> dict[int, Namespace]:
        listed.append(clock.now)
        return {}

    places = Places(
        HOST,
        "/node",
        replace(looks, namespaces=nothing),
        owners=kernel,
        clock=clock,
    )
    for _ in range(100):
        assert places.path_of(POD) is None
    assert len(listed) == 1
    clock.now += 0.3
    assert places.path_of(POD) is None
    assert len(listed) == 2


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
    assert first.gist != replace(first, by_mark=True).gist


@pytest.mark.parametrize("kind", ["none", "unreachable"])
def test_an_address_that_rules_may_translate_needs_no_route_on_the_node(
    kernel: Kernel, places: Places, kind: str
) -> None:
    kernel.refuse("/node", kind)
    known = places.look(FLOW, Scope.VPC, None).host_route
    assert known is not None
    assert known.kind == kind
    kernel.nat_rules = True
    assert places.look(FLOW, Scope.VPC, None).host_route is None
    assert places.look(FLOW, Scope.VPC, None).route == UNICAST, "in the pod it needs one"
    assert places.look(FLOW, Scope.EXTERNAL, None).host_route == known, "hardly a service's"


def test_a_route_that_discards_is_told_whatever_rules_there_are(
    kernel: Kernel, places: Places
) -> None:
    kernel.nat_rules = True
    kernel.refuse("/node", "blackhole")
    known = places.look(FLOW, Scope.VPC, None).host_route
    assert known is not None
    assert known.kind == "blackhole"


def test_where_the_way_is_open_rules_are_not_asked_for(kernel: Kernel, places: Places) -> None:
    places.look(FLOW, Scope.VPC, None)
    assert kernel.of("nat rules") == []
