"""Connection tracking of real namespaces, asked about sockets that this process opened in them.

The router of a pod pair stands for the node: what a test does there, kube-proxy does in the node's
own namespace. Services are addresses that only its rules (or the pod's own) know.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.support.client import listen
from tests.support.netns import (
    CLIENT_V4,
    NETNS_FOLDER,
    SERVER_V4,
    SERVER_V6,
    Namespace,
    PodPair,
    drop_forwarded,
    dropped_packets,
    iptables,
    lone_pod,
    pod_pair,
)
from tests.support.wait import stays_true, wait_until
from tracer.enrich import nat
from tracer.enrich.nat import NatLimits, NatLookups
from tracer.host import ctnetlink
from tracer.host.ctnetlink import Conntrack, Entry, Table, table
from tracer.host.netns import enter, list_namespaces
from tracer.model import Attempt, Endpoint, Flow, Nat, Owner, SourceName

pytestmark = pytest.mark.kernel

SERVICE_V4, SERVICE_V6, SERVICE_PORT = "10.96.0.10", "fd96::10", 5432
BACKEND_V4, BACKEND_PORT = "10.4.100.50", 15432
ROUTER_V4 = "10.77.2.1"
SECONDS = 10
CHECKOUT = Path(__file__).parents[2]

GET_WITHOUT_CAPABILITY = """
import sys
from tracer.host.ctnetlink import Conntrack
from tracer.model import Endpoint, Flow
try:
    Conntrack(sys.argv[1]).get(Flow(None, 4, Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 2)))
except OSError as error: print(type(error).__name__, error.strerror)
"""

LOOK_UP_WITHOUT_CAPABILITY = """
import sys, threading
from tracer.enrich.nat import NatLookups
from tracer.model import Attempt, Endpoint, Flow, Owner, SourceName
flow = Flow(None, 4, Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 2))
lookups = NatLookups(sys.argv[1])
lookups.start()
lookups.ask(Attempt("a", flow, Owner(), SourceName.BPF, 0))
for thread in threading.enumerate():
    if thread is not threading.main_thread(): thread.join(10)
