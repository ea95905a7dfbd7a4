"""Where the SYNs of stuck attempts went on this node: dropped by whom, handed to which device.

The tracing program tells which attempts are stuck, as in a trace; packets go through namespaces of
the test's own. The kernel drops packets all the time, other tests' too: only those of the attempt
that is watched may be counted.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from types import MappingProxyType

import pytest

from tests.support.netns import (
    CLIENT_V6,
    NETNS_FOLDER,
    SERVER_V4,
    SERVER_V6,
    Namespace,
    PodPair,
    drop_forwarded,
    iptables,
    pod_pair,
)
from tests.support.programs import descriptors, loaded_programs, own_programs
from tests.support.wait import wait_until
from tracer.errors import NoSource
from tracer.facts import Direction, Drop, Handed
from tracer.host.netns import enter
from tracer.model import Attempt
from tracer.settings import Limits
from tracer.sources import drop_wire, drops
from tracer.sources.bpf import BpfSource
from tracer.sources.drops import DropProbe, Seen
from tracer.tracker import Tracker

pytestmark = pytest.mark.kernel

PORT = 8443
SECONDS = 15
SYN, RST_ACK, SYN_ACK = 0x02, 0x14, 0x12
SERVERS = pytest.mark.parametrize("server", [SERVER_V4, SERVER_V6], ids=["IPv4", "IPv6"])
# Newer kernels tell the place where nftables dropped it, not that of the hook.
NETFILTER = {"nf_hook_slow", "nft_do_chain"}
# IPv6 gives no reason there (seen on 6.18).
NO_NEIGHBOUR = {("NEIGH_FAILED", "neigh_invalidate"), (None, "neigh_invalidate")}

DropKind = tuple[Direction, str | None, int | None, str | None, int]


class Watcher:
    """What a trace does for the attempts of one namespace: they are stuck, so they are watched."""

    def __init__(self, source: BpfSource, probe: DropProbe) -> None:
        self.probe = probe
        self._attempts: dict[str, Attempt] = {}
        self._seen: dict[str, Seen] = {}
        self._source = source
        self._tracker = Tracker(
            run_id="test", limits=Limits(), threshold_seconds=1.0, streaming=True, began_ns=0
        )

    def look(self) -> dict[int | None, tuple[Attempt, list[Drop], list[Handed]]]:
        """Attempts by source port, with what was counted of each while it was watched."""
        transitions, undecodable = self._source.read(0)
        assert undecodable == 0
        # Before those that have ended are let go: what ends an attempt may be its last drop.
        self._take(self.probe.read())
        self._tracker.apply(transitions, 0)
        attempts = list(self._tracker.live())
        self.probe.watch(attempts)
        self._attempts |= {attempt.id: attempt for attempt in attempts}
        seen = self.probe.read()
        assert seen.keys() <= {attempt.id for attempt in attempts}
        self._take(seen)
        found: dict[int | None, tuple[Attempt, list[Drop], list[Handed]]] = {}
        for attempt in self._attempts.values():
            drops, handed = self._seen.get(attempt.id, ((), ()))
            found[attempt.flow.source.port] = attempt, list(drops), list(handed)
        return found

    def _take(self, seen: dict[str, Seen]) -> None:
        self._seen |= seen

    def attempt(self, sock: socket.socket) -> Attempt:
        """The socket's attempt, once it is watched."""
        port = sock.getsockname()[1]
        found = wait_until(lambda: self.look().get(port), SECONDS, "the attempt to be stuck")
        assert found is not None
        return found[0]

    def drops(self, sock: socket.socket, count: int = 1) -> list[Drop]:
        """What was dropped of a socket's attempt, once there is so much of it."""
        port = sock.getsockname()[1]

        def counted() -> list[Drop]:
            found = self.look()
            drops = found[port][1] if port in found else []
            return drops if sum(drop.count for drop in drops) >= count else []

        return wait_until(counted, SECONDS, "the kernel to drop a packet of the attempt")

    def kinds(self, sock: socket.socket, count: int) -> set[DropKind]:
        """What kinds of drops there are of a socket's attempt, once there are so many kinds."""

        def enough() -> set[DropKind]:
            kinds = {same_kind(drop) for drop in self.drops(sock)}
            return kinds if len(kinds) >= count else set()

        return wait_until(enough, SECONDS, f"{count} kinds of drops")

    def handed(self, sock: socket.socket, devices: int) -> list[Handed]:
        port = sock.getsockname()[1]

        def counted() -> list[Handed]:
            found = self.look()
            handed = found[port][2] if port in found else []
            return handed if len(handed) >= devices else []

        return wait_until(counted, SECONDS, f"a SYN to be handed to {devices} devices")


