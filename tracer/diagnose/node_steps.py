"""Steps that look into one namespace of this node, where a fact says which, and what dropped it.

A namespace is entered by one of its processes; where none is known, the first command finds one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tracer.diagnose.commands import Subject, quote
from tracer.diagnose.drops import REASONS, Meaning, Role, meaning, of_handshake
from tracer.diagnose.sight import REFUSING, routes
from tracer.facts import Direction, Drop, Facts
from tracer.finding import Step
from tracer.model import Endpoint


def in_client(subject: Subject, facts: Facts | None) -> str:
    """What runs a command in the client's network namespace; nothing where that is the node's."""
    if facts is not None and facts.netns is not None and facts.netns == facts.host_netns:
        return ""
    if subject.pid is not None:
        return f"nsenter --net=/proc/{subject.pid}/ns/net "
    unknown = subject.pod is None and (facts is None or facts.netns is None)
    return "" if unknown else "nsenter --net=/proc/<pid>/ns/net "


def in_namespace(netns: int | None, subject: Subject, facts: Facts | None) -> str:
    """The same for any namespace that a fact names."""
    if facts is None or netns is None or netns == facts.host_netns:
        return ""
    if netns == facts.netns:
        return in_client(subject, facts)
    return "nsenter --net=/proc/<pid>/ns/net "


def find_process(netns: int | None, subject: Subject, facts: Facts | None) -> tuple[str, ...]:
    """The command that tells which process to enter a namespace by, where that is not known."""
    if netns is None or "<pid>" not in in_namespace(netns, subject, facts):
        return ()
    return (f"lsns -t net -o NS,PID,COMMAND | grep -w {netns}",)


def really_to(subject: Subject, facts: Facts | None) -> Endpoint:
    """Where packets really go: the backend behind a service, where it is known."""
    nat = facts.destination.nat if facts is not None else None
    return nat.destination if nat is not None else subject.destination


def port_of(where: Endpoint) -> str:
    return "<port>" if where.port is None else str(where.port)


def device_name(name: str | None) -> str:
    return "<device>" if name is None else quote(name)


def lost(facts: Facts | None, direction: Direction) -> Drop | None:
    """The drop to look into: of a barrier before others, the most frequent."""
    found = [
        drop
        for drop in (facts.drops if facts is not None else None) or ()
        if drop.direction is direction
        and of_handshake(drop)
        and meaning(drop).role is not Role.HARMLESS
    ]
    return max(
        found,
        key=lambda drop: (meaning(drop).role is Role.BARRIER, drop.count, drop.last_ns),
        default=None,
    )


def v6(where: Endpoint) -> bool:
    return ":" in where.address


def bracketed(address: str) -> str:
    """As ss wants it: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def netfilter_rules(subject: Subject, facts: Facts | None, drop: Drop | None) -> Step:
    netns = drop.netns if drop is not None else None
    prefix = in_namespace(netns, subject, facts)
    save = "ip6tables-save" if v6(subject.destination) else "iptables-save"
    return Step(
        "Which netfilter rule drops it?",
        "Run it twice: the rule whose counter rises with every SYN is the one. nft shows counters"
        " only where a rule has one.",
        (
            *find_process(netns, subject, facts),
            f"{prefix}{save} -c | grep -E -e '-j (DROP|REJECT)' -e ':[A-Z]+ DROP'",
            f"{prefix}nft list ruleset",
        ),
    )


def _programs(subject: Subject, facts: Facts | None, drop: Drop | None) -> Step:
    netns, device = (drop.netns, drop.device) if drop is not None else (None, None)
    prefix, name = in_namespace(netns, subject, facts), device_name(device)
    return Step(
        "Which tc or BPF program drops it?",
        "Network plugins (Cilium, Calico, Amazon VPC CNI) enforce policies in programs on the pod's"
        " device; their own tools say which policy it was.",
        (
            *find_process(netns, subject, facts),
            f"{prefix}bpftool net show dev {name}",
            f"{prefix}tc -s filter show dev {name} egress",
            f"{prefix}tc -s filter show dev {name} ingress",
        ),
    )


def _cgroup_programs(subject: Subject, facts: Facts | None, drop: Drop | None) -> Step:
    del facts, drop
    process = "<pid>" if subject.pid is None else str(subject.pid)
    return Step(
        "Which program is attached to its cgroup?",
        "A program of type cgroup_skb, on its cgroup or one above, decides over every packet.",
        (f"cat /proc/{process}/cgroup", "bpftool cgroup tree"),
    )


def _queue(subject: Subject, facts: Facts | None, drop: Drop | None) -> Step:
    netns, device = (drop.netns, drop.device) if drop is not None else (None, None)
    prefix, name = in_namespace(netns, subject, facts), device_name(device)
    return Step(
        "Does the device's queue drop?",
        "The qdisc's and the device's own counters of drops rise where it does; a limit or a netem"
        " shows in the first.",
        (
            *find_process(netns, subject, facts),
            f"{prefix}tc -s qdisc show dev {name}",
            f"{prefix}ip -s -s link show dev {name}",
        ),
    )


def _security_module(subject: Subject, facts: Facts | None, drop: Drop | None) -> Step:
    del subject, facts, drop
    return Step(
        "Which security module denies it?",
        "SELinux and AppArmor log what they deny.",
        (
            "ausearch -m AVC -ts recent",
            "journalctl -k --since '10 minutes ago' | grep -iE 'avc|apparmor|audit'",
        ),
    )


