"""Where a handshake died: facts go in, one verdict comes out.

A wrong verdict is worse than none. A rule gives one only where facts bear it out, with the
confidence they allow; what nothing decides is `unknown`. That nobody answered (`no-reply`) is only
said where the SYN is known to have left this node, or to have met nothing on it that would stop it:
a SYN that a rule of this node dropped while nobody watched looks just the same from its socket.

Of several verdicts wins, in this order:

1. one that is more than a guess (high or medium confidence) over one of low confidence;
2. one that explains over one that says what is left when nothing does (RESIDUAL);
3. the more confident;
4. the earlier in the table: what is more particular stands first. A full connection tracking table
   drops by netfilter, and a service without endpoints rejects like a firewall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tracer.diagnose import wording as say
from tracer.diagnose.answers import refused, refused_by_firewall, unreachable
from tracer.diagnose.cluster import network_policy, service_without_endpoints, stale_nat
from tracer.diagnose.drops import Role
from tracer.diagnose.inbound import reply_dropped_here
from tracer.diagnose.outbound import (
    conntrack_full,
    dropped_here,
    listener_overloaded,
    no_neighbour,
    no_route,
    port_exhaustion,
)
from tracer.diagnose.sight import (
    DEADLY,
    ENOUGH,
    astray,
    confidence_of_death,
    deaths,
    dies_here,
    handed_all,
    icmp_errors,
    leaves,
    left,
    lives_here,
    maybe_left,
    outlived,
    path_is_open,
    sent_while_watched,
    silent,
)
from tracer.facts import Direction, Facts, Handed, PolicyVerdict
from tracer.model import Cause, Confidence, Evidence, Outcome, Scope, Verdict
from tracer.text import safe

Rule = Callable[[Facts], Verdict | None]

HIGH, MEDIUM, LOW = Confidence.HIGH, Confidence.MEDIUM, Confidence.LOW

MAX_EVIDENCE: Final = 16
"""Pieces of evidence in one verdict; a flood of drops at many places must not fill a record."""

DEFAULT_SCHEDULE_SECONDS: Final = 127
"""How long the kernel tries by itself with tcp_syn_retries 6, its default: 1+2+4+...+64 s. With
tcp_syn_linear_timeouts (Linux 6.5) it is 131 s."""


def judge(facts: Facts) -> Verdict:
    """Where this attempt's handshake died, as far as the facts tell. Never raises.

    The deciding evidence comes first; after it whatever else is known of the attempt.
    """
    if facts.outcome is Outcome.ESTABLISHED:
        best = slow(facts)
    else:
        verdicts = _verdicts(facts)
        best = min(verdicts, key=lambda one: one[0])[1] if verdicts else unknown(facts)
    evidence = tuple(dict.fromkeys((*best.evidence, *_background(facts))))[:MAX_EVIDENCE]
    return Verdict(best.cause, best.confidence, best.summary, evidence)


_Rank = tuple[bool, bool, int, int]


def _verdicts(facts: Facts) -> list[tuple[_Rank, Verdict]]:
    order = list(Confidence)
    found = []
    for position, rule in enumerate((*RULES, *RESIDUAL)):
        verdict = rule(facts)
        if verdict is not None:
            residual = rule in RESIDUAL
            doubtful = verdict.confidence is LOW
            rank = (doubtful, residual, order.index(verdict.confidence), position)
            found.append((rank, verdict))
    return found


# --- what it came to ---------------------------------------------------------------------------


def slow(facts: Facts) -> Verdict:
    """It connected, late. That is all that can be wrong with it.

    SYNs were lost or unanswered where it took more than one; where it took one, the answer itself
    was late. Drops that were seen say where the first ones went.
    """
    count = facts.syns_sent
    took = "" if facts.age_seconds is None else f" after {say.seconds(facts.age_seconds)}"
    died = [
        death
        for death in deaths(facts, Direction.SYN, *DEADLY)
        if not outlived(death, facts) and not astray(death, facts)
    ]
    if count is None:
        how = "it is not known how many SYNs that took"
    elif count > 1:
        fate = f"dropped on this node by {died[0].meaning.what}" if died else "lost or unanswered"
        how = f"{say.syns(count - 1)} of {count} {'was' if count == 2 else 'were'} {fate}"
        if died and died[0].count < count - 1:
            how = (
                f"of {count} SYNs at least {died[0].count}"
                f" {'was' if died[0].count == 1 else 'were'} {fate}"
            )
    else:
        how = "its one SYN was answered late"
    told = say.of_attempt(facts) or Evidence("attempt", "it connected")
    return Verdict(
        Cause.SLOW,
        HIGH if count is not None and count > 1 else MEDIUM,
        f"{say.peer(facts)} connected in the end{took}: {how}.",
        (told, *(say.of_drop(death.drop, facts) for death in died)),
    )


def application_gave_up(facts: Facts) -> Verdict | None:
    """The socket was closed by its own side while the kernel would have gone on.

    That is the application's own timeout, or its end. Why nobody had answered until then is another
    question: a rule that answers it wins over this one, and that nobody did is said with it.
    """
    if facts.outcome is not Outcome.ABORTED:
        return None
    age, sent = facts.age_seconds, facts.syns_sent
    told = say.of_attempt(facts) or Evidence("attempt", "its own side closed it")
    after = "" if age is None else f" after {say.seconds(age)}"
    tried = "" if sent is None else f" and {say.syns(sent)}"
    early = age is not None and age < DEFAULT_SCHEDULE_SECONDS
    schedule = f"; by default the kernel tries for {DEFAULT_SCHEDULE_SECONDS} s or more"
    who = (
        f"Something on this host ended the attempt to {say.target(facts)} with"
        f" {say.error(facts.errno)}"
        if facts.errno
        else f"The application gave up on {say.target(facts)}"
    )
    until = no_reply(facts)
    return Verdict(
        Cause.APPLICATION_GAVE_UP,
        HIGH if early and not facts.errno else MEDIUM,
        f"{who}{after}{tried}, before any answer reached it{schedule if early else ''}."
        + ("" if until is None else f" {until.summary}"),
        (told, *(() if until is None else until.evidence)),
    )


def no_reply(facts: Facts) -> Verdict | None:
    """The SYN left this node, and nothing came back.

    Sure where every SYN was handed to a device that leads out, and drops were watched and explain
    none of them. Less sure after a single one, or where drops were not watched, or the device is
    not known to lead out (an overlay's), or where only the absence of drops during a retransmission
    speaks, with a route and a next hop in order. A guess where no more than that is known, or the
    last device seen leads to another namespace; and where nothing could be watched, with an entry
    of connection tracking: one is found once the SYN has passed netfilter (nf_conntrack_confirm()
    at POSTROUTING). What stays on this node is never said to have left it.
    """
    if not silent(facts) or dies_here(facts):
        return None
    if facts.destination.scope is Scope.LOOPBACK or lives_here(facts):
        return None
    confidence, decisive = _departure(facts)
    if confidence is None:
        return None
    gone = left(facts) or maybe_left(facts)
    through = "" if gone is None else f" through {safe(gone.device)} {say.times(gone.count)}"
    verb = {HIGH: "left", MEDIUM: "seems to have left", LOW: "may have left"}[confidence]
    return Verdict(
        Cause.NO_REPLY,
        confidence,
        f"The SYN to {say.peer(facts)} {verb} this node{through} and nothing came back:"
        f" {_swallowers(facts)} swallows it.",
        decisive,
    )


def _departure(facts: Facts) -> tuple[Confidence | None, tuple[Evidence, ...]]:
    """How surely the SYN left this node, and what shows it."""
    watch = tuple(one for one in (say.of_watch(facts),) if one)
    watched = facts.drops is not None
    gone = left(facts)
    if gone is not None:
        handed = say.of_handed(gone, facts)
        return _seen_leaving(gone, facts), (handed, *watch)
    gone = maybe_left(facts)
    if gone is not None:
        pace = handed_all(gone, facts)
        handed = say.of_handed(gone, facts)
        return (MEDIUM if watched and pace else LOW), (handed, *watch)
    entry = say.of_nat(facts)
    if not watched:
        return (None, ()) if entry is None else (LOW, (entry,))
    if facts.handed == () or sent_while_watched(facts) < 1:
        # Hand-overs are watched and there is none, or no SYN was sent while somebody looked.
        return None, ()
    if deaths(facts, Direction.SYN, *_ANY):
        return None, ()
    # Where hand-overs are watched, and none of its devices may lead out, it was lost sight of here.
    unseen = facts.handed is None
    return (MEDIUM if unseen and path_is_open(facts) else LOW), (*watch, *_ways(facts))


def _seen_leaving(gone: Handed, facts: Facts) -> Confidence:
    """How much it says of all SYNs that some were handed to a device that leads out."""
    if facts.drops is None or not handed_all(gone, facts):
        others = [
            death
            for death in deaths(facts, Direction.SYN, *DEADLY)
            if confidence_of_death(death, facts) is not None and death.count >= gone.count
        ]
        return LOW if others else MEDIUM
    return HIGH if gone.count >= ENOUGH else MEDIUM


_ANY: Final = tuple(role for role in Role if role is not Role.HARMLESS)


def _ways(facts: Facts) -> tuple[Evidence, ...]:
    return tuple(one for one in _background(facts) if one.kind in {"route", "neighbour"})


def _swallowers(facts: Facts) -> str:
    """Who may drop in silence beyond this node, by where the destination lies."""
    if facts.destination.scope is Scope.VPC:
        return "a security group, a NACL, a route or the peer itself"
    if facts.destination.scope is Scope.LINK_LOCAL:
        return "its agent, the hypervisor or a device on the link"
    return "a security group, a NACL, the way out, a firewall on the path or the peer itself"


def unknown(facts: Facts) -> Verdict:
    """What no rule decides, with what is missing to decide it."""
    where = say.target(facts)
    if facts.outcome is Outcome.LOCAL_ERROR:
        told = f"No SYN to {where} could be sent, and this host's reason for that was not seen."
    elif facts.outcome is Outcome.VANISHED:
        told = f"The attempt to {where} was gone at a later look; nobody saw how it ended."
    elif facts.drops is None:
        told = (
            f"Why {where} does not answer is not known: drops on this node could not be watched, so"
            " the SYN may have died here or beyond."
        )
    else:
        told = f"Why {where} does not answer is not known: nothing that was seen decides it."
    return Verdict(Cause.UNKNOWN, LOW, told)


# --- beside what decided it -----------------------------------------------------------------------


def _background(facts: Facts) -> Iterator[Evidence]:
    """All that is worth knowing beside the deciding evidence, the nearest to the packets first."""
    possible = (
        say.of_attempt(facts),
        *(say.of_reset(one, facts) for one in facts.resets or ()),
        *_icmp(facts),
        *_packets(facts),
        say.of_nat(facts),
        say.of_backend(facts),
        say.of_service(facts),
        say.of_listener(facts.listener, facts) if facts.listener and not leaves(facts) else None,
        *_refusing_tables(facts),
        *_next_hops(facts),
        *(say.of_policy(one) for one in facts.policies if one.verdict != PolicyVerdict.UNKNOWN),
        say.of_peers(facts.peers) if facts.peers else None,
    )
    return (one for one in possible if one is not None)


def _icmp(facts: Facts) -> Iterator[Evidence]:
    return (say.of_icmp(received, read, facts) for received, read in icmp_errors(facts))


def _packets(facts: Facts) -> Iterator[Evidence | None]:
    yield from (say.of_drop(drop, facts) for drop in facts.drops or () if drop.count > 0)
    yield from (say.of_handed(one, facts) for one in facts.handed or () if one.count > 0)
    yield say.of_watch(facts)


def _refusing_tables(facts: Facts) -> Iterator[Evidence]:
    for table in facts.conntrack:
        if table.refused > 0 or 0 < table.maximum <= table.count:
            yield say.of_conntrack(table, facts)


def _next_hops(facts: Facts) -> Iterator[Evidence]:
    own = say.namespace(facts.netns, facts)
    node = say.namespace(facts.host_netns, facts)
    for route, where in ((facts.route, own), (facts.host_route, node)):
        if route is not None:
            yield say.of_route(route, where)
    if facts.by_mark:
        yield say.of_marks()
    for hop, where in ((facts.neighbour, own), (facts.host_neighbour, node)):
        if hop is not None:
            yield say.of_neighbour(hop, where)


RULES: Final[tuple[Rule, ...]] = (
    port_exhaustion,
    service_without_endpoints,
    stale_nat,
    conntrack_full,
    network_policy,
    listener_overloaded,
    reply_dropped_here,
    no_route,
    refused_by_firewall,
    no_neighbour,
    dropped_here,
    refused,
    unreachable,
)
"""Rules that explain; the more particular first."""

RESIDUAL: Final[tuple[Rule, ...]] = (application_gave_up, no_reply)
"""What is left to say where nothing explains it."""
