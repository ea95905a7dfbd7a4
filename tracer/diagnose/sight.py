"""What single facts come to when taken together: did the SYN leave, is every SYN dropped.

Facts are gathered at different moments, and the watching begins only when an attempt is stuck: its
first SYNs were seen by nobody. So counts are held against the SYNs sent since then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tracer.diagnose.drops import Meaning, Role, meaning, of_handshake
from tracer.diagnose.icmp import IcmpMeaning, icmp_meaning
from tracer.facts import Direction, Drop, Facts, Handed, IcmpError, Neighbour, Route
from tracer.model import Confidence, Outcome

SLACK_NS: Final = 50_000_000
"""A SYN's own drop may be stamped before the SYN: the kernel reports a retransmission after it has
sent it. SYNs are 500 ms apart at least (TCP_RESOURCE_PROBE_INTERVAL), so 50 ms confuse no two."""

RETURN_NS: Final = 400_000_000
"""A SYN that left, and one that died no later than this after it, may be the same: what comes back
from a load balancer or a router takes less, and the next SYN is further away."""

ENOUGH: Final = 2
"""SYNs that must meet the same fate before it is said of all of them."""

SETTLING_NS: Final = 300_000_000
"""For so long after a SYN its fate may not have been read yet."""

USABLE: Final = frozenset({"REACHABLE", "STALE", "DELAY", "PROBE", "PERMANENT", "NOARP"})
"""Neighbour states in which packets are sent (NUD_VALID in include/net/neighbour.h)."""

REFUSING: Final = frozenset({"none", "throw", "blackhole", "unreachable", "prohibit"})
"""Kinds of route that send nothing anywhere."""

LOCAL: Final = frozenset({"local", "broadcast", "anycast", "multicast"})
"""Kinds of route whose packets stay on this host, or go to no single one."""


@dataclass(frozen=True, slots=True)
class Death:
    """Drops of one direction that were read alike, and how surely they are what keeps it stuck.

    `drop` is the one that stands for them: the most frequent, then the latest.
    """

    drop: Drop
    meaning: Meaning
    count: int
    first_ns: int
    last_ns: int


def deaths(facts: Facts, direction: Direction, *roles: Role) -> list[Death]:
    """Drops of the handshake's packets, by their meaning, the most frequent first."""
    groups: dict[Meaning, list[Drop]] = {}
    for drop in facts.drops or ():
        if drop.direction is direction and of_handshake(drop):
            read = meaning(drop)
            if read.role in roles:
                groups.setdefault(read, []).append(drop)
    found = [
        Death(
            drop=max(members, key=lambda one: (one.count, one.last_ns)),
            meaning=read,
            count=sum(one.count for one in members),
            first_ns=min(one.first_ns for one in members),
            last_ns=max(one.last_ns for one in members),
        )
        for read, members in groups.items()
    ]
    return sorted(found, key=lambda death: (-death.count, -death.last_ns))


def sent_while_watched(facts: Facts) -> int:
    """SYNs sent since drops are watched; at least, where that is only known of all of them.

    Watching begins at the first retransmission: the first two SYNs may have gone unseen.
    """
    if facts.syns_watched is not None:
        return max(0, facts.syns_watched)
    return max(0, (facts.syns_sent or 0) - 2)


def last_syn_died(last_ns: int, facts: Facts) -> bool:
    """Whether something that happened at `last_ns` happened to the latest SYN; yes if unknown."""
    return facts.last_syn_ns is None or last_ns >= facts.last_syn_ns - SLACK_NS


def keeps_pace(count: int, last_ns: int, facts: Facts) -> bool:
    """Whether it happens to every SYN, and not to one among many.

    One may be missing: the SYN whose record is on its way, or that went out while probes attached.
    """
    settling = facts.last_syn_ns is not None and facts.now_ns - facts.last_syn_ns < SETTLING_NS
    missing = 1 if settling or last_syn_died(last_ns, facts) else 0
    return count >= max(1, sent_while_watched(facts) - missing)


def answers_keep_pace(death: Death, facts: Facts) -> bool:
    """Whether these drops of answers may be all the answers there were. Not every SYN gets one:
    just after its own timer has sent one again, the peer leaves out the next
    (tcp_invalid_ratelimit), so that half as many are enough.
    """
    half = 2 * death.count >= max(1, sent_while_watched(facts))
    return half or keeps_pace(death.count, death.last_ns, facts)


