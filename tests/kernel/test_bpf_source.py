"""The BPF program on the running kernel: what it tells, what it counts, what it leaves behind.

Connections are made by this process, which enters a pod's namespace for it; the programs see the
whole machine, so every test looks at its own namespaces or filters by them.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.netns import NETNS_FOLDER, Namespace, iptables, lone_pod
from tests.support.programs import descriptors, loaded_programs, own_programs
from tests.support.wait import wait_until
from tracer.errors import NoSource
from tracer.host.netns import enter
from tracer.model import Endpoint, Flow, TcpState, Transition, TransitionKind
from tracer.settings import Limits
from tracer.sources import btf, program, wire
from tracer.sources.bpf import BpfSource

pytestmark = pytest.mark.kernel

DROPPED, CLOSED, OPEN = 8443, 8444, 8445
LOOPBACKS = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
SECONDS = 15
"""For something that takes TCP a second or two."""

CHECKOUT = Path(__file__).parents[2]
PAGE = os.sysconf("SC_PAGE_SIZE")
ABORT = struct.pack("ii", 1, 0)
TCP_INFO_BACKOFF = 4
NO_COUNT = dict.fromkeys(wire.COUNTERS, 0)

Open = Callable[..., BpfSource]


@pytest.fixture
def pod() -> Iterator[Namespace]:
    """A pod whose port DROPPED swallows every SYN."""
    with lone_pod() as namespace:
        for family in (4, 6):
            rule = ("-p", "tcp", "--dport", str(DROPPED), "-j", "DROP")
            iptables(namespace, "-A", "INPUT", *rule, family=family)
        yield namespace


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def open_source(
    *pods: Namespace,
    threshold: float = 1.0,
    limits: Limits | None = None,
    pid: int | None = None,
) -> BpfSource:
    """The program, for these pods alone or for the whole machine."""
    return BpfSource(
        threshold_seconds=threshold,
        limits=limits or Limits(),
        pid=pid,
        netns=frozenset(pod.inode for pod in pods) or None,
    )


@pytest.fixture
def load(resources: ExitStack) -> Open:
    """open_source() until the test ends."""

    def loading(
        *pods: Namespace,
        threshold: float = 1.0,
        limits: Limits | None = None,
        pid: int | None = None,
    ) -> BpfSource:
        source = open_source(*pods, threshold=threshold, limits=limits, pid=pid)
        resources.callback(source.close)
        return source

    return loading


def new_socket(pod: Namespace, address: str = "127.0.0.1") -> socket.socket:
    with enter(str(NETNS_FOLDER / pod.name)):
        return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)


def connecting(pod: Namespace, address: str = "127.0.0.1") -> socket.socket:
    """A socket of this process that waits for an answer to its first SYN."""
    made = new_socket(pod, address)
    made.setblocking(False)
    assert made.connect_ex((address, DROPPED)) == errno.EINPROGRESS
    return made


def refuse(pod: Namespace, address: str = "127.0.0.1") -> int:
    """Lets a connection be refused; its source port."""
    with new_socket(pod, address) as made:
        made.bind(("", 0))
        port = int(made.getsockname()[1])
        assert made.connect_ex((address, CLOSED)) == errno.ECONNREFUSED
        return port


def accept(pod: Namespace, count: int) -> None:
    """Connects to a listening port, again and again."""
    with new_socket(pod) as server:
        server.bind(("127.0.0.1", OPEN))
        server.listen()
        for _ in range(count):
            with new_socket(pod) as client:
                client.connect(("127.0.0.1", OPEN))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                server.accept()[0].close()


def take(source: BpfSource, pod: Namespace) -> list[Transition]:
    """What the program has told of a pod since the last time."""
    transitions, undecodable = source.read(0)
    assert undecodable == 0
    return [found for found in transitions if found.flow.netns == pod.inode]


def take_until(source: BpfSource, pod: Namespace, count: int, what: str) -> list[Transition]:
    found: list[Transition] = []

    def enough() -> bool:
        found.extend(take(source, pod))
        return len(found) >= count

    wait_until(enough, SECONDS, what)
    return found


def counters(source: BpfSource, **expected: int) -> None:
    assert source.counters() == {**NO_COUNT, **expected}


# --- loading -------------------------------------------------------------------------------------


def test_it_loads_without_kernel_headers(load: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCC_KERNEL_SOURCE", "/there/are/no/headers")
    source = load()
    assert os.environ["BCC_KERNEL_SOURCE"] == str(program.source_folder() / "headers")
    assert set(source.counters()) == set(wire.COUNTERS)


def test_it_attaches_and_says_to_what(load: Open) -> None:
    source = load()
    assert {"sock:inet_sock_set_state", "tcp:tcp_retransmit_skb"} <= set(source.hooks)
    optional = {"tcp_connect": "tcp_connect", "sock:inet_sk_error_report": "inet_sk_error_report"}
    for hook, word in optional.items():
        lacking = any(word in sentence for sentence in source.lacking)
        assert lacking != (hook in source.hooks), f"{hook} is either attached or said to be lacking"


def test_its_tracepoints_are_raw_and_need_no_file_of_tracefs(load: Open) -> None:
    before = own_programs()
    source = load()
    shown = subprocess.run(
        ["bpftool", "prog", "show", "--json"], capture_output=True, check=True, timeout=SECONDS
    )
    own = own_programs() - before
    types = [found["type"] for found in json.loads(shown.stdout) if found["id"] in own]
    tracepoints = [hook for hook in source.hooks if ":" in hook]
    assert types.count("raw_tracepoint") >= len(tracepoints) >= 2
    assert set(types) <= {"raw_tracepoint", "kprobe"}


@pytest.mark.parametrize("member", sorted(program.REQUIRED_MEMBERS.values()))
def test_a_kernel_without_a_member_that_is_needed_is_refused_by_the_member_s_name(
    member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = (program.REQUIRED_MEMBERS | program.OPTIONAL_MEMBERS).values()
    there = {path: 8 for path in members if path != member}
    monkeypatch.setattr(btf, "offsets", lambda _: there)
    with pytest.raises(NoSource, match=re.escape(f"no member {member}")) as caught:
        BpfSource(threshold_seconds=1, limits=Limits())
    assert "--backend poll" in caught.value.hint


def test_a_kernel_without_linear_timeouts_is_traced(
    pod: Namespace, load: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = btf.offsets(program.REQUIRED_MEMBERS.values())
    monkeypatch.setattr(btf, "offsets", lambda _: found)
    source = load(pod)
    port = refuse(pod)
    assert [end.flow.source.port for end in take(source, pod)] == [port]


@pytest.mark.parametrize(
    ("macro", "named"),
    [
        ("MIRROR_attempt_dport", "offset of attempt.dport"),
        ("MIRROR_event_sk", "offset of event.sk"),
        ("MIRROR_SIZE_counters", "size of counters"),
    ],
)
def test_a_drifted_mirror_stops_the_compiler(
    load: Open, monkeypatch: pytest.MonkeyPatch, macro: str, named: str
) -> None:
    true = wire.mirror_macros()
    monkeypatch.setattr(wire, "mirror_macros", lambda: {**true, macro: true[macro] + 4})
    with pytest.raises(NoSource, match=re.escape(f"wire.py: {named}")):
        load()


def test_the_compiler_names_our_own_files_and_lines(
    load: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (program.source_folder() / "mirror.h").read_text("utf-8").splitlines()
    number = lines.index("SAME_OFFSET(attempt, comm);") + 1
    true = wire.mirror_macros()
    monkeypatch.setattr(wire, "mirror_macros", lambda: {**true, "MIRROR_attempt_comm": 1})
    with pytest.raises(NoSource, match=rf"mirror\.h:{number}:"):
        load()


def test_a_program_that_could_not_be_loaded_leaves_nothing_behind(
    load: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_source().close()  # what bcc opens once per process
    true = wire.mirror_macros()
    monkeypatch.setattr(wire, "mirror_macros", lambda: {**true, "MIRROR_attempt_comm": 1})
    descriptors_before, programs_before = descriptors(), own_programs()
    with pytest.raises(NoSource):
        load()
    assert descriptors() == descriptors_before
    assert own_programs() == programs_before


def test_too_many_namespaces_are_refused_with_a_remedy() -> None:
    with pytest.raises(NoSource, match="1025 network namespaces") as caught:
        BpfSource(threshold_seconds=1, limits=Limits(), netns=frozenset(range(1, 1026)))
    assert "whole node" in caught.value.hint


# --- what is told --------------------------------------------------------------------------------


@pytest.mark.parametrize("address", LOOPBACKS)
def test_a_refused_connection_is_told_with_its_tuple_owner_and_error(
    pod: Namespace, load: Open, address: str
) -> None:
    source = load(pod)
    before = time.monotonic_ns()
    port = refuse(pod, address)
    after = time.monotonic_ns()
    (end,) = take(source, pod)

    shown = address.removeprefix("::ffff:")
    assert end.flow == Flow(
        netns=pod.inode,
        family=6 if ":" in shown else 4,
        source=Endpoint(shown, port),
        destination=Endpoint(shown, CLOSED),
        mapped=shown != address,
    )
    assert (end.kind, end.new_state, end.errno) == (
        TransitionKind.END,
        TcpState.CLOSE,
        errno.ECONNREFUSED,
    )
    assert (end.owner.pid, end.owner.uid) == (os.getpid(), os.geteuid())
    comm = Path("/proc/thread-self/comm").read_text("utf-8").rstrip("\n")
    assert end.owner.comm == comm
    assert end.started_ns is not None
    assert before <= end.started_ns <= end.time_ns <= after
    assert (end.syns_sent, end.no_syn_sent, end.last_syn_ns) == (1, False, None)


def test_a_retransmission_is_told_with_the_source_port_and_the_next_one_s_time(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    source = load(pod)
    before = time.monotonic_ns()
    sockets = [resources.enter_context(connecting(pod, address)) for address in LOOPBACKS]
    told = take_until(source, pod, 2 * len(sockets), "two retransmissions each")

    for sock in sockets:
        port = sock.getsockname()[1]
        first, second = [found for found in told if found.flow.source.port == port][:2]
        assert first.kind is second.kind is TransitionKind.RETRANSMIT
        assert first.key == second.key
        assert (first.syns_sent, second.syns_sent) == (2, 3)
        assert first.last_syn_ns is not None
        assert before < first.last_syn_ns <= first.time_ns
        assert first.next_retry_ns is not None
        # The timer wheel may be late by an eighth of the interval, and a machine may be busy.
        assert abs(first.next_retry_ns - second.time_ns) < 500_000_000


def test_an_attempt_that_was_stuck_before_the_start_is_adopted(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    before = time.monotonic_ns()
    sock = resources.enter_context(connecting(pod))
    after = time.monotonic_ns()
    source = load(pod)
    (found, *_) = take_until(source, pod, 1, "a retransmission")

    assert found.flow.source.port == sock.getsockname()[1]
    assert found.owner.pid is None
    assert found.started_ns is not None
    assert before - 2_000_000 <= found.started_ns <= after + 2_000_000
    counters(source, added=1, retransmitted=1)
    sock.close()
    counters(
        source,
        reported_end=1,
        added=1,
        removed=1,
        retransmitted=1,
        retransmitted_removed=1,
    )


def test_the_start_of_an_adopted_attempt_is_the_same_whenever_it_is_read(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    """To the millisecond of the socket's own stamp, not to the moment of reading."""
    source = load(pod, limits=Limits(max_attempts=8))
    for _ in range(8):
        resources.enter_context(connecting(pod))
    before = time.monotonic_ns()
    sock = resources.enter_context(connecting(pod))
    after = time.monotonic_ns()
    port = sock.getsockname()[1]
    told: list[Transition] = []

    def told_twice() -> bool:
        told.extend(found for found in take(source, pod) if found.flow.source.port == port)
        return len(told) >= 2

    wait_until(told_twice, SECONDS, "two retransmissions of the attempt beyond the table")
    started = {found.started_ns for found in told}
    assert len(started) == 1
    (start,) = started
    assert start is not None
    assert start % 1_000_000 == 0
    assert before - 2_000_000 <= start <= after + 2_000_000


