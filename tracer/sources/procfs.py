"""Sockets of one network namespace, read from /proc/PID/net/tcp and tcp6.

What is left where netlink is refused. The format is told in proctable.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Final

from tracer.model import Flow, Owner, SweptSocket, TcpState
from tracer.sources.proctable import TICKS_PER_SECOND, TIMER_RETRANSMIT, decode_endpoint
from tracer.sources.timeline import doublings_of, timeline

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
    source, source_mapped = decode_endpoint(fields[1], byteorder)
    destination, mapped = decode_endpoint(fields[2], byteorder)
    timer, _, when = fields[5].partition(":")
    retransmissions = int(fields[6], 16)
    started = last_syn = next_retry = None
    if int(timer, 16) == TIMER_RETRANSMIT and len(fields) > _INTERVAL_FIELD:
        interval_ms = int(fields[_INTERVAL_FIELD]) * 1000 // TICKS_PER_SECOND
        started, last_syn, next_retry = timeline(
            now_ns=now_ns,
            expires_ms=int(when, 16) * 1000 // TICKS_PER_SECOND,
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
