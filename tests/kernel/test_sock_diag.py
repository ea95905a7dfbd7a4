"""Sockets of real namespaces, read through netlink and through /proc, and looked for by a poller.

Stuck sockets are opened by this process, which enters the pod's namespace for it: what the readers
say can be compared with what the kernel tells the socket's own owner.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import IO

import pytest

from tests.support.client import Client, listen
from tests.support.netns import NETNS_FOLDER, Namespace, iptables, lone_pod
from tests.support.wait import wait_until
from tracer.host.netns import enter, list_namespaces
from tracer.model import NANOSECONDS, Endpoint, Flow, SourceName, SweptSocket, TcpState
from tracer.sources import poll
from tracer.sources.poll import Poller
from tracer.sources.procfs import read_namespace
from tracer.sources.sock_diag import SockDiag

pytestmark = pytest.mark.kernel

DROPPED, OPEN = 8443, 8444
LOOPBACKS = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
UID = 4_711
TCP_SECONDS = 15
"""For TCP to reach a state whose timers take up to four seconds."""

TIMER_NS = NANOSECONDS // 2
"""How late timers may be on a machine that is busy."""

SO_COOKIE = 57  # include/uapi/asm-generic/socket.h
TCP_INFO_BYTES = 104
TCP_INFO_TOTAL_RETRANS = 100

ESTABLISHED_SOCKETS, IDLE_NAMESPACES = 50_000, 100
SWEEP_MILLISECONDS = 100

# As many processes as the limit of open files asks for: raising it may be refused to root too.
ESTABLISH = """
import os, resource, socket, struct, sys
pairs = int(sys.argv[1])
_, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
share = min(20_000, limit // 2 - 50)
abort = struct.pack("ii", 1, 0)
for index, done in enumerate(range(0, pairs, share)):
    if os.fork() == 0:
        target = (f"127.0.{index // 250}.{index % 250 + 1}", 9000)
        server = socket.create_server(target, backlog=128)
        kept = []
        for _ in range(min(share, pairs - done)):
            client = socket.create_connection(target)
            # At the end they go at once, without TIME_WAIT.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
            kept += [client, server.accept()[0]]
        print(len(kept), flush=True)
        break
os.read(0, 1)
"""

LIVE_ALONE = """
import ctypes, os, sys
unshare = ctypes.CDLL(None).unshare
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        os.write(1, b"." if unshare(0x40000000) == 0 else b"!")
        break
os.read(0, 1)
"""


@pytest.fixture
def pod() -> Iterator[Namespace]:
    """A pod whose port DROPPED swallows every SYN."""
    with lone_pod() as namespace:
        swallow(namespace)
        yield namespace


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def swallow(pod: Namespace) -> None:
    for family in (4, 6):
        rule = ("-p", "tcp", "--dport", str(DROPPED), "-j", "DROP")
        iptables(pod, "-A", "INPUT", *rule, family=family)


def answer(pod: Namespace) -> None:
    for family in (4, 6):
        iptables(pod, "-F", "INPUT", family=family)


def path_of(pod: Namespace) -> str:
    return str(NETNS_FOLDER / pod.name)


def connecting(pod: Namespace, address: str, port: int = DROPPED) -> socket.socket:
    """A socket of this process in the pod's namespace that has sent its first SYN."""
    with enter(path_of(pod)):
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.setblocking(False)
    assert made.connect_ex((address, port)) == errno.EINPROGRESS
    return made


def diagnosing(pod: Namespace, resources: ExitStack) -> SockDiag:
    diag = SockDiag(pod.inode, path_of(pod))
    resources.callback(diag.close)
    return diag


def polling(resources: ExitStack, *pods: Namespace, pid: int | None = None) -> Poller:
    poller = Poller(threshold_seconds=1.0, netns=frozenset(pod.inode for pod in pods), pid=pid)
    resources.callback(poller.close)
    return poller


def read_proc(pod: Namespace) -> list[SweptSocket]:
    with enter(path_of(pod)):
        return read_namespace("/proc/thread-self", pod.inode)[0]


def retransmissions(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    return int(struct.unpack_from("=I", info, TCP_INFO_TOTAL_RETRANS)[0])


def cookie_of(sock: socket.socket) -> int:
    return int(struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0])


def inode_of(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def connected(sock: socket.socket) -> bool:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    return info[0] == TcpState.ESTABLISHED.value


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def flow_of(sock: socket.socket, address: str, netns: int) -> Flow:
    """The tuple of a socket that tries to reach `address`."""
    ends = [ip_address(sock.getsockname()[0]), ip_address(address)]
    mapped = [end.ipv4_mapped for end in ends if end.version == 6]
    source, destination = [end for end in mapped if end] or ends
    return Flow(
        netns,
        destination.version,
        Endpoint(str(source), sock.getsockname()[1]),
        Endpoint(str(destination), DROPPED),
        mapped=destination not in ends,
    )


def settled(
    sockets: list[socket.socket], read: Callable[[], list[SweptSocket]]
) -> tuple[list[int], list[SweptSocket]]:
    """Retransmissions of the sockets, and what was read while they did not change."""
    for _ in range(100):
        before = [retransmissions(sock) for sock in sockets]
        found = read()
        if before == [retransmissions(sock) for sock in sockets]:
            return before, found
    raise AssertionError("retransmissions never stood still")


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["netlink", "proc"])
def test_stuck_sockets_are_read_as_their_owner_knows_them(
    pod: Namespace, resources: ExitStack, reader: str
) -> None:
    sockets = [resources.enter_context(connecting(pod, address)) for address in LOOPBACKS]
    for index, sock in enumerate(sockets):
        os.fchown(sock.fileno(), UID + index, -1)
    diag = diagnosing(pod, resources)
    wait_until(lambda: min(map(retransmissions, sockets)) > 0, TCP_SECONDS, "second SYNs")

    def read() -> list[SweptSocket]:
        if reader == "proc":
            return read_proc(pod)
        return [entry.swept for entry in diag.syn_sent()]

    counts, swept = settled(sockets, read)

    assert {
        found.owner.inode: (found.cookie, found.flow, found.owner.uid, found.retransmissions)
        for found in swept
    } == {
        inode_of(sock): (
            cookie_of(sock) if reader == "netlink" else inode_of(sock),
            flow_of(sock, LOOPBACKS[index], pod.inode),
            UID + index,
            counts[index],
        )
        for index, sock in enumerate(sockets)
    }
    assert len(swept) == len(sockets)


def test_both_readers_tell_when_attempts_began_and_when_they_go_on(
    pod: Namespace, resources: ExitStack
) -> None:
    before = time.monotonic_ns()
    sock = resources.enter_context(connecting(pod, "127.0.0.1"))
    after = time.monotonic_ns()
    diag = diagnosing(pod, resources)

    def times_are_right(sent: int) -> None:
        for read in (lambda: [diag.syn_sent()[0].swept], lambda: read_proc(pod)):
            (count,), (found,) = settled([sock], read)
            now = time.monotonic_ns()
            assert count == found.retransmissions == sent
            assert found.started_ns is not None
            assert found.next_retry_ns is not None
            assert before - TIMER_NS <= found.started_ns <= after + TIMER_NS
            assert now - TIMER_NS <= found.next_retry_ns <= now + NANOSECONDS
            assert (found.last_syn_ns is not None) == (sent > 0)
            if found.last_syn_ns is not None:
                assert abs(found.last_syn_ns - after - sent * NANOSECONDS) <= TIMER_NS

    pod_has_linear_timeouts = pod.has_sysctl("net.ipv4.tcp_syn_linear_timeouts")
    times_are_right(0)
    wait_until(lambda: retransmissions(sock) == 1, TCP_SECONDS, "the second SYN")
    if pod_has_linear_timeouts:
        times_are_right(1)
        wait_until(lambda: retransmissions(sock) == 2, TCP_SECONDS, "the third SYN")
        times_are_right(2)


def test_a_lower_limit_of_the_interval_does_not_move_the_start(
    pod: Namespace, resources: ExitStack
) -> None:
    """tcp_rto_max_ms (Linux 6.15): doublings are counted on, the interval stays."""
    for key, value in (("tcp_syn_linear_timeouts", 0), ("tcp_rto_max_ms", 1_000)):
        if pod.has_sysctl(f"net.ipv4.{key}"):
            pod.sysctl(f"net.ipv4.{key}", value)
    began = time.monotonic_ns()
    sock = resources.enter_context(connecting(pod, "127.0.0.1"))
    diag = diagnosing(pod, resources)
    wait_until(lambda: retransmissions(sock) == 3, TCP_SECONDS, "the fourth SYN")
    (found,) = (entry.swept for entry in diag.syn_sent())
    assert found.started_ns is not None
    assert abs(found.started_ns - began) <= TIMER_NS


def test_linear_timeouts_that_linux_6_5_counted_as_doublings_do_not_move_the_start(
    pod: Namespace, resources: ExitStack
) -> None:
    """From 6.5 to 6.7, icsk_backoff rose with the linear timeouts too (ended by 14dd92d0269a)."""
    diag = diagnosing(pod, resources)
    now, timeouts = 10**15, 3
    info = bytearray(232)
    info[4] = timeouts
    struct.pack_into("=I", info, 8, 1_000_000)
    struct.pack_into("=I", info, TCP_INFO_TOTAL_RETRANS, timeouts)
    message = struct.pack(
        "=BBBB48sIIIII", socket.AF_INET, 2, 1, timeouts, bytes(48), 1_000, 0, 1, 0, 77
    )
    attribute = struct.pack("=HH", 4 + len(info), 2) + info
    found = diag._diagnosed(memoryview(message + attribute), now).swept
    assert found.started_ns == now - timeouts * NANOSECONDS


def test_connected_and_listening_sockets_are_not_read(pod: Namespace, resources: ExitStack) -> None:
    listen(pod, OPEN)
    sock = resources.enter_context(connecting(pod, "127.0.0.1", OPEN))
    wait_until(lambda: connected(sock), TCP_SECONDS, "the connection")
    assert diagnosing(pod, resources).syn_sent() == []
    assert read_proc(pod) == []


def test_sockets_of_other_namespaces_are_not_read(pod: Namespace, resources: ExitStack) -> None:
    other = resources.enter_context(lone_pod())
    swallow(other)
    resources.enter_context(connecting(other, "127.0.0.1"))
    sock = resources.enter_context(connecting(pod, "127.0.0.1"))
    found = diagnosing(pod, resources).syn_sent()
    assert [entry.swept.cookie for entry in found] == [cookie_of(sock)]
    assert [swept.cookie for swept in read_proc(pod)] == [inode_of(sock)]


def test_many_sockets_are_all_read_whatever_the_number_of_messages(
    pod: Namespace, resources: ExitStack
) -> None:
    sockets = [resources.enter_context(connecting(pod, "127.0.0.1")) for _ in range(1_500)]
    found = diagnosing(pod, resources).syn_sent()
    assert sorted(entry.swept.cookie for entry in found) == sorted(map(cookie_of, sockets))


@pytest.mark.parametrize("address", LOOPBACKS)
def test_the_state_of_a_known_socket_is_told_until_it_is_gone(
    pod: Namespace, resources: ExitStack, address: str
) -> None:
    listen(pod, DROPPED)
    sock = resources.enter_context(connecting(pod, address))
    diag = diagnosing(pod, resources)
    (known,) = diag.syn_sent()
    assert diag.state_of(known) == TcpState.SYN_SENT.value

    answer(pod)
    wait_until(lambda: connected(sock), TCP_SECONDS, "an answer to the second SYN")
    assert diag.state_of(known) == TcpState.ESTABLISHED.value

    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    assert diag.state_of(known) is None


def test_another_socket_with_the_same_tuple_is_not_the_known_one(
    pod: Namespace, resources: ExitStack
) -> None:
    diag = diagnosing(pod, resources)
    first = connecting(pod, "127.0.0.1")
    port = first.getsockname()[1]
    (known,) = diag.syn_sent()
    first.close()

    with enter(path_of(pod)):
        second = resources.enter_context(socket.socket())
    second.setblocking(False)
    second.bind(("127.0.0.1", port))
    assert second.connect_ex(("127.0.0.1", DROPPED)) == errno.EINPROGRESS
    (other,) = diag.syn_sent()

    assert other.swept.flow == known.swept.flow
    assert diag.state_of(known) is None
    assert diag.state_of(other) == TcpState.SYN_SENT.value


def test_a_closed_reader_leaves_no_descriptor() -> None:
    before = descriptors()
    with lone_pod() as pod:
        for _ in range(5):
            diag = SockDiag(pod.inode, path_of(pod))
            assert diag.syn_sent() == []
            diag.close()
    assert descriptors() == before


def test_a_reader_of_a_namespace_that_does_not_exist_leaves_no_descriptor() -> None:
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        SockDiag(1, "/run/netns/there-is-no-such-namespace")
    assert descriptors() == before


# --- poller --------------------------------------------------------------------------------------


def test_a_poller_opens_netlink_only_where_a_syn_was_retransmitted_and_closes_it_afterwards(
    pod: Namespace, resources: ExitStack
) -> None:
    idle = resources.enter_context(lone_pod())
    before = descriptors()
    poller = polling(resources, pod, idle)
    assert poller.source is SourceName.SOCK_DIAG
    sock = connecting(pod, "127.0.0.1")
    first = poller.sweep()
    assert retransmissions(sock) == 0, "the machine is too slow for this test"
    assert first.looked == frozenset()
    assert first.sockets == ()
    assert list(poller._sockets) == []

    wait_until(lambda: pod.counter("TCPSynRetrans"), TCP_SECONDS, "the second SYN")
    second = poller.sweep()
    assert [found.cookie for found in second.sockets] == [cookie_of(sock)]
    assert second.looked == {pod.inode}
    assert list(poller._sockets) == [pod.inode]
    assert poller.sweep().sockets, "a namespace with a stuck socket is looked into again"

    sock.close()
    # What was stuck is seen to be gone; if the counter moved, once more for what a dump may miss.
    assert poller.sweep().looked == {pod.inode}
    for _ in range(2):
        swept = poller.sweep()
        assert swept.sockets == ()
        assert swept.looked <= {pod.inode}
    assert swept.looked == frozenset(), "an idle namespace is not read"
    assert list(poller._sockets) == []
    assert descriptors() == before


def test_a_namespace_that_is_asked_for_is_read_whatever_its_counters_say(
    pod: Namespace, resources: ExitStack
) -> None:
    idle = resources.enter_context(lone_pod())
    before = descriptors()
    poller = polling(resources, pod, idle)
    sock = connecting(pod, "127.0.0.1")
    asked = poller.sweep({pod.inode})
    assert retransmissions(sock) == 0, "the machine is too slow for this test"
    assert asked.looked == {pod.inode}
    assert [(found.cookie, found.retransmissions) for found in asked.sockets] == [
        (cookie_of(sock), 0)
    ]
    sock.close()
    both = poller.sweep({pod.inode, idle.inode})
    assert both.looked == {pod.inode, idle.inode}
    assert both.sockets == ()
    assert poller.sweep().looked == frozenset(), "it was asked for once"
    assert descriptors() == before


def test_a_namespace_that_is_asked_for_and_is_not_there_is_not_among_those_read(
    pod: Namespace, resources: ExitStack
) -> None:
    other = resources.enter_context(lone_pod())
    swept = polling(resources, pod).sweep({pod.inode, other.inode, 1})
    assert swept.looked == {pod.inode}
    assert swept.gone == frozenset()


def test_a_namespace_that_could_not_be_read_is_not_among_those_read(
    pod: Namespace, resources: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    poller = polling(resources, pod)

    def refused(_netns: int, _path: str, _buffer: bytearray) -> SockDiag:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(poll, "SockDiag", refused)
    swept = poller.sweep({pod.inode})
    assert (swept.looked, swept.gone, poller.unreadable) == (frozenset(), frozenset(), 1)


def test_an_attempt_whose_route_is_gone_is_found_though_no_syn_is_sent_again(
    pod: Namespace, resources: ExitStack
) -> None:
    pod.run(["ip", "link", "add", "away", "type", "veth", "peer", "name", "far"])
    pod.run(["ip", "address", "add", "198.51.100.1/24", "dev", "away"])
    for end in ("away", "far"):
        pod.run(["ip", "link", "set", end, "up"])
    neighbour = ("198.51.100.7", "lladdr", "02:00:00:00:00:01", "dev", "away")
    pod.run(["ip", "neighbour", "add", *neighbour])
    poller = polling(resources, pod)
    sock = resources.enter_context(connecting(pod, "198.51.100.7"))
    pod.run(["ip", "link", "delete", "away"])
    assert poller.sweep().looked == frozenset()
    wait_until(lambda: pod.counter("TCPTimeouts"), TCP_SECONDS, "the timer to run out")
    swept = poller.sweep()
    assert pod.counter("TCPSynRetrans") == pod.counter("TCPSpuriousRtxHostQueues") == 0
    assert swept.looked == {pod.inode}
    assert [(found.cookie, found.retransmissions) for found in swept.sockets] == [
        (cookie_of(sock), 0)
    ]


def test_netlink_tells_how_often_the_interval_was_doubled_and_proc_does_not(
    pod: Namespace, resources: ExitStack
) -> None:
    if pod.has_sysctl("net.ipv4.tcp_syn_linear_timeouts"):
        pod.sysctl("net.ipv4.tcp_syn_linear_timeouts", 0)
    sock = resources.enter_context(connecting(pod, "127.0.0.1"))
    diag = diagnosing(pod, resources)
    doublings = []
    for _ in range(2):
        _, (swept,) = settled([sock], lambda: [diag.syn_sent()[0].swept])
        doublings.append((swept.retransmissions, swept.backoff))
        assert [found.backoff for found in read_proc(pod)] == [None]
        wait_until(lambda: retransmissions(sock), TCP_SECONDS, "the second SYN")
    assert doublings == [(0, 0), (1, 1)]


def test_a_poller_tells_that_a_stuck_socket_was_connected(
    pod: Namespace, resources: ExitStack
) -> None:
    listen(pod, DROPPED)
    poller = polling(resources, pod)
    sock = resources.enter_context(connecting(pod, "127.0.0.1"))
    lost = resources.enter_context(connecting(pod, "127.0.0.1"))
    wait_until(lambda: pod.counter("TCPSynRetrans") >= 2, TCP_SECONDS, "second SYNs")
    assert len(poller.sweep().sockets) == 2

    lost.close()
    answer(pod)
    wait_until(lambda: connected(sock), TCP_SECONDS, "an answer to the third SYN")
    ended = poller.sweep()
    assert ended.sockets == ()
    assert ended.established == {cookie_of(sock)}
    assert poller.sweep().established == frozenset()


def test_a_namespace_that_goes_away_is_named_and_let_go(resources: ExitStack) -> None:
    before = descriptors()
    with lone_pod() as pod, lone_pod() as other:
        swallow(pod)
        poller = polling(resources, pod, other)
        with connecting(pod, "127.0.0.1"):
            wait_until(lambda: pod.counter("TCPSynRetrans"), TCP_SECONDS, "the second SYN")
            assert poller.sweep().gone == frozenset()
            assert list(poller._sockets) == [pod.inode]
    gone = poller.sweep()
    assert gone.gone == {pod.inode, other.inode}
    assert (gone.looked, gone.sockets) == (frozenset(), ())
    assert list(poller._sockets) == []
    assert descriptors() == before


def test_a_poller_that_is_closed_leaves_no_descriptor(pod: Namespace, resources: ExitStack) -> None:
    sock = resources.enter_context(connecting(pod, "127.0.0.1"))
    before = descriptors()
    poller = polling(resources, pod)
    wait_until(lambda: retransmissions(sock), TCP_SECONDS, "the second SYN")
    poller.sweep()
    assert descriptors() == before + 1
    poller.close()
    assert descriptors() == before


def test_a_poller_for_one_process_leaves_out_the_sockets_of_others(
    pod: Namespace, resources: ExitStack
) -> None:
    client = Client(pod, "127.0.0.1", DROPPED, "--hold")
    client.wait_opened()
    sock = resources.enter_context(connecting(pod, "127.0.0.1"))
    wait_until(lambda: pod.counter("TCPSynRetrans") >= 2, TCP_SECONDS, "second SYNs")
    everyone = polling(resources, pod).sweep()
    own = polling(resources, pod, pid=os.getpid()).sweep()
    theirs = polling(resources, pod, pid=client.pid).sweep()
    assert len(everyone.sockets) == 2
    assert [found.cookie for found in own.sockets] == [cookie_of(sock)]
    assert [found.flow.source.port for found in theirs.sockets] == list(client.report().ports)


def test_where_netlink_is_refused_a_poller_reads_proc(
    pod: Namespace, resources: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_netns: int, _path: str, *_buffer: bytearray) -> SockDiag:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(poll, "SockDiag", refused)
    empty = resources.enter_context(lone_pod())
    listen(pod, DROPPED)
    poller = polling(resources, pod, empty)
    assert poller.source is SourceName.PROCFS
    assert "sock_diag (Operation not permitted)" in poller.lacking[0]

    client = Client(pod, "127.0.0.1", DROPPED, "--hold")
    client.wait_opened()
    wait_until(lambda: pod.counter("TCPSynRetrans"), TCP_SECONDS, "the second SYN")
    stuck = poller.sweep()
    (found,) = stuck.sockets
    assert stuck.source is SourceName.PROCFS
    assert (found.flow.source.port,) == client.report().ports
    assert stuck.looked == {pod.inode}
    assert poller.sweep({empty.inode}).looked == {pod.inode, empty.inode}

    answer(pod)
    client.wait_results(seconds=TCP_SECONDS)
    ended = poller.sweep()
    assert ended.sockets == ()
    assert ended.established == {found.cookie}


# --- cost ----------------------------------------------------------------------------------------


@pytest.mark.timeout(50, method="signal")  # the other method would leave the crowd behind
def test_a_sweep_of_a_large_node_takes_a_moment(pod: Namespace, resources: ExitStack) -> None:
    """100 idle namespaces, 50,000 established connections on the host, one pod stuck or none."""
    python = [sys.executable, "-S", "-E", "-c"]
    crowd = resources.enter_context(lone_pod())
    established = crowd.popen(
        [*python, ESTABLISH, str(ESTABLISHED_SOCKETS // 2)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    alone = resources.enter_context(lone_pod()).popen(
        [*python, LIVE_ALONE, str(IDLE_NAMESPACES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    began = time.monotonic()
    assert output(alone).read(IDLE_NAMESPACES) == b"." * IDLE_NAMESPACES
    made = 0
    while made < ESTABLISHED_SOCKETS:
        made += int(output(established).readline())
    took = time.monotonic() - began

    poller = Poller(threshold_seconds=1.0)
    resources.callback(poller.close)
    idle = sweep_ms(poller)
    present = len(list_namespaces())
    sock = resources.enter_context(connecting(pod, "127.0.0.1"))
    wait_until(lambda: retransmissions(sock), TCP_SECONDS, "the second SYN")
    stuck = sweep_ms(poller)
    print(
        f"\n{present} namespaces, {ESTABLISHED_SOCKETS} established sockets "
        f"(made in {took:.1f} s): a sweep {idle:.1f} ms, with one stuck pod {stuck:.1f} ms"
    )
    assert present >= IDLE_NAMESPACES
    swept = poller.sweep()
    assert [found.cookie for found in swept.sockets if found.flow.netns == pod.inode] == [
        cookie_of(sock)
    ]
    assert len(swept.looked) < IDLE_NAMESPACES, "idle namespaces are not read"
    assert idle < SWEEP_MILLISECONDS
    assert stuck < SWEEP_MILLISECONDS


def sweep_ms(poller: Poller, rounds: int = 15) -> float:
    """CPU time of the quickest of some rounds: what other work takes is no cost of ours."""
    poller.sweep()
    times = []
    for _ in range(rounds):
        began = time.thread_time()
        poller.sweep()
        times.append(time.thread_time() - began)
    return min(times) * 1_000


def output(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout
