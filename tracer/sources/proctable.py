"""What rows of /proc/net/tcp and tcp6 are made of, for all who read them.

The format is that of get_tcp4_sock() and get_tcp6_sock() in net/ipv4/tcp_ipv4.c and
net/ipv6/tcp_ipv6.c of the Linux tree: addresses are words of 32 bits in the machine's byte order,
printed in hexadecimal; times are clock ticks (USER_HZ).
"""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from typing import Final

from tracer.model import Endpoint

TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
# The column `tr`: icsk_pending is ICSK_TIME_RETRANS, ICSK_TIME_REO_TIMEOUT or ICSK_TIME_LOSS_PROBE.
TIMER_RETRANSMIT: Final = 1
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


def decode_endpoint(text: str, byteorder: str) -> tuple[Endpoint, bool]:
    """An endpoint ("0100007F:1F90"), and whether its address is IPv4 in an IPv6 socket.

    `byteorder` ("little" or "big") is that of the machine that wrote the text. The address of such
    an IPv6 socket is given in IPv4 form. Raises ValueError or OSError for text that is no endpoint.
    """
    address, _, port = text.partition(":")
    shown, mapped = _decode_address(address, byteorder)
    return Endpoint(shown, int(port, 16) or None), mapped


# Most sockets of a table share their local address, those of a storm their destination too.
@lru_cache(maxsize=4096)
def _decode_address(text: str, byteorder: str) -> tuple[str, bool]:
    packed = bytes.fromhex(text)
    if byteorder == "little":
        packed = b"".join(packed[i : i + 4][::-1] for i in range(0, len(packed), 4))
    mapped = len(packed) == 16 and packed.startswith(_V4_MAPPED)
    if mapped:
        packed = packed[12:]
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, packed), mapped