lookups.ask(Attempt("b", flow, Owner(), SourceName.BPF, 0))
print(lookups.requests, lookups.lacking)
"""


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def pods(resources: ExitStack) -> PodPair:
    """The backend answers nothing on BACKEND_PORT. No rule yet tracks anything."""
    pods = resources.enter_context(pod_pair())
    pods.server.run(["ip", "address", "add", f"{BACKEND_V4}/32", "dev", "lo"])
    pods.router.run(["ip", "route", "add", f"{BACKEND_V4}/32", "via", SERVER_V4])
    rule = ("INPUT", "-p", "tcp", "--dport", str(BACKEND_PORT), "-j", "DROP")
    for family in (4, 6):
        iptables(pods.server, "-A", *rule, family=family)
    return pods


def translate(namespace: Namespace, chain: str, service: str, backend: str) -> None:
    """What kube-proxy writes for a service with one endpoint."""
    match = ("-p", "tcp", "-d", service, "--dport", str(SERVICE_PORT))
    family = ip_address(service).version
    iptables(
        *(namespace, "-t", "nat", "-A", chain, *match, "-j", "DNAT", "--to-destination", backend),
        family=family,
    )


def track(namespace: Namespace) -> None:
    """A rule that makes the kernel track connections and changes none."""
    iptables(namespace, "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW")


def path_of(namespace: Namespace) -> str:
    return str(NETNS_FOLDER / namespace.name)


def connecting(
    namespace: Namespace, resources: ExitStack, address: str, port: int = SERVICE_PORT
) -> Flow:
    """The tuple of a socket of this process, inside, that has sent its first SYN."""
    return opened(namespace, resources, address, port)[1]


def opened(
    namespace: Namespace, resources: ExitStack, address: str, port: int
) -> tuple[socket.socket, Flow]:
    with enter(path_of(namespace)):
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    resources.enter_context(made)
    made.setblocking(False)
    assert made.connect_ex((address, port)) == errno.EINPROGRESS
    return made, flow_of(made, namespace, address, port)


def flow_of(sock: socket.socket, namespace: Namespace, address: str, port: int) -> Flow:
    """As the sources describe it: addresses of a mapped socket are those on the wire."""
    source, destination = ip_address(sock.getsockname()[0]), ip_address(address)
    mapped = destination.version == 6 and destination.ipv4_mapped is not None
    if destination.version == source.version == 6 and destination.ipv4_mapped is not None:
        assert source.ipv4_mapped is not None
        source, destination = source.ipv4_mapped, destination.ipv4_mapped
    return Flow(
        namespace.inode,
        destination.version,
        Endpoint(str(source), sock.getsockname()[1]),
        Endpoint(str(destination), port),
        mapped=mapped,
    )


def asking(namespace: Namespace, resources: ExitStack) -> Conntrack:
    asked = Conntrack(path_of(namespace))
    resources.callback(asked.close)
    return asked


def found(namespace: Namespace, resources: ExitStack, flow: Flow) -> Entry:
    asked = asking(namespace, resources)
    entry = wait_until(lambda: asked.get(flow), SECONDS, "the connection to be tracked")
    assert entry is not None
    return entry


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- one connection ------------------------------------------------------------------------------


def test_a_stuck_attempt_to_a_service_shows_its_backend_and_that_nothing_came_back(
    pods: PodPair, resources: ExitStack
) -> None:
    translate(pods.router, "PREROUTING", SERVICE_V4, f"{BACKEND_V4}:{BACKEND_PORT}")
    flow = connecting(pods.client, resources, SERVICE_V4)
    entry = found(pods.router, resources, flow)
    assert entry == Entry(
        reply_source=Endpoint(BACKEND_V4, BACKEND_PORT),
        reply_destination=flow.source,
        state="SYN_SENT",
        replied=False,
        assured=False,
        timeout_seconds=entry.timeout_seconds,
    )
    assert entry.timeout_seconds is not None
    assert 60 <= entry.timeout_seconds <= 120, "nf_conntrack_tcp_timeout_syn_sent"


def test_a_translation_in_the_pods_own_namespace_is_found_there(
    pods: PodPair, resources: ExitStack
) -> None:
    translate(pods.client, "OUTPUT", SERVICE_V4, f"{BACKEND_V4}:{BACKEND_PORT}")
    flow = connecting(pods.client, resources, SERVICE_V4)
    entry = found(pods.client, resources, flow)
    assert entry.reply_source == Endpoint(BACKEND_V4, BACKEND_PORT)
    assert asking(pods.router, resources).get(flow) is None


def test_an_ipv6_service_shows_its_backend(pods: PodPair, resources: ExitStack) -> None:
    translate(pods.router, "PREROUTING", SERVICE_V6, f"[{SERVER_V6}]:{BACKEND_PORT}")
    flow = connecting(pods.client, resources, SERVICE_V6)
    assert flow.family == 6
    entry = found(pods.router, resources, flow)
    assert entry.reply_source == Endpoint(SERVER_V6, BACKEND_PORT)
    assert (entry.state, entry.replied) == ("SYN_SENT", False)


def test_an_ipv6_socket_that_speaks_ipv4_is_found_as_ipv4(
    pods: PodPair, resources: ExitStack
) -> None:
    translate(pods.router, "PREROUTING", SERVICE_V4, f"{BACKEND_V4}:{BACKEND_PORT}")
    flow = connecting(pods.client, resources, f"::ffff:{SERVICE_V4}")
    assert (flow.family, flow.mapped) == (4, True)
    entry = found(pods.router, resources, flow)
    assert entry.reply_source == Endpoint(BACKEND_V4, BACKEND_PORT)


def test_a_tracked_attempt_that_is_not_translated_shows_its_own_ends(
    pods: PodPair, resources: ExitStack
) -> None:
    track(pods.router)
    flow = connecting(pods.client, resources, SERVER_V4, BACKEND_PORT)
    entry = found(pods.router, resources, flow)
    assert (entry.reply_source, entry.reply_destination) == (flow.destination, flow.source)


def test_a_masqueraded_source_is_shown_as_others_see_it(
    pods: PodPair, resources: ExitStack
) -> None:
    iptables(pods.router, "-t", "nat", "-A", "POSTROUTING", "-o", "to-server", "-j", "MASQUERADE")
    flow = connecting(pods.client, resources, SERVER_V4, BACKEND_PORT)
    entry = found(pods.router, resources, flow)
    assert entry.reply_source == flow.destination
    assert entry.reply_destination.address == ROUTER_V4


def test_a_connection_that_was_answered_is_replied_to(pods: PodPair, resources: ExitStack) -> None:
    translate(pods.router, "PREROUTING", SERVICE_V4, f"{BACKEND_V4}:8080")
    listen(pods.server, 8080)
    flow = connecting(pods.client, resources, SERVICE_V4)
    asked = asking(pods.router, resources)

    def established() -> Entry | None:
        entry = asked.get(flow)
        return entry if entry is not None and entry.state == "ESTABLISHED" else None

    entry = wait_until(established, SECONDS, "the connection to be established")
    assert entry is not None
    assert (entry.replied, entry.assured) == (True, True)


def test_a_refused_attempt_leaves_no_entry(pods: PodPair, resources: ExitStack) -> None:
    """The kernel drops the entry of a SYN that is answered by RST (nf_conntrack_tcp_packet())."""
    track(pods.router)
    sock, flow = opened(pods.client, resources, SERVER_V4, 8081)
    wait_until(
        lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED,
        SECONDS,
        "the RST",
    )
    assert asking(pods.router, resources).get(flow) is None


def test_there_is_no_entry_where_no_rule_tracks(pods: PodPair, resources: ExitStack) -> None:
    flow = connecting(pods.client, resources, SERVER_V4, BACKEND_PORT)
    assert asking(pods.router, resources).get(flow) is None
    assert asking(pods.client, resources).get(flow) is None


def test_there_is_no_entry_where_the_first_packet_was_dropped_on_its_way_through(
    pods: PodPair, resources: ExitStack
) -> None:
    translate(pods.router, "PREROUTING", SERVICE_V4, f"{BACKEND_V4}:{BACKEND_PORT}")
    drop_forwarded(pods)
    flow = connecting(pods.client, resources, SERVICE_V4)
    wait_until(lambda: dropped_packets(pods), SECONDS, "the drop")
    assert asking(pods.router, resources).get(flow) is None


def test_another_connection_to_the_same_service_is_not_taken_for_it(
    pods: PodPair, resources: ExitStack
) -> None:
    translate(pods.router, "PREROUTING", SERVICE_V4, f"{BACKEND_V4}:{BACKEND_PORT}")
    flow = connecting(pods.client, resources, SERVICE_V4)
    found(pods.router, resources, flow)
    assert flow.source.port is not None
    other = replace(flow, source=replace(flow.source, port=flow.source.port ^ 1))
    assert asking(pods.router, resources).get(other) is None


def test_a_connection_is_not_found_by_the_direction_of_its_replies(
    pods: PodPair, resources: ExitStack
) -> None:
    translate(pods.router, "PREROUTING", SERVICE_V4, f"{BACKEND_V4}:{BACKEND_PORT}")
    flow = connecting(pods.client, resources, SERVICE_V4)
    entry = found(pods.router, resources, flow)
    replies = replace(flow, source=entry.reply_source, destination=entry.reply_destination)
    assert asking(pods.router, resources).get(replies) is None


def test_a_tuple_without_a_source_port_cannot_be_asked_for(
    pods: PodPair, resources: ExitStack
) -> None:
    flow = Flow(None, 4, Endpoint(CLIENT_V4, None), Endpoint(SERVICE_V4, SERVICE_PORT))
    with pytest.raises(ValueError, match="by both its ports"):
        asking(pods.router, resources).get(flow)


def test_the_fill_of_a_table_is_the_namespaces_own(pods: PodPair, resources: ExitStack) -> None:
    track(pods.router)
    flow = connecting(pods.client, resources, SERVER_V4, BACKEND_PORT)
    found(pods.router, resources, flow)
    filled = table(path_of(pods.router))
    assert filled.count == 1
    assert filled.maximum > 0
    assert table(path_of(pods.client)) == Table(0, filled.maximum)


# --- refusals ------------------------------------------------------------------------------------


def without_capability(code: str, pod: Namespace, capability: str = "net_admin") -> str:
    """What the code prints, run in the pod's place by root without one capability."""
    descriptor = os.open(path_of(pod), os.O_RDONLY)
    try:
        drop = f"-{capability}"
        done = subprocess.run(
            [
                *("setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}", "--"),
                *(sys.executable, "-c", code, f"/proc/self/fd/{descriptor}"),
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
    return done.stdout


def test_a_user_without_the_capability_is_refused_and_told_which(pods: PodPair) -> None:
    said = without_capability(GET_WITHOUT_CAPABILITY, pods.router)
    assert said == "PermissionError Operation not permitted without CAP_NET_ADMIN\n"


def test_a_user_who_may_not_enter_the_namespace_is_refused(pods: PodPair) -> None:
    said = without_capability(GET_WITHOUT_CAPABILITY, pods.router, "sys_admin")
    assert said == "PermissionError Operation not permitted\n"


def test_lookups_say_once_that_they_are_not_permitted_and_end(pods: PodPair) -> None:
    said = without_capability(LOOK_UP_WITHOUT_CAPABILITY, pods.router)
    assert said == (
        "1 connection tracking (Operation not permitted without CAP_NET_ADMIN): which backend of "
        "a service an attempt is sent to is not known\n"
    )


def test_a_kernel_that_tracks_nothing_is_not_made_to_load_modules(
    pods: PodPair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ctnetlink, "_SYSCTL", str(tmp_path))
    before = descriptors()
    with pytest.raises(OSError, match="nf_conntrack is not loaded") as raised:
        Conntrack(path_of(pods.router))
    assert raised.value.errno == errno.EPROTONOSUPPORT
    assert descriptors() == before


def test_a_namespace_that_is_gone_is_no_namespace_to_ask() -> None:
    with lone_pod() as pod:
        path = path_of(pod)
    with pytest.raises(FileNotFoundError):
        Conntrack(path)


# --- lookups -------------------------------------------------------------------------------------


def attempt(flow: Flow, name: str = "a-1", pid: int | None = None) -> Attempt:
    return Attempt(name, flow, Owner(pid=pid), SourceName.BPF, 0)


def looking_up(
    host: Namespace, resources: ExitStack, limits: NatLimits | None = None
) -> NatLookups:
    lookups = NatLookups(path_of(host), limits)
    lookups.start()
    resources.callback(lookups.stop)
    return lookups


def answered(lookups: NatLookups, asked: Attempt) -> Nat:
    def ask() -> Nat | None:
        lookups.ask(asked)
        return lookups.nat_of(asked.id)

    seen = wait_until(ask, SECONDS, "connection tracking's answer")
    assert seen is not None
    return seen


def test_an_attempt_is_looked_up_in_the_nodes_namespace(
    pods: PodPair, resources: ExitStack
) -> None:
    translate(pods.router, "PREROUTING", SERVICE_V4, f"{BACKEND_V4}:{BACKEND_PORT}")
    asked = attempt(connecting(pods.client, resources, SERVICE_V4))
    lookups = looking_up(pods.router, resources)
    expected = Nat(Endpoint(BACKEND_V4, BACKEND_PORT), "SYN_SENT", replied=False)
    assert answered(lookups, asked) == expected
    lookups.forget(asked.id)
    assert lookups.nat_of(asked.id) is None


@pytest.mark.parametrize("pid_known", [True, False])
def test_an_attempt_is_looked_up_in_its_own_namespace_where_the_nodes_has_nothing(
    pods: PodPair, resources: ExitStack, pid_known: bool
) -> None:
    translate(pods.client, "OUTPUT", SERVICE_V4, f"{BACKEND_V4}:{BACKEND_PORT}")
    inside = pods.client.popen(["cat"], stdin=subprocess.PIPE)
    wait_until(
        lambda: inside.pid in list_namespaces()[pods.client.inode].pids, SECONDS, "cat's start"
    )
    flow = connecting(pods.client, resources, SERVICE_V4)
    lookups = looking_up(pods.router, resources, NatLimits(again_seconds=0.1))
    seen = answered(lookups, attempt(flow, pid=inside.pid if pid_known else os.getpid()))
    assert seen.destination == Endpoint(BACKEND_V4, BACKEND_PORT)


def test_a_connection_of_the_node_is_not_taken_for_the_same_one_inside_a_pod(
    pods: PodPair, resources: ExitStack
) -> None:
    """127.0.0.1 is in every namespace: the same tuple is another connection there."""
    track(pods.router)
    pods.router.run(["ip", "link", "set", "lo", "up"])
    listen(pods.router, BACKEND_PORT)
    flow = connecting(pods.router, resources, "127.0.0.1", BACKEND_PORT)
    found(pods.router, resources, flow)
    lookups = looking_up(pods.router, resources)
    lookups.ask(attempt(replace(flow, netns=pods.client.inode), "in-pod"))
    assert answered(lookups, attempt(flow, "on-node")).destination == flow.destination
    assert lookups.nat_of("in-pod") is None
    assert lookups.requests == 2


def test_a_refused_attempt_keeps_the_backend_that_was_found(
    pods: PodPair, resources: ExitStack
) -> None:
    translate(pods.router, "PREROUTING", SERVICE_V4, f"{BACKEND_V4}:{BACKEND_PORT}")
    sock, flow = opened(pods.client, resources, SERVICE_V4, SERVICE_PORT)
    lookups = looking_up(pods.router, resources, NatLimits(again_seconds=0.1))
    seen = answered(lookups, attempt(flow))
    iptables(pods.server, "-F", "INPUT")
    wait_until(
        lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED,
        SECONDS,
        "the RST to the second SYN",
    )
    looks = lookups.requests

    def looked_again() -> bool:
        lookups.ask(attempt(flow))
        return lookups.requests >= looks + 4

    wait_until(looked_again, SECONDS, "two looks into both namespaces")
    assert lookups.nat_of("a-1") == seen


def test_what_came_back_is_seen_at_the_next_look(pods: PodPair, resources: ExitStack) -> None:
    translate(pods.router, "PREROUTING", SERVICE_V4, f"{BACKEND_V4}:{BACKEND_PORT}")
    listen(pods.server, BACKEND_PORT)
    asked = attempt(connecting(pods.client, resources, SERVICE_V4))
    lookups = looking_up(pods.router, resources, NatLimits(again_seconds=0.1))
    assert not answered(lookups, asked).replied
    iptables(pods.server, "-F", "INPUT")
    wait_until(lambda: answered(lookups, asked).replied, SECONDS, "an answer to the second SYN")


def test_a_dead_namespace_is_let_go_soon_after_the_last_look(
    pods: PodPair, resources: ExitStack
) -> None:
    before = descriptors()
    lookups = looking_up(pods.router, resources, NatLimits(idle_seconds=0.3))
    with lone_pod() as pod, ExitStack() as inside:
        translate(pod, "OUTPUT", SERVICE_V4, f"{CLIENT_V4}:{BACKEND_PORT}")
        iptables(pod, "-A", "INPUT", "-j", "DROP")
        pod.run(["ip", "route", "add", "default", "via", "10.77.1.1"])
        answered(lookups, attempt(connecting(pod, inside, SERVICE_V4)))
        assert descriptors() == before + 3, "the attempt's socket, one in either namespace"
    wait_until(lambda: descriptors() == before, SECONDS, "the sockets to be closed")
    assert lookups.lacking is None


def test_an_outage_of_one_service_asks_the_kernel_about_a_few_attempts(
    pods: PodPair, resources: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    translate(pods.router, "PREROUTING", SERVICE_V4, f"{BACKEND_V4}:{BACKEND_PORT}")
    requests: list[Flow] = []

    class Counted(Conntrack):
        def get(self, flow: Flow) -> Entry | None:
            requests.append(flow)
            return super().get(flow)

    monkeypatch.setattr(nat, "Conntrack", Counted)
    flow = connecting(pods.client, resources, SERVICE_V4)
    limits = NatLimits()
    ports = [port for port in range(1_024, 11_023) if port != flow.source.port]
    others = [
        attempt(replace(flow, source=replace(flow.source, port=port)), f"a-{port}")
        for port in ports
    ]
    lookups = looking_up(pods.router, resources)
    first = attempt(flow, "first")
    for asked in (first, *others):
        lookups.ask(asked)
    assert answered(lookups, first).destination == Endpoint(BACKEND_V4, BACKEND_PORT)
    for asked in (first, *others):
        lookups.ask(asked)
    # Each of them in both namespaces, but for the one of which the first of them knows.
    most = 2 * limits.per_destination - 1
    wait_until(lambda: len(requests) >= most, SECONDS, "the sample to be looked up")
    stays_true(lambda: len(requests) == most, 0.5, "only a sample is looked up")
    assert len({asked.source.port for asked in requests}) == limits.per_destination
    assert lookups.dropped == 0
    assert lookups.nat_of(others[-1].id) is None


def test_lookups_that_are_stopped_leave_no_thread_and_no_descriptor(
    pods: PodPair, resources: ExitStack
) -> None:
    translate(pods.router, "PREROUTING", SERVICE_V4, f"{BACKEND_V4}:{BACKEND_PORT}")
    asked = attempt(connecting(pods.client, resources, SERVICE_V4))
    before = descriptors(), threading.active_count()
    lookups = looking_up(pods.router, resources)
    seen = answered(lookups, asked)
    assert descriptors() > before[0]
    lookups.stop()
    assert (descriptors(), threading.active_count()) == before
    assert lookups.nat_of(asked.id) == seen
    assert lookups.lacking is None
