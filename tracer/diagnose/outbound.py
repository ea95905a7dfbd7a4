"""Rules about a SYN that dies on this node, on its way out or at a listener that lives here.

Each rule takes facts and returns its verdict, the deciding evidence first, or None where the facts
do not bear it out. A rule looks only at what decides it; which verdict wins is up to `rules.judge`.
"""

from __future__ import annotations

import errno
from typing import Final

from tracer.diagnose import wording as say
from tracer.diagnose.drops import REASONS, Role, by_netfilter
from tracer.diagnose.sight import (
    ENOUGH,
    REFUSING,
    Death,
    astray,
    came_back,
    confidence_of_death,
    deaths,
    dies_here,
    from_elsewhere,
    from_this_node,
    icmp_errors,
    keeps_pace,
    left,
    lives_here,
    neighbours,
    outlived,
    routes,
    sent_while_watched,
    silent,
    weaker,
)
from tracer.facts import ConntrackTable, Direction, Facts, IcmpError, Route
from tracer.model import Cause, Confidence, Evidence, Outcome, Verdict
from tracer.text import safe

HIGH, MEDIUM, LOW = Confidence.HIGH, Confidence.MEDIUM, Confidence.LOW

_ANSWERED: Final = frozenset({Outcome.REFUSED})
"""Outcomes that only an answer has: drops on this node then stopped earlier packets at most."""

_NEARLY: Final = 0.95
"""A table or range is full beyond this part: it is looked at a moment after it refused."""


def port_exhaustion(facts: Facts) -> Verdict | None:
    """No local port was free, so no SYN could be sent.

    connect() fails with EADDRNOTAVAIL then (inet_hash_connect), which the socket itself may not
    keep: without it the fullness of the range decides, and without either there are other reasons
    for an attempt that sent nothing.
    """
    ports = facts.ports
    nearly = ports is not None and ports.available > 0 and ports.used >= _NEARLY * ports.available
    full = nearly and ports is not None and ports.used >= ports.available
    evidence = [] if ports is None else [say.of_ports(ports)]
    if facts.errno == errno.EADDRNOTAVAIL:
        told = Evidence("errno", "connect() failed with EADDRNOTAVAIL")
        # Ports that are free again a moment later are no contradiction, and no confirmation.
        confidence = HIGH if nearly or ports is None else MEDIUM
        evidence.insert(0, told)
    elif facts.outcome is Outcome.LOCAL_ERROR and not facts.errno and nearly:
        confidence = HIGH if full else MEDIUM
    else:
        return None
    used = "" if ports is None else f": {ports.used} of {ports.available} are in use"
    return Verdict(
        Cause.PORT_EXHAUSTION,
        confidence,
        f"No SYN was sent to {say.target(facts)}: no local port was free towards it{used}.",
        tuple(evidence),
    )


def conntrack_full(facts: Facts) -> Verdict | None:
    """The connection tracking table is full, and packets that need a new entry are dropped.

    Such a drop is netfilter's (NETFILTER_DROP), like a rule's: only the table in the same namespace
    tells them apart, by being full and by having refused entries meanwhile. With one of the two it
    is likely; an entry of this very attempt shows that some table took it. Without a drop of its
    own it is likely where nobody could watch, and not the cause where somebody did: a full table
    goes on serving by evicting entries that saw no answer.
    """
    tables = [table for table in facts.conntrack if _full(table) or table.refused > 0]
    if not tables or facts.outcome in _ANSWERED:
        return None
    for table in tables:
        death = _stopped_by(facts, table)
        if death is None:
            continue
        stopped = max(death.count, table.stopped or 0)
        sure = _full(table) and table.refused >= stopped and facts.destination.nat is None
        return _conntrack_verdict(
            facts, table, HIGH if sure else MEDIUM, say.of_drop(death.drop, facts)
        )
    if facts.drops is not None or facts.destination.nat is not None or not silent(facts):
        return None
    refusing = [table for table in tables if _full(table) and table.refused > 0]
    return _conntrack_verdict(facts, refusing[0], MEDIUM) if refusing else None


def _full(table: ConntrackTable) -> bool:
    """Below its maximum it takes entries: then only having refused some shows that it was full."""
    if table.maximum <= 0:
        return False
    nearly = table.refused > 0 and table.count >= _NEARLY * table.maximum
    return nearly or table.count >= table.maximum


