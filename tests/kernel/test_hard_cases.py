"""What is easily taken for something else: each case was once reported wrongly."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.netns import (
    SERVER_V4,
    Namespace,
    PodPair,
    drop_forwarded,
    dropped_packets,
    iptables,
    lone_pod,
    pod_pair,
)
from tests.support.tracer import Event, Tracer, get
from tests.support.wait import stays_true, wait_until

PORT = 8443
SEEN_SECONDS = 15
MANY = 20
KEPT_OPEN = 4_000

pytestmark = pytest.mark.timeout(90)

# connect() that sends nothing until the first write: TCP_FASTOPEN_CONNECT is 30 (linux/tcp.h).
DEFERRED = """
import socket, sys
client = socket.socket()
client.setsockopt(socket.IPPROTO_TCP, 30, 1)
client.connect((sys.argv[1], int(sys.argv[2])))
print(flush=True)
sys.stdin.read()
"""

# Connections that are established at once and stay open: their sockets are not used again.
KEEP_OPEN = """
import socket, sys
kept = []
with socket.create_server(("127.0.0.1", 9090)) as server:
    for _ in range(int(sys.argv[1])):
        client = socket.create_connection(("127.0.0.1", 9090))
        kept += [client, server.accept()[0]]
    print(flush=True)
    sys.stdin.read()
