"""What ss of iproute2 prints: -tan with any of -p, -o, -e, -i, -m, -H, -O and state filters.

The columns are those of ss(8) and misc/ss.c. Rows are told by their shape, with or without a
header:

    [NETID] STATE RECV-Q SEND-Q LOCAL:PORT PEER:PORT [users:((...))] [timer:(...)] [uid:] [ino:] ...
    [NETID] RECV-Q SEND-Q LOCAL:PORT PEER:PORT ...     where one state was asked for

Where the State column is missing, the state is what the caller says, or the command line that
stands above the output in the file (`$ ss -tn state syn-sent`) or in the file's name; else it is
unknown, and the row a Problem. Without Netid the rows of UDP (`ss -uan`) look like those of TCP.

What follows the columns may go on in the next, indented line (-i, -m), or after a newline in a
process's name; see ss_details.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from tracer.sources.text.connection import Connection, Problem
from tracer.sources.text.endpoints import Pair, pair, parse_side
from tracer.sources.text.reader import MAX_LINE, NOTHING, is_number, run
from tracer.sources.text.ss_details import Details, name_goes_on, read_details

# sock_state_print() in misc/ss.c. The kernel counts NEW_SYN_RECV as SYN_RECV everywhere but inside.
_STATES: Final = {
    "ESTAB": "ESTABLISHED",
    "SYN-SENT": "SYN_SENT",
    "SYN-RECV": "SYN_RECV",
    "NEW-SYN-RECV": "SYN_RECV",
    "FIN-WAIT-1": "FIN_WAIT1",
    "FIN-WAIT-2": "FIN_WAIT2",
    "TIME-WAIT": "TIME_WAIT",
    "UNCONN": "CLOSE",
    "CLOSE-WAIT": "CLOSE_WAIT",
    "LAST-ACK": "LAST_ACK",
    "LISTEN": "LISTEN",
    "CLOSING": "CLOSING",
    "BOUND-INACTIVE": "BOUND_INACTIVE",
}
# The STATE-FILTER section of ss(8): the names that stand for one state.
FILTERS: Final = {
    **{shown.lower(): state for shown, state in _STATES.items()},
    "established": "ESTABLISHED",
    "closed": "CLOSE",
    "listening": "LISTEN",
}
NO_STATE: Final = "no State column, and nothing says which state was asked for (--state does)"
# "UNKNOWN", and the states of sctp associations, which stand below their endpoint.
_OTHER_ROWS: Final = ("`-", "UNKNOWN")
_TCP: Final = "tcp"
_NETID: Final = re.compile(r"[a-z][a-z0-9_]{1,9}|\?\?\?")
# A command line, or a heading that tells it: "$ ss -tn state syn-sent", "--- all (ss -tan) ---".
_COMMAND: Final = re.compile(r"(?:^|[\s(`'\"])ss(\s[^|;)`]{0,200})")
_STATE_FILTER: Final = re.compile(r"\sstate\s+([a-z0-9-]{1,20})")
# The same as a file's name: "ss-tn-state-syn-sent.txt".
_SYN_SENT_IN_NAME: Final = re.compile(
    r"(?:^|[^A-Za-z])ss[ _-](?:.{0,100}[ _-])?state[ _-]syn[ _-]sent(?![A-Za-z])"
)
# An indented line of more details starts with a word: " cubic rto:1000", "\t skmem:(r0". A row that
# is indented as a whole has numbers, too: "  tcp ESTAB 0 0 ...", conntrack's "  tcp 6 117 ...".
_CONTINUATION: Final = re.compile(
    r"[ \t]+(?!sl\s)"
    r"(?!(?:ipv[46]\s+[0-9]+\s+)?[a-z]\w*\s+(?:[A-Z][A-Z0-9-]*\s+)?[0-9]+\s+[0-9]+\s)"
    r"[a-z][\w.-]*(?=[:\s(]|$)"
)

_MOST_LINES: Final = 32
"""Of one row: its own, those of details, and one for each newline in a process's name."""


def parse(
    lines: Iterable[str],
    *,
    name: str = "ss",
    states: Collection[str] | None = None,
    assume_state: str | None = None,
) -> Iterator[Connection | Problem]:
    """TCP sockets that ss printed.

    Only sockets in `states` are given, where that is not None. `assume_state` is the state of rows
    that show none. A row whose end is damaged is given with what is known of it, and as a Problem.
    """
    return run(SsReader(name, states=states, assume_state=assume_state), lines, name)


class _Columns(NamedTuple):
    """A row's columns; `state` None: it shows none."""

    state: str | None
    local: str
    peer: str
    rest: str