Watching = Callable[..., Watcher]


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def pods(resources: ExitStack) -> PodPair:
    return resources.enter_context(pod_pair())


@pytest.fixture
def watching(resources: ExitStack) -> Watching:
    """A Watcher of a namespace's attempts, until the test ends."""

    def opening(pod: Namespace, *, handed: bool = False, **bounds: int) -> Watcher:
        source = BpfSource(threshold_seconds=1.0, limits=Limits(), netns=frozenset({pod.inode}))
        resources.callback(source.close)
        probe = DropProbe(**bounds)
        resources.callback(probe.close)
        probe.watch_handed(handed)
        return Watcher(source, probe)

    return opening


@pytest.fixture
def connect(resources: ExitStack) -> Callable[..., socket.socket]:
    """Begins to connect from within a namespace."""

    def connecting(
        pod: Namespace, address: str, port: int = PORT, source_port: int = 0
    ) -> socket.socket:
        with enter(str(NETNS_FOLDER / pod.name)):
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        resources.enter_context(made)
        made.setblocking(False)
        made.bind(("", source_port))
        assert made.connect_ex((address, port)) == errno.EINPROGRESS
        return made

    return connecting


Connect = Callable[..., socket.socket]


def listen(resources: ExitStack, pod: Namespace, address: str) -> None:
    with enter(str(NETNS_FOLDER / pod.name)):
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    resources.enter_context(made)
    made.bind((address, PORT))
    made.listen()


def family(address: str) -> int:
    return ip_address(address).version


def same_kind(drop: Drop) -> DropKind:
    return drop.direction, drop.reason, drop.netns, drop.device, drop.flags


def drop_all(namespace: Namespace, chain: str, address: str, *match: str) -> None:
    iptables(namespace, "-A", chain, "-p", "tcp", *match, "-j", "DROP", family=family(address))


def drop_behind_routing(pods: PodPair, server: str) -> None:
    """Lets traffic control drop every packet for the server, once NAT is done with it."""
    shot = ["bpf", "direct-action", "bytecode", "1,6 0 0 2"]  # return TC_ACT_SHOT
    protocol = ["protocol", "ipv6" if family(server) == 6 else "ip"]
    device = ["dev", "to-server"]
    pods.router.run(["tc", "qdisc", "add", *device, "clsact"])
    pods.router.run(["tc", "filter", "add", *device, "egress", *protocol, *shot])


# --- where a SYN is dropped ----------------------------------------------------------------------


@SERVERS
def test_a_syn_that_the_host_does_not_forward_is_dropped_in_the_host_s_namespace(
    pods: PodPair, watching: Watching, connect: Connect, server: str
) -> None:
    drop_forwarded(pods, family(server))
    watcher = watching(pods.client)
    before = time.monotonic_ns()
    sock = connect(pods.client, server)
    (drop,) = watcher.drops(sock, 2)
    assert same_kind(drop) == (
        Direction.SYN,
        "NETFILTER_DROP",
        pods.router.inode,
        "to-client",
        SYN,
    )
    assert drop.symbol in NETFILTER
    assert before < drop.first_ns < drop.last_ns <= time.monotonic_ns()
    assert watcher.probe.lost == 0
    assert watcher.probe.mismatched == 0


def test_a_syn_that_nftables_drops_is_dropped_for_the_same_reason(
    pods: PodPair, watching: Watching, connect: Connect
) -> None:
    pods.router.run(
        ["nft", "-f", "-"],
        "table inet test {\nchain forward {\ntype filter hook forward priority 0;\n"
        f"tcp dport {PORT} drop\n}}\n}}\n",
    )
    watcher = watching(pods.client)
    (drop,) = watcher.drops(connect(pods.client, SERVER_V4))
    assert same_kind(drop) == (
        Direction.SYN,
        "NETFILTER_DROP",
        pods.router.inode,
        "to-client",
        SYN,
    )
    assert drop.symbol in NETFILTER


@SERVERS
def test_a_syn_that_the_pod_itself_does_not_let_out_is_dropped_in_the_pod_without_a_device(
    pods: PodPair, watching: Watching, connect: Connect, server: str
) -> None:
    drop_all(pods.client, "OUTPUT", server, "--dport", str(PORT))
    watcher = watching(pods.client)
    (drop,) = watcher.drops(connect(pods.client, server))
    assert same_kind(drop) == (Direction.SYN, "NETFILTER_DROP", pods.client.inode, None, SYN)


@SERVERS
def test_a_syn_that_the_peer_does_not_let_in_is_dropped_in_the_peer_s_namespace(
    pods: PodPair, watching: Watching, connect: Connect, server: str
) -> None:
    drop_all(pods.server, "INPUT", server, "--dport", str(PORT))
    watcher = watching(pods.client)
    (drop,) = watcher.drops(connect(pods.client, server))
    assert same_kind(drop) == (Direction.SYN, "NETFILTER_DROP", pods.server.inode, "eth0", SYN)


def test_a_syn_that_traffic_control_drops_is_dropped_at_the_device_it_was_for(
    pods: PodPair, watching: Watching, connect: Connect
) -> None:
    drop_behind_routing(pods, SERVER_V4)
    watcher = watching(pods.client, handed=True)
    sock = connect(pods.client, SERVER_V4)
    (drop,) = watcher.drops(sock)
    assert same_kind(drop) == (Direction.SYN, "TC_EGRESS", pods.router.inode, "to-server", SYN)
    assert drop.symbol is not None
    assert [one.device for one in watcher.handed(sock, 1)] == ["eth0"], "it never left the router"


@SERVERS
def test_a_syn_for_a_neighbour_that_does_not_answer_is_dropped_where_it_waited(
    pods: PodPair, watching: Watching, connect: Connect, server: str
) -> None:
    nobody = server[:-1] + "99"
    watcher = watching(pods.client)
    (drop,) = watcher.drops(connect(pods.client, nobody))
    assert same_kind(drop)[2:] == (pods.router.inode, "to-server", SYN)
    assert (drop.reason, drop.symbol) in NO_NEIGHBOUR


@SERVERS
def test_a_syn_for_a_neighbour_of_the_pod_that_does_not_answer_is_dropped_in_the_pod(
    pods: PodPair, watching: Watching, connect: Connect, server: str
) -> None:
    beside = {SERVER_V4: "10.77.1.99", SERVER_V6: "fd77:1::99"}[server]
    watcher = watching(pods.client)
    (drop,) = watcher.drops(connect(pods.client, beside))
    assert same_kind(drop)[2:] == (pods.client.inode, "eth0", SYN)
    assert (drop.reason, drop.symbol) in NO_NEIGHBOUR


def test_what_the_host_refuses_to_route_is_dropped_there(
    pods: PodPair, watching: Watching, connect: Connect
) -> None:
    pods.router.run(["ip", "route", "add", "blackhole", f"{SERVER_V4}/32"])
    watcher = watching(pods.client)
    (drop,) = watcher.drops(connect(pods.client, SERVER_V4))
    assert same_kind(drop)[2:] == (pods.router.inode, "to-client", SYN)
    assert drop.reason is None or drop.reason.startswith("IP_")


# --- where the answer is dropped -----------------------------------------------------------------


@SERVERS
def test_an_answer_that_the_host_does_not_forward_is_told_from_a_syn(
    pods: PodPair, watching: Watching, connect: Connect, resources: ExitStack, server: str
) -> None:
    listen(resources, pods.server, server)
    drop_all(pods.router, "FORWARD", server, "-i", "to-server")
    watcher = watching(pods.client)
    assert watcher.kinds(connect(pods.client, server), 2) == {
        # The listener has answered already: TCP drops the SYN that was sent again.
        (Direction.SYN, None, pods.server.inode, "eth0", SYN),
        (Direction.REPLY, "NETFILTER_DROP", pods.router.inode, "to-server", SYN_ACK),
    }


@SERVERS
def test_a_reset_that_is_dropped_on_its_way_is_told_by_its_flags(
    pods: PodPair, watching: Watching, connect: Connect, server: str
) -> None:
    drop_all(pods.router, "FORWARD", server, "-i", "to-server")
    watcher = watching(pods.client)
    assert watcher.kinds(connect(pods.client, server), 2) == {
        # Nothing listens: TCP itself drops the SYN that it answers.
        (Direction.SYN, "NO_SOCKET", pods.server.inode, "eth0", SYN),
        (Direction.REPLY, "NETFILTER_DROP", pods.router.inode, "to-server", RST_ACK),
    }