def _stopped_by(facts: Facts, table: ConntrackTable) -> Death | None:
    """The netfilter drops of its packets in the table's namespace, where they keep pace."""
    for direction in Direction:
        for death in deaths(facts, direction, Role.BARRIER):
            if not by_netfilter(death.drop) or outlived(death, facts):
                continue
            same = table.netns is None or death.drop.netns in {None, table.netns}
            if same and keeps_pace(death.count, death.last_ns, facts):
                return death
    return None


def _conntrack_verdict(
    facts: Facts, table: ConntrackTable, confidence: Confidence, *evidence: Evidence
) -> Verdict:
    return Verdict(
        Cause.CONNTRACK_FULL,
        confidence,
        f"The SYN to {say.target(facts)} is {say.hedge(confidence)}dropped because connection"
        " tracking is full"
        f" {say.namespace(table.netns, facts)}: {table.count} of {table.maximum} entries.",
        (say.of_conntrack(table, facts), *evidence),
    )


def listener_overloaded(facts: Facts) -> Verdict | None:
    """The destination lives on this node, and its listening socket has no room for one more.

    A full accept queue drops a SYN without a reason that skb:kfree_skb could tell
    (tcp_conn_request() consumes it), so the queue's length and the namespace's ListenOverflows are
    the evidence. The counters are the namespace's, of all its listeners: alone they are worth less.
    Nothing of it holds where the SYN is dropped before it gets there, or was refused.
    """
    if facts.outcome in _ANSWERED:
        return None
    for death in deaths(facts, Direction.SYN, Role.LISTENER):
        confidence = confidence_of_death(death, facts)
        if confidence is not None:
            return _listener_verdict(facts, confidence, say.of_drop(death.drop, facts))
    listener = facts.listener
    if listener is None or not listener.listening or dies_here(facts) or not silent(facts):
        return None
    if not lives_here(facts):
        return None
    if _queue_full(facts):
        confidence = HIGH if listener.overflows > 0 else MEDIUM
    elif listener.overflows > 0 or listener.syn_queue_drops > 0:
        confidence = MEDIUM
    elif listener.drops > 0:
        # Dropped for want of something at a listener of that namespace, whichever.
        confidence = MEDIUM if listener.drops >= max(ENOUGH, sent_while_watched(facts)) else LOW
    else:
        return None
    if listener.on_the_way is None:
        # The address may be this namespace's for itself alone, and another's beyond.
        confidence = weaker(confidence, MEDIUM)
    return _listener_verdict(facts, confidence)


def _queue_full(facts: Facts) -> bool:
    """As sk_acceptq_is_full() has it: more are waiting than the limit, not as many."""
    listener = facts.listener
    return (
        listener is not None
        and listener.queued is not None
        and listener.backlog is not None
        and listener.queued > listener.backlog
    )


def _listener_verdict(facts: Facts, confidence: Confidence, *drops: Evidence) -> Verdict:
    listener = facts.listener
    known = () if listener is None else (say.of_listener(listener, facts),)
    queue = ""
    why = "the application does not accept them fast enough"
    if listener is not None and _queue_full(facts):
        queue = f" ({listener.queued} wait where {listener.backlog} may)"
    elif listener is not None and not listener.overflows and not drops:
        # The queue of accepted connections has room: it is the one before it, of handshakes.
        why = (
            "it drops SYNs while its accept queue has room, as a SYN queue does that is full of"
            " handshakes nobody finishes (net.ipv4.tcp_max_syn_backlog, tcp_syncookies)"
        )
    return Verdict(
        Cause.LISTENER_OVERLOADED,
        confidence,
        f"The listener of {say.peer(facts)} on this node {say.hedge(confidence)}takes no more"
        f" connections{queue}: {why}.",
        (*drops, *known),
    )


