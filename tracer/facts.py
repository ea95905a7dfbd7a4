"""What was observed about a stuck attempt beyond its socket, and the verdict that follows from it.

Each fact says what was seen and when, never what it means: that is the rules' part. None is "not
looked up" or "not known"; an empty tuple is "looked, and saw none". Times named `*_ns` are
CLOCK_MONOTONIC nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tracer.model import Destination, Endpoint, Outcome, Verdict


class Direction(StrEnum):
    """Which packet of the handshake: the SYN on its way out, or what answers it."""

    SYN = "syn"
    REPLY = "reply"


@dataclass(frozen=True, slots=True)
class Drop:
    """The kernel of this node dropped a packet of this very attempt (skb:kfree_skb).

    reason    the kernel's name (enum skb_drop_reason), without the prefix: "NETFILTER_DROP"; None
              before Linux 5.17, or where it is "NOT_SPECIFIED"
    symbol    function that dropped it, from /proc/kallsyms
    netns     where the packet was: its device's namespace, else its socket's
    device    its device's name, None where it had none yet
    flags     TCP flags of the packet; 0 where they were not read
    count     of those since the watching began (Facts.watched_ns)
    """

    direction: Direction
    reason: str | None
    symbol: str | None
    netns: int | None
    device: str | None
    flags: int
    count: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class Handed:
    """A SYN of this attempt was handed to a device's driver, in that namespace.

    `leaves` tells whether the device leads out of this node: true where hardware or a hypervisor is
    behind it (/sys/class/net/DEVICE/device is there), false where another namespace or program of
    this node is (veth, bridge, dummy, tun, loopback), None where nobody looked, and for an overlay
    (vxlan, geneve, ipip, wireguard), whose packets leave in an envelope that is not recognised.
    """

    device: str
    netns: int | None
    count: int
    last_ns: int
    leaves: bool | None = None


@dataclass(frozen=True, slots=True)
class IcmpError:
    """An ICMP error about this attempt's SYN reached its namespace. `family` is 4 or 6.

    `proven` tells whether it quoted the SYN's sequence number, which only who saw that SYN can do;
    false where the attempt's is not known: then whoever guesses its four ends may have sent it.
    `here` tells whether the sender's address is one of this node's; None where nobody looked.
    """

    family: int
    kind: int
    code: int
    sender: str
    count: int
    last_ns: int
    proven: bool = True
    here: bool | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """A RST that ended this attempt reached its socket (tcp:tcp_receive_reset).

    `sender` is whom the packet names, as the socket saw it: after connection tracking has put the
    address that was asked for in place of a backend's.
    """

    sender: Endpoint
    at_ns: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The neighbour entry of the next hop, in the namespace the fact is about. `state` is the
    kernel's word (FAILED, INCOMPLETE, REACHABLE, STALE ...); None: there is no entry. `lladdr` is
    its hardware address, None where none is known.
    """

    address: str
    device: str | None
    state: str | None
    at_ns: int
    lladdr: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """The route of the attempt's destination in a namespace, as the kernel would take it: after
    NAT, where connection tracking of that namespace translates it.

    `kind` is unicast, local, blackhole, unreachable, prohibit, throw; "none": there is none.
    """

    kind: str
    gateway: str | None
    device: str | None
    source: str | None
    at_ns: int


@dataclass(frozen=True, slots=True)
class ConntrackTable:
    """How full a namespace's connection tracking is. `refused` counts packets, of whomever, that it
    dropped for want of room since the attempt was watched; 0 where that is not known. `stopped`
    counts the packets of all watched attempts that netfilter dropped there, for whatever reason;
    None where drops are not watched.
    """

    netns: int | None
    count: int
    maximum: int
    refused: int
    at_ns: int
    stopped: int | None = None


@dataclass(frozen=True, slots=True)
class Listener:
    """The destination lives on this node: its listening socket, in that namespace.

    `listening` is false where the address is there and nothing listens on the port. `queued` and
    `backlog` are the accept queue and its limit; `overflows`, `drops`, `syn_queue_drops` and
    `syn_cookies` what the namespace's ListenOverflows, ListenDrops, TCPReqQFullDrop and
    TCPReqQFullDoCookies grew by since the attempt was watched, whichever listener it was.
    `on_the_way` tells whether the route ends in that namespace: another one of the node may have
    the same address. None where the last device does not tell; where it leads elsewhere there is
    no such fact.
    """

    netns: int
    listening: bool
    queued: int | None
    backlog: int | None
    overflows: int
    drops: int
    at_ns: int
    on_the_way: bool | None = True
    syn_queue_drops: int = 0
    syn_cookies: int = 0


