"""The text of /proc/net/tcp and /proc/net/tcp6, of this machine or of another.

Its format is told in proctable. Text of another machine may be of the other byte order, and one
line does not tell which: 0100007F:1F90 is 127.0.0.1 written by one kind, 1.0.0.127 by the other. It
is judged by local addresses that make sense in one order alone: 127.0.0.1, ::1, fe80::/32, and IPv4
mapped into IPv6. Read in the wrong order they are 1.0.0.127, ::100:0, addresses in the reserved
0:80fe::/32, and ::ffff:0:a.b.c.d, none of which a pod owns. The first JUDGED_ROWS rows are looked
at; where they hold no such address, or some of either order, this machine's order is taken.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, Literal

from tracer.model import TcpState
from tracer.sources.proctable import TICKS_PER_SECOND, TIMER_RETRANSMIT, decode_endpoint
from tracer.sources.text.connection import TIMERS, Connection, Problem
from tracer.sources.text.endpoints import Side, pair
from tracer.sources.text.reader import NOTHING, run

ByteOrder = Literal["little", "big"]

JUDGED_ROWS: Final = 1024
_LONGEST_ROW: Final = 512
"""Characters. The kernel pads rows to 150 (TMPSZ), those of tcp6 grow a little beyond."""

_NAMES: Final = {
    f"{state.value:02X}": "SYN_RECV" if state is TcpState.NEW_SYN_RECV else state.name
    for state in TcpState
}
_ROW: Final = re.compile(
    r"\s*[0-9]+:"
    r"\s+(?P<source>(?:[0-9A-F]{8}|[0-9A-F]{32}):[0-9A-F]{4})"
    r"\s+(?P<destination>(?:[0-9A-F]{8}|[0-9A-F]{32}):[0-9A-F]{4})"
    r"\s+(?P<state>[0-9A-F]{2})"
    r"\s+[0-9A-F]{8,16}:[0-9A-F]{8,16}"
    r"\s+(?P<timer>[0-9A-F]{2}):(?P<when>[0-9A-F]{8,16})"
    r"\s+(?P<retransmissions>[0-9A-F]{8,16})"
    r"\s+(?P<uid>[0-9]{1,10})"
    r"\s+[0-9]{1,10}"
    r"\s+(?P<inode>[0-9]{1,20})"
    r"\s+[0-9]{1,10}(?P<more>\s.*)?",
    re.DOTALL,
)
_ROW_BEGIN: Final = re.compile(r"\s*[0-9]+: [0-9A-Fa-f]{8}")
_ADDRESS_SIZES: Final = (13, 37)
# After the reference count: a pointer; then five more of TCP, or one (drops) of UDP.
_FIELDS_OF_UDP: Final = 2

_LITTLE_ADDRESSES: Final = re.compile(
    r"0100007F:|0{24}01000000:|0{16}FFFF0000|000080FE0{8}(?=[0-9A-F]{16}:)"
)
_BIG_ADDRESSES: Final = re.compile(
    r"7F000001:|0{31}1:|0{16}0000FFFF(?=[0-9A-F]{8}:)|FE8000000{8}(?=[0-9A-F]{16}:)"
)


def parse(
    lines: Iterable[str],
    *,
    name: str = "/proc/net/tcp",
    states: Collection[str] | None = None,
    byteorder: ByteOrder | None = None,
) -> Iterator[Connection | Problem]:
    """Sockets of /proc/net/tcp{,6}, header or not, both tables in one text too.

    Only sockets in `states` are given, where that is not None; the others are looked at no further
    than to see their state. `byteorder` is that of the machine that wrote the text; None: see the
    module.
    """
    return run(ProcNetReader(name, states=states, byteorder=byteorder), lines, name)


class ProcNetReader:
    """Reader of /proc/net/tcp{,6}; see reader.Reader."""

    format = "/proc/net/tcp"

    def __init__(
        self,
        name: str,
        *,
        states: Collection[str] | None = None,
        byteorder: ByteOrder | None = None,
    ) -> None:
        self.rows = 0
        self.skipped = 0
        self.headed = False
        self._name = name
        self._unwanted = frozenset(
            code for code, state in _NAMES.items() if states is not None and state not in states
        )
        self._byteorder = byteorder
        self._judged = 0
        self._evidence: set[ByteOrder] = set()
        # Rows that wait for the byte order, at most JUDGED_ROWS.
        self._waiting: list[tuple[int, str]] = []
        self._other_protocol = False

    def feed(self, number: int, line: str) -> Sequence[Connection | Problem] | None:
        head = line.split(None, 4)
        if len(head) < 4 or head[0][-1] != ":":
            return self._other_line(number, line, head)
        if self._other_protocol:
            self.skipped += 1
            return NOTHING
        if self._byteorder is None:
            return self._undecided(number, line, head[1])
        if head[3] in self._unwanted and len(head[1]) in _ADDRESS_SIZES:
            self.rows += 1
            return NOTHING
        return self._row(number, line)

    def finish(self) -> Sequence[Connection | Problem]:
        waiting, self._waiting = self._waiting, []
        return [item for number, line in waiting for item in self._row(number, line) or ()]

    def _other_line(
        self, number: int, line: str, head: list[str]
    ) -> Sequence[Connection | Problem] | None:
        if not head or head[0] != "sl" or "local_address" not in line:
            return self._row(number, line) if _ROW_BEGIN.match(line) else None
        # /proc/net/udp and raw have the same columns, and one at the end that TCP has not.
        self._other_protocol = "drops" in line
        self.headed = True
        return NOTHING

    def _undecided(
        self, number: int, line: str, local: str
    ) -> Sequence[Connection | Problem] | None:
        """Holds rows back until the byte order is known."""
        if _ROW_BEGIN.match(line) is None:
            return None
        if len(line) > _LONGEST_ROW:
            return (Problem(self._name, number, line, "longer than a row can be"),)
        if _LITTLE_ADDRESSES.match(local):
            self._evidence.add("little")
        if _BIG_ADDRESSES.match(local):
            self._evidence.add("big")
        self._waiting.append((number, line))
        self._judged += 1
        if self._judged < JUDGED_ROWS:
            return NOTHING
        self._byteorder = self._judgement()
        return self.finish()

    def _judgement(self) -> ByteOrder:
        if self._byteorder is not None:
            return self._byteorder
        if len(self._evidence) == 1:
            return next(iter(self._evidence))
        return sys.byteorder

    def _row(self, number: int, line: str) -> Sequence[Connection | Problem] | None:
        found = _ROW.fullmatch(line.rstrip()) if len(line) <= _LONGEST_ROW else None
        if found is None:
            if _ROW_BEGIN.match(line) is None:
                return None
            return (Problem(self._name, number, line, "not a whole row of /proc/net/tcp"),)
        if len((found["more"] or "").split()) == _FIELDS_OF_UDP and not self.headed:
            return (Problem(self._name, number, line, "has the columns of UDP, not of TCP"),)
        state = _NAMES.get(found["state"])
        if state is None:
            return (Problem(self._name, number, line, "no such TCP state"),)
        if len(found["source"]) != len(found["destination"]):
            return (Problem(self._name, number, line, "addresses of two families"),)
        try:
            connection = self._connection(found, state)
        except ValueError as error:
            return (Problem(self._name, number, line, str(error)),)
        self.rows += 1
        return NOTHING if found["state"] in self._unwanted else (connection,)

    def _connection(self, found: re.Match[str], state: str) -> Connection:
        byteorder = self._judgement()
        source, source_mapped = decode_endpoint(found["source"], byteorder)
        destination, mapped = decode_endpoint(found["destination"], byteorder)
        ends = pair(
            Side(source.address, source.port, source_mapped),
            Side(destination.address, destination.port, mapped),
        )
        timer = int(found["timer"], 16)
        uid, inode = int(found["uid"]), int(found["inode"])
        return Connection(
            state=state,
            family=ends.family,
            source=ends.source,
            destination=ends.destination,
            mapped=ends.mapped,
            # get_timewait4_sock() prints zeros for what such a socket does not have.
            retransmissions=(None if state == "TIME_WAIT" else int(found["retransmissions"], 16)),
            next_retry_seconds=(
                int(found["when"], 16) / TICKS_PER_SECOND if timer == TIMER_RETRANSMIT else None
            ),
            timer=TIMERS[timer] if timer < len(TIMERS) else TIMERS[-1],
            # A socket that no process owns any more has inode 0, and its uid may be a 0 as well.
            uid=uid if uid or inode else None,
            inode=inode or None,
        )
