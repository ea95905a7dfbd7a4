"""What is read from text: immutable values, None where the text does not tell.

Every text in them is untrusted: it came out of a file that somebody sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tracer.model import Endpoint, TcpState
from tracer.text import safe

QUOTED_CHARACTERS: Final = 200
"""Longest piece of a line that a Problem keeps."""

STATES: Final = frozenset({state.name for state in TcpState} | {"BOUND_INACTIVE"})
"""The kernel's names (include/net/tcp_states.h). BOUND_INACTIVE exists in sock_diag alone, since
Linux commit 91051f003948."""

TIMERS: Final = ("off", "on", "keepalive", "timewait", "persist", "unknown")
"""The names of ss(8), numbered as idiag_timer and the column `tr` of /proc/net/tcp are."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One TCP socket, as a program printed it.

    `state` is one of STATES. `family` and `mapped` are those of model.Flow: 4 or 6 for the
    addresses on the wire, and whether it is an IPv6 socket that speaks IPv4, whose addresses are
    in IPv4 form. An address that the program shows as `*` is the unspecified one. `interface` is a
    scope or a device the socket is bound to.

    `retransmissions` counts how often the retransmission timer has run out (icsk_retransmits),
    `next_retry_seconds` is when it runs out next, `timer` is one of TIMERS. Of several processes
    `pid` and `process` are the first that is shown, and `processes` their number; it is None where
    the program shows one at most.
    """

    state: str
    family: int
    source: Endpoint
    destination: Endpoint
    mapped: bool = False
    interface: str | None = None
    retransmissions: int | None = None
    next_retry_seconds: float | None = None
    timer: str | None = None
    uid: int | None = None
    inode: int | None = None
    pid: int | None = None
    process: str | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True)
class ConntrackTuple:
    """One direction of a conntrack entry: the packets' source and destination."""

    source: Endpoint
    destination: Endpoint


@dataclass(frozen=True, slots=True)
class ConntrackEntry:
    """One TCP connection as netfilter tracks it.

    `state` is the kernel's name (tcp_conntrack_names in nf_conntrack_proto_tcp.c): SYN_SENT,
    ESTABLISHED, FIN_WAIT ...; None for a connection that is offloaded, whose state and timeout
    netfilter no longer follows and whose `assured` it no longer prints. `unreplied` says that no
    packet of the reply direction was seen.
    """

    family: int
    original: ConntrackTuple
    reply: ConntrackTuple
    state: str | None
    unreplied: bool
    assured: bool | None
    timeout_seconds: int | None = None
    mark: int | None = None
    zone: int | None = None

    @property
    def nat(self) -> bool:
        """Whether the destination is translated: replies come from elsewhere than was asked."""
        return self.reply.source != self.original.destination


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that could not be used: where it is, how it begins, and what is wrong with it."""

    file: str
    line_number: int
    line: str
    reason: str

    def __post_init__(self) -> None:
        if len(self.line) > QUOTED_CHARACTERS:
            object.__setattr__(self, "line", self.line[:QUOTED_CHARACTERS])

    def __str__(self) -> str:
        # Between quotation marks: redact.without_quotations takes it away.
        return safe(f'{self.file}:{self.line_number}: {self.reason}: "{self.line.strip()}"')
