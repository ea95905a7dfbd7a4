"""How facts are worded as evidence. One fact, one piece of evidence, wherever it is used.

Every name from outside passes through `safe` here. What lies on another host is never claimed to be
known: "nothing came back" is what this node saw.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final

from tracer.diagnose.drops import RST, Meaning, Role, function, meaning, of_handshake
from tracer.diagnose.icmp import IcmpMeaning
from tracer.facts import (
    Backend,
    ConntrackTable,
    Direction,
    Drop,
    Facts,
    Handed,
    IcmpError,
    Listener,
    LocalPorts,
    Neighbour,
    Peers,
    PolicyFinding,
    PolicyVerdict,
    Reset,
    ReversePath,
    Route,
)
from tracer.model import NANOSECONDS, Confidence, Endpoint, Evidence, Kind, Outcome, errno_name
from tracer.text import safe

_NAMED: Final = 3
"""Policies that are named in one sentence."""

_ROUTES: Final = {
    "none": "there is no route",
    "throw": "there is no route (throw)",
    "blackhole": "a blackhole route discards it",
    "unreachable": "the route is of type unreachable, or packets are not forwarded there",
    "prohibit": "the route is of type prohibit",
}


# --- words -------------------------------------------------------------------------------------


def endpoint(where: Endpoint) -> str:
    address = safe(where.address)
    shown = f"[{address}]" if ":" in address else address
    return shown if where.port is None else f"{shown}:{where.port}"


def target(facts: Facts) -> str:
    """What was asked for, by name where it is certain: "10.96.0.10:5432 (service shop/db:5432)"."""
    asked, known = endpoint(facts.asked), facts.destination
    if known.name is None or known.ambiguous:
        return asked
    kind = "" if known.kind is Kind.ADDRESS else f"{known.kind} "
    return f"{asked} ({kind}{safe(known.name)})"


def peer(facts: Facts) -> str:
    """Who should have answered: behind a service that is the backend that NAT chose."""
    backend = translated(facts)
    return target(facts) if backend is None else f"{endpoint(backend)}, behind {target(facts)},"


def translated(facts: Facts) -> Endpoint | None:
    """Where NAT sends the attempt; None where there is none, or it changes nothing."""
    nat = facts.destination.nat
    return None if nat is None or nat.destination == facts.asked else nat.destination


def times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def syns(count: int | None) -> str:
    if count is None:
        return "SYNs"
    return f"{count} SYN" if count == 1 else f"{count} SYNs"


def seconds(value: float) -> str:
    return f"{value:.1f} s"


def hedge(confidence: Confidence) -> str:
    """What a sentence says before what is not sure, with a blank after it; nothing where it is."""
    return {
        Confidence.HIGH: "",
        Confidence.MEDIUM: "probably ",
        Confidence.LOW: "possibly ",
    }[confidence]


def plural(count: int, word: str, words: str | None = None) -> str:
    return f"{count} {word if count == 1 else words or f'{word}s'}"


def listed(names: Iterable[str]) -> str:
    """Up to three of them by name: "a, b, c and 4 more"."""
    found = [safe(name) for name in names]
    more = len(found) - _NAMED
    return ", ".join(found[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def error(number: int) -> str:
    return errno_name(number) or f"errno {number}"


def namespace(netns: int | None, facts: Facts) -> str:
    """Whose network namespace that is, told from the client's side."""
    if netns is None:
        return "on this node"
    if netns == facts.netns:
        same = netns == facts.host_netns
        return f"in the {'node' if same else 'client'}'s own network namespace"
    if netns == facts.host_netns:
        return "in the node's network namespace"
    if facts.listener is not None and netns == facts.listener.netns:
        return "in the peer's network namespace, on this node"
    return f"in another network namespace of this node ({netns})"


def place(drop: Drop, facts: Facts) -> str:
    """Where a packet was dropped: "in the node's network namespace, at vethabc"."""
    where = namespace(drop.netns, facts)
    if drop.device is not None:
        return f"{where}, at {safe(drop.device)}"
    leaving = drop.direction is Direction.SYN and drop.netns == facts.netns is not None
    return f"{where}, before it had a device" if leaving else where


def label(drop: Drop) -> str:
    """What the kernel calls it: NETFILTER_DROP, else the function's name."""
    name = drop.reason or function(drop.symbol)
    return safe(name) if name else "no reason given"


def packet(drop: Drop) -> str:
    if drop.direction is Direction.SYN:
        return "the SYN"
    return "the peer's RST" if drop.flags & RST else "the peer's answer"