def test_the_doublings_that_are_told_are_those_that_the_socket_s_owner_is_told(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    linear = "net.ipv4.tcp_syn_linear_timeouts"
    if pod.has_sysctl(linear):
        pod.sysctl(linear, 1)
    source = load(pod)
    sock = resources.enter_context(connecting(pod))
    for sent in (2, 3):
        (found,) = take_until(source, pod, 1, "a retransmission")
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[TCP_INFO_BACKOFF]
        assert (found.syns_sent, found.backoff) == (sent, told)


def test_the_next_time_of_an_adopted_attempt_is_right_or_unknown(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    resources.enter_context(connecting(pod))
    wait_until(lambda: pod.counter("TCPSynRetrans"), SECONDS, "the second SYN")
    source = load(pod)
    first, second = take_until(source, pod, 2, "two more SYNs")[:2]
    assert first.syns_sent is not None
    assert second.syns_sent == first.syns_sent + 1
    if first.next_retry_ns is not None:
        assert abs(first.next_retry_ns - second.time_ns) < 500_000_000


def test_connections_that_succeed_at_once_leave_no_record(pod: Namespace, load: Open) -> None:
    source = load(pod)
    accept(pod, 50)
    assert take(source, pod) == []
    counters(source, started=50, established=50, added=50, removed=50)


def test_a_socket_that_connects_to_itself_is_one_connection(pod: Namespace, load: Open) -> None:
    """A simultaneous open: it leaves SYN_SENT for SYN_RECV, and only that for ESTABLISHED."""
    source = load(pod)
    with new_socket(pod) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
    assert take(source, pod) == []
    counters(source, started=1, established=1, added=1, removed=1)


def test_an_attempt_without_a_free_port_is_told_to_have_sent_nothing(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    pod.run(["sh", "-c", "echo 40000 40000 > /proc/sys/net/ipv4/ip_local_port_range"])
    source = load(pod)
    resources.enter_context(connecting(pod))
    with new_socket(pod) as sock:
        assert sock.connect_ex(("127.0.0.1", DROPPED)) == errno.EADDRNOTAVAIL
    (end,) = take(source, pod)
    assert (end.kind, end.new_state) == (TransitionKind.END, TcpState.CLOSE)
    assert (end.no_syn_sent, end.syns_sent, end.flow.source.port) == (True, 0, None)


def test_an_attempt_that_is_given_up_is_told_without_an_error(pod: Namespace, load: Open) -> None:
    source = load(pod)
    connecting(pod).close()
    (end,) = take(source, pod)
    assert (end.kind, end.new_state) == (TransitionKind.END, TcpState.CLOSE)
    assert (end.errno, end.no_syn_sent, end.syns_sent) == (0, False, 1)


def test_a_reader_that_waits_is_woken_by_a_record(pod: Namespace, load: Open) -> None:
    source = load(pod)
    helper = threading.Timer(0.2, refuse, [pod])
    helper.start()
    began = time.monotonic()
    transitions, _ = source.read(SECONDS)
    waited = time.monotonic() - began
    helper.join()
    assert [found.errno for found in transitions] == [errno.ECONNREFUSED]
    assert waited < SECONDS / 2


def test_a_reader_waits_no_longer_than_it_was_told(pod: Namespace, load: Open) -> None:
    source = load(pod)
    began = time.monotonic()
    assert source.read(0.1) == ([], 0)
    assert 0.09 <= time.monotonic() - began < 5


# --- filters -------------------------------------------------------------------------------------


def test_other_processes_are_left_out_by_the_pid_filter(pod: Namespace, load: Open) -> None:
    source = load(pid=os.getpid())
    client = Client(pod, "127.0.0.1", CLOSED)
    client.finish()
    assert client.report().results == ("ECONNREFUSED",)
    port = refuse(pod)
    (end,) = take(source, pod)
    assert (end.owner.pid, end.flow.source.port) == (os.getpid(), port)


def test_threads_belong_to_the_process_of_the_pid_filter(pod: Namespace, load: Open) -> None:
    source = load(pid=os.getpid())
    thread = threading.Thread(target=refuse, args=[pod])
    thread.start()
    thread.join(SECONDS)
    assert [end.owner.pid for end in take(source, pod)] == [os.getpid()]


def test_other_namespaces_are_left_out_by_the_namespace_filter(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    second, other = (resources.enter_context(lone_pod()) for _ in range(2))
    source = load(pod, second)
    refuse(other)
    ports = refuse(pod), refuse(second)
    transitions, undecodable = source.read(0)
    assert [(end.flow.netns, end.flow.source.port) for end in transitions] == [
        (pod.inode, ports[0]),
        (second.inode, ports[1]),
    ]
    assert undecodable == 0
    counters(source, started=2, reported_end=2, added=2, removed=2)


# --- counting ------------------------------------------------------------------------------------


def test_thousands_of_connections_are_counted_exactly(pod: Namespace, load: Open) -> None:
    source = load(pod)
    accept(pod, 3_000)
    for _ in range(500):
        refuse(pod)
    counters(source, started=3_500, established=3_000, reported_end=500, added=3_500, removed=3_500)
    assert len(take(source, pod)) == 500
    assert list(source._read_attempts()) == []


def test_connections_of_several_threads_are_counted_exactly(pod: Namespace, load: Open) -> None:
    source = load(pod)

    def work() -> None:
        for _ in range(300):
            refuse(pod)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    counters(source, started=1_200, reported_end=1_200, added=1_200, removed=1_200)
    ends = take(source, pod)
    assert len(ends) == 1_200
    assert {end.owner.pid for end in ends} == {os.getpid()}


def test_attempts_beyond_the_table_are_counted_and_found_by_their_retransmission(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    source = load(pod, limits=Limits(max_attempts=8))
    began = time.monotonic()
    sockets = [resources.enter_context(connecting(pod)) for _ in range(20)]
    counted = source.counters()
    assert time.monotonic() - began < 0.9, "the machine is too slow for this test"
    assert counted == {**NO_COUNT, "started": 20, "added": 8, "untracked": 12}
    assert len(list(source._read_attempts())) == 8

    retransmitted = take_until(source, pod, 20, "20 retransmissions")[:20]
    assert {found.flow.source.port for found in retransmitted} == {
        sock.getsockname()[1] for sock in sockets
    }
    for sock in sockets:
        sock.close()
    ends = [found for found in take(source, pod) if found.kind is TransitionKind.END]
    assert len(ends) == 20
    counted = source.counters()
    assert (counted["reported_end"], counted["removed"]) == (20, counted["added"])
    assert list(source._read_attempts()) == []


def test_an_attempt_beyond_the_table_is_counted_once(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    source = load(pod, limits=Limits(max_attempts=8))
    for _ in range(9):
        resources.enter_context(connecting(pod))
    take_until(source, pod, 9, "9 retransmissions")
    assert source.counters()["untracked"] == 1


def test_records_beyond_the_ring_are_counted(pod: Namespace, load: Open) -> None:
    source = load(pod, limits=Limits(ring_bytes=PAGE))
    for _ in range(300):
        refuse(pod)
    kept = take(source, pod)
    counted = source.counters()
    assert counted["reported_end"] == 300
    assert counted["ring_full"] == 300 - len(kept)
    # A record has a header of 8 bytes (Documentation/bpf/ringbuf.rst).
    assert len(kept) == pytest.approx(PAGE // (wire.EVENT.size + 8), abs=1)

    port = refuse(pod)
    assert [end.flow.source.port for end in take(source, pod)] == [port], "there is room again"


# --- the threshold -------------------------------------------------------------------------------


def test_attempts_that_pass_the_threshold_are_overdue_until_they_end(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    source = load(pod, threshold=0.2)
    began = time.monotonic_ns()
    sockets = [resources.enter_context(connecting(pod, address)) for address in LOOPBACKS]
    opened = time.monotonic_ns()
    assert source.overdue() == {}
    assert time.monotonic_ns() - began < 200_000_000, "the machine is too slow for this test"

    def all_late() -> dict[int, wire.RawAttempt]:
        late = source.overdue()
        return late if len(late) == len(sockets) else {}

    late = wait_until(all_late, 0.9, "the threshold's passing, before any retransmission")
    seen = time.monotonic_ns()
    for raw in late.values():
        assert began <= raw.start_ns <= opened
        assert seen - raw.start_ns >= 200_000_000
        assert raw.pid == os.getpid()
        assert (raw.timeouts, raw.retransmissions, raw.retransmitted) == (0, 0, 0)
    flows = [wire.flow_of(raw) for raw in late.values()]
    assert {(flow.family, flow.mapped) for flow in flows} == {(4, False), (6, False), (4, True)}
    if "tcp_connect" in source.hooks:
        assert {flow.source.port for flow in flows} == {sock.getsockname()[1] for sock in sockets}
    assert source.overdue() == late, "who asks again is told again"
    for sock in sockets:
        sock.close()
    assert source.overdue() == {}


def test_the_next_attempt_of_the_same_socket_is_overdue_by_its_own_start(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    source = load(pod, threshold=0.2)
    sock = resources.enter_context(new_socket(pod))
    sock.setblocking(False)
    told: list[tuple[int, wire.RawAttempt]] = []
    for _ in range(2):
        assert sock.connect_ex(("127.0.0.1", DROPPED)) == errno.EINPROGRESS
        late = wait_until(source.overdue, SECONDS, "the threshold's passing")
        # AF_UNSPEC ends the attempt and keeps the socket: connect(2).
        disconnect(sock)
        told += late.items()
    (first_key, first), (second_key, second) = told
    assert first_key == second_key
    assert first.start_ns < second.start_ns
    counters(source, started=2, reported_end=2, added=2, removed=2)


def disconnect(sock: socket.socket) -> None:
    unspecified = struct.pack("=H14x", socket.AF_UNSPEC)
    assert ctypes.CDLL(None).connect(sock.fileno(), unspecified, len(unspecified)) == 0


def test_a_retransmitted_attempt_is_not_told_as_overdue(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    source = load(pod, threshold=0.2)
    resources.enter_context(connecting(pod))
    take_until(source, pod, 1, "the first retransmission")
    assert source.overdue() == {}
    counters(source, started=1, added=1, retransmitted=1)


def test_an_attempt_whose_timer_ran_out_without_a_syn_stays_overdue(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    """Its route is gone: the kernel sends nothing, and only its age can be reported."""
    pod.run(["ip", "link", "add", "away", "type", "veth", "peer", "name", "far"])
    pod.run(["ip", "address", "add", "198.51.100.1/24", "dev", "away"])
    for end in ("away", "far"):
        pod.run(["ip", "link", "set", end, "up"])
    neighbour = ("198.51.100.7", "lladdr", "02:00:00:00:00:01", "dev", "away")
    pod.run(["ip", "neighbour", "add", *neighbour])
    source = load(pod, threshold=0.2)
    with enter(str(NETNS_FOLDER / pod.name)):
        sock = resources.enter_context(socket.socket())
    sock.setblocking(False)
    assert sock.connect_ex(("198.51.100.7", DROPPED)) == errno.EINPROGRESS
    pod.run(["ip", "link", "delete", "away"])
    wait_until(lambda: pod.counter("TCPTimeouts"), SECONDS, "the timer to run out")
    (raw,) = source.overdue().values()
    assert (raw.retransmissions, raw.retransmitted) == (0, 0)
    counters(source, started=1, added=1)


def test_an_entry_is_forgotten_by_key_and_start_and_counted_as_an_unseen_end(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    source = load(pod, threshold=0.01)
    for _ in range(2):
        resources.enter_context(connecting(pod))

    def both_late() -> dict[int, wire.RawAttempt]:
        late = source.overdue()
        return late if len(late) == 2 else {}

    late = wait_until(both_late, 0.9, "the threshold's passing, before any retransmission")
    (key, raw), (other, _) = late.items()
    source.forget(key, raw.start_ns + 1)
    source.forget(key + 1, raw.start_ns)
    counters(source, started=2, added=2)
    source.forget(key, raw.start_ns)
    source.forget(key, raw.start_ns)
    assert list(source.overdue()) == [other]
    counters(source, started=2, added=2, removed=1, unseen_ends=1)


def test_an_entry_whose_syn_was_sent_again_meanwhile_is_not_forgotten(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    source = load(pod, threshold=0.2)
    resources.enter_context(connecting(pod))
    ((key, raw),) = wait_until(source.overdue, 0.9, "the threshold's passing").items()
    take_until(source, pod, 1, "the first retransmission")
    source.forget(key, raw.start_ns)
    counters(source, started=1, added=1, retransmitted=1)


def test_an_entry_that_an_unseen_end_left_behind_gives_way_and_is_counted(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    source = load(pod)
    sock = resources.enter_context(new_socket(pod))
    sock.setblocking(False)
    assert sock.connect_ex(("127.0.0.1", DROPPED)) == errno.EINPROGRESS
    ((key, raw),) = source._read_attempts()
    disconnect(sock)
    value = ctypes.create_string_buffer(wire.ATTEMPT.pack(*raw), wire.ATTEMPT.size)
    left_behind = ctypes.byref(ctypes.c_uint64(key)), ctypes.byref(value), ctypes.c_uint64(0)
    assert source._library.bpf_update_elem(source._attempts_fd, *left_behind) == 0

    assert sock.connect_ex(("127.0.0.1", DROPPED)) == errno.EINPROGRESS
    ((key_now, raw_now),) = source._read_attempts()
    assert key_now == key
    assert raw_now.start_ns > raw.start_ns
    # The one left behind was put there by hand: it is removed without having been added.
    counters(source, started=2, reported_end=1, added=2, removed=2, unseen_ends=1)


def test_ends_are_seen_while_the_table_is_read_on_the_same_cpu(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    """Programs on perf tracepoints are skipped there (bpf_prog_active); raw ones are not."""
    source = load(pod)
    for _ in range(2_000):
        resources.enter_context(connecting(pod))
    everywhere = os.sched_getaffinity(0)
    one = {min(everywhere)}
    ended = threading.Event()
    reads: list[int] = []

    def read_on_and_on() -> None:
        os.sched_setaffinity(0, one)
        while not ended.is_set():
            reads.append(sum(1 for _ in source._read_attempts()))

    reader = threading.Thread(target=read_on_and_on)
    reader.start()
    try:
        os.sched_setaffinity(0, one)
        accept(pod, 1_000)
    finally:
        ended.set()
        reader.join(SECONDS)
        os.sched_setaffinity(0, everywhere)
    assert reads
    counted = source.counters()
    assert (counted["started"], counted["added"]) == (3_000, 3_000)
    assert (counted["established"], counted["removed"]) == (1_000, 1_000)
    assert (counted["unseen_ends"], counted["untracked"]) == (0, 0)


def test_a_slow_success_is_told_because_it_passed_the_threshold(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    source = load(pod, threshold=0.2)
    server = resources.enter_context(new_socket(pod))
    server.bind(("127.0.0.1", DROPPED))
    server.listen()
    sock = resources.enter_context(connecting(pod))
    iptables(pod, "-F", "INPUT")
    found = take_until(source, pod, 2, "a retransmission and its success")
    assert [(one.kind, one.new_state) for one in found] == [
        (TransitionKind.RETRANSMIT, None),
        (TransitionKind.END, TcpState.ESTABLISHED),
    ]
    assert found[1].flow.source.port == sock.getsockname()[1]
    counters(
        source,
        started=1,
        reported_end=1,
        added=1,
        removed=1,
        retransmitted=1,
        retransmitted_removed=1,
    )


def test_a_table_larger_than_one_reading_is_read_whole(
    pod: Namespace, load: Open, resources: ExitStack
) -> None:
    source = load(pod, threshold=0.01)
    sockets = [resources.enter_context(connecting(pod)) for _ in range(5_000)]
    keys = [key for key, _ in source._read_attempts()]
    assert len(keys) == len(set(keys)) == len(sockets)
    # Those whose SYN was sent again meanwhile are none: opening so many may take a second.
    told = wait_until(source.overdue, SECONDS, "the threshold's passing")
    assert told.keys() <= set(keys)
    assert all(raw.start_ns for raw in told.values())


# --- the end -------------------------------------------------------------------------------------


def test_nothing_stays_loaded_after_the_end(pod: Namespace) -> None:
    before = own_programs()
    source = open_source(pod)
    programs = own_programs() - before
    assert len(programs) >= 2
    assert programs <= loaded_programs()
    source.close()
    assert own_programs() == before
    wait_until(lambda: not programs & loaded_programs(), SECONDS, "the kernel to let go of them")


def test_a_source_that_fails_to_open_leaves_nothing_loaded(
    pod: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_self: BpfSource) -> None:
        raise NoSource("the kernel has no BPF ring buffer")

    monkeypatch.setattr(BpfSource, "_open", refused)
    before = own_programs()
    with pytest.raises(NoSource, match="no BPF ring buffer"):
        open_source(pod)
    left = own_programs() - before
    assert left == set(), "polling would go on beside programs that nobody reads"


def test_closing_twice_is_closing_once() -> None:
    code = (
        "from tracer.settings import Limits\n"
        "from tracer.sources.bpf import BpfSource\n"
        "source = BpfSource(threshold_seconds=1, limits=Limits())\n"
        "source.close()\n"
        "source.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_end_of_one_source_is_not_that_of_another(pod: Namespace, load: Open) -> None:
    source = load(pod)
    open_source(pod).close()
    refuse(pod)
    assert len(take(source, pod)) == 1
    counters(source, started=1, reported_end=1, added=1, removed=1)


def test_no_descriptor_is_left_open(pod: Namespace) -> None:
    open_source(pod).close()  # what bcc opens once per process
    before = descriptors()
    for _ in range(3):
        open_source(pod).close()
    assert descriptors() == before
