"""ICMP errors that routers really send about real SYNs, heard in the namespace that sent them."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

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
from tests.support.node import beyond, icmp_errors, own_address
from tests.support.sockets import opened, path_of
from tests.support.wait import wait_until
from tracer.host import icmp
from tracer.host.icmp import AboutPacket, IcmpListener
from tracer.host.netns import enter
from tracer.model import Flow, Transition, TransitionKind
from tracer.settings import Limits
from tracer.sources.bpf import BpfSource

pytestmark = pytest.mark.kernel

SECONDS = 10
PORT = 443
SEQUENCE = 0x01020304
SENDERS = {4: "10.77.1.1", 6: "fd77:1::1"}
REJECTS = {
    "icmp-net-unreachable": (4, 3, 0),
    "icmp-host-unreachable": (4, 3, 1),
    "icmp-port-unreachable": (4, 3, 3),
    "icmp-admin-prohibited": (4, 3, 13),
    "icmp6-no-route": (6, 1, 0),
    "icmp6-adm-prohibited": (6, 1, 1),
    "icmp6-addr-unreachable": (6, 1, 3),
    "icmp6-port-unreachable": (6, 1, 4),
}
ETH_P_ALL = 3
CHECKOUT = Path(__file__).parents[2]

LISTEN_WITHOUT_CAPABILITY = """
import sys
from tracer.host.icmp import IcmpListener
try: IcmpListener(sys.argv[1])
except OSError as error: print(type(error).__name__, error.strerror)
"""


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def pods(resources: ExitStack) -> PodPair:
    """No device of the router holds errors back for having sent some."""
    pods = resources.enter_context(pod_pair())
    pods.router.sysctl("net.ipv4.icmp_ratelimit", 0)
    pods.router.sysctl("net.ipv6.icmp.ratelimit", 0)
    return pods


def hearing(namespace: Namespace, resources: ExitStack) -> IcmpListener:
    heard = IcmpListener(path_of(namespace))
    resources.callback(heard.close)
    return heard


def first_of(heard: IcmpListener) -> AboutPacket:
    found = wait_until(heard.read, SECONDS, "an ICMP error")
    return found[0]


def ends(about: AboutPacket) -> tuple[object, ...]:
    return about.family, about.source, about.destination


def told(about: AboutPacket) -> tuple[int, int, int, str]:
    error = about.error
    assert error.count == 1
    assert error.last_ns > 0
    return error.family, error.kind, error.code, error.sender


def server(family: int) -> str:
    return SERVER_V4 if family == 4 else SERVER_V6


def ends_of(flow: Flow) -> tuple[object, ...]:
    return flow.family, flow.source, flow.destination


# --- what routers send ---------------------------------------------------------------------------


@pytest.mark.parametrize("reject", REJECTS)
def test_what_a_firewall_on_the_way_rejects_is_told_by_its_type_code_and_sender(
    pods: PodPair, resources: ExitStack, reject: str
) -> None:
    family, kind, code = REJECTS[reject]
    rule = ("FORWARD", "-p", "tcp", "-j", "REJECT", "--reject-with", reject)
    iptables(pods.router, "-A", *rule, family=family)
    heard = hearing(pods.client, resources)
    _, flow = opened(pods.client, resources, server(family), PORT)
    about = first_of(heard)
    assert ends(about) == ends_of(flow)
    assert told(about) == (family, kind, code, SENDERS[family])


@pytest.mark.parametrize(("family", "router"), [(4, "10.99.0.1"), (6, "fd99::1")])
def test_an_attempt_that_an_error_ends_at_once_is_told_with_the_number_that_it_quotes(
    pods: PodPair, resources: ExitStack, family: int, router: str
) -> None:
    there, (kind, code) = own_address(family), (3, 13) if family == 4 else (1, 1)
    resources.enter_context(beyond(pods.router, there, answer=icmp_errors(router, kind, code)))
    heard = hearing(pods.client, resources)
    netns = frozenset({pods.client.inode})
    source = BpfSource(threshold_seconds=1.0, limits=Limits(), netns=netns)
    resources.callback(source.close)
    opened(pods.client, resources, there, PORT)
    about = first_of(heard)
    ended: list[Transition] = []

    def over() -> bool:
        ended.extend(source.read(0)[0])
        return bool(ended)

    wait_until(over, SECONDS, "the attempt's end")
    assert [(one.kind, one.isn) for one in ended] == [(TransitionKind.END, about.sequence)]


@pytest.mark.parametrize(("family", "kind", "code"), [(4, 3, 13), (6, 1, 1)])
def test_an_nftables_firewall_is_told_apart_no_less(
    pods: PodPair, resources: ExitStack, family: int, kind: int, code: int
) -> None:
    rules = (
        "table inet t { chain c { type filter hook forward priority 0;"
        " meta l4proto tcp reject with icmpx admin-prohibited\n}\n}\n"
    )
    pods.router.run(["nft", "-f", "-"], stdin=rules)
    heard = hearing(pods.client, resources)
    _, flow = opened(pods.client, resources, server(family), PORT)
    about = first_of(heard)
    assert ends(about) == ends_of(flow)
    assert told(about) == (family, kind, code, SENDERS[family])


@pytest.mark.parametrize(
    ("family", "route", "kind", "code"),
    [
        (4, "unreachable", 3, 1),
        (4, "prohibit", 3, 13),
        (6, "unreachable", 1, 0),  # as if there were none
        (6, "prohibit", 1, 1),
    ],
)
def test_a_route_of_the_router_that_refuses_is_heard_of(
    pods: PodPair, resources: ExitStack, family: int, route: str, kind: int, code: int
) -> None:
    pods.router.run(["ip", f"-{family}", "route", "add", route, server(family)])
    heard = hearing(pods.client, resources)
    _, flow = opened(pods.client, resources, server(family), PORT)
    about = first_of(heard)
    assert ends(about) == ends_of(flow)
    assert told(about) == (family, kind, code, SENDERS[family])


@pytest.mark.parametrize(("family", "kind", "code"), [(4, 11, 0), (6, 3, 0)])
def test_a_loop_of_routes_is_heard_of(
    pods: PodPair, resources: ExitStack, family: int, kind: int, code: int
) -> None:
    """Router and server send it to each other until its time is up."""
    away = "203.0.113.7" if family == 4 else "fd99::7"
    for namespace, hop in (
        (pods.router, server(family)),
        (pods.server, "10.77.2.1" if family == 4 else "fd77:2::1"),
    ):
        namespace.run(["ip", f"-{family}", "route", "add", away, "via", hop])
    pods.server.sysctl("net.ipv4.ip_forward", 1)
    pods.server.sysctl("net.ipv6.conf.all.forwarding", 1)
    pods.server.run(["ip", f"-{family}", "route", "replace", "default", "dev", "eth0", "via", hop])
    heard = hearing(pods.client, resources)
    _, flow = opened(pods.client, resources, away, PORT)
    about = first_of(heard)
    assert ends(about) == ends_of(flow)
    assert told(about)[:3] == (family, kind, code)


def test_an_error_behind_address_translation_is_about_what_was_sent(
    pods: PodPair, resources: ExitStack
) -> None:
    match = ("-d", "10.96.0.10", "-p", "tcp", "--dport", "80")
    to_backend = ("-j", "DNAT", "--to-destination", f"{SERVER_V4}:{PORT}")
    iptables(pods.router, "-t", "nat", "-A", "PREROUTING", *match, *to_backend)
    iptables(pods.server, "-A", "INPUT", "-p", "tcp", "-j", "REJECT")
    heard = hearing(pods.client, resources)
    _, flow = opened(pods.client, resources, "10.96.0.10", 80)
    about = first_of(heard)
    assert ends(about) == ends_of(flow)
    # Translated, too: the pod knows nothing of the backend that sent it.
    assert told(about) == (4, 3, 3, "10.96.0.10")


@pytest.mark.parametrize(
    ("family", "address", "own", "kind", "code"),
    [(4, NOBODY_V4, CLIENT_V4, 3, 1), (6, "fd77:1::99", CLIENT_V6, 1, 3)],
)
def test_a_dead_neighbour_is_told_by_the_namespace_itself(
    resources: ExitStack, family: int, address: str, own: str, kind: int, code: int
) -> None:
    pod = resources.enter_context(lone_pod())
    pod.run(["ip", "address", "add", f"{CLIENT_V6}/64", "dev", "eth0", "nodad"])
    for name in ("ipv4", "ipv6"):
        pod.sysctl(f"net.{name}.neigh.eth0.mcast_solicit", 1)
    heard = hearing(pod, resources)
    _, flow = opened(pod, resources, address, PORT)
    about = first_of(heard)
    assert ends(about) == ends_of(flow)
    assert told(about) == (family, kind, code, own)


def test_a_firewall_of_the_pod_itself_is_its_own_sender(
    pods: PodPair, resources: ExitStack
) -> None:
    iptables(pods.client, "-A", "OUTPUT", "-p", "tcp", "-j", "REJECT")
    heard = hearing(pods.client, resources)
    with enter(path_of(pods.client)):
        made = resources.enter_context(socket.socket())
    assert made.connect_ex((SERVER_V4, PORT)) == errno.ECONNREFUSED
    assert told(first_of(heard)) == (4, 3, 3, CLIENT_V4)


@pytest.mark.parametrize("family", [4, 6])
def test_the_sequence_number_is_the_syns(pods: PodPair, resources: ExitStack, family: int) -> None:
    iptables(pods.router, "-A", "FORWARD", "-p", "tcp", "-j", "REJECT", family=family)
    with enter(path_of(pods.router)):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    resources.enter_context(tap)
    tap.settimeout(SECONDS)
    heard = hearing(pods.client, resources)
    _, flow = opened(pods.client, resources, server(family), PORT)
    assert flow.source.port is not None
    ports = struct.pack("!HH", flow.source.port, PORT)
    start = 20 if family == 4 else 40
    packet = b""
    while packet[start : start + 4] != ports:
        packet = tap.recv(2_048)
    sequence = struct.unpack_from("!I", packet, start + 4)[0]
    assert first_of(heard).sequence == sequence


def test_other_namespaces_hear_nothing(pods: PodPair, resources: ExitStack) -> None:
    iptables(pods.router, "-A", "FORWARD", "-p", "tcp", "-j", "REJECT")
    heard, elsewhere = hearing(pods.client, resources), hearing(pods.server, resources)
    opened(pods.client, resources, SERVER_V4, PORT)
    first_of(heard)
    assert elsewhere.read() == []


# --- what is passed on ---------------------------------------------------------------------------


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def about_v4(kind: int, code: int, protocol: int = 6, *, port: int = PORT) -> bytes:
    ends = socket.inet_aton(CLIENT_V4) + socket.inet_aton(SERVER_V4)
    inner = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, protocol, 0) + ends
    inner += struct.pack("!HHI", 40_000, port, SEQUENCE)
    plain = struct.pack("!BBHI", kind, code, 0, 0) + inner
    return plain[:2] + struct.pack("!H", checksum(plain)) + plain[4:]


def about_v6(kind: int, code: int, protocol: int = 6, *, port: int = PORT) -> bytes:
    """The kernel writes the checksum."""
    ends = socket.inet_pton(socket.AF_INET6, CLIENT_V6)
    ends += socket.inet_pton(socket.AF_INET6, SERVER_V6)
    options = b"" if protocol == 6 else bytes([6, 0, 1, 4, 0, 0, 0, 0])
    inner = struct.pack("!IHBB", 6 << 28, 20 + len(options), protocol, 64) + ends + options
    inner += struct.pack("!HHI", 40_000, port, SEQUENCE)
    return struct.pack("!BBHI", kind, code, 0, 0) + inner


@pytest.fixture
def forger(pods: PodPair, resources: ExitStack) -> dict[int, socket.socket]:
    """Raw sockets of the router, by family."""
    with enter(path_of(pods.router)):
        return {
            4: resources.enter_context(
                socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            ),
            6: resources.enter_context(
                socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            ),
        }


NOT_TAKEN = {
    4: [
        about_v4(3, 4),  # fragmentation needed
        about_v4(3, 1, protocol=socket.IPPROTO_UDP),
        about_v4(4, 0),  # source quench
        about_v4(5, 1),  # redirect
        about_v4(0, 0),  # echo reply
        about_v4(3, 1)[:16],  # too short to say what it is about
    ],
    6: [
        about_v6(2, 0),  # packet too big
        about_v6(1, 1, protocol=socket.IPPROTO_UDP),
        about_v6(129, 0),  # echo reply
        about_v6(1, 1)[:14],
    ],
}
TAKEN = {
    4: [about_v4(3, 1, port=1), about_v4(11, 0, port=2), about_v4(12, 0, port=3)],
    6: [
        about_v6(1, 4, port=1),
        about_v6(3, 0, port=2),
        about_v6(4, 1, port=3, protocol=socket.IPPROTO_DSTOPTS),
    ],
}


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_passes_on_errors_about_tcp_alone(
    pods: PodPair,
    resources: ExitStack,
    forger: dict[int, socket.socket],
    family: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard, client = hearing(pods.client, resources), CLIENT_V4 if family == 4 else CLIENT_V6
    parse = icmp.parse_v4 if family == 4 else icmp.parse_v6
    passed: list[AboutPacket | None] = []

    def note(packet: memoryview, sender: str, now_ns: int) -> AboutPacket | None:
        passed.append(parse(packet, sender, now_ns))
        return passed[-1]

    monkeypatch.setattr(icmp, parse.__name__, note)
    # The first of all waits for the neighbour's address.
    for messages, total in ((TAKEN[family][:1], 1), (NOT_TAKEN[family] + TAKEN[family], 4)):
        for message in messages:
            forger[family].sendto(message, (client, 0))

        def all_read(total: int = total) -> bool:
            heard.read()
            return len(passed) >= total

        wait_until(all_read, SECONDS, "what is about TCP")
    assert [one and one.destination.port for one in passed] == [1, 1, 2, 3]
    assert {one and one.sequence for one in passed} == {SEQUENCE}


def test_a_flood_is_cut_off_counted_and_read_in_portions(
    pods: PodPair, resources: ExitStack, forger: dict[int, socket.socket]
) -> None:
    heard = hearing(pods.client, resources)
    message, flood = about_v4(3, 1), 8_000
    # Until the neighbour is known, the sender itself would drop most of them.
    forger[4].sendto(message, (CLIENT_V4, 0))
    first_of(heard)
    for _ in range(flood):
        forger[4].sendto(message, (CLIENT_V4, 0))
    seen = 0

    def drained() -> bool:
        nonlocal seen
        portion = len(heard.read())
        assert portion <= 4_096
        seen += portion
        return seen + (heard.lost() or 0) == flood

    wait_until(drained, SECONDS, "every error to be read or counted as lost")
    assert heard.lost()
    assert seen > 1_000


# --- opening and closing -------------------------------------------------------------------------


def test_a_user_who_may_not_open_raw_sockets_is_refused(pods: PodPair) -> None:
    descriptor = os.open(path_of(pods.client), os.O_RDONLY)
    drop = "-net_raw"
    try:
        done = subprocess.run(
            [
                *("setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}", "--"),
                *(sys.executable, "-c", LISTEN_WITHOUT_CAPABILITY, f"/proc/self/fd/{descriptor}"),
            ],
            cwd=CHECKOUT,
            pass_fds=[descriptor],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    finally:
        os.close(descriptor)
    assert done.stdout == "NoRawSocket Operation not permitted\n"


def test_closing_leaves_no_descriptor_and_neither_does_a_refusal(
    pods: PodPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    heard = IcmpListener(path_of(pods.client))
    assert count() == before + 2
    heard.close()
    assert count() == before

    def refuse() -> socket.socket:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr("tracer.host.icmp._open_v6", refuse)
    with pytest.raises(PermissionError):
        IcmpListener(path_of(pods.client))
    assert count() == before


def test_a_namespace_without_ipv6_is_heard_in_ipv4(
    pods: PodPair, resources: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "no IPv6")

    monkeypatch.setattr("tracer.host.icmp._open_v6", refuse)
    iptables(pods.router, "-A", "FORWARD", "-p", "tcp", "-j", "REJECT")
    heard = hearing(pods.client, resources)
    opened(pods.client, resources, SERVER_V4, PORT)
    assert told(first_of(heard)) == (4, 3, 3, SENDERS[4])


def test_a_namespace_that_is_gone_cannot_be_heard() -> None:
    with lone_pod() as pod:
        path = path_of(pod)
    with pytest.raises(FileNotFoundError):
        IcmpListener(path)