def handed_all(handed: Handed, facts: Facts) -> bool:
    """Whether every SYN was handed to that device while that was watched. One may be missing, as
    in keeps_pace(), unless a drop tells what became of it.
    """
    if facts.syns_handed is None:
        return keeps_pace(handed.count, handed.last_ns, facts)
    missing = 0 if deaths(facts, Direction.SYN, *DEADLY) else 1
    return handed.count >= max(1, facts.syns_handed - missing)


def left(facts: Facts) -> Handed | None:
    """The hand-over of a SYN to a device that leads out of this node; None where none is known."""
    out = [one for one in facts.handed or () if one.leaves and one.count > 0]
    return max(out, key=lambda one: (one.count, one.last_ns), default=None)


def maybe_left(facts: Facts) -> Handed | None:
    """A hand-over in the node's namespace to a device of which nobody knows where it leads."""
    node = facts.host_netns if facts.host_netns is not None else facts.netns
    out = [
        one
        for one in facts.handed or ()
        if one.leaves is None and one.count > 0 and node is not None and one.netns == node
    ]
    return max(out, key=lambda one: (one.count, one.last_ns), default=None)


def leaves(facts: Facts) -> bool:
    """Whether its SYNs are known to leave this node, every one of them."""
    out = left(facts)
    return out is not None and handed_all(out, facts)


def came_back(death: Death, facts: Facts) -> bool:
    """Whether the SYN that died had left this node before: what was sent out by a device came in by
    it, or by its driver was dropped.

    A load balancer that keeps the client's address may send a SYN back to the node that it came
    from. In the namespace of the device it left by, its drop bears that device's name and a later
    time. Its drop elsewhere cannot be told from a copy's: those have died on the side.
    """
    out = left(facts)
    drop = death.drop
    if out is None or (drop.netns, drop.device) != (out.netns, out.device):
        return False
    after = death.last_ns - out.last_ns
    return after > 0 and (after <= RETURN_NS or keeps_pace(death.count, death.last_ns, facts))


def outlived(death: Death, facts: Facts) -> bool:
    """Whether SYNs left this node all the same: then copies were dropped, or a few of many."""
    out = left(facts)
    if out is None or came_back(death, facts):
        return False
    return out.count >= death.count and out.last_ns >= death.last_ns - SLACK_NS


def astray(death: Death, facts: Facts) -> bool:
    """Whether it died where it had no business to be, while its destination lives on this node:
    neither where it comes from, nor on the node, nor where it goes. That is rather a copy (a TEE
    rule's, a tap's), or another one's packet that NAT made look the same.
    """
    if facts.listener is None or death.drop.netns is None:
        return False
    return death.drop.netns not in {facts.netns, facts.host_netns, facts.listener.netns}


def _others_left(death: Death, facts: Facts) -> bool:
    """Whether SYNs have left this node since the first of these drops."""
    out = left(facts)
    if out is None or came_back(death, facts):
        return False
    return out.last_ns >= death.first_ns - SLACK_NS


def confidence_of_death(death: Death, facts: Facts) -> Confidence | None:
    """How surely these drops of its SYN keep the attempt stuck; None: they do not.

    High where it happens to every SYN, was seen more than once, and its reason says what it was.
    Where it happened to a few, something else became of the others, unless the latest is among
    them; where others left meanwhile, it is half of the truth at best.
    """
    if outlived(death, facts):
        return None
    if astray(death, facts) or _others_left(death, facts):
        return Confidence.LOW
    known = death.meaning.role is not Role.UNCLEAR
    if keeps_pace(death.count, death.last_ns, facts):
        return Confidence.HIGH if known and death.count >= ENOUGH else Confidence.MEDIUM
    latest = facts.last_syn_ns is not None and last_syn_died(death.last_ns, facts)
    return Confidence.MEDIUM if latest and known else Confidence.LOW


DEADLY: Final = (Role.BARRIER, Role.REVERSE_PATH, Role.ROUTE, Role.NEIGHBOUR, Role.UNCLEAR)
"""Drops after which a packet is gone, whoever it was for."""


