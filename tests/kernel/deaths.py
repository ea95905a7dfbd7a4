"""How handshakes die, each arranged for real on a node of its own, and what must be said of it.

A death is a name, what is done to a node before the tracer starts, what happens then, and the
verdict that the JSONL must hold. They wait for TCP's timers and run side by side: see
test_verdicts.py.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from tests.kernel.scenarios import TCP_SECONDS
from tests.support.bpf import deaf_cgroup, xdp_drops
from tests.support.client import Client, listen
from tests.support.cluster import Cluster, cluster
from tests.support.cluster import options as cluster_options
from tests.support.conntrack import fill
from tests.support.netns import (
    NOBODY_V4,
    SERVER_V4,
    Namespace,
    iptables,
    pod_pair,
)
from tests.support.node import (
    SYN,
    UPLINK,
    Answer,
    Deep,
    as_node,
    beyond,
    deep_pair,
    icmp_errors,
    own_address,
    resets,
    resets_once,
)
from tests.support.sockets import listening, opened, path_of
from tests.support.tracer import Event, Tracer, get
from tests.support.wait import wait_until
from tracer.host.netns import enter

PORT: Final = 8443
TOLD_SECONDS: Final = 25
"""For a verdict on a machine that does a dozen of these at once."""

NOBODY: Final = {4: "10.77.2.99", 6: "fd77:2::99"}
"""Beside the server; nobody has it."""


@dataclass
class Scene:
    """A node under trace, and what is to be taken down after it. `told` says whether the verdict
    that is waited for is there; `changed_at` (epoch seconds) when its cause came about, where that
    was while the attempt was stuck; `answering` is set once somebody beyond the node shall answer.
    """

    deep: Deep
    family: int
    resources: ExitStack
    told: Callable[[], bool]
    devices: list[str] = field(default_factory=lambda: ["to-client", "to-server"])
    address: str = ""
    known: Cluster | None = None
    changed_at: float | None = None
    answering: threading.Event = field(default_factory=threading.Event)
    _tracer: Tracer | None = None

    def __post_init__(self) -> None:
        self.address = self.deep.to(self.family)

    @property
    def client(self) -> Namespace:
        return self.deep.client

    @property
    def node(self) -> Namespace:
        return self.deep.node

    @property
    def server(self) -> Namespace:
        return self.deep.server

    @property
    def tracer(self) -> Tracer:
        assert self._tracer is not None, "not traced yet"
        return self._tracer

    @property
    def cluster(self) -> Cluster:
        """The cluster that the node is part of, from the first time somebody asks for it."""
        if self.known is None:
            self.known = self.resources.enter_context(cluster(self.node, self.client))
        return self.known

    def trace(self, folder: Path, *options: str, backend: str = "bpf") -> None:
        inode = self.client.inode
        if self.known is not None:
            options = (*options, *cluster_options(self.known, folder))
        self._tracer = self.resources.enter_context(
            Tracer(
                folder,
                *("--backend", backend, *options),
                what=("--netns", str(inode)),
                netns=[inode],
                prefix=as_node(self.node, *self.devices),
            )
        )
        if self.known is not None:
            self.tracer.wait_for(
                lambda event: get(event, "tracer.kube.state") == "synced",
                TOLD_SECONDS,
                "all names of the cluster",
            )

    def connect(self, *options: str, port: int = PORT) -> Client:
        """A process that connects; of the pod, where the node is part of a cluster."""
        options = options or ("--hold",)
        if self.known is None:
            return Client(self.client, self.address, port, *options)
        client = Client(self.client, self.address, port, "--wait", *options)
        client.wait_ready()
        self.known.pod.containers["app"].add(client.pid)
        client.go()
        return client

    def drop(self, namespace: Namespace, chain: str, *match: str) -> None:
        iptables(namespace, "-A", chain, *match, "-j", "DROP", family=self.family)

    def ip(self, namespace: Namespace, *arguments: str) -> str:
        return namespace.run(["ip", f"-{self.family}", *arguments])

    def uplink(self, *, answer: Answer | None = None, hardware: bool = False) -> None:
        """Puts the destination beyond the node."""
        self.address = own_address(self.family)
        self.devices.append(f"+{UPLINK}" if hardware else UPLINK)
        options = {} if answer is None else {"answer": answer}
        self.resources.enter_context(beyond(self.node, self.address, **options))

    def events(self, kind: str | None = None) -> list[Event]:
        return self.tracer.events(netns=self.client.inode, event=kind)

    def wait_told(self, cause: str, *, surely: bool = False) -> None:
        """Connects, and waits until that is named as what it dies of; with `surely` until packets
        have borne it out, which takes a probe that is loaded.
        """
        self.connect()
        self.tracer.wait(
            lambda: any(
                get(event, "verdict.cause") == cause
                and (not surely or get(event, "verdict.confidence") == "high")
                for event in self.events()
            ),
            TOLD_SECONDS,
            cause,
        )

    def wait_stuck(self) -> None:
        self.tracer.wait_count("attempt.stuck", self.client.inode, 1, TOLD_SECONDS)


Step = Callable[[Scene], None]


def nothing(_scene: Scene) -> None:
    """Leaves the node as it is."""


def connect(scene: Scene) -> None:
    """One connect that is held open."""
    scene.connect()


# --- what stops a SYN ----------------------------------------------------------------------------


def drop_forwarded(scene: Scene) -> None:
    scene.drop(scene.node, "FORWARD", "-o", "to-server")


def drop_forwarded_by_nft(scene: Scene) -> None:
    scene.node.run(
        ["nft", "-f", "-"],
        stdin="table inet t { chain c { type filter hook forward priority 0;"
        f" tcp dport {PORT} drop\n}}\n}}\n",
    )


def drop_output(scene: Scene) -> None:
    scene.drop(scene.client, "OUTPUT", "-p", "tcp")


def drop_input(scene: Scene) -> None:
    scene.drop(scene.server, "INPUT", "-p", "tcp")


def drop_replies(scene: Scene) -> None:
    listen(scene.server, PORT)
    scene.drop(scene.node, "FORWARD", "-i", "to-server", "-p", "tcp")


def answer_by_another_link(scene: Scene) -> None:
    """The server's answers come in through a second device, which expects nobody from there."""
    listen(scene.server, PORT)
    node, server = scene.node, scene.server
    server.run(
        ["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "other", "netns", node.name]
    )
    for pod, device, address in ((server, "eth1", "10.77.9.3"), (node, "other", "10.77.9.1")):
        pod.run(["ip", "address", "add", f"{address}/24", "dev", device])
        pod.run(["ip", "link", "set", device, "up"])
    server.run(["ip", "route", "replace", "default", "via", "10.77.9.1"])
    # The filter would drop the question for its address too.
    (link,) = json.loads(node.run(["ip", "-json", "link", "show", "other"]))
    server.run(["ip", "neighbour", "add", "10.77.9.1", "lladdr", link["address"], "dev", "eth1"])
    node.sysctl("net.ipv4.conf.other.rp_filter", 1)


def tc_drops(scene: Scene) -> None:
    shot = ["bpf", "direct-action", "bytecode", "1,6 0 0 2"]  # return TC_ACT_SHOT
    protocol = ["protocol", "ipv6" if scene.family == 6 else "ip"]
    scene.node.run(["tc", "qdisc", "add", "dev", "to-server", "clsact"])
    scene.node.run(["tc", "filter", "add", "dev", "to-server", "egress", *protocol, *shot])


def xdp_at_the_server(scene: Scene) -> None:
    """What the driver drops is no packet of the kernel's yet: nothing tells of it."""
    (link,) = json.loads(scene.server.run(["ip", "-json", "link", "show", "eth0"]))
    far = ("lladdr", link["address"], "dev", "to-server")
    scene.node.run(["ip", "neighbour", "add", SERVER_V4, *far])
    scene.resources.enter_context(xdp_drops(scene.server, "eth0"))


def connect_in_a_deaf_cgroup(scene: Scene) -> None:
    folder = scene.resources.enter_context(deaf_cgroup())
    client = scene.connect("--wait", "--hold")
    client.wait_ready()
    (folder / "cgroup.procs").write_text(str(client.pid))
    scene.resources.callback(client.kill)
    client.go()


# --- routes and neighbours -----------------------------------------------------------------------


def nobody_beside_the_client(scene: Scene) -> None:
    scene.address = NOBODY_V4 if scene.family == 4 else "fd77:1::99"


def nobody_beside_the_server(scene: Scene) -> None:
    scene.address = NOBODY[scene.family]


def no_route_on_the_node(scene: Scene) -> None:
    scene.address = own_address(scene.family)


def refuse_on_the_node(kind: str) -> Step:
    def refuse(scene: Scene) -> None:
        scene.address = own_address(scene.family)
        scene.ip(scene.node, "route", "add", kind, scene.address)

    return refuse


def lose_the_route(scene: Scene) -> None:
    drop_all = ("FORWARD", "-o", "to-server")
    scene.drop(scene.node, *drop_all)
    scene.connect().wait_opened()
    scene.ip(scene.client, "route", "del", "default")


def refuse_after_the_connect(kind: str) -> Step:
    def refuse(scene: Scene) -> None:
        scene.drop(scene.node, "FORWARD", "-o", "to-server")
        scene.connect().wait_opened()
        scene.ip(scene.client, "route", "add", kind, scene.address)

    return refuse


# --- what answers --------------------------------------------------------------------------------


def behind_uplink(*, hardware: bool = False, answer: Answer | None = None) -> Step:
    def put(scene: Scene) -> None:
        scene.uplink(answer=answer, hardware=hardware)

    return put


def silent_at_first(scene: Scene) -> None:
    scene.uplink(answer=resets_once(scene.answering), hardware=True)


def be_there_when_it_is_told(scene: Scene) -> None:
    scene.wait_told("no-reply", surely=True)
    scene.answering.set()


def reject_on_the_node(how: str) -> Step:
    def reject(scene: Scene) -> None:
        rule = ("FORWARD", "-o", "to-server", "-j", "REJECT", "--reject-with", how)
        iptables(scene.node, "-A", *rule, family=scene.family)

    return reject


def retry(scene: Scene) -> None:
    """As applications do: again and again. The first failure is looked into after the fact; from
    then on somebody listens.
    """
    for family in ("ipv4.icmp_ratelimit", "ipv6.icmp.ratelimit"):
        scene.node.sysctl(f"net.{family}", 0)
    deadline = time.monotonic() + TOLD_SECONDS
    while not scene.told() and time.monotonic() < deadline:
        scene.connect("--blocking").wait_results(seconds=TCP_SECONDS)
        time.sleep(0.2)


# --- NAT, tables, queues -------------------------------------------------------------------------


def service_of(scene: Scene, backend: str) -> None:
    scene.address = own_address(scene.family)
    match = ("-d", scene.address, "-p", "tcp", "--dport", str(PORT))
    to = f"[{backend}]:80" if scene.family == 6 else f"{backend}:80"
    rule = ("PREROUTING", *match, "-j", "DNAT", "--to-destination", to)
    iptables(scene.node, "-t", "nat", "-A", *rule, family=scene.family)


def service_with_a_dead_backend(scene: Scene) -> None:
    service_of(scene, NOBODY[scene.family])


def service_with_a_backend_elsewhere(scene: Scene) -> None:
    scene.uplink(hardware=True)
    service_of(scene, scene.address)


def full_conntrack(scene: Scene) -> None:
    """The node tracks what it forwards, and has no room for one more."""
    listen(scene.server, PORT)
    rule = ("FORWARD", "-m", "conntrack", "--ctstate", "NEW")
    iptables(scene.node, "-A", *rule, family=scene.family)
    maximum = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    fill(scene.node, maximum)


def few_ports(scene: Scene) -> None:
    drop_forwarded(scene)
    folder = "/proc/sys/net/ipv4"
    scene.client.run(["sh", "-c", f"echo 40000 40003 > {folder}/ip_local_port_range"])


def connect_once_too_often(scene: Scene) -> None:
    scene.connect("--hold", "--count", "4").wait_opened(4)
    scene.connect("--blocking").wait_results()


def full_backlog(scene: Scene) -> None:
    listening(scene.server, scene.resources, scene.address, PORT, backlog=0)
    opened(scene.client, scene.resources, scene.address, PORT)
    shown = ["ss", "-Htn", "state", "established"]
    wait_until(lambda: scene.server.run(shown), TCP_SECONDS, "the connection that fills it")


def lost_at_first(scene: Scene) -> None:
    listen(scene.server, PORT)
    drop_forwarded(scene)


def connect_late(scene: Scene) -> None:
    client = scene.connect()
    scene.wait_stuck()
    wait_until(lambda: dropped_by(scene.node, 1, scene.family) >= 3, TCP_SECONDS, "three lost SYNs")
    iptables(scene.node, "-F", "FORWARD", family=scene.family)
    client.wait_results(seconds=TCP_SECONDS)


def give_up(scene: Scene) -> None:
    scene.connect("--timeout", "3").wait_results(seconds=TCP_SECONDS)


# --- beside others -------------------------------------------------------------------------------

REACHED: Final = (PORT + 1, PORT + 2, PORT + 3)


def drop_to_one_port(scene: Scene) -> None:
    scene.drop(scene.node, "FORWARD", "-p", "tcp", "--dport", str(PORT))
    for port in REACHED:
        listening(scene.server, scene.resources, scene.address, port, backlog=1_000)


def reach_others_meanwhile(scene: Scene) -> None:
    """New connections to three other ports, again and again: what was connected at the first look
    may have been so before.
    """
    scene.connect()
    scene.wait_stuck()
    deadline = time.monotonic() + TOLD_SECONDS
    while not scene.told() and time.monotonic() < deadline:
        for port in REACHED:
            opened(scene.client, scene.resources, scene.address, port)
        time.sleep(1)


# --- what is none of its business ----------------------------------------------------------------


def others_die_beside_it(scene: Scene) -> None:
    """Beyond the node it is silent; on the node die SYNs of its own addresses: to another port, and
    of its own four ends, with another sequence number.
    """
    scene.uplink(hardware=True)
    scene.drop(scene.node, "FORWARD", "-p", "tcp", "--dport", str(PORT + 1))
    # A SYN of the kernel's has options.
    scene.drop(scene.node, "FORWARD", "-p", "tcp", "-m", "length", "--length", "40")
    for rule in (1, 2):
        scene.resources.callback(must_have_dropped, scene.node, rule)


def must_have_dropped(namespace: Namespace, rule: int) -> None:
    """Else the test would show nothing."""
    assert dropped_by(namespace, rule) > 0, f"rule {rule} of FORWARD dropped nothing"


def dropped_by(namespace: Namespace, rule: int, family: int = 4) -> int:
    listing = ("-L", "FORWARD", str(rule), "-v", "-n", "-x")
    return int(iptables(namespace, *listing, family=family).split()[0])


def connect_beside_others(scene: Scene) -> None:
    client = scene.connect()
    client.wait_opened()
    scene.connect(port=PORT + 1)
    (own,) = client.report().ports
    stop = threading.Event()

    def forge() -> None:
        with enter(path_of(scene.client)):
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        with raw:
            number = 0
            while not stop.wait(0.2):
                number += 1
                tcp = struct.pack("!HHIIBBHHH", own, PORT, number, 0, 5 << 4, SYN, 1024, 0, 0)
                raw.sendto(tcp, (scene.address, 0))

    forger = threading.Thread(target=forge, name="forger")
    forger.start()
    scene.resources.callback(forger.join)
    scene.resources.callback(stop.set)


SAME_PORT: Final = 40_077


def the_same_dies_elsewhere(scene: Scene) -> None:
    """Two tenants with the same addresses and ports: one's SYNs die on the node."""
    scene.uplink(hardware=True)
    twin = scene.resources.enter_context(pod_pair())
    twin.router.run(["ip", "route", "add", scene.address, "via", SERVER_V4])
    iptables(twin.router, "-A", "FORWARD", "-j", "DROP")
    scene.resources.callback(must_have_dropped, twin.router, 1)
    Client(twin.client, scene.address, PORT, "--hold", "--source-port", str(SAME_PORT))


def connect_from_the_same_port(scene: Scene) -> None:
    scene.connect("--hold", "--source-port", str(SAME_PORT))


# --- what must be said ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Death:
    """What is done before the trace and during it, and what must be said then.

    `decisive` is the kind of the first piece of evidence ("drop or neighbour": either), and words
    of it; `beside` the same of others that must be there too. `also` are other causes that may be
    named on the way there, while less is known. `ended` is said of an attempt that is over, else it
    must still be stuck. `before` is the cause that holds until something changes.
    """

    name: str
    prepare: Step
    cause: str
    confidence: str
    decisive: tuple[str, ...]
    beside: tuple[tuple[str, ...], ...] = ()
    act: Step = connect
    family: int = 4
    ended: bool = False
    also: frozenset[str] = frozenset()
    port: int = PORT
    backend: str = "bpf"
    options: tuple[str, ...] = ()
    before: str | None = None


@dataclass(frozen=True)
class Told:
    """The event that holds the verdict, and all of its namespace until then.

    `delay_seconds` is how long after it became stuck, or after its cause came about where that was
    later; None where the attempt has ended. `start_seconds` is what the program took to attach: how
    busy the machine is.
    """

    event: Event
    events: tuple[Event, ...]
    address: str
    delay_seconds: float | None
    start_seconds: float


def perform(death: Death, folder: Path) -> Told:
    """Raises AssertionError where the verdict does not come."""
    found: list[Event] = []

    def told() -> bool:
        found[:] = [event for event in scene.events() if is_told(event, death)]
        return bool(found)

    with deep_pair() as deep, ExitStack() as resources:
        scene = Scene(deep, death.family, resources, told)
        death.prepare(scene)
        scene.trace(folder, *death.options, backend=death.backend)
        death.act(scene)
        what = f"{death.cause}/{death.confidence} of {death.decisive} {death.beside}"
        scene.tracer.wait(told, TOLD_SECONDS, what)
        events = scene.tracer.stop()
    inode = deep.client.inode
    return Told(
        found[0],
        tuple(event for event in events if event.get("netns") == inode),
        scene.address,
        None if death.ended else delay_of(found[0], events, scene.changed_at),
        start_of(events),
    )


def is_told(event: Event, death: Death) -> bool:
    return (
        get(event, "verdict.cause") == death.cause
        and get(event, "verdict.confidence") == death.confidence
        and (get(event, "attempt.outcome") is not None) == death.ended
        and get(event, "destination.port") == death.port
        and all(
            any(is_said(one, *words) for one in event["verdict"]["evidence"])
            for words in death.beside
        )
    )


def is_said(evidence: Event, kinds: str, *words: str) -> bool:
    said = evidence["summary"]
    return evidence["kind"] in kinds.split(" or ") and all(word in said for word in words)


def delay_of(told: Event, events: Iterable[Event], changed_at: float | None) -> float:
    if changed_at is not None:
        return seconds(told) - changed_at
    (stuck,) = (
        event
        for event in events
        if event["event"] == "attempt.stuck" and get(event, "attempt.id") == get(told, "attempt.id")
    )
    return seconds(told) - seconds(stuck)


def start_of(events: Iterable[Event]) -> float:
    """Seconds from the program's start until it observes."""
    (start,) = (event for event in events if event["event"] == "tracer.start")
    told = re.search(r"([0-9.]+) s after the program's start", get(start, "tracer.message"))
    return 0.0 if told is None else float(told[1])


def seconds(event: Event) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


IN_NODE: Final = "in the node's network namespace"
IN_CLIENT: Final = "in the client's own network namespace"
IN_PEER: Final = "in the peer's network namespace"
ROUTER: Final = {4: "10.99.0.1", 6: "fd99::1"}
"""A router beyond the node."""

SILENT_NEIGHBOUR: Final = frozenset({"unreachable"})


def icmp_from_beyond(kind: int, code: int, family: int = 4) -> Step:
    return behind_uplink(answer=icmp_errors(ROUTER[family], kind, code), hardware=True)


DEATHS: Final = (
    # Rules and programs.
    Death(
        "a rule in the node's FORWARD",
        drop_forwarded,
        "dropped-here",
        "high",
        ("drop", "NETFILTER_DROP", IN_NODE, "to-client"),
    ),
    Death(
        "a rule in the node's FORWARD, IPv6",
        drop_forwarded,
        "dropped-here",
        "high",
        ("drop", "NETFILTER_DROP", IN_NODE, "to-client"),
        family=6,
    ),
    Death(
        "a rule of nftables in the node's FORWARD",
        drop_forwarded_by_nft,
        "dropped-here",
        "high",
        ("drop", "NETFILTER_DROP", IN_NODE, "to-client"),
    ),
    Death(
        "a rule in the pod's OUTPUT",
        drop_output,
        "dropped-here",
        "high",
        ("drop", "NETFILTER_DROP", IN_CLIENT),
    ),
    Death(
        "a rule in the pod's OUTPUT, IPv6",
        drop_output,
        "dropped-here",
        "high",
        ("drop", "NETFILTER_DROP", IN_CLIENT),
        family=6,
    ),
    Death(
        "a rule in the peer's INPUT",
        drop_input,
        "dropped-here",
        "high",
        ("drop", "NETFILTER_DROP", IN_PEER, "eth0"),
    ),
    Death(
        "a tc filter on egress",
        tc_drops,
        "dropped-here",
        "high",
        ("drop", "TC_EGRESS", IN_NODE, "to-server"),
    ),
    Death(
        "a BPF program of the cgroup on egress",
        nothing,
        "dropped-here",
        "high",
        ("drop", "BPF_CGROUP_EGRESS", IN_CLIENT),
        act=connect_in_a_deaf_cgroup,
    ),
    Death(
        "an XDP program at the peer",
        xdp_at_the_server,
        "dropped-here",
        "high",
        ("drop", "XDP", IN_PEER, "eth0"),
    ),
    # The answer.
    Death(
        "a rule for the answer in the node's FORWARD",
        drop_replies,
        "reply-dropped-here",
        "high",
        ("drop", "the peer's answer", "NETFILTER_DROP", IN_NODE, "to-server"),
    ),
    Death(
        "a rule for the answer in the node's FORWARD, IPv6",
        drop_replies,
        "reply-dropped-here",
        "high",
        ("drop", "the peer's answer", "NETFILTER_DROP", IN_NODE, "to-server"),
        family=6,
    ),
    Death(
        "the reverse path filter, for an answer that comes another way",
        answer_by_another_link,
        "reply-dropped-here",
        "high",
        ("drop", "the peer's answer", "IP_RPFILTER", IN_NODE, "at other"),
    ),
    # Routes.
    Death(
        "a route that was lost after the connect",
        nothing,
        "dropped-here",
        "medium",
        ("route", IN_CLIENT, "there is no route"),
        act=lose_the_route,
    ),
    Death(
        "no route on the node",
        no_route_on_the_node,
        "dropped-here",
        "high",
        ("route", IN_NODE, "there is no route"),
        act=retry,
        ended=True,
        also=frozenset({"unreachable"}),
    ),
    Death(
        "a blackhole route on the node",
        refuse_on_the_node("blackhole"),
        "dropped-here",
        "high",
        ("drop", "routing: there is no usable route", IN_NODE),
    ),
    Death(
        "a blackhole route on the node, IPv6",
        refuse_on_the_node("blackhole"),
        "dropped-here",
        "high",
        ("drop", "routing: there is no usable route", IN_NODE),
        family=6,
    ),
    Death(
        "a blackhole route on the node, where nobody sees packets",
        refuse_on_the_node("blackhole"),
        "dropped-here",
        "medium",
        ("route", IN_NODE, "a blackhole route discards it"),
        backend="poll",
    ),
    Death(
        "an unreachable route on the node",
        refuse_on_the_node("unreachable"),
        "dropped-here",
        "high",
        ("route", IN_NODE, "of type unreachable"),
        act=retry,
        ended=True,
        also=frozenset({"unreachable"}),
    ),
    Death(
        "a prohibit route on the node",
        refuse_on_the_node("prohibit"),
        "dropped-here",
        "high",
        ("route", IN_NODE, "of type prohibit"),
        act=retry,
        ended=True,
        # What a firewall sends too, until the node's route is looked up.
        also=frozenset({"unreachable", "refused-by-firewall"}),
    ),
    *(
        Death(
            f"a route of type {kind} that came after the connect",
            nothing,
            "dropped-here",
            "medium",
            ("route", IN_CLIENT, words),
            act=refuse_after_the_connect(kind),
        )
        for kind, words in (
            ("blackhole", "a blackhole route discards it"),
            ("unreachable", "of type unreachable"),
            ("prohibit", "of type prohibit"),
        )
    ),
    # Next hops.
    Death(
        "a neighbour of the pod that does not answer",
        nobody_beside_the_client,
        "no-neighbour",
        "high",
        ("drop or neighbour", "eth0", IN_CLIENT),
        act=retry,
        ended=True,
        also=SILENT_NEIGHBOUR,
    ),
    Death(
        "a neighbour of the pod that does not answer, IPv6",
        nobody_beside_the_client,
        "no-neighbour",
        "high",
        ("drop or neighbour", "eth0", IN_CLIENT),
        act=retry,
        family=6,
        ended=True,
        also=SILENT_NEIGHBOUR,
    ),
    Death(
        "a neighbour of the node that does not answer",
        nobody_beside_the_server,
        "no-neighbour",
        "high",
        ("drop or neighbour", IN_NODE, "to-server"),
        act=retry,
        ended=True,
        also=SILENT_NEIGHBOUR,
    ),
    Death(
        "a service whose backend is dead",
        service_with_a_dead_backend,
        "no-neighbour",
        "high",
        ("drop or neighbour", IN_NODE, "to-server"),
        act=retry,
        ended=True,
        also=SILENT_NEIGHBOUR,
    ),
    # Who answers with something else.
    Death(
        "a host on which nothing listens",
        behind_uplink(answer=resets, hardware=True),
        "refused",
        "high",
        ("errno", "ECONNREFUSED"),
        act=retry,
        ended=True,
    ),
    Death(
        "a host on which nothing listens, and that is not there at first",
        silent_at_first,
        "refused",
        "high",
        ("rst", f":{PORT} reached its socket and ended the attempt"),
        beside=(("handed", UPLINK),),
        act=be_there_when_it_is_told,
        ended=True,
        also=frozenset({"no-reply"}),
    ),
    Death(
        "a pod of this node on which nothing listens",
        nothing,
        "refused",
        "high",
        ("listener", "nothing listens on that port", IN_PEER),
        act=retry,
        ended=True,
    ),
    Death(
        "a router that knows no way to the host",
        icmp_from_beyond(3, 1),
        "unreachable",
        "high",
        ("icmp", "type 3 code 1", ROUTER[4]),
        act=retry,
        ended=True,
    ),
    Death(
        "a router that prohibits it",
        icmp_from_beyond(3, 13),
        "refused-by-firewall",
        "high",
        ("icmp", "type 3 code 13", ROUTER[4]),
        act=retry,
        ended=True,
        also=frozenset({"unreachable"}),
    ),
    Death(
        "a router that prohibits it, IPv6",
        icmp_from_beyond(1, 1, family=6),
        "refused-by-firewall",
        "high",
        ("icmp", "ICMPv6 type 1 code 1", ROUTER[6]),
        act=retry,
        family=6,
        ended=True,
    ),
    Death(
        "a firewall that answers with port unreachable",
        icmp_from_beyond(3, 3),
        "refused-by-firewall",
        "medium",
        ("icmp", "type 3 code 3", ROUTER[4]),
        act=retry,
        ended=True,
        also=frozenset({"refused"}),
    ),
    Death(
        "a rule of the node that rejects",
        reject_on_the_node("icmp-admin-prohibited"),
        "refused-by-firewall",
        "high",
        ("icmp", "type 3 code 13", "10.77.1.1"),
        act=retry,
        ended=True,
        also=frozenset({"unreachable"}),
    ),
    # Full tables and queues.
    Death(
        "a full table of connection tracking",
        full_conntrack,
        "conntrack-full",
        "high",
        ("conntrack", "refused since it is watched", IN_NODE),
    ),
    Death(
        "no local port that is free",
        few_ports,
        "port-exhaustion",
        "high",
        ("ports", "4 of 4 local ports"),
        act=connect_once_too_often,
        ended=True,
        also=frozenset({"dropped-here"}),
    ),
    Death(
        "a listener whose backlog is full",
        full_backlog,
        "listener-overloaded",
        "high",
        ("listener", IN_PEER, "accept queue 1 of 0", "overflows"),
    ),
    Death(
        "a listener whose backlog is full, IPv6",
        full_backlog,
        "listener-overloaded",
        "high",
        ("listener", IN_PEER, "accept queue 1 of 0", "overflows"),
        family=6,
    ),
    # In the end.
    Death(
        "two SYNs that were lost",
        lost_at_first,
        "slow",
        "high",
        ("attempt", "then connected"),
        act=connect_late,
        ended=True,
        also=frozenset({"dropped-here"}),
    ),
    Death(
        "an application that waits for three seconds",
        behind_uplink(hardware=True),
        "application-gave-up",
        "high",
        ("attempt", "3 SYNs sent, 3.0 s", "closed by its own side"),
        act=give_up,
        ended=True,
        also=frozenset({"no-reply"}),
    ),
    # Beside others.
    Death(
        "a rule for one destination, while others are reached",
        drop_to_one_port,
        "dropped-here",
        "high",
        ("drop", "NETFILTER_DROP", IN_NODE, "to-client"),
        beside=(("comparison", "fails from netns", "it reached 3 other VPC destinations since"),),
        act=reach_others_meanwhile,
        options=("--crosscheck", "1"),
    ),
    # Silence.
    Death(
        "silence beyond the node",
        behind_uplink(hardware=True),
        "no-reply",
        "high",
        ("handed", UPLINK, "which leads out of this node"),
    ),
    Death(
        "silence beyond the node, IPv6",
        behind_uplink(hardware=True),
        "no-reply",
        "high",
        ("handed", UPLINK, "which leads out of this node"),
        family=6,
    ),
    Death(
        "silence beyond the node, behind a service",
        service_with_a_backend_elsewhere,
        "no-reply",
        "high",
        ("handed", UPLINK, "which leads out of this node"),
    ),
    Death(
        "silence behind a device of which nobody knows where it leads",
        behind_uplink(),
        "no-reply",
        "low",
        ("watch", "no drop of its packets"),
    ),
    Death(
        "silence, while others of its addresses die on the node",
        others_die_beside_it,
        "no-reply",
        "high",
        ("handed", UPLINK, "which leads out of this node"),
        act=connect_beside_others,
    ),
    Death(
        "silence, while the same four ends die in another namespace",
        the_same_dies_elsewhere,
        "no-reply",
        "high",
        ("handed", UPLINK, "which leads out of this node"),
        act=connect_from_the_same_port,
    ),
)
