"""Addresses and ports as programs print them for people."""

from __future__ import annotations

import re
import socket
from functools import lru_cache
from typing import Final, NamedTuple

from tracer.model import Endpoint

# [ADDRESS]%DEVICE is how ss prints IPv6; older versions and IPv4 have no brackets; RFC 4007 writes
# the zone next to the address, so that brackets may stand around both.
_HOST: Final = re.compile(
    r"\[(?P<inside>[0-9A-Fa-f:.]{2,45})(?:%(?P<zone>[^\]\s]{1,64}))?\](?:%(?P<device>\S{1,64}))?"
    r"|(?P<bare>[0-9A-Fa-f:.]{2,45}|\*)(?:%(?P<suffix>\S{1,64}))?"
)
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"
_UNSPECIFIED: Final = ("0.0.0.0", "::")  # noqa: S104 - nothing is bound here
_HIGHEST_PORT: Final = 65_535


class Side(NamedTuple):
    """One endpoint as it was printed. `address` is None where any address is meant."""

    address: str | None
    port: int | None
    mapped: bool = False
    interface: str | None = None


class Pair(NamedTuple):
    """Both endpoints of a socket, in one family; the members are those of Connection."""

    family: int
    source: Endpoint
    destination: Endpoint
    mapped: bool
    interface: str | None


def parse_side(text: str) -> Side:
    """Reads "10.0.0.9:443", "[fe80::1]%eth0:443", "fd00::1:443", "*:*" and the like.

    Raises ValueError, saying what is wrong, for anything else: names of hosts and services too.
    """
    host, colon, port_text = text.rpartition(":")
    if not colon:
        raise ValueError("an address without a port")
    port = parse_port(port_text)
    found = _HOST.fullmatch(host)
    if found is None:
        raise ValueError("the host is no address: numbers are needed, as option -n gives them")
    literal = found["inside"] or found["bare"]
    interface = found["zone"] or found["device"] or found["suffix"]
    if literal == "*":
        return Side(None, port, interface=interface)
    address, mapped = parse_address(literal)
    return Side(address, port, mapped, interface)


def parse_port(text: str) -> int | None:
    """A port in digits; None for "*" and 0, which stand for none."""
    if text == "*":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= _HIGHEST_PORT):
        raise ValueError("the port is no number: numbers are needed, as option -n gives them")
    return int(text) or None


# The local address is the same on most lines.
@lru_cache(maxsize=4096)
def parse_address(literal: str) -> tuple[str, bool]:
    """An address in its shortest form (RFC 5952), and whether it was IPv4 mapped into IPv6."""
    family = socket.AF_INET6 if ":" in literal else socket.AF_INET
    try:
        packed = socket.inet_pton(family, literal)
    except OSError as error:
        raise ValueError("the host is no address") from error
    if len(packed) == 16 and packed.startswith(_V4_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:]), True
    return socket.inet_ntop(family, packed), False


def pair(source: Side, destination: Side) -> Pair:
    """Puts two sides into one family.

    "*" is the unspecified address of the other side's family, and of IPv6 where both are "*": ss
    prints it for sockets of both families alone (inet_addr_print() in misc/ss.c). A socket that
    listens on a mapped address has "::" for its peer. Raises ValueError for two families.
    """
    mapped = source.mapped or destination.mapped
    interface = source.interface or destination.interface
    own, peer = source.address, destination.address
    if own is not None and peer is not None and (":" in own) == (":" in peer):
        family = 6 if ":" in own else 4
        ends = Endpoint(own, source.port), Endpoint(peer, destination.port)
        return Pair(family, *ends, mapped, interface)
    specified = [
        side.address
        for side in (source, destination)
        if side.address is not None and side.address != "::"
    ]
    families = {6 if ":" in address else 4 for address in specified} or {6}
    if len(families) > 1:
        raise ValueError("addresses of two families")
    (family,) = families
    unspecified = _UNSPECIFIED[family == 6]
    return Pair(
        family=family,
        source=_endpoint(source, unspecified),
        destination=_endpoint(destination, unspecified),
        mapped=mapped,
        interface=interface,
    )


def _endpoint(side: Side, unspecified: str) -> Endpoint:
    address = side.address
    return Endpoint(unspecified if address is None or address == "::" else address, side.port)