def weaker(one: Confidence, other: Confidence) -> Confidence:
    order = list(Confidence)
    return max(one, other, key=order.index)


def dies_here(facts: Facts) -> bool:
    """Whether every SYN is seen to be dropped on this node, whoever does it."""
    return any(
        confidence_of_death(death, facts) in {Confidence.HIGH, Confidence.MEDIUM}
        for death in deaths(facts, Direction.SYN, *DEADLY)
    )


def answers_seen(facts: Facts) -> bool:
    """Whether anything that answers its SYN was seen on this node, dropped or not.

    What finds no socket came after it was closed, and answered nobody in time.
    """
    return bool(icmp_errors(facts)) or peer_answered(facts)


def peer_answered(facts: Facts) -> bool:
    """Whether TCP of the other side, or who speaks in its name, was seen to answer."""
    if facts.resets or came_back_by_conntrack(facts):
        return True
    return bool(deaths(facts, Direction.REPLY, *DEADLY, Role.TCP))


def came_back_by_conntrack(facts: Facts) -> bool:
    """Whether connection tracking saw the peer's SYN+ACK: only then is an entry in SYN_RECV.

    Any other state with an answer may be an older connection's, of the same ports.
    """
    nat = facts.destination.nat
    return nat is not None and nat.replied and nat.state == "SYN_RECV"


def icmp_errors(facts: Facts) -> list[tuple[IcmpError, IcmpMeaning]]:
    """ICMP errors that end an attempt, the latest first."""
    read = ((one, icmp_meaning(one)) for one in facts.icmp or ())
    found = [(one, known) for one, known in read if known is not None]
    return sorted(found, key=lambda pair: -pair[0].last_ns)


def from_this_node(received: IcmpError, facts: Facts) -> bool:
    """Whether an ICMP error came from the client's own namespace, or from the node's, which is the
    gateway of a pod whose packets pass through it.
    """
    if received.here is not None:
        return received.here
    if facts.source is not None and received.sender == facts.source.address:
        return True
    through = facts.host_route is not None and facts.host_netns not in {None, facts.netns}
    return through and facts.route is not None and received.sender == facts.route.gateway


def from_elsewhere(facts: Facts) -> bool:
    """Whether an ICMP error is known to have come from beyond this node: then the SYN got there.

    Where connection tracking translates the attempt, it puts the address that was asked for in
    place of a sender of this node's too.
    """
    nat = facts.destination.nat
    shown = facts.asked.address if nat is not None and nat.destination != facts.asked else None
    return any(one.here is False and one.sender != shown for one, _ in icmp_errors(facts))


def silent(facts: Facts) -> bool:
    """Whether nothing is known to have answered: it is stuck, or ended without an answer.

    One that vanished may have connected.
    """
    return facts.outcome in {
        None,
        Outcome.TIMED_OUT,
        Outcome.ABORTED,
    } and not answers_seen(facts)


def routes(facts: Facts) -> Iterable[tuple[Route, int | None]]:
    """The routes that were looked up, with their namespace: its own, then the host's."""
    if facts.route is not None:
        yield facts.route, facts.netns
    if facts.host_route is not None:
        yield facts.host_route, facts.host_netns


def neighbours(facts: Facts) -> Iterable[tuple[Neighbour, int | None]]:
    """The next hops' neighbour entries, with their namespace: its own, then the host's."""
    if facts.neighbour is not None:
        yield facts.neighbour, facts.netns
    if facts.host_neighbour is not None:
        yield facts.host_neighbour, facts.host_netns


def path_is_open(facts: Facts) -> bool:
    """Whether routes and next hops that were looked up would carry it, at least one of each."""
    ways = [route.kind for route, _ in routes(facts)]
    hops = [hop.state for hop, _ in neighbours(facts)]
    return (
        bool(ways)
        and all(kind == "unicast" for kind in ways)
        and bool(hops)
        and all(state in USABLE for state in hops)
    )


def lives_here(facts: Facts) -> bool:
    """Whether the destination is this host or a namespace of it: its SYN never leaves the node.

    Another namespace may have the address too, for itself (a load balancer's on its loopback, a
    cluster in a container): a SYN that is seen to leave does not go there.
    """
    if facts.listener is not None and not leaves(facts):
        return True
    return any(route.kind in LOCAL for route, _ in routes(facts))