def test_an_answer_that_comes_another_way_is_dropped_by_the_reverse_path_filter(
    pods: PodPair, watching: Watching, connect: Connect, resources: ExitStack
) -> None:
    router, server = pods.router, pods.server
    listen(resources, server, SERVER_V4)
    names = ("type", "veth", "peer", "name", "other", "netns", router.name)
    server.run(["ip", "link", "add", "eth1", *names])
    for pod, device, address in ((server, "eth1", "10.77.9.3"), (router, "other", "10.77.9.1")):
        pod.run(["ip", "address", "add", f"{address}/24", "dev", device])
        pod.run(["ip", "link", "set", device, "up"])
    server.run(["ip", "route", "replace", "default", "via", "10.77.9.1"])
    # The filter would drop the question for its address too.
    (link,) = json.loads(router.run(["ip", "-json", "link", "show", "other"]))
    server.run(["ip", "neighbour", "add", "10.77.9.1", "lladdr", link["address"], "dev", "eth1"])
    router.sysctl("net.ipv4.conf.other.rp_filter", 1)
    watcher = watching(pods.client)
    assert watcher.kinds(connect(pods.client, SERVER_V4), 2) == {
        (Direction.SYN, None, server.inode, "eth0", SYN),
        (Direction.REPLY, "IP_RPFILTER", router.inode, "other", SYN_ACK),
    }


# --- which devices it was handed to --------------------------------------------------------------


@SERVERS
def test_a_syn_is_handed_to_every_device_on_its_way(
    pods: PodPair, watching: Watching, connect: Connect, server: str
) -> None:
    drop_all(pods.server, "INPUT", server, "--dport", str(PORT))
    watcher = watching(pods.client, handed=True)
    before = time.monotonic_ns()
    handed = watcher.handed(connect(pods.client, server), 2)
    assert {(one.device, one.netns) for one in handed} == {
        ("eth0", pods.client.inode),
        ("to-server", pods.router.inode),
    }
    assert all(one.count >= 1 for one in handed)
    assert all(before < one.last_ns <= time.monotonic_ns() for one in handed)


def test_devices_are_counted_only_while_that_is_asked_for(
    pods: PodPair, watching: Watching, connect: Connect
) -> None:
    drop_all(pods.server, "INPUT", SERVER_V4, "--dport", str(PORT))
    watcher = watching(pods.client)
    sock = connect(pods.client, SERVER_V4)
    port = sock.getsockname()[1]
    watcher.drops(sock)
    assert watcher.look()[port][2] == []
    watcher.probe.watch_handed(True)
    watcher.probe.watch_handed(True)
    watcher.handed(sock, 2)
    watcher.probe.watch_handed(False)
    watcher.probe.watch_handed(False)
    counted = watcher.look()[port][2]
    dropped = sum(drop.count for drop in watcher.look()[port][1])
    watcher.drops(sock, dropped + 1)
    assert watcher.look()[port][2] == counted


def test_a_syn_is_recognised_in_the_envelope_of_an_overlay(
    pods: PodPair, watching: Watching, connect: Connect
) -> None:
    """The router sends it on in UDP, as a node of an overlay network does."""
    router, server = pods.router, pods.server
    for pod, near, far in ((router, "10.77.2.1", SERVER_V4), (server, SERVER_V4, "10.77.2.1")):
        ends = ("local", near, "remote", far, "dstport", "4789")
        pod.run(["ip", "link", "add", "overlay", "type", "vxlan", "id", "7", *ends])
        inside = "10.77.8.1" if pod is router else "10.77.8.3"
        pod.run(["ip", "address", "add", f"{inside}/24", "dev", "overlay"])
        pod.run(["ip", "link", "set", "overlay", "up"])
    drop_all(server, "INPUT", "10.77.8.3", "--dport", str(PORT))
    watcher = watching(pods.client, handed=True)
    handed = watcher.handed(connect(pods.client, "10.77.8.3"), 3)
    assert {(one.device, one.netns) for one in handed} == {
        ("eth0", pods.client.inode),
        ("overlay", router.inode),
        ("to-server", router.inode),
    }


# --- NAT -----------------------------------------------------------------------------------------


SERVICES = {SERVER_V4: "10.96.0.10", SERVER_V6: "fd96::10"}
SERVICE_PORT = 443


