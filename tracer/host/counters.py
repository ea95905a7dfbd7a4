"""What a namespace's kernel counted of packets that it gave up on, summed over CPUs.

All of these rise forever and are about the whole namespace, not about one attempt: what they say is
how much they grew while something was watched.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tracer.facts import ConntrackTable
from tracer.host import ctnetlink
from tracer.host.netns import enter

_FOLDER: Final = "/proc/thread-self/net"
"""The calling thread's: /proc/net is the main thread's (proc(5))."""


@dataclass(frozen=True, slots=True)
class TcpCounters:
    """SYNs and others that a namespace did not take in (TcpExt of /proc/net/netstat).

    listen_overflows      connections that found the accept queue full (ListenOverflows)
    listen_drops          SYNs and last ACKs dropped at a listener, those included (ListenDrops)
    queue_full_drops      SYNs dropped since the SYN queue was full (TCPReqQFullDrop)
    queue_full_cookies    answered with a cookie for the same reason (TCPReqQFullDoCookies)
    reverse_path_drops    packets of any protocol that rp_filter dropped (IPReversePathFilter)

    None where the kernel does not count it.
    """

    listen_overflows: int | None
    listen_drops: int | None
    queue_full_drops: int | None
    queue_full_cookies: int | None
    reverse_path_drops: int | None


@dataclass(frozen=True, slots=True)
class ConntrackDrops:
    """What a namespace's connection tracking gave up on (/proc/net/stat/nf_conntrack).

    drop    packets dropped since there was no room for their entry, or they were malformed
    """

    drop: int


def tcp_counters(path: str) -> TcpCounters:
    """Those of the namespace whose file is `path`. Raises OSError where it cannot be entered."""
    return parse_netstat(_read(path, "netstat"))


def conntrack_drops(path: str) -> ConntrackDrops:
    """Those of the namespace whose file is `path`.

    Raises OSError where it cannot be entered, FileNotFoundError where nf_conntrack is not loaded or
    built without CONFIG_NF_CONNTRACK_PROCFS, ValueError where the file makes no sense.
    """
    return parse_conntrack_statistics(_read(path, "stat/nf_conntrack"))


def conntrack_table(path: str, since: ConntrackDrops | None = None) -> ConntrackTable:
    """How full the table of the namespace whose file is `path` is.

    `refused` counts packets dropped for want of room since `since` was taken; 0 where that is not
    given, or the kernel does not count them. Raises OSError as ctnetlink.table() does.
    """
    filled = ctnetlink.table(path)
    refused = 0
    if since is not None:
        try:
            refused = max(0, conntrack_drops(path).drop - since.drop)
        except (FileNotFoundError, ValueError):
            refused = 0
    return ConntrackTable(
        Path(path).stat().st_ino, filled.count, filled.maximum, refused, time.monotonic_ns()
    )


def parse_netstat(text: str) -> TcpCounters:
    """The content of /proc/net/netstat: pairs of lines, of names and of numbers."""
    values: dict[str, int] = {}
    lines = iter(text.splitlines())
    for names, numbers in zip(lines, lines, strict=False):
        if names.startswith("TcpExt:"):
            values = dict(zip(names.split()[1:], map(int, numbers.split()[1:]), strict=False))
    return TcpCounters(
        listen_overflows=values.get("ListenOverflows"),
        listen_drops=values.get("ListenDrops"),
        queue_full_drops=values.get("TCPReqQFullDrop"),
        queue_full_cookies=values.get("TCPReqQFullDoCookies"),
        reverse_path_drops=values.get("IPReversePathFilter"),
    )


def parse_conntrack_statistics(text: str) -> ConntrackDrops:
    """The content of /proc/net/stat/nf_conntrack: names, then a line of hexadecimal per CPU.

    Raises ValueError where it lacks a column or holds no numbers.
    """
    header, *rows = (line.split() for line in text.splitlines()) if text else ([],)

    def total(name: str) -> int:
        column = header.index(name)
        return sum(int(row[column], 16) for row in rows if column < len(row))

    return ConntrackDrops(total("drop"))


def _read(path: str, name: str) -> str:
    with enter(path):
        return Path(_FOLDER, name).read_text("ascii")
