"""What ICMP errors say of an attempt to connect (RFC 792, 1122, 1812, 4443)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tracer.facts import IcmpError
from tracer.model import Cause, Confidence

_UNREACHABLE: Final = Cause.UNREACHABLE
_FIREWALL: Final = Cause.REFUSED_BY_FIREWALL


@dataclass(frozen=True, slots=True)
class IcmpMeaning:
    """What an error says, as people call it, and how surely it means that cause."""

    cause: Cause
    confidence: Confidence
    what: str


def _sure(cause: Cause, what: str) -> IcmpMeaning:
    return IcmpMeaning(cause, Confidence.HIGH, what)


def _probable(cause: Cause, what: str) -> IcmpMeaning:
    return IcmpMeaning(cause, Confidence.MEDIUM, what)


# TCP answers a closed port with RST, never with this (RFC 9293, 3.5.2): it is what iptables' and
# nftables' REJECT sends by default. A host may (RFC 1122, 3.2.2.1), hence not for sure.
_PORT: Final = _probable(_FIREWALL, "port unreachable, which a firewall's REJECT sends by default")

_MEANINGS: Final[dict[tuple[int, int, int], IcmpMeaning]] = {
    # ICMP, type 3: destination unreachable.
    (4, 3, 0): _sure(_UNREACHABLE, "network unreachable"),
    (4, 3, 1): _sure(_UNREACHABLE, "host unreachable"),
    (4, 3, 2): _sure(_UNREACHABLE, "protocol unreachable"),
    (4, 3, 3): _PORT,
    (4, 3, 5): _sure(_UNREACHABLE, "source route failed"),
    (4, 3, 6): _sure(_UNREACHABLE, "network unknown"),
    (4, 3, 7): _sure(_UNREACHABLE, "host unknown"),
    (4, 3, 8): _sure(_UNREACHABLE, "source host isolated"),
    (4, 3, 9): _sure(_FIREWALL, "network administratively prohibited"),
    (4, 3, 10): _sure(_FIREWALL, "host administratively prohibited"),
    (4, 3, 11): _sure(_UNREACHABLE, "network unreachable for the type of service"),
    (4, 3, 12): _sure(_UNREACHABLE, "host unreachable for the type of service"),
    (4, 3, 13): _sure(_FIREWALL, "communication administratively prohibited"),
    (4, 3, 14): _probable(_FIREWALL, "host precedence violation"),
    (4, 3, 15): _probable(_FIREWALL, "precedence cutoff in effect"),
    (4, 11, 0): _sure(_UNREACHABLE, "time to live exceeded: a routing loop, or a path too long"),
    (4, 12, 0): _probable(_UNREACHABLE, "parameter problem"),
    # ICMPv6, type 1: destination unreachable.
    (6, 1, 0): _sure(_UNREACHABLE, "no route to destination"),
    (6, 1, 1): _sure(_FIREWALL, "communication administratively prohibited"),
    (6, 1, 2): _sure(_UNREACHABLE, "beyond scope of source address"),
    (6, 1, 3): _sure(_UNREACHABLE, "address unreachable"),
    (6, 1, 4): _PORT,
    (6, 1, 5): _sure(_FIREWALL, "source address failed ingress/egress policy"),
    # A router's reject route: someone's decision, though it may have been meant as a null route.
    (6, 1, 6): _probable(_FIREWALL, "reject route to destination"),
    (6, 3, 0): _sure(_UNREACHABLE, "hop limit exceeded: a routing loop, or a path too long"),
    (6, 4, 0): _probable(_UNREACHABLE, "parameter problem"),
    (6, 4, 1): _probable(_UNREACHABLE, "unrecognised next header"),
}


def icmp_meaning(error: IcmpError) -> IcmpMeaning | None:
    """What this error says; None for one that ends no attempt: packet too big, redirect, quench."""
    if error.count <= 0:
        return None
    return _MEANINGS.get((error.family, error.kind, error.code))