def serve_as(pods: PodPair, server: str, *, hide_source: bool) -> str:
    """Lets a service's address lead to the server, as seen from the router if so; the address."""
    service, version = SERVICES[server], family(server)
    backend = f"[{server}]:{PORT}" if version == 6 else f"{server}:{PORT}"
    match = ("-p", "tcp", "-d", service, "--dport", str(SERVICE_PORT))
    to_backend = ("-A", "PREROUTING", *match, "-j", "DNAT", "--to-destination", backend)
    iptables(pods.router, "-t", "nat", *to_backend, family=version)
    if hide_source:
        hide = ("-A", "POSTROUTING", "-o", "to-server", "-j", "MASQUERADE", "--random-fully")
        iptables(pods.router, "-t", "nat", *hide, family=version)
    return service


@SERVERS
def test_a_syn_whose_destination_was_translated_is_recognised_by_its_source(
    pods: PodPair, watching: Watching, connect: Connect, server: str
) -> None:
    service = serve_as(pods, server, hide_source=False)
    drop_forwarded(pods, family(server))
    watcher = watching(pods.client)
    (drop,) = watcher.drops(connect(pods.client, service, SERVICE_PORT))
    assert same_kind(drop) == (
        Direction.SYN,
        "NETFILTER_DROP",
        pods.router.inode,
        "to-client",
        SYN,
    )


@SERVERS
def test_a_syn_of_which_both_ends_were_translated_is_recognised_by_connection_tracking(
    pods: PodPair, watching: Watching, connect: Connect, server: str
) -> None:
    """In the server's namespace too, where nothing is known of the translation."""
    service = serve_as(pods, server, hide_source=True)
    drop_all(pods.server, "INPUT", server, "--dport", str(PORT))
    watcher = watching(pods.client, handed=True)
    sock = connect(pods.client, service, SERVICE_PORT)
    handed = watcher.handed(sock, 2)
    assert ("to-server", pods.router.inode) in {(one.device, one.netns) for one in handed}
    drop_behind_routing(pods, server)
    assert watcher.kinds(sock, 2) == {
        (Direction.SYN, "NETFILTER_DROP", pods.server.inode, "eth0", SYN),
        (Direction.SYN, "TC_EGRESS", pods.router.inode, "to-server", SYN),
    }


@SERVERS
def test_an_answer_to_a_translated_syn_is_recognised_before_it_is_translated_back(
    pods: PodPair, watching: Watching, connect: Connect, resources: ExitStack, server: str
) -> None:
    service = serve_as(pods, server, hide_source=True)
    listen(resources, pods.server, server)
    drop_all(pods.server, "OUTPUT", server, "--sport", str(PORT))
    watcher = watching(pods.client, handed=True)
    sock = connect(pods.client, service, SERVICE_PORT)
    assert watcher.kinds(sock, 1) == {
        (Direction.REPLY, "NETFILTER_DROP", pods.server.inode, None, SYN_ACK),
    }


# --- whose packets they are ----------------------------------------------------------------------


def test_the_same_tuple_in_another_namespace_is_another_attempt(
    pods: PodPair, watching: Watching, connect: Connect, resources: ExitStack
) -> None:
    others = resources.enter_context(pod_pair())
    drop_all(pods.server, "INPUT", SERVER_V4, "--dport", str(PORT))
    drop_forwarded(others)
    watcher = watching(pods.client)
    sock = connect(pods.client, SERVER_V4)
    port = sock.getsockname()[1]
    other = watching(others.client)
    twin = connect(others.client, SERVER_V4, source_port=port)
    assert twin.getsockname()[1] == port

    (elsewhere,) = other.drops(twin, 2)
    (drop,) = watcher.drops(sock, 2)
    assert (drop.netns, drop.device) == (pods.server.inode, "eth0")
    assert (elsewhere.netns, elsewhere.device) == (others.router.inode, "to-client")
    assert watcher.attempt(sock).isn != other.attempt(twin).isn


