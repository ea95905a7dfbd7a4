"""What the kernel's drop reasons mean for a handshake, and which are normal and prove nothing.

Names are those of `enum skb_drop_reason` (include/net/dropreason-core.h, Linux 5.17 and later)
without the prefix. A kernel without reasons, or a place that gives none (NOT_SPECIFIED), is read by
the function that freed the packet.

A name or function that is not in the tables is a drop all the same, of which nobody here knows the
meaning: it counts, but never with high confidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from tracer.facts import Direction, Drop
from tracer.text import safe


class Role(Enum):
    """What a drop says of the handshake."""

    BARRIER = "something on this node discards it"
    REVERSE_PATH = "its source address is not expected on the device it came through"
    ROUTE = "this node has no route for it"
    NEIGHBOUR = "nobody answers for the next hop's address"
    LISTENER = "the listening socket has no room"
    NOBODY = "no socket is there for it"
    TCP = "TCP itself took it for no part of a connection"
    UNCLEAR = "dropped, for a reason that says nothing"
    HARMLESS = "a copy, or a packet that was meant to be freed"


@dataclass(frozen=True, slots=True)
class Meaning:
    """How a drop is read.

    what      completes "dropped by ..."
    enforces  whether network policies are enforced by such means: netfilter (Calico, kube-router),
              tc and XDP programs (Cilium, Calico eBPF, Amazon VPC CNI), cgroup programs
    """

    role: Role
    what: str
    enforces: bool = False


def _barrier(what: str, *names: str, enforces: bool = False) -> dict[str, Meaning]:
    return _same(Role.BARRIER, what, *names, enforces=enforces)


def _same(role: Role, what: str, *names: str, enforces: bool = False) -> dict[str, Meaning]:
    return dict.fromkeys(names, Meaning(role, what, enforces))


_QUEUE: Final = "the queueing discipline of the device (tc qdisc)"
_KEYS: Final = "TCP-MD5 or TCP-AO at the listener: keys that are missing or differ"
_BROKEN: Final = "a check of its headers: a wrong checksum or length, or a TTL that ran out"
_TUNNEL: Final = "the tunnel device"
_DRIVER: Final = "the device's driver"
_MARTIAN: Final = "a check of its addresses (a martian: see net.ipv4.conf.*.log_martians)"
_OF_TCP: Final = "TCP, which took it for no part of the connection"
_NEXT_HOP: Final = "neighbour resolution"

REASONS: Final[dict[str, Meaning]] = {
    # Rules and programs: someone's decision.
    **_barrier("a netfilter rule (iptables or nftables)", "NETFILTER_DROP", enforces=True),
    **_barrier("a BPF program of the cgroup on egress", "BPF_CGROUP_EGRESS", enforces=True),
    **_barrier("a tc filter or BPF program on egress", "TC_EGRESS", enforces=True),
    **_barrier("a tc filter or BPF program on ingress", "TC_INGRESS", enforces=True),
    **_barrier("an XDP program", "XDP", enforces=True),
    # tcp_v4_rcv() gives this for a socket's own filter, and for a BPF program of its cgroup and a
    # security module too: all of them run in sk_filter_trim_cap().
    **_barrier(
        "the receiving socket's filter, a BPF program of its cgroup on ingress or a security"
        " module",
        "SOCKET_FILTER",
        enforces=True,
    ),
    **_barrier("a security module (LSM)", "SECURITY_HOOK"),
    **_barrier("an IPsec policy (xfrm)", "XFRM_POLICY"),
    **_barrier("the tun/tap device's filter", "TAP_FILTER", "TAP_TXFILTER"),
    **_barrier("the bridge: the port does not forward (STP)", "BRIDGE_INGRESS_STP_STATE"),
    **_barrier(_KEYS, "TCP_AUTH_HDR", "TCP_MD5NOTFOUND", "TCP_MD5UNEXPECTED", "TCP_MD5FAILURE"),
    **_barrier(_KEYS, "TCP_AONOTFOUND", "TCP_AOUNEXPECTED", "TCP_AOKEYNOTFOUND", "TCP_AOFAILURE"),
    **_barrier("a TTL below what the listener asks for (IP_MINTTL)", "TCP_MINTTL"),
    **_barrier("IPv6, which is disabled on the device", "IPV6DISABLED"),
    **_barrier(_MARTIAN, "IP_LOCAL_SOURCE", "IP_INVALID_SOURCE", "IP_LOCALNET", "IP_INVALID_DEST"),
    **_barrier(_MARTIAN, "UNICAST_IN_L2_MULTICAST", "MAC_INVALID_SOURCE", "LOCAL_MAC"),
    # Queues and devices: no decision, but the packet is gone.
    **_barrier(_QUEUE, "QDISC_DROP", "QDISC_OVERLIMIT", "QDISC_CONGESTED", "CAKE_FLOOD"),
    **_barrier(_QUEUE, "FQ_BAND_LIMIT", "FQ_HORIZON_LIMIT", "FQ_FLOW_LIMIT", "DUALPI2_STEP_DROP"),
    **_barrier(
        "a CPU's full receive queue (net.core.netdev_max_backlog), or its flow limit",
        "CPU_BACKLOG",
    ),
    **_barrier(_DRIVER, "FULL_RING", "DEV_READY", "DEV_HDR", "NO_TX_TARGET"),
    **_barrier("a lack of memory", "NOMEM", "PROTO_MEM", "PFMEMALLOC"),
    **_barrier(_TUNNEL, "VXLAN_INVALID_HDR", "VXLAN_VNI_NOT_FOUND", "VXLAN_ENTRY_EXISTS"),
    **_barrier(_TUNNEL, "IP_TUNNEL_ECN", "TUNNEL_TXINFO", "RECURSION_LIMIT"),
    **_barrier(_BROKEN, "IP_CSUM", "IP_INHDR", "TCP_CSUM", "SKB_CSUM", "PKT_TOO_SMALL"),
    **_barrier(_BROKEN, "HDR_TRUNC", "IPV6_BAD_EXTHDR"),
    # Where it should go, and where it came from.
    **_same(Role.REVERSE_PATH, "the reverse path filter (rp_filter)", "IP_RPFILTER"),
    **_same(Role.ROUTE, "routing: there is no usable route", "IP_OUTNOROUTES", "IP_INNOROUTES"),
    **_same(Role.ROUTE, "routing: its address is not accepted or not reachable", "IP_INADDRERRORS"),
    **_same(Role.NEIGHBOUR, f"{_NEXT_HOP}, which failed", "NEIGH_FAILED", "NEIGH_DEAD"),
    **_same(Role.NEIGHBOUR, f"{_NEXT_HOP}, whose queue is full", "NEIGH_QUEUEFULL"),
    **_same(Role.NEIGHBOUR, f"{_NEXT_HOP}, which has no link address", "NEIGH_HH_FILLFAIL"),
    # No room for one more entry: net.ipv4.neigh.default.gc_thresh3.
    **_same(Role.NEIGHBOUR, f"{_NEXT_HOP}, whose table is full (gc_thresh3)", "NEIGH_CREATEFAIL"),
    # At the peer. A full accept queue mostly frees a SYN without a reason at all: after
    # tcp_conn_request() comes consume_skb(), and only the counters show it.
    **_same(Role.LISTENER, "the listener: its queue is full", "TCP_LISTEN_OVERFLOW"),
    **_same(Role.LISTENER, "the listener: its socket's queue is full", "SOCKET_BACKLOG"),
    **_same(Role.NOBODY, "TCP: no socket is there for it", "NO_SOCKET"),
    # TCP's own housekeeping: duplicates, old and stray packets. Normal beside a retransmission.
    **_same(Role.TCP, _OF_TCP, "TCP_FLAGS", "TCP_INVALID_ACK_SEQUENCE", "TCP_ACK_UNSENT_DATA"),
    **_same(Role.TCP, _OF_TCP, "TCP_RESET", "TCP_INVALID_SYN", "TCP_RFC7323_PAWS"),
    **_same(Role.TCP, _OF_TCP, "TCP_RFC7323_PAWS_ACK", "TCP_RFC7323_TW_PAWS", "TCP_RFC7323_TSECR"),
    **_same(Role.TCP, _OF_TCP, "TCP_INVALID_SEQUENCE", "TCP_INVALID_END_SEQUENCE"),
    **_same(Role.TCP, _OF_TCP, "TCP_OLD_SEQUENCE", "TCP_OLD_ACK", "TCP_TOO_OLD_ACK", "TCP_CLOSE"),
    **_same(Role.TCP, _OF_TCP, "SOCKET_CLOSE", "TCP_FASTOPEN", "TCP_OVERWINDOW", "TCP_ZEROWINDOW"),
    # Copies. A bridge floods a frame for an unknown address to every port, and each host but one
    # frees it (OTHERHOST); a packet socket (tcpdump) gets a clone of everything; purged queues
    # belong to a device or socket that was just closed.
    **_same(Role.HARMLESS, "a host that it was not addressed to", "OTHERHOST"),
    **_same(Role.HARMLESS, "a packet or raw socket's copy", "PACKET_SOCK_ERROR", "SOCKET_RCVBUFF"),
    **_same(Role.HARMLESS, "a device without a protocol for it", "UNHANDLED_PROTO", "IP_NOPROTO"),
    **_same(Role.HARMLESS, "the end of its queue", "QUEUE_PURGE"),
    **_same(Role.HARMLESS, "nobody: it was used up", "CONSUMED", "NOT_DROPPED_YET"),
    **_same(Role.HARMLESS, "TCP: data that it had", "TCP_OLD_DATA", "TCP_OFOMERGE", "TCP_OFO_DROP"),
}

_NETFILTER: Final = REASONS["NETFILTER_DROP"]
_NO_ROUTE: Final = REASONS["IP_OUTNOROUTES"]
_UNRESOLVED: Final = REASONS["NEIGH_FAILED"]
_AT_EGRESS: Final = Meaning(Role.BARRIER, "tc or the queueing discipline of the device", True)
_ROUTING_INPUT: Final = Meaning(
    Role.UNCLEAR, "routing on the way in: no route, or the reverse path filter (rp_filter)"
)
_IN_TCP: Final = Meaning(Role.TCP, "TCP: no socket is there for it, or it fits none")

SYMBOLS: Final[dict[str, Meaning]] = {
    "nf_hook_slow": _NETFILTER,
    "nf_hook_slow_list": _NETFILTER,
    "__cgroup_bpf_run_filter_skb": REASONS["BPF_CGROUP_EGRESS"],
    # Their only way to free a packet is the cgroup's program, BPF_CGROUP_RUN_PROG_INET_EGRESS().
    "ip_finish_output": REASONS["BPF_CGROUP_EGRESS"],
    "ip6_finish_output": REASONS["BPF_CGROUP_EGRESS"],
    "sk_filter_trim_cap": REASONS["SOCKET_FILTER"],
    "__dev_queue_xmit": _AT_EGRESS,
    "__dev_xmit_skb": _AT_EGRESS,
    "sch_handle_egress": REASONS["TC_EGRESS"],
    "sch_handle_ingress": REASONS["TC_INGRESS"],
    "enqueue_to_backlog": REASONS["CPU_BACKLOG"],
    "do_xdp_generic": REASONS["XDP"],
    # veth's own XDP gives no reason.
    "veth_xdp_rcv_skb": REASONS["XDP"],
    # ip_error() ends what the routing table refuses while forwarding: unreachable, prohibit and
    # blackhole routes, and none at all. Of prohibit and blackhole even new kernels give no reason.
    "ip_error": _NO_ROUTE,
    "__ip_queue_xmit": _NO_ROUTE,
    "ip_queue_xmit": _NO_ROUTE,
    "ip6_pkt_drop": _NO_ROUTE,
    "ip6_pkt_discard": _NO_ROUTE,
    "ip6_pkt_discard_out": _NO_ROUTE,
    "ip6_pkt_prohibit": _NO_ROUTE,
    "ip6_pkt_prohibit_out": _NO_ROUTE,
    # What an IPv6 blackhole route does with a packet.
    "dst_discard": _NO_ROUTE,
    "dst_discard_out": _NO_ROUTE,
    "ip_rcv_finish": _ROUTING_INPUT,
    "ip_rcv_finish_core": _ROUTING_INPUT,
    "fib_validate_source": REASONS["IP_RPFILTER"],
    "__fib_validate_source": REASONS["IP_RPFILTER"],
    "arp_error_report": _UNRESOLVED,
    "ndisc_error_report": _UNRESOLVED,
    "neigh_invalidate": _UNRESOLVED,
    "neigh_timer_handler": _UNRESOLVED,
    "__neigh_event_send": _UNRESOLVED,
    "neigh_resolve_output": _UNRESOLVED,
    "tcp_v4_rcv": _IN_TCP,
    "tcp_v6_rcv": _IN_TCP,
    "tcp_v4_do_rcv": _IN_TCP,
    "tcp_v6_do_rcv": _IN_TCP,
    "tcp_rcv_state_process": _IN_TCP,
    "tcp_rcv_synsent_state_process": _IN_TCP,
    "packet_rcv": REASONS["PACKET_SOCK_ERROR"],
    "tpacket_rcv": REASONS["PACKET_SOCK_ERROR"],
    "skb_queue_purge": REASONS["QUEUE_PURGE"],
}

_UNSPECIFIED: Final = frozenset({"NOT_SPECIFIED", "MAX"})

_COPY_FILTERED: Final = Meaning(Role.HARMLESS, "the filter of a socket that gets copies")
_OF_COPIES: Final = ("raw", "packet", "tpacket")
"""How functions begin that hand copies to raw and packet sockets, whose filters reject them with
the same reason as those of TCP sockets."""

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
"""Bits of Drop.flags (RFC 9293, 3.1)."""


def meaning(drop: Drop) -> Meaning:
    """How this drop is to be read."""
    symbol = function(drop.symbol)
    if drop.reason == "SOCKET_FILTER" and symbol is not None and symbol.startswith(_OF_COPIES):
        return _COPY_FILTERED
    if drop.reason is not None and drop.reason not in _UNSPECIFIED:
        return REASONS.get(drop.reason) or Meaning(
            Role.UNCLEAR, f"the kernel, which gives {safe(drop.reason)} as its reason"
        )
    if symbol is None:
        return Meaning(Role.UNCLEAR, "the kernel, which gives no reason")
    return SYMBOLS.get(symbol) or Meaning(Role.UNCLEAR, f"the kernel, in {safe(symbol)}()")


def function(symbol: str | None) -> str | None:
    """The function's own name: without an offset and what the compiler appends (.isra.0)."""
    if symbol is None:
        return None
    return symbol.split("+", 1)[0].split(".", 1)[0] or None


def by_netfilter(drop: Drop) -> bool:
    """Whether a netfilter hook dropped it: a rule, or connection tracking, which looks the same."""
    return drop.reason == "NETFILTER_DROP" or function(drop.symbol) == "nf_hook_slow"


def of_handshake(drop: Drop) -> bool:
    """Whether the packet is one that opens a connection or answers that, and was really dropped.

    What is sent in the SYN's direction without SYN is an ACK or RST of a later moment; with ACK it
    answers somebody else's SYN. Every answer counts: SYN+ACK, RST, and the ACK of a peer that takes
    the tuple for an older connection (RFC 5961). Flags that were not read exclude nothing.
    """
    if drop.count <= 0:
        return False
    if drop.flags == 0:
        return True
    if drop.direction is Direction.SYN:
        return bool(drop.flags & SYN) and not drop.flags & ACK
    return bool(drop.flags & (ACK | RST))