# --- evidence, one per fact ----------------------------------------------------------------------


def of_drop(drop: Drop, facts: Facts, *, read: Meaning | None = None) -> Evidence:
    read = read or meaning(drop)
    span = max(0, drop.last_ns - drop.first_ns) / NANOSECONDS
    within = f" within {seconds(span)}" if drop.count > 1 and span >= 0.05 else ""
    normal = ", which is normal" if read.role is Role.HARMLESS else ""
    return Evidence(
        "drop",
        f"{packet(drop)} was dropped {times(drop.count)}{within} by {read.what} ({label(drop)}),"
        f" {place(drop, facts)}{normal}",
        drop.last_ns,
    )


def of_handed(handed: Handed, facts: Facts) -> Evidence:
    leads = {True: ", which leads out of this node", None: "", False: ", which stays on this node"}
    return Evidence(
        "handed",
        f"the SYN was handed to {safe(handed.device)} {times(handed.count)},"
        f" {namespace(handed.netns, facts)}{leads[handed.leaves]}",
        handed.last_ns,
    )


def protocol(received: IcmpError) -> str:
    return "ICMPv6" if received.family == 6 else "ICMP"


def of_icmp(received: IcmpError, read: IcmpMeaning, facts: Facts) -> Evidence:
    own = facts.source is not None and received.sender == facts.source.address
    by = "its own namespace" if own else safe(received.sender)
    return Evidence(
        "icmp",
        f"{protocol(received)} type {received.kind} code {received.code} ({read.what}) came from"
        f" {by} {times(received.count)}",
        received.last_ns,
    )


def of_reset(reset: Reset, facts: Facts) -> Evidence:
    backend = translated(facts)
    behind = "" if backend is None else f", behind which is {endpoint(backend)}"
    return Evidence(
        "rst",
        f"a RST from {endpoint(reset.sender)}{behind} reached its socket and ended the attempt",
        reset.at_ns,
    )


def of_neighbour(neighbour: Neighbour, where: str) -> Evidence:
    state = "there is no neighbour entry" if neighbour.state is None else safe(neighbour.state)
    on = f" on {safe(neighbour.device)}" if neighbour.device else ""
    return Evidence(
        "neighbour",
        f"next hop {safe(neighbour.address)}{on}, {where}: {state}",
        neighbour.at_ns,
    )


def of_route(route: Route, where: str) -> Evidence:
    told = _ROUTES.get(route.kind)
    if told is None:
        via = f" via {safe(route.gateway)}" if route.gateway else ""
        on = f" on {safe(route.device)}" if route.device else ""
        told = f"the route is of type {safe(route.kind)}{via}{on}"
    return Evidence("route", f"{where}: {told}", route.at_ns)


def of_marks() -> Evidence:
    return Evidence(
        "route",
        "policy routing sends packets with some mark another way: which route its SYN takes is not"
        " known",
    )


def of_conntrack(table: ConntrackTable, facts: Facts) -> Evidence:
    refused = f", {table.refused} refused since it is watched" if table.refused else ""
    return Evidence(
        "conntrack",
        f"connection tracking holds {table.count} of {table.maximum} entries"
        f" {namespace(table.netns, facts)}{refused}",
        table.at_ns,
    )


def of_nat(facts: Facts) -> Evidence | None:
    nat = facts.destination.nat
    if nat is None:
        return None
    to = translated(facts)
    leads = "has an entry for it" if to is None else f"sends it to {endpoint(to)}"
    state = f" in state {safe(nat.state)}" if nat.state else ""
    came = "an answer was seen" if nat.replied else "no answer was seen"
    return Evidence("nat", f"connection tracking {leads}{state}; {came}")


def of_backend(facts: Facts) -> Evidence | None:
    to = translated(facts)
    if to is None or facts.backend is None:
        return None
    told = {
        Backend.READY: "is a ready endpoint of the service",
        Backend.NOT_READY: "is an endpoint of the service, and not ready",
        Backend.GONE: "is no endpoint of the service any more",
    }
    return Evidence("backend", f"{endpoint(to)} {told[facts.backend]}")


def of_service(facts: Facts) -> Evidence | None:
    endpoints = facts.destination.endpoints
    if endpoints is None or facts.destination.kind is not Kind.SERVICE:
        return None
    name = safe(facts.destination.name or facts.asked.address)
    count = plural(endpoints.total, "endpoint")
    return Evidence("service", f"service {name} has {count}, {endpoints.ready} of them ready")