def test_a_packet_that_shares_nothing_but_the_number_is_not_counted(
    pods: PodPair, watching: Watching, connect: Connect
) -> None:
    drop_all(pods.server, "INPUT", SERVER_V4, "--dport", str(PORT))
    watcher = watching(pods.client)
    sock = connect(pods.client, SERVER_V4)
    attempt = watcher.attempt(sock)
    assert attempt.isn is not None
    send_syn(pods.router, SERVER_V4, source_port=4_711, port=9, sequence=attempt.isn)
    wait_until(
        lambda: watcher.look() and watcher.probe.mismatched, SECONDS, "the foreign SYN's drop"
    )
    watcher.drops(sock)
    kinds = {same_kind(drop) for drop in watcher.drops(sock)}
    assert kinds == {(Direction.SYN, "NETFILTER_DROP", pods.server.inode, "eth0", SYN)}
    assert watcher.probe.mismatched == 1


def send_syn(pod: Namespace, address: str, *, source_port: int, port: int, sequence: int) -> None:
    """A SYN made by hand, with a wrong checksum: it is dropped where it is checked."""
    header = struct.pack("!HHIIBBHHH", source_port, port, sequence, 0, 5 << 4, SYN, 1024, 0, 0)
    with enter(str(NETNS_FOLDER / pod.name)):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with raw:
        raw.sendto(header, (address, 0))


def test_what_was_dropped_of_one_attempt_is_not_told_of_another(
    pods: PodPair, watching: Watching, connect: Connect
) -> None:
    drop_all(pods.server, "INPUT", SERVER_V4, "--dport", str(PORT))
    drop_all(pods.router, "FORWARD", SERVER_V4, "--dport", str(PORT + 1))
    watcher = watching(pods.client)
    one = connect(pods.client, SERVER_V4)
    other = connect(pods.client, SERVER_V4, PORT + 1)
    assert {drop.netns for drop in watcher.drops(one)} == {pods.server.inode}
    assert {drop.netns for drop in watcher.drops(other)} == {pods.router.inode}


def test_an_attempt_that_is_no_longer_watched_is_forgotten(
    pods: PodPair, watching: Watching, connect: Connect
) -> None:
    drop_forwarded(pods)
    watcher = watching(pods.client)
    sock = connect(pods.client, SERVER_V4)
    watcher.drops(sock)
    attempt = watcher.attempt(sock)
    probe = watcher.probe
    since = probe.watched_ns(attempt.id)
    assert since is not None
    assert attempt.stuck_ns is not None
    assert attempt.stuck_ns < since <= time.monotonic_ns()

    probe.watch([])
    assert probe.read() == {}
    assert probe.watched_ns(attempt.id) is None
    assert list(probe._drops.read()) == list(probe._watched.read()) == []
    probe.watch([attempt])
    assert probe.read() == {attempt.id: ((), ())}, "it is watched anew"


# --- what ends them ------------------------------------------------------------------------------


@SERVERS
def test_a_reset_is_told_of_the_attempt_that_it_ended_and_of_no_other(
    pods: PodPair, watching: Watching, connect: Connect, server: str
) -> None:
    drop_all(pods.server, "INPUT", server, "--dport", f"{PORT}:{PORT + 1}")
    watcher = watching(pods.client)
    one, other = connect(pods.client, server), connect(pods.client, server, PORT + 1)
    attempts = [watcher.attempt(sock) for sock in (one, other)]
    probe = watcher.probe
    assert [probe.reset_of(attempt.id) for attempt in attempts] == [(), ()]

    before = time.monotonic_ns()
    let_in = ("INPUT", "-p", "tcp", "--dport", str(PORT), "-j", "ACCEPT")
    iptables(pods.server, "-I", *let_in, family=family(server))
    wait_until(lambda: error_of(one), SECONDS, "the RST")
    (reset,) = probe.reset_of(attempts[0].id) or ()
    assert reset.sender == attempts[0].flow.destination
    assert before < reset.at_ns <= time.monotonic_ns()
    assert probe.reset_of(attempts[1].id) == ()

    probe.watch(attempts[1:])
    assert probe.reset_of(attempts[0].id) is None, "nobody looks any more"
    probe.read()
    assert list(probe._resets.read()) == []


def error_of(sock: socket.socket) -> str | None:
    """What ended a connect; the socket forgets it."""
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode[number] if number else None


