"""Sockets of one network namespace, read from /proc/PID/net/tcp and tcp6.

What is left where netlink is refused. The format is that of tcp4_seq_show() and tcp6_seq_show() in
the Linux tree: addresses are words of 32 bits in the machine's byte order, printed in hexadecimal;
times are clock ticks (USER_HZ).
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Final

from tracer.model import Endpoint, Flow, Owner, SweptSocket, TcpState
from tracer.sources.timeline import doublings_of, timeline

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_TIMER_RETRANSMIT: Final = 1
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"
_FEWEST_FIELDS: Final = 10
_INTERVAL_FIELD: Final = 12


def read_namespace(proc: str, netns: int) -> tuple[list[SweptSocket], dict[int, int]]:
    """Sockets in SYN_SENT, and the TCP state of every socket by inode.

    `proc` is a process's folder ("/proc/PID"). Raises OSError where its tables cannot be read; a
    host without IPv6 has no tcp6, which is no error.
    """
    stuck: list[SweptSocket] = []
    states: dict[int, int] = {}
    for table in ("tcp", "tcp6"):
        try:
            with open(f"{proc}/net/{table}", encoding="ascii", errors="replace") as lines:
                now = time.monotonic_ns()
                next(lines, None)
                for state, inode, swept in parse_lines(lines, netns=netns, now_ns=now):
                    if inode:
                        states[inode] = state
                    if swept is not None:
                        stuck.append(swept)
        except FileNotFoundError:
            if table == "tcp":
                raise
    return stuck, states


def parse_lines(
    lines: Iterable[str], *, netns: int, now_ns: int, byteorder: str = sys.byteorder
) -> Iterator[tuple[int, int, SweptSocket | None]]:
    """State and inode of each line's socket, and the socket itself where it is in SYN_SENT.

    `byteorder` is that of the machine that wrote the text. A line that is none of a socket is
    passed over.
    """
    for line in lines:
        fields = line.split()
        if len(fields) < _FEWEST_FIELDS:
            continue
        try:
            state, inode = int(fields[3], 16), int(fields[9])
            swept = None
            if state == TcpState.SYN_SENT.value:
                swept = _swept(fields, inode, netns, now_ns, byteorder)
        except (ArithmeticError, ValueError, OSError):
            continue
        yield state, inode, swept


def _swept(fields: list[str], inode: int, netns: int, now_ns: int, byteorder: str) -> SweptSocket:
    source, source_mapped = _endpoint(fields[1], byteorder)
    destination, mapped = _endpoint(fields[2], byteorder)
    timer, _, when = fields[5].partition(":")
    retransmissions = int(fields[6], 16)
    started = last_syn = next_retry = None
    if int(timer, 16) == _TIMER_RETRANSMIT and len(fields) > _INTERVAL_FIELD:
        interval_ms = int(fields[_INTERVAL_FIELD]) * 1000 // _TICKS_PER_SECOND
        started, last_syn, next_retry = timeline(
            now_ns=now_ns,
            expires_ms=int(when, 16) * 1000 // _TICKS_PER_SECOND,
            interval_ms=interval_ms,
            # Not printed; the interval starts at one second and only ever doubles.
            doublings=doublings_of(interval_ms),
            timeouts=retransmissions,
        )
    return SweptSocket(
        cookie=inode,
        flow=Flow(
            netns=netns,
            family=6 if ":" in destination.address else 4,
            source=source,
            destination=destination,
            mapped=mapped or source_mapped,
        ),
        owner=Owner(uid=int(fields[7]), inode=inode or None),
        retransmissions=retransmissions,
        started_ns=started,
        last_syn_ns=last_syn,
        next_retry_ns=next_retry,
    )


def _endpoint(text: str, byteorder: str) -> tuple[Endpoint, bool]:
    """An endpoint, and whether its address is IPv4 in an IPv6 socket."""
    address, _, port = text.partition(":")
    packed = bytes.fromhex(address)
    if byteorder == "little":
        packed = b"".join(packed[i : i + 4][::-1] for i in range(0, len(packed), 4))
    mapped = len(packed) == 16 and packed.startswith(_V4_MAPPED)
    if mapped:
        packed = packed[12:]
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return Endpoint(socket.inet_ntop(family, packed), int(port, 16) or None), mapped