class SsReader:
    """Reader of ss; see reader.Reader."""

    format = "ss"

    def __init__(
        self,
        name: str,
        *,
        states: Collection[str] | None = None,
        assume_state: str | None = None,
    ) -> None:
        self.rows = 0
        self.skipped = 0
        self.headed = False
        self._name = name
        self._wanted = None if states is None else frozenset(states)
        self._assumed = assume_state
        self._asked_for = "SYN_SENT" if _SYN_SENT_IN_NAME.search(name.rpartition("/")[2]) else None
        self._netid_without_state = False
        # The row that may go on in the next line, wanted or not; its ends where it is wanted.
        self._number = 0
        self._row: list[str] = []
        self._ended = True
        self._rest = ""
        self._state = ""
        self._ends: Pair | None = None

    def feed(self, number: int, line: str) -> Sequence[Connection | Problem] | None:
        fields = line.split(None, 5)
        if len(fields) >= 5:
            state = _STATES.get(fields[0])
            if state is not None and _are_columns(*fields[1:5]):
                finished = self.finish() if self._row else NOTHING
                if self._wanted is not None and state not in self._wanted:
                    self.rows += 1
                    self._row.append(line)
                    self._ended = False
                    return finished
                rest = fields[5] if len(fields) == 6 else ""
                columns = _Columns(state, fields[3], fields[4], rest)
                return (*finished, *self._begin(number, line, columns))
        return self._other_line(number, line, fields)

    def finish(self) -> Sequence[Connection | Problem]:
        ends, row, rest = self._ends, self._row, self._rest
        self._ends, self._row, self._rest, self._ended = None, [], "", True
        if ends is None:
            return NOTHING
        details, damage = read_details(rest, self._state) if rest else (Details(), NOTHING)
        connection = Connection(
            self._state,
            ends.family,
            ends.source,
            ends.destination,
            ends.mapped,
            ends.interface,
            **details,
        )
        if not damage:
            return (connection,)
        return (
            connection,
            *(Problem(self._name, self._number, row[0], reason) for reason in damage),
        )

    def _begin(self, number: int, line: str, columns: _Columns) -> Sequence[Connection | Problem]:
        """Starts a row, of which more may follow."""
        self._row = [line]
        self._ended = False
        self._number = number
        self._rest = _bare(columns.rest)
        state = columns.state or self._assumed or self._asked_for
        if state is None:
            return (Problem(self._name, number, line, NO_STATE),)
        try:
            ends = pair(parse_side(columns.local), parse_side(columns.peer))
        except ValueError as error:
            return (Problem(self._name, number, line, str(error)),)
        self.rows += 1
        if self._wanted is None or state in self._wanted:
            self._state, self._ends = state, ends
        return NOTHING

    def _other_line(
        self, number: int, line: str, fields: list[str]
    ) -> Sequence[Connection | Problem] | None:
        """Everything but a row with a state in its first column."""
        if self._continues(line):
            self._row.append(line)
            self._rest += "\n" + _bare(line)
            return NOTHING
        if not fields:
            self._ended = True
            return None
        if "Recv-Q" in fields and "Address:Port" in line:
            self.headed = True
            self._netid_without_state = fields[0] == "Netid" and "State" not in fields
            return self.finish()
        columns = _without_state(line)
        if columns is None:
            netid = _NETID.fullmatch(fields[0])
            if netid and (columns := _after_netid(line, self._netid_without_state)):
                if fields[0] != _TCP:
                    self.skipped += 1
                    return self._pass_over(line)
            elif fields[0] in _OTHER_ROWS or (netid and self._is_other_protocol(fields)):
                self.skipped += 1
                return self._pass_over(line)
            else:
                self._command(line)
                self._ended = True
                return None
        return (*self.finish(), *self._begin(number, line, columns))

    def _command(self, line: str) -> None:
        """Takes the state that a command line above the output asked for."""
        command = _COMMAND.search(line)
        if command is not None:
            asked = _STATE_FILTER.search(command[1])
            self._asked_for = FILTERS.get(asked[1]) if asked else None

    def _is_other_protocol(self, fields: list[str]) -> bool:
        """Rows of sockets whose columns are others: "nl UNCONN 0 0 rtmgr:123 *"."""
        if fields[0] == _TCP or len(fields) < 4:
            return False
        return (fields[1] in _STATES and is_number(fields[2])) or self._netid_without_state

    def _pass_over(self, line: str) -> Sequence[Connection | Problem]:
        finished = self.finish()
        self._row = [line]
        self._ended = False
        return finished

    def _continues(self, line: str) -> bool:
        """Whether a line belongs to the row before it."""
        if self._ended or len(self._row) >= _MOST_LINES or len(self._rest) > MAX_LINE:
            return False
        if _CONTINUATION.match(line):
            return True
        row = "\n".join(map(_bare, self._row))
        shaped = _without_state(line) is not None or "Address:Port" in line
        return name_goes_on(row, _bare(line), is_row=shaped)


def _are_columns(receive: str, send: str, local: str, peer: str) -> bool:
    """Whether it can be a row. A piece of a process's name cannot: its closing quote is near."""
    return (
        receive.isdigit()
        and send.isdigit()
        and ":" in local
        and '"' not in local
        and '"' not in peer
    )


def _bare(line: str) -> str:
    """Without the end of the line, of which a terminal makes two characters."""
    return line.removesuffix("\n").removesuffix("\r")


def _without_state(line: str) -> _Columns | None:
    """RECV-Q SEND-Q LOCAL:PORT PEER:PORT ..."""
    fields = line.split(None, 4)
    if len(fields) < 4 or not (is_number(fields[0]) and is_number(fields[1])):
        return None
    if ":" not in fields[2] or ":" not in fields[3]:
        return None
    return _Columns(None, fields[2], fields[3], fields[4] if len(fields) == 5 else "")


def _after_netid(line: str, without_state: bool) -> _Columns | None:
    """NETID [STATE] RECV-Q SEND-Q LOCAL:PORT PEER:PORT ...

    A row without a state could be netstat's: only `without_state` makes it one of ss.
    """
    fields = line.split(None, 6)
    if len(fields) >= 6 and fields[1] in _STATES and is_number(fields[2]) and is_number(fields[3]):
        if ":" not in fields[4] or ":" not in fields[5]:
            return None
        rest = fields[6] if len(fields) == 7 else ""
        return _Columns(_STATES[fields[1]], fields[4], fields[5], rest)
    return _without_state(line.split(None, 1)[1]) if without_state and len(fields) > 1 else None
