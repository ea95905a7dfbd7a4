"""Rules about attempts that were answered: with a RST, or with an ICMP error."""

from __future__ import annotations

import errno
from typing import Final

from tracer.diagnose import wording as say
from tracer.diagnose.drops import REASONS, Role
from tracer.diagnose.sight import (
    Death,
    deaths,
    from_this_node,
    icmp_errors,
    keeps_pace,
    last_syn_died,
    outlived,
    weaker,
)
from tracer.facts import Direction, Facts, IcmpError
from tracer.model import Cause, Confidence, Evidence, Outcome, Verdict
from tracer.text import safe

HIGH, MEDIUM = Confidence.HIGH, Confidence.MEDIUM


def refused_by_firewall(facts: Facts) -> Verdict | None:
    """A firewall rejected the attempt, rather than dropping it.

    ICMP "administratively prohibited" says so in words. Port unreachable is what iptables' and
    nftables' REJECT sends by default, and no TCP: likely. A RST comes from a firewall too where the
    SYN itself was dropped by netfilter on this node: it never got to whoever could refuse it.
    """
    rejected = _rejected_here(facts)
    here = () if rejected is None else (say.of_drop(rejected.drop, facts),)
    for received, read in icmp_errors(facts):
        if read.cause is not Cause.REFUSED_BY_FIREWALL:
            continue
        told = say.of_icmp(received, read, facts)
        confidence = HIGH if here else _as_sure_as_sent(received, read.confidence)
        by_node = from_this_node(received, facts)
        whose = "this node itself" if by_node else safe(received.sender)
        whose = "a netfilter rule on this node" if here else whose
        return Verdict(
            Cause.REFUSED_BY_FIREWALL,
            confidence,
            f"A firewall {say.hedge(confidence)}rejects the SYN to {say.target(facts)}: {whose}"
            f" answered with {say.protocol(received)} {read.what}.",
            (told, *here),
        )
    if rejected is not None and facts.outcome in {Outcome.REFUSED, Outcome.UNREACHABLE}:
        # Known to be the latest SYN: no other got out that somebody else could have answered.
        return Verdict(
            Cause.REFUSED_BY_FIREWALL,
            HIGH if facts.last_syn_ns is not None else MEDIUM,
            f"A netfilter rule on this node rejects the SYN to {say.target(facts)}"
            f" {say.place(rejected.drop, facts)}: it was dropped here and refused all the same.",
            here,
        )
    # icmpv6_err_convert(): EACCES is what prohibited, failed policy and reject route become.
    if (
        facts.outcome is Outcome.UNREACHABLE
        and facts.errno == errno.EACCES
        and ":" in facts.asked.address
        and not facts.icmp
    ):
        return Verdict(
            Cause.REFUSED_BY_FIREWALL,
            MEDIUM,
            f"A firewall or a prohibiting route probably rejects the SYN to {say.target(facts)}: it"
            " ended with EACCES, which ICMPv6 errors about prohibition become.",
            (Evidence("errno", "the socket's error is EACCES"),),
        )
    return None


def _rejected_here(facts: Facts) -> Death | None:
    """The netfilter drop of the latest SYN on this node."""
    for death in deaths(facts, Direction.SYN, Role.BARRIER):
        if (
            death.meaning == REASONS["NETFILTER_DROP"]
            and last_syn_died(death.last_ns, facts)
            and keeps_pace(death.count, death.last_ns, facts)
            and not outlived(death, facts)
        ):
            return death
    return None


def refused(facts: Facts) -> Verdict | None:
    """A RST came back: nothing listens on that port, or somebody says so in the peer's name.

    The errno alone (ECONNREFUSED) is also what ICMP port unreachable becomes, which firewalls send:
    only a RST or its drop that was seen, or ICMP that was listened for and did not come, make it
    sure. That nothing listens there does not: a firewall may stand before it.
    """
    if facts.outcome not in {None, Outcome.REFUSED}:
        return None
    if any(read.cause is Cause.REFUSED_BY_FIREWALL for _, read in icmp_errors(facts)):
        return None
    nobody = deaths(facts, Direction.SYN, Role.NOBODY)
    seen = [say.of_reset(one, facts) for one in facts.resets or ()]
    if facts.outcome is Outcome.REFUSED:
        seen.extend(say.of_drop(death.drop, facts) for death in nobody)
    if not seen and facts.outcome is None:
        return None
    sure = bool(seen) or facts.icmp is not None
    if facts.listener is not None and not facts.listener.listening:
        seen.append(say.of_listener(facts.listener, facts))
    ended = Evidence("errno", "it ended with ECONNREFUSED")
    return Verdict(
        Cause.REFUSED,
        HIGH if sure else MEDIUM,
        f"{say.peer(facts)} refused the connection: nothing listens on that port, or a firewall or"
        " load balancer on the way refuses in its name.",
        (*seen, ended) if facts.outcome is Outcome.REFUSED else tuple(seen),
    )


def unreachable(facts: Facts) -> Verdict | None:
    """ICMP says that the destination cannot be reached; whoever sent it knows no way on.

    From a router it is that router's trouble. From this host itself, and of an error of which only
    the errno is known, it is less sure: next hops that do not answer are reported in the same way.
    """
    if facts.outcome not in {None, Outcome.UNREACHABLE, Outcome.TIMED_OUT, Outcome.ABORTED}:
        return None
    for received, read in icmp_errors(facts):
        if read.cause is Cause.UNREACHABLE:
            own = from_this_node(received, facts)
            confidence = _as_sure_as_sent(received, read.confidence)
            by = "this node itself" if own else safe(received.sender)
            return Verdict(
                Cause.UNREACHABLE,
                weaker(confidence, MEDIUM) if own else confidence,
                f"{say.peer(facts)} cannot be reached: {by} answered with"
                f" {say.protocol(received)} {read.what}.",
                (say.of_icmp(received, read, facts),),
            )
    number = facts.errno if facts.outcome is Outcome.UNREACHABLE else facts.soft_errno
    if facts.outcome is not Outcome.UNREACHABLE and number not in _OF_ICMP:
        return None
    name = say.error(number) if number else "unreachable"
    return Verdict(
        Cause.UNREACHABLE,
        MEDIUM,
        f"{say.peer(facts)} cannot be reached ({name}): an ICMP error came back, or the next hop"
        " does not answer; which of them was not seen.",
        (Evidence("errno", f"the socket's error is {name}"),),
    )


def _as_sure_as_sent(received: IcmpError, confidence: Confidence) -> Confidence:
    """An ICMP error that does not prove to have met the SYN may be anybody's."""
    return confidence if received.proven else weaker(confidence, MEDIUM)


_OF_ICMP: Final = frozenset(
    {
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
    }
)
"""Soft errors that only ICMP errors leave behind: icmp_err_convert[] in net/ipv4/icmp.c."""