@dataclass(frozen=True, slots=True)
class LocalPorts:
    """Ports of the ephemeral range in use towards the destination, and how many there are."""

    used: int
    available: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class ReversePath:
    """rp_filter of a device on the path: 1 strict, 2 loose (the higher of all and the device's),
    and whether the namespace's route back to the peer leads through that device. `dropped` counts
    the packets, of whomever, that the filter of any device there dropped since the attempt was
    watched (IPReversePathFilter).
    """

    netns: int
    device: str
    mode: int
    symmetric: bool | None
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Peers:
    """Other attempts of this node, since the trace's start. A pod is a namespace where no pod is
    known.

    stuck_here    attempts now stuck to the same destination, this one included
    stuck_pods    pods now stuck to the same destination
    known_pods    pods that were seen to try the same destination: stuck, failed or established
    other_stuck   other destinations this pod is now stuck to
    established   attempts to the same destination that were established after having been stuck or
                  retransmitted, and `established_wall_ns` the last one's time
    since_wall_ns when the first attempt to this destination became stuck that was followed by no
                  established one
    reached_pods  other pods known to have reached the same destination since this pod's trouble
    other_reached other destinations this pod is known to have reached since
    What connects at once is counted in the kernel without its destination: an absence here is
    never a failure, only what was not seen.
    """

    stuck_here: int
    stuck_pods: int
    known_pods: int
    other_stuck: int
    established: int
    established_wall_ns: int | None
    since_wall_ns: int | None
    reached_pods: int = 0
    other_reached: int = 0


class Backend(StrEnum):
    """What the cluster says of the endpoint that connection tracking chose for a service."""

    READY = "ready"
    NOT_READY = "not_ready"
    GONE = "gone"


class PolicyVerdict(StrEnum):
    """What the NetworkPolicies say of a connection."""

    NOT_SELECTED = "not_selected"
    ALLOWED = "allowed"
    DENIED = "denied"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PolicyFinding:
    """NetworkPolicies about this connection: egress of the pod, ingress of the peer if it is a pod.

    `direction` is "egress" or "ingress". `policies` are those that select the pod, as
    NAMESPACE/NAME.
    """

    direction: str
    verdict: PolicyVerdict
    policies: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of one attempt when it is judged, at `now_ns`.

    watched_ns      since when drops and hand-overs of this attempt were watched; None where they
                    are not (`drops` None) or the time is not known
    syns_watched    SYNs sent since then; what a count of drops is held against
    syns_handed     SYNs sent while hand-overs were watched, which they are for some seconds only;
                    None: as many as drops were watched for
    last_syn_ns     when the last SYN was sent
    resets          RSTs that its socket got while it was watched: one at most, for it ends the
                    attempt; None: nobody looked, or it goes on
    route, neighbour            in the attempt's own namespace
    host_route, host_neighbour  the same in the host's, where that is another one: what a pod sends
                                is routed a second time there
    by_mark         policy routing would take another way for packets with some mark (ip-rule(8)),
                    which may be theirs: the route there is not known
    backend         what became of the service's endpoint that NAT chose; None: no NAT, or no
                    service, or its endpoints are not known
    """

    destination: Destination
    asked: Endpoint
    netns: int | None
    now_ns: int
    age_seconds: float | None = None
    syns_sent: int | None = None
    outcome: Outcome | None = None
    errno: int | None = None
    soft_errno: int | None = None
    drops: tuple[Drop, ...] | None = None
    handed: tuple[Handed, ...] | None = None
    icmp: tuple[IcmpError, ...] | None = None
    neighbour: Neighbour | None = None
    route: Route | None = None
    conntrack: tuple[ConntrackTable, ...] = ()
    listener: Listener | None = None
    ports: LocalPorts | None = None
    reverse_paths: tuple[ReversePath, ...] = ()
    policies: tuple[PolicyFinding, ...] = ()
    peers: Peers | None = None
    host_netns: int | None = None
    source: Endpoint | None = None
    watched_ns: int | None = None
    syns_watched: int | None = None
    last_syn_ns: int | None = None
    resets: tuple[Reset, ...] | None = None
    host_route: Route | None = None
    host_neighbour: Neighbour | None = None
    backend: Backend | None = None
    syns_handed: int | None = None
    by_mark: bool = False


def facts_behind(verdict: Verdict | None) -> Facts | None:
    """What a verdict was judged by; None where that is not kept, as in a recording."""
    found = None if verdict is None else verdict.facts
    return found if isinstance(found, Facts) else None