def test_a_reset_that_tcp_does_not_take_is_no_evidence(
    pods: PodPair, watching: Watching, connect: Connect
) -> None:
    drop_all(pods.server, "INPUT", SERVER_V6, "--dport", str(PORT))
    watcher = watching(pods.client)
    sock = connect(pods.client, SERVER_V6)
    attempt = watcher.attempt(sock)
    assert attempt.isn is not None
    came = segments_in(pods.client)
    forge_reset(pods.server, CLIENT_V6, sock.getsockname()[1], attempt.isn + 2)
    wait_until(lambda: segments_in(pods.client) > came, SECONDS, "the forged RST")
    assert error_of(sock) is None
    assert watcher.probe.reset_of(attempt.id) == ()
    forge_reset(pods.server, CLIENT_V6, sock.getsockname()[1], attempt.isn + 1)
    wait_until(lambda: error_of(sock), SECONDS, "the one that acknowledges the SYN")
    assert watcher.probe.reset_of(attempt.id)


def forge_reset(pod: Namespace, address: str, port: int, acknowledged: int) -> None:
    """A RST from PORT, made by hand; the kernel puts in the checksum."""
    acknowledged &= 0xFFFFFFFF
    header = struct.pack("!HHIIBBHHH", PORT, port, 0, acknowledged, 5 << 4, RST_ACK, 0, 0, 0)
    with enter(str(NETNS_FOLDER / pod.name)):
        raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 16)
        raw.sendto(header, (address, 0))


def segments_in(pod: Namespace) -> int:
    """TCP segments that the namespace got (proc_net(5), snmp)."""
    lines = pod.run(["cat", "/proc/net/snmp"]).splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("InSegs")])


# --- what is lacking -----------------------------------------------------------------------------