def of_listener(listener: Listener, facts: Facts) -> Evidence:
    where = namespace(listener.netns, facts)
    if not listener.listening:
        return Evidence("listener", f"nothing listens on that port {where}", listener.at_ns)
    queue = ""
    if listener.queued is not None and listener.backlog is not None:
        queue = f", accept queue {listener.queued} of {listener.backlog}"
    grown = f", {listener.overflows} overflows and {listener.drops} drops since it is watched"
    if listener.syn_queue_drops:
        grown += f", {listener.syn_queue_drops} of them by a full SYN queue"
    if listener.syn_cookies:
        grown += f", {plural(listener.syn_cookies, 'SYN')} answered with a cookie"
    return Evidence("listener", f"the listener {where}{queue}{grown}", listener.at_ns)


def of_ports(ports: LocalPorts) -> Evidence:
    return Evidence(
        "ports",
        f"{ports.used} of {ports.available} local ports are in use towards the destination",
        ports.at_ns,
    )


def of_reverse_path(path: ReversePath, facts: Facts) -> Evidence:
    mode = {0: "off", 1: "strict", 2: "loose"}.get(path.mode, str(path.mode))
    leads = {
        True: "the way back to the peer leads through it",
        False: "the way back to the peer does not lead through it",
        None: "where the way back to the peer leads is not known",
    }[path.symmetric]
    return Evidence(
        "rp_filter",
        f"rp_filter of {safe(path.device)} is {mode} {namespace(path.netns, facts)}; {leads}"
        + (
            f"; it dropped {plural(path.dropped, 'packet')} there meanwhile" if path.dropped else ""
        ),
    )


def of_policy(finding: PolicyFinding) -> Evidence:
    by = f" by {listed(finding.policies)}" if finding.policies else ""
    told = {
        PolicyVerdict.NOT_SELECTED: f"no NetworkPolicy selects the pod for {finding.direction}",
        PolicyVerdict.ALLOWED: f"NetworkPolicies allow its {finding.direction}{by}",
        PolicyVerdict.DENIED: f"NetworkPolicies deny its {finding.direction}{by}",
        PolicyVerdict.UNKNOWN: f"what NetworkPolicies say of its {finding.direction} is not known",
    }[finding.verdict]
    return Evidence("policy", f"{told}: {safe(finding.reason)}" if finding.reason else told)


def of_peers(peers: Peers) -> Evidence | None:
    """What others of this node meet at the same destination; None where there is no other."""
    parts = []
    if peers.stuck_pods > 1:
        parts.append(f"{peers.stuck_pods} pods of this node are stuck to the same destination")
    if peers.reached_pods:
        parts.append(f"{plural(peers.reached_pods, 'other pod')} of this node reached it since")
    if peers.other_stuck:
        parts.append(f"the same pod is stuck to {plural(peers.other_stuck, 'other destination')}")
    if not parts:
        return None
    return Evidence("peers", "; ".join(parts))


def of_attempt(facts: Facts) -> Evidence | None:
    """How long it tried, and how it ended where it did."""
    tried = None if facts.syns_sent is None else f"{syns(facts.syns_sent)} sent"
    age = None if facts.age_seconds is None else f"{seconds(facts.age_seconds)} in SYN_SENT"
    ended = _ended(facts)
    parts = [part for part in (tried, age, ended) if part]
    if not parts:
        return None
    return Evidence("attempt", ", ".join(parts), facts.last_syn_ns)


def _ended(facts: Facts) -> str | None:
    if facts.outcome is None:
        soft = facts.soft_errno
        return f"soft error {error(soft)}" if soft else None
    told = {
        Outcome.ESTABLISHED: "then connected",
        Outcome.REFUSED: "then refused",
        Outcome.UNREACHABLE: "then unreachable",
        Outcome.TIMED_OUT: "then timed out",
        Outcome.ABORTED: "then closed by its own side",
        Outcome.LOCAL_ERROR: "then failed on this host",
        Outcome.VANISHED: "then gone, its end not seen",
    }[facts.outcome]
    if facts.errno and facts.errno != errno.ETIMEDOUT:
        told += f" ({error(facts.errno)})"
    return told


def of_watch(facts: Facts) -> Evidence | None:
    """That drops were looked for, which makes their absence a fact; None where they were not."""
    if facts.drops is None:
        return None
    during = f" while {syns(facts.syns_watched)} went out" if facts.syns_watched else ""
    if any(of_handshake(one) and meaning(one).role is not Role.HARMLESS for one in facts.drops):
        return None
    return Evidence(
        "watch", f"no drop of its packets was seen on this node{during}", facts.watched_ns
    )
