"""What happens on the network, once per source: each scenario runs the program and real sockets.

A scenario is a function from a Stage to an Observation. It asserts nothing about what the program
wrote: that is the tests' part, in test_contract.py. It takes its time from TCP's timers, so
several run side by side; see the `observed` fixture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.client import Client, ClientReport, listen
from tests.support.netns import (
    NOBODY_V4,
    SERVER_EXTERNAL,
    SERVER_V4,
    SERVER_V6,
    Namespace,
    drop_forwarded,
    dropped_packets,
    iptables,
    lone_pod,
    pass_forwarded,
    pod_pair,
)
from tests.support.tracer import Event, Tracer, get
from tests.support.wait import stays_true, wait_until

PORT = 8443
MANY = 500
SAME_SOURCE_PORT = 40_077

SEEN_SECONDS = 20
"""For the program to write what it saw: one round of polling, on a machine that is busy."""

TCP_SECONDS = 20
"""For TCP to reach a state whose timers take up to four seconds."""

QUIET_SECONDS = 1.5
"""How long nothing more may be written after the end: longer than a round of polling."""


@dataclass(frozen=True)
class Observation:
    """What the program wrote of a scenario's namespaces, and what the applications knew."""

    backend: str
    netns: tuple[int, ...]
    clients: tuple[ClientReport, ...]
    events: tuple[Event, ...]
    lifecycle: tuple[Event, ...]

    @property
    def client(self) -> ClientReport:
        (only,) = self.clients
        return only

    def of_kind(self, kind: str, netns: int | None = None) -> list[Event]:
        return [
            event
            for event in self.events
            if event["event"] == kind and netns in {None, event["netns"]}
        ]

    def only(self, kind: str, netns: int | None = None) -> Event:
        """The one event of its kind."""
        found = self.of_kind(kind, netns)
        assert len(found) == 1, f"{len(found)} x {kind}, not one, in {list(self.events)}"
        return found[0]


class Stage:
    """What a scenario is given: the source to run with, and a folder of its own."""

    def __init__(self, backend: str, folder: Path) -> None:
        self.backend = backend
        self._folder = folder

    def tracer(self, *pods: Namespace) -> Tracer:
        """The program on the whole node; the cross-check runs often enough to interfere. What is
        made of what it observes is test_verdicts.py's part.
        """
        return Tracer(
            self._folder,
            *("--backend", self.backend),
            *("--crosscheck", "1"),
            "--no-evidence",
            netns=[pod.inode for pod in pods],
        )

    def observe(
        self, tracer: Tracer, clients: list[Client], *pods: Namespace, ends: int = 1
    ) -> Observation:
        """Ends the trace once `ends` ends were written per pod and nothing follows them."""
        netns = tuple(pod.inode for pod in pods)
        for inode in netns:
            tracer.wait_count("attempt.end", inode, ends, SEEN_SECONDS)
        return self.conclude(tracer, clients, *pods)

    def conclude(self, tracer: Tracer, clients: list[Client], *pods: Namespace) -> Observation:
        """Ends the trace once nothing has been written about the pods for a while."""
        netns = tuple(pod.inode for pod in pods)
        written = len(tracer.events(netns=netns))
        stays_true(
            lambda: len(tracer.events(netns=netns)) == written,
            QUIET_SECONDS,
            "nothing is written after the last attempt is over",
        )
        events = tracer.stop()
        return Observation(
            backend=self.backend,
            netns=netns,
            clients=tuple(client.report() for client in clients),
            events=tuple(event for event in events if event.get("netns") in netns),
            lifecycle=tuple(event for event in events if event["event"].startswith("tracer.")),
        )


Scenario = Callable[[Stage], Observation]


def black_hole(stage: Stage) -> Observation:
    """The node drops every SYN; the application waits until three of them are out."""
    return _swallowed(stage, SERVER_EXTERNAL, family=4)


def ipv6_black_hole(stage: Stage) -> Observation:
    return _swallowed(stage, SERVER_V6, family=6)


def mapped_black_hole(stage: Stage) -> Observation:
    """An IPv6 socket that speaks IPv4: what most Java and Go programs open."""
    return _swallowed(stage, f"::ffff:{SERVER_V4}", family=4)


def _swallowed(stage: Stage, address: str, family: int) -> Observation:
    with pod_pair() as pods, stage.tracer(pods.client) as tracer:
        drop_forwarded(pods, family)
        client = Client(pods.client, address, PORT, "--hold")
        tracer.wait_count("attempt.stuck", pods.client.inode, 1, SEEN_SECONDS)
        tracer.wait_count("attempt.retransmit", pods.client.inode, 1, SEEN_SECONDS)
        client.go()
        client.finish()
        return stage.observe(tracer, [client], pods.client)


def refused(stage: Stage) -> Observation:
    """Nobody listens: the answer is a reset, at once."""
    with pod_pair() as pods, stage.tracer(pods.client) as tracer:
        client = Client(pods.client, SERVER_V4, PORT)
        client.finish()
        ends = 1 if stage.backend == "bpf" else 0
        return stage.observe(tracer, [client], pods.client, ends=ends)


def icmp_reject(stage: Stage) -> Observation:
    """The node answers every SYN with ICMP host unreachable.

    The kernel ignores the first answer if it comes while connect() itself still runs, and the next
    one, to the retransmission, ends the attempt.
    """
    with pod_pair() as pods, stage.tracer(pods.client) as tracer:
        reject = ("-j", "REJECT", "--reject-with", "icmp-host-unreachable")
        iptables(pods.router, "-A", "FORWARD", "-o", "to-server", *reject)
        client = Client(pods.client, SERVER_V4, PORT, "--blocking")
        client.wait_results(seconds=TCP_SECONDS)
        client.finish()
        if stage.backend == "bpf":
            return stage.observe(tracer, [client], pods.client)
        return stage.conclude(tracer, [client], pods.client)