def source_check(subject: Subject, facts: Facts | None, drop: Drop | None) -> Step:
    """rp_filter and martians: what the kernel thinks of a packet's source address."""
    netns, device = (drop.netns, drop.device) if drop is not None else (None, None)
    if drop is None and facts is not None:
        strict = [path for path in facts.reverse_paths if path.mode == 1]
        if strict:
            netns, device = strict[0].netns, strict[0].device
    prefix, where = in_namespace(netns, subject, facts), really_to(subject, facts)
    source = "<pod-ip>" if subject.source_address is None else quote(subject.source_address)
    came_from = source if drop is not None and drop.direction is Direction.SYN else None
    back = came_from or quote(where.address)
    return Step(
        "Does the way back lead through the device it came in by?",
        "rp_filter 1 drops what comes in by another device than the way back to it leads out; the"
        " higher of the device's value and that of `all` counts.",
        (
            *find_process(netns, subject, facts),
            f"{prefix}sysctl -a 2>/dev/null | grep -E 'ipv4\\.conf\\..*\\.rp_filter'",
            f"{prefix}ip route get {back}",
            f"{prefix}nstat -az TcpExtIPReversePathFilter"
            if device is None
            else f"{prefix}ip -s link show dev {quote(device)}",
        ),
    )


def routing(subject: Subject, facts: Facts | None, drop: Drop | None) -> Step:
    netns = drop.netns if drop is not None else None
    if drop is None and facts is not None:
        refusing = [netns for route, netns in routes(facts) if route.kind in REFUSING]
        netns = refusing[0] if refusing else facts.netns
    prefix, where = in_namespace(netns, subject, facts), really_to(subject, facts)
    family = "-6 " if v6(where) else ""
    return Step(
        "Which route does it take?",
        "A route of type blackhole, unreachable or prohibit refuses on purpose; a rule may lead to"
        " another table by source, device or mark (then add `mark M`, as netfilter sets it); what"
        " is not forwarded has no route either.",
        (
            *find_process(netns, subject, facts),
            f"{prefix}ip route get {quote(where.address)}{_forwarded(netns, subject, facts)}",
            f"{prefix}ip {family}rule show",
            (
                f"{prefix}ip {family}route show table all | "
                "grep -E '^(blackhole|unreachable|prohibit|throw|default)'"
            ),
            f"{prefix}sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding",
        ),
    )


def _forwarded(netns: int | None, subject: Subject, facts: Facts | None) -> str:
    """What makes `ip route get` look a route up as for a packet that comes from the pod: rules go
    by its source and the device it came by. Nothing where the look-up is the sender's own.
    """
    forwarded = facts is not None and netns is not None and netns != facts.netns
    if not forwarded:
        return ""
    source = "<pod-ip>" if subject.source_address is None else quote(subject.source_address)
    device = f"$(ip -o route get {source} | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p')"
    return f' from {source} iif "{device}"'


def _any_drop(subject: Subject, facts: Facts | None, drop: Drop | None) -> Step:
    del subject, facts, drop
    return Step(
        "Where does the kernel drop it?",
        "The function that frees the packet tells which part of the network stack it was.",
        (
            "perf trace -a -e skb:kfree_skb --call-graph fp -- sleep 10",
            "nstat -az | grep -iE 'drop|discard|noroute'",
        ),
    )


_StepOfDrop = Callable[[Subject, Facts | None, Drop | None], Step]

BY_MEANING: Final[dict[Meaning, _StepOfDrop]] = {
    REASONS["NETFILTER_DROP"]: netfilter_rules,
    REASONS["TC_EGRESS"]: _programs,
    REASONS["TC_INGRESS"]: _programs,
    REASONS["XDP"]: _programs,
    REASONS["BPF_CGROUP_EGRESS"]: _cgroup_programs,
    REASONS["SOCKET_FILTER"]: _cgroup_programs,
    REASONS["QDISC_DROP"]: _queue,
    REASONS["FULL_RING"]: _queue,
    REASONS["SECURITY_HOOK"]: _security_module,
    REASONS["IP_RPFILTER"]: source_check,
    REASONS["IP_LOCAL_SOURCE"]: source_check,
    REASONS["IP_OUTNOROUTES"]: routing,
    REASONS["IP_INADDRERRORS"]: routing,
}


def into(subject: Subject, facts: Facts | None, direction: Direction) -> Step:
    drop = lost(facts, direction)
    if drop is not None:
        return BY_MEANING.get(meaning(drop), _any_drop)(subject, facts, drop)
    if facts is not None and any(route.kind in REFUSING for route, _ in routes(facts)):
        return routing(subject, facts, None)
    return netfilter_rules(subject, facts, None)


def conntrack_entry(subject: Subject, facts: Facts | None) -> Step:
    family = " -f ipv6" if v6(subject.destination) else ""
    where = subject.destination
    prefix = in_client(subject, facts)
    commands = [f"conntrack -L{family} -p tcp -d {quote(where.address)} --dport {port_of(where)}"]
    if prefix:
        commands.append(f"{prefix}{commands[0]}")
    return Step(
        "What does connection tracking know of it?",
        "No entry: a rule drops the SYN before it is confirmed. [UNREPLIED]: it passed, and no"
        " answer came. A rule for state INVALID drops answers that fit no entry.",
        tuple(commands),
    )