def no_route(facts: Facts) -> Verdict | None:
    """This node has no route for the SYN: none, or one of type blackhole, unreachable, prohibit.

    The kernel's own routing drops it (IP_OUTNOROUTES, IP_INNOROUTES, ip_error()), and for most of
    these sends an ICMP error, which then is this node's and no router's: a router's shows that the
    SYN got there. A look at the route alone may miss what chose another one (a mark, a program), so
    that without a drop or an error it is likely only, and a guess where drops were watched and none
    was routing's.
    """
    if facts.outcome in _ANSWERED:
        return None
    refusing = [(route, netns) for route, netns in routes(facts) if route.kind in REFUSING]
    evidence = [say.of_route(route, say.namespace(netns, facts)) for route, netns in refusing]
    for death in deaths(facts, Direction.SYN, Role.ROUTE):
        confidence = confidence_of_death(death, facts)
        if confidence is None:
            continue
        return _route_verdict(
            facts,
            confidence,
            say.place(death.drop, facts),
            refusing[0][0] if refusing else None,
            (say.of_drop(death.drop, facts), *evidence),
        )
    if not refusing or left(facts) is not None or dies_here(facts) or from_elsewhere(facts):
        return None
    evidence += [
        say.of_icmp(received, read, facts)
        for received, read in icmp_errors(facts)
        if _of_routing(received) and from_this_node(received, facts)
    ]
    told = len(evidence) > len(refusing) and sent_while_watched(facts) <= 1
    # An error that nobody here is known to have sent may be a router's.
    ended = facts.outcome in {Outcome.UNREACHABLE, Outcome.LOCAL_ERROR} and (
        len(evidence) > len(refusing) or not icmp_errors(facts)
    )
    if told or ended:
        confidence = HIGH
    elif facts.drops is not None and sent_while_watched(facts) > 0:
        confidence = LOW
    else:
        confidence = MEDIUM
    route, netns = refusing[0]
    return _route_verdict(facts, confidence, say.namespace(netns, facts), route, tuple(evidence))


def _of_routing(received: IcmpError) -> bool:
    """Whether the kernel sends this for a route that refuses (ip_error(), ip6_pkt_drop())."""
    return (received.family, received.kind, received.code) in SENT_BY_ROUTING


SENT_BY_ROUTING: Final = frozenset(
    {(4, 3, 0), (4, 3, 1), (4, 3, 13), (6, 1, 0), (6, 1, 1), (6, 1, 3)}
)
_SENT_BY_NEIGHBOURS: Final = frozenset({(4, 3, 1), (6, 1, 3)})
"""Family, type and code of ICMP errors."""


def _route_verdict(
    facts: Facts,
    confidence: Confidence,
    where: str,
    route: Route | None,
    evidence: tuple[Evidence, ...],
) -> Verdict:
    kind = "" if route is None or route.kind == "none" else f" (it is of type {safe(route.kind)})"
    return Verdict(
        Cause.DROPPED_HERE,
        confidence,
        f"The SYN to {say.target(facts)} {say.hedge(confidence)}never leaves this node: there is no"
        f" usable route to it{kind} {where}.",
        evidence,
    )


def no_neighbour(facts: Facts) -> Verdict | None:
    """Nobody answers ARP or neighbour discovery for the next hop, so that no SYN can be sent to it.

    The packets that wait for an answer are dropped as NEIGH_FAILED, and the kernel reports host
    unreachable to its own socket. An entry in state FAILED says the same where drops could not be
    watched; INCOMPLETE is a question still asked. Neither counts where a SYN was handed to that
    device: then there was an answer.
    """
    if facts.outcome in _ANSWERED:
        return None
    unresolved = [
        (hop, netns)
        for hop, netns in neighbours(facts)
        if hop.state in {"FAILED", "INCOMPLETE"}
        and not any(
            one.device == hop.device and one.netns == netns and one.count > 0
            for one in facts.handed or ()
        )
    ]
    entries = [say.of_neighbour(hop, say.namespace(netns, facts)) for hop, netns in unresolved]
    hop = unresolved[0][0] if unresolved else None
    name = "its next hop" if hop is None else f"its next hop {safe(hop.address)}"
    on = "" if hop is None or hop.device is None else f" on {safe(hop.device)}"
    for death in deaths(facts, Direction.SYN, Role.NEIGHBOUR):
        confidence = confidence_of_death(death, facts)
        if confidence is None:
            continue
        # A full queue only says that the answer is still waited for.
        if death.drop.reason == "NEIGH_QUEUEFULL" and hop is None:
            confidence = weaker(confidence, MEDIUM)
        device = on or (f" on {safe(death.drop.device)}" if death.drop.device else "")
        evidence = (say.of_drop(death.drop, facts), *entries)
        no_room = death.drop.reason == "NEIGH_CREATEFAIL"
        trouble = "has no room in the neighbour table (gc_thresh3)" if no_room else None
        return _neighbour_verdict(facts, confidence, f"{name}{device}", evidence, trouble)
    own_error = _host_unreachable(facts, by_anyone=hop is not None)
    if (hop is None and own_error is None) or dies_here(facts) or left(facts) is not None:
        return None
    failed = hop is not None and hop.state == "FAILED"
    # While the question is asked (3 s by default) packets wait; their drop would follow a failure.
    undropped = facts.drops is not None and sent_while_watched(facts) > 0
    borne_out = facts.outcome is Outcome.UNREACHABLE or not undropped
    sure = hop is not None and (own_error is not None or (failed and borne_out))
    confidence = HIGH if sure else MEDIUM
    evidence = (*entries, *(() if own_error is None else (own_error,)))
    return _neighbour_verdict(facts, confidence, f"{name}{on}", evidence)


