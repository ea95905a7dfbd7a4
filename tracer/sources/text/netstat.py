"""What netstat prints: -tan with any of -p, -o, -e, -W, of net-tools and of busybox.

    PROTO RECV-Q SEND-Q LOCAL FOREIGN STATE [USER INODE] [PID/PROGRAM] [TIMER (SECONDS/RETR/PROBES)]

net-tools calls IPv6 sockets tcp6 and prints their mapped addresses in IPv4 form (tcp_do_one() and
inet6.c there); busybox calls all of them tcp and prints ::ffff:a.b.c.d. The name of a program is
that of its command line, cut to 20 characters together with its pid.

Without -W, net-tools cuts an address so that address and port have 22 characters, 23 with the
colon. What is left may look whole: fd77::1234:5678 out of fd77::1234:5678:9abc:def0. So an IPv6
address that fills its column is a Problem, unless nothing could follow it, or a longer one has
shown that this output is not cut. busybox has not cut for long: its columns have a least width only
(print_inet_line() in its networking/netstat.c). Its header tells it from old net-tools, whose
sockets are all called tcp as well, where the spaces at the header's end are left.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, TypedDict

from tracer.sources.text.connection import STATES, TIMERS, Connection, Problem
from tracer.sources.text.endpoints import Pair, pair, parse_side
from tracer.sources.text.reader import NOTHING, is_number, run

_LABELS: Final = ("tcp", "tcp6")
_OTHER_LABELS: Final = frozenset({
    "udp", "udp6", "udplite", "udplite6", "udpl", "udpl6", "raw", "raw6", "sctp", "sctp6",
    "icmp", "icmp6", "igmp", "igmp6", "unix", "dccp", "dccp6", "l2cap", "rfcomm",
})  # fmt: skip
_COLUMN: Final = 23
_HEADER_OF_BUSYBOX: Final = "State       "

_TIMER: Final = re.compile(
    r"(?:^|\s)(?P<name>off|on|keepalive|timewait|probe|unkn-[0-9]{1,3})"
    r" \((?P<seconds>[0-9]{1,9}\.[0-9]{1,6})/(?P<retransmissions>[0-9]{1,10})/[0-9]{1,10}\)$"
)
_TIMER_NAMES: Final = {"probe": "persist"}
_LONGEST_TIMER: Final = 60
_USER_INODE: Final = re.compile(r"(?P<user>\S{1,64})\s+(?P<inode>[0-9]{1,20})(?:\s+|$)")
_PROGRAM: Final = re.compile(r"(?P<pid>[0-9]{1,10})/(?P<name>.{0,64})", re.DOTALL)

_LAST_OCTET: Final = re.compile(r"\.([0-9]{1,3})$")


class _Details(TypedDict, total=False):
    """What may stand behind a row's state; the members are those of Connection."""

    retransmissions: int
    next_retry_seconds: float
    timer: str
    uid: int
    inode: int
    pid: int
    process: str


def parse(
    lines: Iterable[str], *, name: str = "netstat", states: Collection[str] | None = None
) -> Iterator[Connection | Problem]:
    """TCP sockets that netstat printed; only those in `states`, where that is not None.

    A row whose end is damaged is given with what is known of it, and as a Problem.
    """
    return run(NetstatReader(name, states=states), lines, name)