def test_a_kernel_without_reasons_still_tells_the_place(
    pods: PodPair, watching: Watching, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 5.17 the tracepoint has no reason, before 6.11 no socket."""
    real = drops._kernel()
    later = {"KFREE_SKB_REASON", "KFREE_SKB_SOCKET"}
    macros = {name: value for name, value in real.macros.items() if name not in later}
    old = replace(real, macros=macros, reasons=MappingProxyType({}))
    monkeypatch.setattr(drops, "_kernel", lambda: old)
    drop_forwarded(pods)
    watcher = watching(pods.client)
    (drop,) = watcher.drops(connect(pods.client, SERVER_V4))
    assert same_kind(drop) == (Direction.SYN, None, pods.router.inode, "to-client", SYN)
    assert drop.symbol in NETFILTER


def test_a_kernel_without_connection_tracking_recognises_what_was_not_translated_twice(
    pods: PodPair, watching: Watching, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = drops._kernel()
    macros = {name: value for name, value in real.macros.items() if name != "CONNTRACK"}
    monkeypatch.setattr(drops, "_kernel", lambda: replace(real, macros=macros))
    service = serve_as(pods, SERVER_V4, hide_source=True)
    drop_all(pods.server, "INPUT", SERVER_V4, "--dport", str(PORT))
    watcher = watching(pods.client, handed=True)
    sock = connect(pods.client, service, SERVICE_PORT)
    assert [one.device for one in watcher.handed(sock, 1)] == ["eth0"]
    wait_until(
        lambda: watcher.look() and watcher.probe.mismatched, SECONDS, "the SYN beyond the router"
    )


# --- bounds --------------------------------------------------------------------------------------


def test_attempts_beyond_the_bound_are_counted_once(
    pods: PodPair, watching: Watching, connect: Connect
) -> None:
    drop_forwarded(pods)
    watcher = watching(pods.client, max_watched=2)
    sockets = [connect(pods.client, SERVER_V4) for _ in range(5)]
    wait_until(lambda: len(watcher.look()) == len(sockets), SECONDS, "all attempts to be stuck")
    assert watcher.probe.lost == 3
    watcher.look()
    assert watcher.probe.lost == 3
    assert len(watcher.probe.read()) == 2


def test_drops_beyond_the_bound_are_counted(
    pods: PodPair, watching: Watching, connect: Connect
) -> None:
    drop_forwarded(pods)
    watcher = watching(pods.client, max_entries=1)
    for _ in range(3):
        connect(pods.client, SERVER_V4)
    wait_until(lambda: watcher.look() and watcher.probe.lost, SECONDS, "drops that find no room")
    assert sum(len(found[1]) for found in watcher.look().values()) == 1


def test_an_attempt_without_a_known_number_is_not_watched(
    pods: PodPair, watching: Watching, connect: Connect
) -> None:
    drop_forwarded(pods)
    watcher = watching(pods.client)
    attempt = watcher.attempt(connect(pods.client, SERVER_V4))
    watcher.probe.watch([replace(attempt, isn=None)])
    assert watcher.probe.read() == {}
    assert watcher.probe.lost == 0


def test_of_two_attempts_with_one_number_the_first_is_watched(
    pods: PodPair, watching: Watching, connect: Connect
) -> None:
    drop_forwarded(pods)
    watcher = watching(pods.client)
    attempt = watcher.attempt(connect(pods.client, SERVER_V4))
    watcher.probe.watch([attempt, replace(attempt, id="other")])
    assert watcher.probe.read().keys() == {attempt.id}
    assert watcher.probe.lost == 1


def test_thousands_of_attempts_are_watched_and_let_go(
    pods: PodPair, watching: Watching, connect: Connect
) -> None:
    drop_forwarded(pods)
    watcher = watching(pods.client)
    attempt = watcher.attempt(connect(pods.client, SERVER_V4))
    many = [replace(attempt, id=str(number), isn=number) for number in range(1, 10_001)]
    watcher.probe.watch(many)
    assert len(list(watcher.probe._watched.read())) == 10_000
    watcher.probe.watch(many[5_000:])
    assert watcher.probe.read().keys() == {str(number) for number in range(5_001, 10_001)}
    assert len(list(watcher.probe._watched.read())) == 5_000
    assert watcher.probe.lost == 0


def test_entries_that_are_gone_are_passed_over_when_entries_are_taken_out() -> None:
    probe = DropProbe(max_watched=16)
    try:
        table = probe._watched
        keys = [drop_wire.ISN.pack(number) for number in range(10)]
        value = bytes(drop_wire.WATCHED.size)
        table.update([(key, value) for key in keys])
        table.delete([keys[3], keys[9]])
        table.delete(keys[:8])
        assert [key for key, _ in table.read()] == [keys[8]]
    finally:
        probe.close()


# --- the beginning and the end -------------------------------------------------------------------


def test_nothing_stays_loaded_after_the_end() -> None:
    before = own_programs()
    probe = DropProbe()
    probe.watch_handed(True)
    programs = own_programs() - before
    assert len(programs) == 3
    assert programs <= loaded_programs()
    probe.close()
    probe.close()
    assert own_programs() == before
    wait_until(lambda: not programs & loaded_programs(), SECONDS, "the kernel to let go of them")


def test_no_descriptor_is_left_open() -> None:
    DropProbe().close()  # what bcc opens once per process
    before = descriptors()
    for _ in range(3):
        DropProbe().close()
    assert descriptors() == before


def test_a_probe_that_cannot_be_attached_leaves_nothing_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drops, "try_raw_tracepoint", lambda *_: "it is forbidden")
    before = own_programs()
    with pytest.raises(NoSource, match="kfree_skb: it is forbidden") as caught:
        DropProbe()
    assert "--no-evidence" in caught.value.hint
    assert own_programs() == before


@pytest.mark.parametrize("member", ["MIRROR_drop_key_location", "MIRROR_SIZE_watched"])
def test_a_drifted_mirror_stops_the_compiler(member: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = drop_wire.mirror_macros()
    monkeypatch.setattr(drop_wire, "mirror_macros", lambda: {**true, member: true[member] + 4})
    with pytest.raises(NoSource, match=r"drop_wire\.py"):
        DropProbe()


def test_it_is_loaded_and_freed_beside_a_trace_that_goes_on(pods: PodPair) -> None:
    """The trace's own thread reads on and on; nothing of what it must see is lost."""
    source = BpfSource(threshold_seconds=1.0, limits=Limits(), netns=frozenset({pods.client.inode}))
    stop = threading.Event()
    refused: list[int] = []

    def refuse_and_read() -> None:
        while not stop.is_set():
            with enter(str(NETNS_FOLDER / pods.client.name)), socket.socket() as sock:
                assert sock.connect_ex((SERVER_V4, PORT)) == errno.ECONNREFUSED
            refused.append(len(source.read(0)[0]))

    reader = threading.Thread(target=refuse_and_read)
    reader.start()
    try:
        for _ in range(3):
            probe = DropProbe()
            probe.watch_handed(True)
            probe.read()
            probe.close()
    finally:
        stop.set()
        reader.join(SECONDS)
        counters = source.counters()
        source.close()
    assert set(refused) == {1}
    assert counters["started"] == counters["reported_end"] == len(refused)
    assert (counters["ring_full"], counters["untracked"], counters["unseen_ends"]) == (0, 0, 0)
