"""What a namespace's kernel says of an attempt: route, neighbour, way back, the listener at its
other end, ports, counters.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.support.conntrack import fill
from tests.support.netns import (
    CLIENT_V4,
    CLIENT_V6,
    NOBODY_V4,
    SERVER_V4,
    SERVER_V6,
    Namespace,
    PodPair,
    iptables,
    lone_pod,
    pod_pair,
)
from tests.support.sockets import listening, opened, path_of, tcp_socket
from tests.support.wait import wait_until
from tracer.facts import Direction, ReversePath, Route
from tracer.host import sysctl
from tracer.host.counters import conntrack_drops, conntrack_table, tcp_counters
from tracer.host.ctnetlink import table
from tracer.host.inet_diag import ListenSocket
from tracer.host.listeners import AddressOwners, OwnerLimits, listener
from tracer.host.netns import Namespace as Found
from tracer.host.ports import local_ports
from tracer.host.reverse_path import reverse_path
from tracer.host.rtnetlink import Rtnetlink, neighbour, next_hop, route
from tracer.model import Endpoint, Flow

pytestmark = pytest.mark.kernel

SECONDS = 10
PORT = 443
ROUTER_V4, ROUTER_V6 = "10.77.1.1", "fd77:1::1"
NOBODY_V6 = "fd77:1::99"
ANY_V4 = "0.0.0.0"  # noqa: S104 - nothing outside the test reaches it

REFUSING = {
    4: {
        "blackhole": "10.88.1.0/24",
        "unreachable": "10.88.2.0/24",
        "prohibit": "10.88.3.0/24",
        "throw": "10.88.4.0/24",
        "none": "10.88.5.0/24",
    },
    6: {
        "blackhole": "fd88:1::/64",
        "unreachable": "fd88:2::/64",
        "prohibit": "fd88:3::/64",
        "throw": "fd88:4::/64",
        "none": "fd88:5::/64",
    },
}

SO_BINDTODEVICE: Final = socket.SO_BINDTODEVICE
MOST_ENTRIES = 1_000_000


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def pods(resources: ExitStack) -> PodPair:
    return resources.enter_context(pod_pair())


@pytest.fixture
def pod(resources: ExitStack) -> Namespace:
    """Alone on its link, whose neighbours are given up after the first question."""
    pod = resources.enter_context(lone_pod())
    pod.run(["ip", "address", "add", f"{CLIENT_V6}/64", "dev", "eth0", "nodad"])
    for family in ("ipv4", "ipv6"):
        pod.sysctl(f"net.{family}.neigh.eth0.mcast_solicit", 1)
    return pod


@pytest.fixture(scope="module")
def routed() -> Iterator[PodPair]:
    """A pair whose client and router refuse the same destinations. No test changes it."""
    with pod_pair() as pods:
        for namespace in (pods.client, pods.router):
            for family, prefixes in REFUSING.items():
                for kind in ("blackhole", "unreachable", "prohibit", "throw"):
                    ip(namespace, family, "route", "add", kind, prefixes[kind])
        for family in (4, 6):
            ip(pods.client, family, "route", "del", "default")
            ip(pods.client, family, "route", "add", server(family), "via", gateway(family))
        yield pods


def ip(namespace: Namespace, family: int, *arguments: str) -> None:
    namespace.run(["ip", f"-{family}", *arguments])


def client(family: int) -> str:
    return CLIENT_V4 if family == 4 else CLIENT_V6


def server(family: int) -> str:
    return SERVER_V4 if family == 4 else SERVER_V6


def gateway(family: int) -> str:
    return ROUTER_V4 if family == 4 else ROUTER_V6


def within(prefix: str) -> str:
    return prefix.partition("/")[0][:-1] + ("1" if "." in prefix else ":1")


def flow_to(address: str, *, port: int = PORT, source_port: int | None = 40_000) -> Flow:
    family = 6 if ":" in address else 4
    return Flow(None, family, Endpoint(client(family), source_port), Endpoint(address, port))


def told(found: Route) -> tuple[str, str | None, str | None, str | None]:
    assert found.at_ns > 0
    return found.kind, found.gateway, found.device, found.source


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


# --- routes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
def test_a_route_through_a_gateway_says_which_and_with_what_source(
    routed: PodPair, family: int
) -> None:
    flow = flow_to(server(family))
    found = route(path_of(routed.client), flow)
    assert told(found) == ("unicast", gateway(family), "eth0", client(family))
    assert next_hop(found, flow) == gateway(family)


@pytest.mark.parametrize("family", [4, 6])
def test_a_destination_on_the_link_is_its_own_next_hop(routed: PodPair, family: int) -> None:
    flow = flow_to(gateway(family))
    found = route(path_of(routed.client), flow)
    assert told(found) == ("unicast", None, "eth0", client(family))
    assert next_hop(found, flow) == gateway(family)


@pytest.mark.parametrize("address", [CLIENT_V4, CLIENT_V6, "127.0.0.1", "::1"])
def test_an_address_of_the_namespace_is_local_and_needs_no_neighbour(
    routed: PodPair, address: str
) -> None:
    flow = flow_to(address)
    found = route(path_of(routed.client), flow)
    assert (found.kind, found.device) == ("local", "lo")
    assert next_hop(found, flow) is None


@pytest.mark.parametrize("place", ["client", "router"])
@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit", "throw", "none"])
@pytest.mark.parametrize("family", [4, 6])
def test_a_route_that_refuses_is_told_by_its_kind(
    routed: PodPair, family: int, kind: str, place: str
) -> None:
    flow = flow_to(within(REFUSING[family][kind]))
    found = route(path_of(getattr(routed, place)), flow)
    # What throws sends the look to the next table: here there is no other.
    assert told(found) == ("none" if kind == "throw" else kind, None, None, None)
    assert next_hop(found, flow) is None


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
def test_a_connect_fails_as_the_route_says(
    routed: PodPair, resources: ExitStack, family: int, kind: str
) -> None:
    address = within(REFUSING[family][kind])
    errors = {
        "blackhole": errno.EINVAL,
        "unreachable": errno.EHOSTUNREACH,
        "prohibit": errno.EACCES,
    }
    made = tcp_socket(routed.client, resources, address)
    assert made.connect_ex((address, PORT)) == errors[kind]


@pytest.mark.parametrize("family", [4, 6])
def test_a_source_that_is_not_chosen_yet_is_left_to_the_kernel(
    routed: PodPair, family: int
) -> None:
    flow = flow_to(server(family), source_port=None)
    flow = replace(flow, source=Endpoint(ANY_V4 if family == 4 else "::", None))
    found = route(path_of(routed.client), flow)
    assert told(found) == ("unicast", gateway(family), "eth0", client(family))


@pytest.mark.parametrize("family", [4, 6])
def test_the_node_is_asked_for_what_comes_in_from_the_pod(routed: PodPair, family: int) -> None:
    flow = flow_to(server(family))
    found = route(path_of(routed.router), flow)
    assert (found.kind, found.gateway, found.device) == ("unicast", None, "to-server")
    assert next_hop(found, flow) == server(family)


@pytest.mark.parametrize("family", [4, 6])
def test_rules_about_the_source_and_the_port_decide(pods: PodPair, family: int) -> None:
    rule = ("rule", "add", "from", client(family), "ipproto", "tcp", "dport", str(PORT))
    for namespace in (pods.client, pods.router):
        ip(namespace, family, "route", "add", "prohibit", "default", "table", "77")
        ip(namespace, family, *rule, "lookup", "77")
        asked, other = flow_to(server(family)), flow_to(server(family), port=PORT + 1)
        assert route(path_of(namespace), asked).kind == "prohibit"
        assert route(path_of(namespace), other).kind == "unicast"


@pytest.mark.parametrize(
    ("action", "kind"),
    [("blackhole", "blackhole"), ("prohibit", "prohibit"), ("unreachable", "none")],
)
@pytest.mark.parametrize("family", [4, 6])
def test_a_rule_that_refuses_is_told_by_its_errno(
    pods: PodPair, family: int, action: str, kind: str
) -> None:
    ip(pods.client, family, "rule", "add", "to", server(family), action)
    assert route(path_of(pods.client), flow_to(server(family))).kind == kind


def test_a_node_that_does_not_forward_is_unreachable(pods: PodPair) -> None:
    pods.router.sysctl("net.ipv4.ip_forward", 0)
    assert route(path_of(pods.router), flow_to(SERVER_V4)).kind == "unreachable"


def test_a_source_that_the_node_refuses_does_not_hide_the_route(pods: PodPair) -> None:
    """Strict filtering, and a rule by which replies to the pod go elsewhere."""
    pods.router.sysctl("net.ipv4.conf.all.rp_filter", 1)
    ip(pods.router, 4, "route", "add", CLIENT_V4, "dev", "to-server", "table", "78")
    ip(pods.router, 4, "rule", "add", "from", SERVER_V4, "lookup", "78")
    found = route(path_of(pods.router), flow_to(SERVER_V4))
    assert (found.kind, found.device) == ("unicast", "to-server")


@pytest.mark.parametrize("source", ["10.250.0.1", "fd25::1"])
def test_a_source_to_which_no_route_leads_does_not_hide_the_route(
    routed: PodPair, source: str
) -> None:
    flow = flow_to(SERVER_V4 if "." in source else SERVER_V6)
    found = route(path_of(routed.router), replace(flow, source=Endpoint(source, 40_000)))
    assert (found.kind, found.device) == ("unicast", "to-server")


def test_a_gateway_of_the_other_family_is_shown(pods: PodPair) -> None:
    ip(pods.client, 4, "route", "add", "203.0.113.0/24", "via", "inet6", ROUTER_V6, "dev", "eth0")
    found = route(path_of(pods.client), flow_to("203.0.113.7"))
    assert told(found) == ("unicast", ROUTER_V6, "eth0", CLIENT_V4)


def test_one_of_several_hops_is_chosen_as_for_the_packet(pods: PodPair) -> None:
    hops = ("nexthop", "via", ROUTER_V4, "nexthop", "via", "10.77.1.7")
    ip(pods.client, 4, "route", "add", "203.0.113.0/24", *hops)
    found = route(path_of(pods.client), flow_to("203.0.113.7"))
    assert found.gateway in {ROUTER_V4, "10.77.1.7"}


def test_questions_leave_no_descriptor(routed: PodPair) -> None:
    before = descriptors()
    route(path_of(routed.client), flow_to(SERVER_V4))
    with pytest.raises(OSError, match="No such device"):
        neighbour(path_of(routed.client), ROUTER_V4, "eth7")
    assert descriptors() == before


def test_a_namespace_that_is_gone_cannot_be_asked() -> None:
    with lone_pod() as pod:
        path = path_of(pod)
    for ask in (route, local_ports, lambda path, flow: reverse_path(path, flow, "eth0")):
        with pytest.raises(FileNotFoundError):
            ask(path, flow_to(SERVER_V4))
    for read in (tcp_counters, conntrack_drops, conntrack_table):
        with pytest.raises(FileNotFoundError):
            read(path)


# --- neighbours ----------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [NOBODY_V4, NOBODY_V6])
def test_a_dead_neighbour_is_incomplete_and_then_failed(
    pod: Namespace, resources: ExitStack, address: str
) -> None:
    path = path_of(pod)
    assert neighbour(path, address, "eth0").state is None
    _, flow = opened(pod, resources, address, PORT)
    found = route(path, flow)
    hop = next_hop(found, flow)
    assert (hop, found.device) == (address, "eth0")
    assert neighbour(path, address, "eth0").state == "INCOMPLETE"

    def failed() -> bool:
        return neighbour(path, address, "eth0").state == "FAILED"

    wait_until(failed, SECONDS, "the neighbour to be given up")


@pytest.mark.parametrize("family", [4, 6])
def test_a_gateway_that_answers_is_known(pods: PodPair, resources: ExitStack, family: int) -> None:
    path = path_of(pods.client)
    opened(pods.client, resources, server(family), PORT)

    def state() -> str | None:
        found = neighbour(path, gateway(family), "eth0").state
        return found if found != "INCOMPLETE" else None

    assert wait_until(state, SECONDS, "the gateway's answer") in {"REACHABLE", "DELAY", "STALE"}


def test_a_neighbour_that_was_written_down_is_permanent(pod: Namespace) -> None:
    pod.run(["ip", "neigh", "add", NOBODY_V4, "lladdr", "02:00:00:00:00:01", "dev", "eth0"])
    assert neighbour(path_of(pod), NOBODY_V4, "eth0").state == "PERMANENT"


def test_the_same_address_behind_another_device_is_another_neighbour(pod: Namespace) -> None:
    pod.run(["ip", "neigh", "add", NOBODY_V4, "lladdr", "02:00:00:00:00:01", "dev", "far-end"])
    assert neighbour(path_of(pod), NOBODY_V4, "eth0").state is None


def test_a_device_that_resolves_nothing_has_no_neighbours(pod: Namespace) -> None:
    pod.run(["ip", "link", "set", "eth0", "arp", "off"])
    assert neighbour(path_of(pod), NOBODY_V4, "eth0").state == "NOARP"


@pytest.mark.parametrize("name", ["eth7", "", "a-name-that-is-too-long", "eth0\0"])
def test_a_device_that_is_not_there_is_an_error(pod: Namespace, name: str) -> None:
    with pytest.raises(OSError, match="No such device") as raised:
        neighbour(path_of(pod), NOBODY_V4, name)
    assert raised.value.errno == errno.ENODEV


def test_a_kernel_that_gives_no_single_neighbour_is_asked_for_the_list(pod: Namespace) -> None:
    for number in (7, 8, 9):
        far = "permanent" if number == 8 else "stale"
        where = ("lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", far)
        pod.run(["ip", "neigh", "add", f"10.77.1.{number}", *where])
    pod.run(["ip", "neigh", "add", "10.77.1.9", "lladdr", "02:00:00:00:00:01", "dev", "far-end"])
    with Rtnetlink(path_of(pod)) as kernel:
        index = kernel.index_of("eth0")
        found = [
            kernel._listed_entry(socket.AF_INET, socket.inet_aton(f"10.77.1.{number}"), index)
            for number in (7, 8, 9, 10)
        ]
    lladdr = "02:00:00:00:00:01"
    assert found == [
        ("STALE", lladdr),
        ("PERMANENT", lladdr),
        ("STALE", lladdr),
        (None, None),
    ]


def test_the_hardware_address_of_a_neighbour_is_its_owners_device(
    pods: PodPair, resources: ExitStack
) -> None:
    owner = owners_among(pods.server, pods.client).owner_of(SERVER_V4)
    assert owner is not None
    opened(pods.client, resources, SERVER_V4, PORT)

    def lladdr() -> str | None:
        return neighbour(path_of(pods.router), SERVER_V4, "to-server").lladdr

    assert {wait_until(lladdr, SECONDS, "the server's hardware address")} == owner.lladdrs


# --- rules by mark -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
def test_routes_of_marked_packets_are_told_apart(pods: PodPair, family: int) -> None:
    router, there = pods.router, server(family)
    with Rtnetlink(path_of(router)) as kernel:
        assert kernel.marks(family) == frozenset()
    ip(router, family, "rule", "add", "fwmark", "7/0xf", "table", "100")
    ip(router, family, "route", "add", "prohibit", "default", "table", "100")
    flow = Flow(1, family, Endpoint(client(family), 1), Endpoint(there, PORT))
    with Rtnetlink(path_of(router)) as kernel:
        assert kernel.marks(family) == {7}
        kinds = [kernel.route(flow, mark).kind for mark in (None, 1, 7)]
    assert kinds == ["unicast", "unicast", "prohibit"]


# --- way back ------------------------------------------------------------------------------------


@pytest.fixture
def two_links(pods: PodPair) -> PodPair:
    """The client has a second link, by which the router answers and the client does not ask."""
    pods.router.run(
        [
            *("ip", "link", "add", "to-client2", "type", "veth"),
            *("peer", "name", "eth1", "netns", str(Path("/run/netns", pods.client.name))),
        ]
    )
    pods.client.run(["ip", "link", "set", "eth1", "up", "address", "02:00:00:00:00:02"])
    pods.router.run(["ip", "link", "set", "to-client2", "up"])
    # The filter would drop the router's question, too.
    known = ("lladdr", "02:00:00:00:00:02", "dev", "to-client2")
    pods.router.run(["ip", "neigh", "add", CLIENT_V4, *known])
    pods.router.run(["ip", "route", "add", CLIENT_V4, "dev", "to-client2"])
    return pods


def test_replies_by_another_way_than_the_syn_are_told_and_counted(
    two_links: PodPair, resources: ExitStack
) -> None:
    pod, path = two_links.client, path_of(two_links.client)
    pod.sysctl("net.ipv4.conf.eth1.rp_filter", 1)
    before = tcp_counters(path).reverse_path_drops
    assert before is not None
    listening(two_links.server, resources, SERVER_V4, PORT)
    _, flow = opened(pod, resources, SERVER_V4, PORT)

    def dropped() -> bool:
        return (tcp_counters(path).reverse_path_drops or 0) > before

    wait_until(dropped, SECONDS, "the reply to be dropped")
    assert reverse_path(path, flow, "eth1") == ReversePath(pod.inode, "eth1", 1, symmetric=False)
    assert reverse_path(path, flow, "eth0") == ReversePath(pod.inode, "eth0", 0, symmetric=True)


def test_the_stricter_of_both_settings_is_no_maximum_but_the_higher_number(
    two_links: PodPair,
) -> None:
    """2 is loose: the kernel takes the higher number, whichever of the two has it."""
    two_links.client.sysctl("net.ipv4.conf.all.rp_filter", 2)
    two_links.client.sysctl("net.ipv4.conf.eth1.rp_filter", 1)
    found = reverse_path(path_of(two_links.client), flow_to(SERVER_V4), "eth1")
    assert found is not None
    assert found.mode == 2


def test_the_node_answers_for_both_directions(two_links: PodPair) -> None:
    path, flow = path_of(two_links.router), flow_to(SERVER_V4)

    def symmetric(device: str, direction: Direction) -> bool | None:
        found = reverse_path(path, flow, device, direction)
        assert found is not None
        return found.symmetric

    assert symmetric("to-server", Direction.REPLY)
    assert not symmetric("to-client", Direction.REPLY)
    assert symmetric("to-client2", Direction.SYN)
    assert not symmetric("to-client", Direction.SYN)


def test_any_hop_of_the_way_back_is_good_enough(two_links: PodPair) -> None:
    hops = ("nexthop", "dev", "eth0", "via", ROUTER_V4, "nexthop", "dev", "eth1", "onlink")
    ip(two_links.client, 4, "route", "add", "203.0.113.0/24", *hops, "via", "10.77.1.7")
    for device in ("eth0", "eth1"):
        found = reverse_path(path_of(two_links.client), flow_to("203.0.113.7"), device)
        assert found is not None
        assert found.symmetric


def test_rules_about_the_pods_address_count_on_the_way_back(two_links: PodPair) -> None:
    """As Amazon's VPC CNI writes them: what a pod sends leaves by the pod's own interface."""
    ip(two_links.router, 4, "route", "add", "default", "dev", "to-client", "table", "79")
    ip(two_links.router, 4, "rule", "add", "from", CLIENT_V4, "lookup", "79")
    found = reverse_path(path_of(two_links.router), flow_to(SERVER_V4), "to-client")
    assert found is not None
    assert found.symmetric


def test_without_a_way_back_there_is_no_symmetry_to_speak_of(routed: PodPair) -> None:
    flow = flow_to(within(REFUSING[4]["none"]))
    found = reverse_path(path_of(routed.client), flow, "eth0")
    assert found is not None
    assert found.symmetric is None


def test_ipv6_has_no_such_filter(routed: PodPair) -> None:
    assert reverse_path(path_of(routed.client), flow_to(SERVER_V6), "eth0") is None


def test_a_device_with_a_dot_in_its_name_has_its_own_settings(pod: Namespace) -> None:
    pod.run(["ip", "link", "set", "far-end", "name", "eth0.7"])
    pod.run(["sh", "-c", "echo 2 > /proc/sys/net/ipv4/conf/eth0.7/rp_filter"])
    found = reverse_path(path_of(pod), flow_to(NOBODY_V4), "eth0.7")
    assert found is not None
    assert (found.mode, found.symmetric) == (2, False)


# --- listeners -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "asked", "listens"),
    [
        (SERVER_V4, SERVER_V4, True),
        (ANY_V4, SERVER_V4, True),
        ("::", SERVER_V4, True),
        ("::", SERVER_V6, True),
        (f"::ffff:{SERVER_V4}", SERVER_V4, True),
        (SERVER_V6, SERVER_V6, True),
        ("127.0.0.1", SERVER_V4, False),
        ("198.51.100.7", SERVER_V4, False),
        (ANY_V4, SERVER_V6, False),
        ("::1", SERVER_V6, False),
        (SERVER_V6, SERVER_V4, False),
    ],
)
def test_a_listener_is_found_where_a_syn_would_find_it(
    listening_pods: PodPair, resources: ExitStack, bound: str, asked: str, listens: bool
) -> None:
    made = listening(listening_pods.server, resources, bound, backlog=7)
    port = made.getsockname()[1]
    found = listener(path_of(listening_pods.server), Endpoint(asked, port))
    assert found == (ListenSocket(0, 7) if listens else None)


@pytest.fixture(scope="module")
def listening_pods() -> Iterator[PodPair]:
    """For tests that leave nothing behind."""
    with pod_pair() as pods:
        yield pods


@pytest.mark.parametrize(("asked", "listens"), [(SERVER_V4, False), (SERVER_V6, True)])
def test_a_socket_for_ipv6_alone_takes_no_ipv4(
    listening_pods: PodPair, resources: ExitStack, asked: str, listens: bool
) -> None:
    only = ((socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1),)
    made = listening(listening_pods.server, resources, "::", options=only)
    found = listener(path_of(listening_pods.server), Endpoint(asked, made.getsockname()[1]))
    assert (found is not None) == listens


@pytest.mark.parametrize("bound", [ANY_V4, SERVER_V4, "::", f"::ffff:{SERVER_V4}"])
def test_a_socket_bound_to_a_device_listens(
    listening_pods: PodPair, resources: ExitStack, bound: str
) -> None:
    device = ((socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0\0"),)
    made = listening(listening_pods.server, resources, bound, backlog=9, options=device)
    port = made.getsockname()[1]
    path = path_of(listening_pods.server)
    assert listener(path, Endpoint(SERVER_V4, port)) == ListenSocket(0, 9)
    assert listener(path, Endpoint("198.51.100.7", port)) == (
        None if SERVER_V4 in bound else ListenSocket(0, 9)
    )


def test_nothing_of_another_namespace_listens_here(
    listening_pods: PodPair, resources: ExitStack
) -> None:
    made = listening(listening_pods.server, resources, "::")
    port = made.getsockname()[1]
    assert listener(path_of(listening_pods.client), Endpoint(CLIENT_V4, port)) is None


def test_a_port_that_is_only_connected_does_not_listen(
    listening_pods: PodPair, resources: ExitStack
) -> None:
    made = listening(listening_pods.server, resources, SERVER_V4)
    port = made.getsockname()[1]
    sock, flow = opened(listening_pods.client, resources, SERVER_V4, port)
    wait_until(lambda: writable(sock), SECONDS, "the connection")
    path, local = path_of(listening_pods.server), Endpoint(SERVER_V4, port)
    assert listener(path, local, flow.source) == ListenSocket(1, 5)
    made.close()
    assert listener(path, local, flow.source) is None


def writable(sock: socket.socket) -> bool:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01"


def test_of_sockets_that_share_a_port_the_one_that_gets_the_syn_is_shown(
    listening_pods: PodPair, resources: ExitStack
) -> None:
    share = ((socket.SOL_SOCKET, socket.SO_REUSEPORT, 1),)
    first = listening(listening_pods.server, resources, SERVER_V4, backlog=50, options=share)
    port = first.getsockname()[1]
    local = Endpoint(SERVER_V4, port)
    second = listening(listening_pods.server, resources, SERVER_V4, port, backlog=60, options=share)
    found = []
    clients = [tcp_socket(listening_pods.client, resources, SERVER_V4) for _ in range(16)]
    for made in clients:
        made.bind((CLIENT_V4, 0))
        found.append(listener(path_of(listening_pods.server), local, Endpoint(*made.getsockname())))
        made.connect((SERVER_V4, port))
    backlogs = [one.backlog for one in found if one is not None]
    assert (backlogs.count(50), backlogs.count(60)) == (queued(first), queued(second))
    assert 0 < queued(first) < 16


def queued(made: socket.socket) -> int:
    """tcpi_unacked of a listening socket: connections in its accept queue."""
    told = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", told, 24)[0])


@pytest.mark.parametrize("family", [4, 6])
def test_a_full_backlog_is_seen_and_its_overflows_are_counted(
    pods: PodPair, resources: ExitStack, family: int
) -> None:
    path = path_of(pods.server)
    before = tcp_counters(path)
    listening(pods.server, resources, server(family), PORT, backlog=1)
    sockets = [opened(pods.client, resources, server(family), PORT)[0] for _ in range(5)]

    def overflowed() -> bool:
        now = tcp_counters(path)
        assert now.listen_overflows is not None
        assert before.listen_overflows is not None
        return now.listen_overflows > before.listen_overflows

    wait_until(overflowed, SECONDS, "a SYN to be dropped")
    found = listener(path, Endpoint(server(family), PORT))
    assert found == ListenSocket(queued=2, backlog=1)
    assert (tcp_counters(path).listen_drops or 0) > (before.listen_drops or 0)
    assert not all(map(writable, sockets))
    assert tcp_counters(path_of(pods.client)).listen_overflows == 0


def test_a_listener_without_a_port_cannot_be_looked_for(pods: PodPair) -> None:
    with pytest.raises(ValueError, match="without a port"):
        listener(path_of(pods.server), Endpoint(SERVER_V4, None))


# --- owners of addresses -------------------------------------------------------------------------


def owners_among(*namespaces: Namespace, clock: Callable[[], float] = lambda: 0.0) -> AddressOwners:
    """Of these alone: all topologies have the same addresses, and others may be under test."""
    found = {one.inode: Found(one.inode, (), path_of(one)) for one in namespaces}
    return AddressOwners(OwnerLimits(), lambda: found, clock)


def test_an_address_leads_to_the_namespace_that_has_it(pods: PodPair) -> None:
    owners = owners_among(pods.client, pods.router, pods.server)
    for address, owner in (
        (CLIENT_V4, pods.client),
        (CLIENT_V6, pods.client),
        (SERVER_V6, pods.server),
        ("198.51.100.7", pods.server),
        ("10.77.2.1", pods.router),
    ):
        found = owners.owner_of(address)
        assert found is not None
        assert (found.namespace.inode, found.namespace.path) == (owner.inode, path_of(owner))
    for address in ("127.0.0.1", "::1", NOBODY_V4, "fe80::1"):
        assert owners.owner_of(address) is None
    assert owners.skipped == 0


def test_an_address_of_several_namespaces_is_nobodys(pods: PodPair, pod: Namespace) -> None:
    owners = owners_among(pods.client, pod)
    assert owners.owner_of(CLIENT_V4) is None


def test_an_address_that_is_given_later_is_found_at_the_next_look(pod: Namespace) -> None:
    now = 0.0
    pod.run(["ip", "address", "flush", "dev", "eth0"])
    owners = owners_among(pod, clock=lambda: now)
    assert owners.owner_of(NOBODY_V4) is None
    pod.run(["ip", "address", "add", f"{NOBODY_V4}/24", "dev", "eth0"])
    now = 9.9
    assert owners.owner_of(NOBODY_V4) is None
    now = 10.0
    found = owners.owner_of(NOBODY_V4)
    assert found is not None
    assert found.namespace.inode == pod.inode


def test_addresses_of_services_that_a_device_holds_are_nobodys(pod: Namespace) -> None:
    pod.run(["ip", "link", "set", "far-end", "name", "kube-ipvs0"])
    pod.run(["ip", "address", "add", "10.96.0.1/32", "dev", "kube-ipvs0"])
    owners = owners_among(pod)
    assert owners.owner_of("10.96.0.1") is None
    assert owners.is_virtual("10.96.0.1")
    assert owners.owner_of(CLIENT_V4) is not None


def test_a_namespace_that_is_gone_is_skipped_and_counted(pods: PodPair) -> None:
    with lone_pod() as gone:
        pass
    owners = owners_among(gone, pods.server)
    assert owners.owner_of(SERVER_V4) is not None
    assert owners.skipped == 1


# --- ports ---------------------------------------------------------------------------------------


def narrow(pod: Namespace, lowest: int, highest: int, reserved: str = "") -> None:
    folder = "/proc/sys/net/ipv4"
    pod.run(["sh", "-c", f"echo {lowest} {highest} > {folder}/ip_local_port_range"])
    pod.run(["sh", "-c", f"echo '{reserved}' > {folder}/ip_local_reserved_ports"])


def swallow(pod: Namespace) -> None:
    for family in (4, 6):
        iptables(pod, "-A", "INPUT", "-p", "tcp", "-j", "DROP", family=family)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_range_without_a_free_port_is_seen_as_used_up(
    pod: Namespace, resources: ExitStack, address: str
) -> None:
    narrow(pod, 40_000, 40_009, reserved="40003,40005-40006,8080")
    swallow(pod)
    for _ in range(7):
        flow = opened(pod, resources, address, PORT)[1]
    last = tcp_socket(pod, resources, address)
    assert last.connect_ex((address, PORT)) == errno.EADDRNOTAVAIL
    plain = address.removeprefix("::ffff:")
    source = Endpoint(flow.source.address.removeprefix("::ffff:"), None)
    asked = replace(
        flow, family=6 if ":" in plain else 4, source=source, destination=Endpoint(plain, PORT)
    )
    found = local_ports(path_of(pod), asked)
    assert (found.used, found.available) == (7, 7)


def test_ports_towards_another_destination_or_from_another_address_are_free(
    pod: Namespace, resources: ExitStack
) -> None:
    narrow(pod, 40_000, 40_009)
    swallow(pod)
    for address, port in (("127.0.0.1", PORT), ("127.0.0.1", PORT + 1), ("127.0.0.2", PORT)):
        flow = opened(pod, resources, address, port)[1]
    path, here = path_of(pod), replace(flow, destination=Endpoint("127.0.0.1", PORT))
    assert local_ports(path, replace(here, source=Endpoint("127.0.0.1", None))).used == 1
    assert local_ports(path, replace(here, source=Endpoint(ANY_V4, None))).used == 1
    assert local_ports(path, replace(here, source=Endpoint("127.0.0.9", None))).used == 0


def test_a_port_in_time_wait_is_used_once(pod: Namespace, resources: ExitStack) -> None:
    narrow(pod, 40_000, 40_009)
    server = listening(pod, resources, "127.0.0.1", PORT)
    with tcp_socket(pod, resources, "127.0.0.1") as client:
        client.connect(("127.0.0.1", PORT))
        accepted = server.accept()[0]
        source = client.getsockname()
    accepted.close()
    flow = Flow(None, 4, Endpoint(*source), Endpoint("127.0.0.1", PORT))

    def used() -> int:
        return local_ports(path_of(pod), flow).used

    assert used() == 1
    shown = pod.run(["ss", "-tan", "state", "time-wait"])
    assert f":{source[1]}" in shown


def test_a_flow_without_a_port_to_go_to_has_no_range(pod: Namespace) -> None:
    flow = flow_to(SERVER_V4)
    with pytest.raises(ValueError, match="an address and a port"):
        local_ports(path_of(pod), replace(flow, destination=Endpoint(SERVER_V4, None)))


def test_a_sysctl_is_the_namespaces_own(pod: Namespace, pods: PodPair) -> None:
    narrow(pod, 41_000, 41_009)
    assert sysctl.read(path_of(pod), "ipv4/ip_local_port_range") == ("41000\t41009",)
    assert sysctl.read(path_of(pods.client), "ipv4/ip_local_port_range") != ("41000\t41009",)


# --- connection tracking -------------------------------------------------------------------------


def test_a_table_says_how_full_it_is_and_whose_it_is(pod: Namespace) -> None:
    fill(pod, 700)
    found = conntrack_table(path_of(pod))
    assert (found.netns, found.count, found.refused) == (pod.inode, 700, 0)
    assert found.maximum == table(path_of(pod)).maximum


def test_a_full_table_refuses_and_that_is_counted(pod: Namespace, resources: ExitStack) -> None:
    path = path_of(pod)
    maximum = table(path).maximum
    if maximum > MOST_ENTRIES:
        pytest.skip(f"this machine's tables hold {maximum} entries: too many to fill one")
    iptables(pod, "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW")
    since = conntrack_drops(path)
    fill(pod, maximum)
    assert conntrack_table(path, since).count == maximum
    made = tcp_socket(pod, resources, "127.0.0.1")
    made.setblocking(False)
    assert made.connect_ex(("127.0.0.1", PORT)) == errno.EINPROGRESS
    found = conntrack_table(path, since)
    assert (found.count, found.refused) == (maximum, 1)