class NetstatReader:
    """Reader of netstat; see reader.Reader."""

    format = "netstat"

    def __init__(self, name: str, *, states: Collection[str] | None = None) -> None:
        self.rows = 0
        self.skipped = 0
        self.headed = False
        self._name = name
        self._wanted = None if states is None else frozenset(states)
        self._whole = False
        self._busybox = False
        # What the header says of columns; None: there was none, rows are judged by themselves.
        self._has_inode: bool | None = None
        self._has_timer: bool | None = None

    def feed(self, number: int, line: str) -> Sequence[Connection | Problem] | None:
        fields = line.split(None, 6)
        if len(fields) < 6 or fields[0] not in _LABELS:
            return self._other_line(line, fields)
        label, receive, send, local, foreign, state = fields[:6]
        if state not in STATES or not (is_number(receive) and is_number(send)):
            return None
        if len(local) > _COLUMN or len(foreign) > _COLUMN:
            self._whole = True
        if self._wanted is not None and state not in self._wanted:
            self.rows += 1
            return NOTHING
        try:
            ends = self._ends(label, local, foreign)
        except ValueError as error:
            return (Problem(self._name, number, line, str(error)),)
        self.rows += 1
        details, damage = self._details(fields[6], state) if len(fields) == 7 else (_Details(), "")
        connection = Connection(
            state,
            ends.family,
            ends.source,
            ends.destination,
            ends.mapped,
            ends.interface,
            **details,
        )
        if not damage:
            return (connection,)
        return connection, Problem(self._name, number, line, damage)

    def finish(self) -> Sequence[Connection | Problem]:
        return NOTHING

    def _other_line(self, line: str, fields: list[str]) -> Sequence[Connection | Problem] | None:
        if len(fields) < 3:
            return None
        if fields[0] == "Proto" and fields[1] in {"Recv-Q", "RefCnt"}:
            self._header(line)
            return NOTHING
        if fields[0] in _OTHER_LABELS and is_number(fields[1]) and not _is_tracked(fields):
            self.skipped += 1
            return NOTHING
        return None

    def _header(self, line: str) -> None:
        self.headed = True
        if "Foreign Address" in line:
            self._has_inode = " Inode" in line
            self._has_timer = " Timer" in line
            self._busybox = line.rstrip("\r\n").endswith(_HEADER_OF_BUSYBOX)
            self._whole = False

    def _ends(self, label: str, local: str, foreign: str) -> Pair:
        whole = self._whole or (self._busybox and label == "tcp")
        if not whole and (_may_be_cut(local) or _may_be_cut(foreign)):
            raise ValueError("the address may be cut to its column: option -W prints it whole")
        ends = pair(parse_side(local), parse_side(foreign))
        mapped = ends.mapped or (label == "tcp6" and ends.family == 4)
        return ends._replace(mapped=mapped)

    def _details(self, rest: str, state: str) -> tuple[_Details, str]:
        """What stands behind the state, and what is damaged of it, or ""."""
        found = _Details()
        rest = rest.rstrip()
        if self._has_timer is not False:
            timer = _TIMER.search(rest, max(0, len(rest) - _LONGEST_TIMER))
            if timer is not None:
                _read_timer(timer, state, found)
                rest = rest[: timer.start()].rstrip()
            elif self._has_timer:
                return found, "the timer is damaged"
        if self._has_inode is not False:
            owner = _USER_INODE.match(rest)
            if owner is not None:
                _read_owner(owner, found)
                rest = rest[owner.end() :]
            elif self._has_inode:
                return found, "no User and Inode where they belong"
        if rest not in {"", "-"}:
            program = _PROGRAM.fullmatch(rest)
            if program is None:
                return found, "no PID/Program name where it belongs"
            found["pid"], found["process"] = int(program["pid"]), program["name"]
        return found, ""


def _read_timer(timer: re.Match[str], state: str, found: _Details) -> None:
    name = _TIMER_NAMES.get(timer["name"], timer["name"])
    found["timer"] = name if name in TIMERS else TIMERS[-1]
    if name == "on":
        found["next_retry_seconds"] = float(timer["seconds"])
    # The kernel prints a zero for a socket in TIME_WAIT, which has none.
    if state != "TIME_WAIT":
        found["retransmissions"] = int(timer["retransmissions"])


def _read_owner(owner: re.Match[str], found: _Details) -> None:
    """User (a number, with -n) and Inode; a socket with neither shows zeros."""
    inode = int(owner["inode"])
    uid = int(owner["user"]) if is_number(owner["user"]) else None
    if inode:
        found["inode"] = inode
    if uid is not None and (uid or inode):
        found["uid"] = uid


def _is_tracked(fields: Sequence[str]) -> bool:
    """Whether it is conntrack's: "udp 17 29 src=10.0.0.9", "sctp 132 9 ESTABLISHED src=..."."""
    return any(field.startswith("src=") for field in fields[3:5])


def _may_be_cut(text: str) -> bool:
    """Whether an endpoint fills its column and may have been longer."""
    if len(text) != _COLUMN:
        return False
    address = text.rpartition(":")[0]
    octet = _LAST_OCTET.search(address)
    if octet is not None:
        # No digit can follow: 26 would be 260 at least.
        return not (octet[1] == "0" or len(octet[1]) == 3 or int(octet[1]) >= 26)
    groups = address.split(":")
    # inet_ntop() writes "::" for two groups or more: eight groups are there, none can grow.
    most = 7 if "::" in address else 8
    return not (len(groups) == most and len(groups[-1]) == 4)
