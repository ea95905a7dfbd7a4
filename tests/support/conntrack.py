"""Fills a namespace's table of tracked connections.

nf_conntrack_max is the machine's: a namespace shows it and may not change it. The count is the
namespace's own, so that one alone can be filled up: 262,144 entries in a second, 0.1 GB until the
namespace goes.
"""

from __future__ import annotations

import socket
import struct

from tests.support.netns import Namespace
from tests.support.sockets import path_of
from tracer.host.netlink import attribute
from tracer.host.netns import enter

NETLINK_NETFILTER = 12
CT_NEW = 1 << 8
NLM_F_REQUEST, NLM_F_CREATE = 0x1, 0x400
NESTED = 0x8000
ASSURED = 1 << 1 | 1 << 2 | 1 << 3
"""IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED: is not thrown out to make room for another."""
SOURCE = b"\xc6\x12\xab\xcd"
"""Stands for each entry's own source address in the pattern of a request."""


def entry_request() -> bytes:
    """What makes the kernel track a UDP connection from SOURCE for ten minutes."""
    there = socket.inet_aton("203.0.113.1")
    ports = attribute(1, b"\x11") + attribute(2, b"\x10\x00") + attribute(3, b"\x20\x00")

    def side(kind: int, source: bytes, destination: bytes) -> bytes:
        addresses = attribute(1, source) + attribute(2, destination)
        nested = attribute(1 | NESTED, addresses) + attribute(2 | NESTED, ports)
        return attribute(kind | NESTED, nested)

    body = (
        struct.pack("=BBH", socket.AF_INET, 0, 0)
        + side(1, SOURCE, there)
        + side(2, there, SOURCE)
        + attribute(3, struct.pack("!I", ASSURED))
        + attribute(7, struct.pack("!I", 600))
    )
    header = struct.pack("=IHHII", 16 + len(body), CT_NEW, NLM_F_REQUEST | NLM_F_CREATE, 1, 0)
    return header + body


def fill(namespace: Namespace, entries: int) -> None:
    """Writes that many entries into the table: the limit is the machine's, and stays what it is."""
    with enter(path_of(namespace)):
        netfilter = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    request = entry_request()
    with netfilter:
        netfilter.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for start in range(0, entries, 512):
            numbers = range(start + 1, min(start + 512, entries) + 1)
            netfilter.send(
                b"".join(request.replace(SOURCE, number.to_bytes(4, "big")) for number in numbers)
            )