def dead_neighbour(stage: Stage) -> Observation:
    """An address on the own link that nobody has.

    No SYN leaves: the first waits for the neighbour, and the kernel holds back retransmissions
    while it does.
    """
    with lone_pod() as pod, stage.tracer(pod) as tracer:
        client = Client(pod, NOBODY_V4, PORT)
        client.wait_results(seconds=TCP_SECONDS)
        client.finish()
        return stage.observe(tracer, [client], pod)


def accepted_late(stage: Stage) -> Observation:
    """Two SYNs are lost, the third is answered; the connection then stays open."""
    with pod_pair() as pods, stage.tracer(pods.client) as tracer:
        listen(pods.server, PORT)
        drop_forwarded(pods)
        client = Client(pods.client, SERVER_V4, PORT, "--hold")
        wait_until(lambda: dropped_packets(pods) >= 2, TCP_SECONDS, "two lost SYNs")
        pass_forwarded(pods)
        client.wait_results(seconds=TCP_SECONDS)
        observation = stage.observe(tracer, [client], pods.client)
        client.go()
        client.finish()
        return observation


def application_gives_up(stage: Stage) -> Observation:
    with pod_pair() as pods, stage.tracer(pods.client) as tracer:
        drop_forwarded(pods)
        client = Client(pods.client, SERVER_V4, PORT, "--timeout", "3")
        client.wait_results(seconds=TCP_SECONDS)
        client.finish()
        return stage.observe(tracer, [client], pods.client)


def process_killed(stage: Stage) -> Observation:
    """SIGKILL while the process sleeps in connect()."""
    with pod_pair() as pods, stage.tracer(pods.client) as tracer:
        drop_forwarded(pods)
        client = Client(pods.client, SERVER_V4, PORT, "--blocking")
        tracer.wait_count("attempt.stuck", pods.client.inode, 1, SEEN_SECONDS)
        client.kill()
        return stage.observe(tracer, [client], pods.client)


def kernel_timeout(stage: Stage) -> Observation:
    """One retransmission, after one second, and two seconds later the kernel gives up."""
    with pod_pair() as pods, stage.tracer(pods.client) as tracer:
        drop_forwarded(pods)
        pods.client.sysctl("net.ipv4.tcp_syn_retries", 1)
        # Linux 6.5 and later add these to the retries.
        if pods.client.has_sysctl("net.ipv4.tcp_syn_linear_timeouts"):
            pods.client.sysctl("net.ipv4.tcp_syn_linear_timeouts", 0)
        client = Client(pods.client, SERVER_V4, PORT, "--blocking")
        client.wait_results(seconds=TCP_SECONDS)
        client.finish()
        return stage.observe(tracer, [client], pods.client)


def loopback(stage: Stage) -> Observation:
    with lone_pod() as pod, stage.tracer(pod) as tracer:
        iptables(pod, "-A", "INPUT", "-i", "lo", "-j", "DROP")
        client = Client(pod, "127.0.0.1", PORT, "--hold")
        tracer.wait_count("attempt.stuck", pod.inode, 1, SEEN_SECONDS)
        client.go()
        client.finish()
        return stage.observe(tracer, [client], pod)


def stuck_before_start(stage: Stage) -> Observation:
    """A SYN was retransmitted before the program was started.

    What is first seen of it may be the next retransmission, which tells neither when it began nor
    whose it is: both come from the socket table, and are in a later event.
    """
    with pod_pair() as pods:
        drop_forwarded(pods)
        client = Client(pods.client, SERVER_V4, PORT, "--hold")
        client.wait_opened()
        wait_until(lambda: dropped_packets(pods) >= 2, TCP_SECONDS, "a retransmitted SYN")
        with stage.tracer(pods.client) as tracer:
            tracer.wait_count("attempt.stuck", pods.client.inode, 1, SEEN_SECONDS)
            tracer.wait(
                lambda: any(
                    get(event, "attempt.started_at") and get(event, "process.pid")
                    for event in tracer.events(netns=pods.client.inode)
                ),
                SEEN_SECONDS,
                "an event that knows when the attempt began and whose it is",
            )
            client.go()
            client.finish()
            return stage.observe(tracer, [client], pods.client)


def same_addresses_twice(stage: Stage) -> Observation:
    """Two pods of two tenants: the same addresses, the same ports, at the same time."""
    with (
        pod_pair() as here,
        pod_pair() as there,
        stage.tracer(here.client, there.client) as tracer,
    ):
        clients = []
        for pods in (here, there):
            drop_forwarded(pods)
            options = ("--hold", "--source-port", str(SAME_SOURCE_PORT))
            clients.append(Client(pods.client, SERVER_V4, PORT, *options))
        for pods in (here, there):
            tracer.wait_count("attempt.stuck", pods.client.inode, 1, SEEN_SECONDS)
        for client in clients:
            client.go()
            client.finish()
        return stage.observe(tracer, clients, here.client, there.client)


def many_at_once(stage: Stage) -> Observation:
    """One process opens 500 connections into a black hole."""
    with pod_pair() as pods, stage.tracer(pods.client) as tracer:
        drop_forwarded(pods)
        client = Client(pods.client, SERVER_V4, PORT, "--hold", "--count", str(MANY))
        client.wait_opened(MANY)
        tracer.wait_count("attempt.stuck", pods.client.inode, MANY, SEEN_SECONDS)
        client.go()
        client.finish()
        return stage.observe(tracer, [client], pods.client, ends=MANY)