"""


def own(events: list[Event], namespace: Namespace, kind: str) -> list[Event]:
    """The events of a kind that are about one namespace: others may have attempts too."""
    return [e for e in events if e["event"] == kind and e.get("netns") == namespace.inode]


def python(namespace: Namespace, program: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Runs a program that prints a line when it has done its work, and waits for its stdin."""
    process = namespace.popen(
        [sys.executable, "-S", "-E", "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    return process


@pytest.mark.parametrize("backend", ["bpf", "poll"])
def test_an_attempt_whose_route_is_gone_is_stuck_until_it_really_ends(
    tmp_path: Path, backend: str
) -> None:
    """No SYN can be sent again, so no retransmission is counted; the timer runs on."""
    options = ("--backend", backend, "--crosscheck", "0.5")
    with pod_pair() as pods, Tracer(tmp_path, *options, netns=[pods.client.inode]) as tracer:
        drop_forwarded(pods)
        client = Client(pods.client, SERVER_V4, PORT, "--hold")
        client.wait_opened()
        pods.client.run(["ip", "route", "delete", "default"])
        tracer.wait_count("attempt.stuck", pods.client.inode, 1, SEEN_SECONDS)
        stays_true(
            lambda: not tracer.events(netns=pods.client.inode, event="attempt.end"),
            4,
            "no end while the socket is in SYN_SENT",
        )
        client.go()
        client.finish()
        tracer.wait_count("attempt.end", pods.client.inode, 1, SEEN_SECONDS)
        events = tracer.stop()
    assert len(own(events, pods.client, "attempt.stuck")) == 1
    assert get(events[-1], "tracer.crosscheck.unended") == 0


def test_below_a_second_each_attempt_is_told_once_with_its_own_port(tmp_path: Path) -> None:
    options = ("--threshold", "0.3", "--crosscheck", "0.5")
    with pod_pair() as pods, Tracer(tmp_path, *options, netns=[pods.client.inode]) as tracer:
        drop_forwarded(pods)
        client = Client(pods.client, SERVER_V4, PORT, "--hold", "--count", str(MANY))
        tracer.wait_count("attempt.stuck", pods.client.inode, MANY, SEEN_SECONDS)
        tracer.wait_count("attempt.retransmit", pods.client.inode, MANY, SEEN_SECONDS)
        client.go()
        client.finish()
        tracer.wait_count("attempt.end", pods.client.inode, MANY, SEEN_SECONDS)
        events = tracer.stop()
        ports = sorted(client.report().ports)
    stuck = own(events, pods.client, "attempt.stuck")
    ends = own(events, pods.client, "attempt.end")
    assert sorted(get(event, "source.port") for event in stuck) == ports
    assert sorted(get(event, "source.port") for event in ends) == ports
    assert all(get(event, "attempt.age_seconds") < 0.9 for event in stuck)
    assert Counter(get(event, "attempt.outcome") for event in ends) == {"aborted": MANY}
    assert get(events[-1], "tracer.crosscheck.missed") == 0


@pytest.mark.parametrize("backend", ["bpf", "poll"])
def test_a_connect_that_waits_for_its_first_write_is_not_stuck(
    tmp_path: Path, backend: str
) -> None:
    options = ("--backend", backend, "--crosscheck", "0.5")
    with pod_pair() as pods, Tracer(tmp_path, *options, netns=[pods.client.inode]) as tracer:
        drop_forwarded(pods)
        # Client side (1), data without a cookie (4): ip-sysctl's tcp_fastopen.
        pods.client.sysctl("net.ipv4.tcp_fastopen", 5)
        python(pods.client, DEFERRED, SERVER_V4, PORT)
        stays_true(lambda: not tracer.events(netns=pods.client.inode), 3, "nothing is said of it")
        events = tracer.stop()
    assert get(events[-1], "tracer.losses.unseen_ends") == 0


def test_connections_whose_ends_run_on_another_cpu_are_never_called_stuck(tmp_path: Path) -> None:
    """Receive packet steering moves the answer to another CPU, where probes may be skipped."""
    with lone_pod() as pod, Tracer(tmp_path, "--crosscheck", "1", netns=[pod.inode]) as tracer:
        steer = "mount -t sysfs sysfs /sys && echo 3 > /sys/class/net/lo/queues/rx-0/rps_cpus"
        pod.run(["unshare", "--mount", "sh", "-euc", steer])
        python(pod, KEEP_OPEN, KEPT_OPEN)
        stays_true(lambda: not tracer.events(netns=pod.inode), 4, "nothing is said of them")
        events = tracer.stop()
    assert not tracer.events(netns=pod.inode)
    assert get(events[-1], "tracer.crosscheck.missed") == 0


def test_a_socket_destroyed_by_the_administrator_is_aborted(tmp_path: Path) -> None:
    with pod_pair() as pods, Tracer(tmp_path, netns=[pods.client.inode]) as tracer:
        drop_forwarded(pods)
        Client(pods.client, SERVER_V4, PORT, "--hold")
        tracer.wait_count("attempt.stuck", pods.client.inode, 1, SEEN_SECONDS)
        pods.client.run(["ss", "-K", "-t", "state", "syn-sent"])
        tracer.wait_count("attempt.end", pods.client.inode, 1, SEEN_SECONDS)
        events = tracer.stop()
    (end,) = own(events, pods.client, "attempt.end")
    assert get(end, "attempt.outcome") == "aborted"
    assert get(end, "error.type") == "ECONNABORTED"


def test_a_process_that_was_stuck_before_the_trace_of_it_is_no_disagreement(
    tmp_path: Path,
) -> None:
    with pod_pair() as pods:
        drop_forwarded(pods)
        client = stuck_before(pods)
        options = ("--crosscheck", "0.5")
        what = ("--pid", str(client.pid))
        with Tracer(tmp_path, *options, what=what, netns=[pods.client.inode]) as tracer:
            tracer.wait_count("attempt.stuck", pods.client.inode, 1, SEEN_SECONDS)
            client.go()
            client.finish()
            tracer.wait_count("attempt.end", pods.client.inode, 1, SEEN_SECONDS)
            events = tracer.stop()
    assert get(events[-1], "tracer.crosscheck.unended") == 0
    assert get(events[-1], "tracer.crosscheck.missed") == 0


def stuck_before(pods: PodPair) -> Client:
    client = Client(pods.client, SERVER_V4, PORT, "--hold")
    client.wait_opened()
    wait_until(lambda: dropped_packets(pods) >= 2, SEEN_SECONDS, "a retransmitted SYN")
    return client


def test_a_local_drop_is_stuck_and_its_syns_are_counted(tmp_path: Path) -> None:
    with pod_pair() as pods, Tracer(tmp_path, netns=[pods.client.inode]) as tracer:
        iptables(pods.client, "-A", "OUTPUT", "-p", "tcp", "--dport", str(PORT), "-j", "DROP")
        client = Client(pods.client, SERVER_V4, PORT, "--hold")
        tracer.wait_count("attempt.stuck", pods.client.inode, 1, SEEN_SECONDS)
        wait_until(
            lambda: pods.client.counter("TCPSynRetrans") >= 2, SEEN_SECONDS, "two retransmissions"
        )
        client.go()
        client.finish()
        tracer.wait_count("attempt.end", pods.client.inode, 1, SEEN_SECONDS)
        events = tracer.stop()
    (end,) = own(events, pods.client, "attempt.end")
    assert get(end, "attempt.syns_sent") >= 3