def _host_unreachable(facts: Facts, *, by_anyone: bool) -> Evidence | None:
    """ICMP host unreachable: the kernel's word for a next hop that did not answer
    (arp_error_report(), ndisc_error_report()).

    From the client's own address that is all it can mean. Whoever seems to have sent it (NAT may
    have replaced the address), it is about a hop of this node's where one does not answer.
    """
    for received, read in icmp_errors(facts):
        own = facts.source is not None and received.sender == facts.source.address
        kind = (received.family, received.kind, received.code)
        if (own or by_anyone) and kind in _SENT_BY_NEIGHBOURS:
            return say.of_icmp(received, read, facts)
    return None


def _neighbour_verdict(
    facts: Facts,
    confidence: Confidence,
    hop: str,
    evidence: tuple[Evidence, ...],
    trouble: str | None = None,
) -> Verdict:
    protocol = "neighbour discovery" if ":" in facts.asked.address else "ARP"
    return Verdict(
        Cause.NO_NEIGHBOUR,
        confidence,
        f"The SYN to {say.peer(facts)} {say.hedge(confidence)}cannot be sent: {hop}"
        f" {trouble or f'does not answer {protocol}'}.",
        evidence,
    )


def dropped_here(facts: Facts) -> Verdict | None:
    """Something on this node drops the SYN: a rule, a program, a security module, a queue.

    Routes, next hops, listeners and policies have rules of their own. In the peer's namespace on
    this node it is the peer's inbound that drops it, which is still here, and said so. Drops that
    TCP itself does are normal beside retransmissions, and decide nothing alone. What was refused
    got through in the end.
    """
    if facts.outcome in _ANSWERED:
        return None
    found = [
        (confidence, death)
        for death in deaths(
            facts, Direction.SYN, Role.BARRIER, Role.REVERSE_PATH, Role.UNCLEAR, Role.NOBODY
        )
        if (confidence := _of_barrier(death, facts)) is not None
    ]
    if not found:
        return None
    order = list(Confidence)
    confidence, death = min(found, key=lambda one: order.index(one[0]))
    device = "" if death.drop.device is None else f" at {safe(death.drop.device)}"
    where = f"{say.namespace(death.drop.netns, facts)}"
    how = f"{say.label(death.drop)}, {say.times(death.count)}"
    if death.meaning.role is Role.NOBODY:
        summary = f"reached a socket of nobody{device}: {how}, {where}"
    elif confidence is LOW:
        summary = (
            f"was dropped on this node{device} by {death.meaning.what}: {how}, {where};"
            f" {_of_the_others(death, facts)}"
        )
    elif came_back(death, facts) and death.meaning is not REASONS["FULL_RING"]:
        summary = (
            f"left this node{device}, came back by it, and is dropped by {death.meaning.what}:"
            f" {how}, {where}"
        )
    else:
        summary = f"is dropped on this node{device} by {death.meaning.what}: {how}, {where}"
    return Verdict(
        Cause.DROPPED_HERE,
        confidence,
        f"The SYN to {say.target(facts)} {summary}.",
        tuple(say.of_drop(one.drop, facts) for _, one in _first(found, death)),
    )


def _of_the_others(death: Death, facts: Facts) -> str:
    """What is known of the SYNs that were not dropped so."""
    out = left(facts)
    if out is not None:
        return f"{say.syns(out.count)} left through {safe(out.device)}"
    if astray(death, facts):
        return "that lies on no way to its destination, so it may have been a copy"
    return "what became of the other SYNs was not seen"


def _of_barrier(death: Death, facts: Facts) -> Confidence | None:
    confidence = confidence_of_death(death, facts)
    if confidence is None:
        return None
    if death.meaning.role is Role.NOBODY:
        # No socket is no barrier: a RST should have come back. It is where the SYN got to.
        return MEDIUM if confidence is HIGH else LOW
    if by_netfilter(death.drop) and any(
        _full(table) and table.netns in {None, death.drop.netns} for table in facts.conntrack
    ):
        # A rule, or connection tracking that has no room: nobody can tell from the drop.
        return weaker(confidence, MEDIUM)
    return confidence


def _first(found: list[tuple[Confidence, Death]], chosen: Death) -> list[tuple[Confidence, Death]]:
    return sorted(found, key=lambda one: one[1] is not chosen)
