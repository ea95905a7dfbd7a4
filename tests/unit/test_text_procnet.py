"""Text of /proc/net/tcp and tcp6 of any machine: round trips, byte orders, damaged rows."""

from __future__ import annotations

import os
import re
import socket
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.model import Endpoint
from tracer.sources.text.connection import Connection, Problem
from tracer.sources.text.procnet import JUDGED_ROWS, ByteOrder, parse

COLUMNS = "st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
HEADER = f"  sl  local_address rem_address   {COLUMNS}"
HEADER_OF_UDP = f"   sl{HEADER[4:]} ref pointer drops"
BYTE_ORDERS: tuple[ByteOrder, ...] = ("little", "big")
OTHER: ByteOrder = "big" if sys.byteorder == "little" else "little"
TICKS = os.sysconf("SC_CLK_TCK")
STATES = {
    "ESTABLISHED": 1, "SYN_SENT": 2, "SYN_RECV": 3, "FIN_WAIT1": 4, "FIN_WAIT2": 5, "TIME_WAIT": 6,
    "CLOSE": 7, "CLOSE_WAIT": 8, "LAST_ACK": 9, "LISTEN": 10, "CLOSING": 11,
}  # fmt: skip
TIMERS = {"off": 0, "on": 1, "keepalive": 2, "timewait": 3, "persist": 4}


class Row(NamedTuple):
    """What the kernel knows of a socket. Addresses are of the socket's family: mapped ones too."""

    source: str = "10.0.0.9"
    destination: str = "198.51.100.7"
    sport: int = 40112
    dport: int = 443
    state: str = "SYN_SENT"
    timer: str = "on"
    ticks: int = 50
    retransmissions: int = 1
    uid: int = 1000
    inode: int = 777

    def text(self, byteorder: str = sys.byteorder, index: int = 0) -> str:
        """What get_tcp4_sock(), get_tcp6_sock() and get_timewait4_sock() print."""
        ends = (
            f"{words(self.source, byteorder)}:{self.sport:04X} "
            f"{words(self.destination, byteorder)}:{self.dport:04X}"
        )
        alive = self.state != "TIME_WAIT"
        more = f"{TICKS:d} 4 24 10 -1" if alive else ""
        return (
            f"{index:4d}: {ends} {STATES[self.state]:02X} 00000001:00000000 "
            f"{TIMERS[self.timer]:02X}:{self.ticks:08X} "
            f"{self.retransmissions if alive else 0:08X} {self.uid if alive else 0:5d} "
            f"{0:8d} {self.inode if alive else 0:d} 2 00000000b5ea3cf8 {more}"
        ).ljust(149)

    def connection(self) -> Connection:
        """What must come out of it."""
        source, destination = ip_address(self.source), ip_address(self.destination)
        mapped = source.version == 6 and source in MAPPED_NET
        alive = self.state != "TIME_WAIT"
        return Connection(
            state=self.state,
            family=4 if mapped else source.version,
            source=Endpoint(plain(source), self.sport or None),
            destination=Endpoint(plain(destination), self.dport or None),
            mapped=mapped,
            retransmissions=self.retransmissions if alive else None,
            next_retry_seconds=self.ticks / TICKS if self.timer == "on" else None,
            timer=self.timer,
            uid=self.uid if alive and (self.uid or self.inode) else None,
            inode=self.inode or None if alive else None,
        )


def words(text: str, byteorder: str) -> str:
    """An address as %08X prints it: words of 32 bits in the machine's byte order."""
    packed = ip_address(text).packed
    parts = [packed[i : i + 4] for i in range(0, len(packed), 4)]
    return "".join((part[::-1] if byteorder == "little" else part).hex().upper() for part in parts)


MAPPED_NET = ip_network("::ffff:0:0/96")


def plain(address: IPv4Address | IPv6Address) -> str:
    address = getattr(address, "ipv4_mapped", None) or address
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return socket.inet_ntop(family, address.packed)


def parsed(
    *lines: str, byteorder: ByteOrder | None = None, states: set[str] | None = None
) -> list[Connection | Problem]:
    return list(parse(lines, name="file", byteorder=byteorder, states=states))


# --- round trips ---------------------------------------------------------------------------------

V4 = st.ip_addresses(v=4).map(str)
# Words of zeros make "::" in every place.
V6 = st.one_of(
    st.ip_addresses(v=6),
    st.lists(st.sampled_from([0, 0, 1, 0xFFFF0000]), min_size=4, max_size=4).map(
        lambda parts: IPv6Address(b"".join(part.to_bytes(4, "big") for part in parts))
    ),
).filter(lambda address: address not in MAPPED_NET).map(str)  # fmt: skip
MAPPED = V4.map("::ffff:{}".format)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    family = draw(st.sampled_from([V4, V6, MAPPED]))
    state = draw(st.sampled_from(sorted(STATES)))
    timers = ["timewait"] if state == "TIME_WAIT" else ["off", "on", "keepalive", "persist"]
    return Row(
        source=draw(family),
        destination=draw(family),
        sport=draw(st.integers(0, 65_535)),
        dport=draw(st.integers(0, 65_535)),
        state=state,
        timer=draw(st.sampled_from(timers)),
        ticks=draw(st.integers(0, 2**32 - 1)),
        retransmissions=draw(st.integers(0, 255)),
        uid=draw(st.integers(0, 2**32 - 1)),
        inode=draw(st.integers(0, 2**32 - 1)),
    )


@pytest.mark.parametrize("byteorder", BYTE_ORDERS)
@given(st.lists(rows(), max_size=5))
def test_a_round_trip_through_a_table_loses_nothing(
    byteorder: Literal["little", "big"], table: list[Row]
) -> None:
    text = [HEADER, *(row.text(byteorder, index) for index, row in enumerate(table))]
    wanted = [row.connection() for row in table]
    assert parsed(*text, byteorder=byteorder) == wanted
    assert parsed(*(f"{line}\r\n" for line in text), byteorder=byteorder) == wanted
    stuck = [connection for connection in wanted if connection.state == "SYN_SENT"]
    assert parsed(*text, byteorder=byteorder, states={"SYN_SENT"}) == stuck


def test_a_request_that_is_not_a_socket_yet_is_in_syn_recv() -> None:
    (found,) = parsed(Row(state="SYN_RECV").text().replace(" 03 ", " 0C "))
    assert isinstance(found, Connection)
    assert found.state == "SYN_RECV"


def test_a_timer_without_a_name_is_unknown() -> None:
    (found,) = parsed(Row().text().replace(" 01:", " 05:"))
    assert isinstance(found, Connection)
    assert (found.timer, found.next_retry_seconds) == ("unknown", None)


# --- byte orders ---------------------------------------------------------------------------------

EVIDENCE = ["127.0.0.1", "::1", "fe80::9", "::ffff:10.0.0.9"]
SWAPPED: dict[str, ByteOrder] = {"little": "big", "big": "little"}


@pytest.fixture(params=BYTE_ORDERS)
def other(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A byte order that is not this machine's, which is either."""
    monkeypatch.setattr(sys, "byteorder", SWAPPED[request.param])
    return str(request.param)


@pytest.mark.parametrize("local", EVIDENCE)
@pytest.mark.parametrize("place", [0, 1, JUDGED_ROWS - 1])
def test_a_local_address_that_makes_sense_in_one_order_tells_the_order(
    other: str, local: str, place: int
) -> None:
    table = [Row()] * (JUDGED_ROWS + 1)
    table[place] = Row(local, local, state="LISTEN", dport=0)
    found = parsed(HEADER, *(row.text(other) for row in table))
    assert found == [row.connection() for row in table]


def test_the_order_is_told_by_sockets_that_nobody_asked_for_too(other: str) -> None:
    lines = [Row().text(other), Row("127.0.0.1", state="LISTEN").text(other)]
    assert parsed(*lines, states={"SYN_SENT"}) == [Row().connection()]


@pytest.mark.parametrize("remote", ["127.0.0.1", "::1", "fe80::9"])
def test_a_remote_address_tells_nothing(other: str, remote: str) -> None:
    row = Row("fd77::2" if ":" in remote else "10.0.0.9", remote)
    (found,) = parsed(row.text(other))
    assert isinstance(found, Connection)
    assert found != row.connection()


def test_without_evidence_it_is_this_machine_s_order(other: str) -> None:
    assert parsed(Row().text(SWAPPED[other])) == [Row().connection()]
    (found,) = parsed(Row().text(other))
    assert isinstance(found, Connection)
    assert found.source.address == "9.0.0.10"


def test_evidence_of_both_orders_is_none(other: str) -> None:
    loopback = Row("127.0.0.1", "127.0.0.1")
    lines = [loopback.text("little"), loopback.text("big"), Row().text(SWAPPED[other])]
    assert parsed(*lines)[-1] == Row().connection()


def test_evidence_beyond_the_first_rows_comes_too_late(other: str) -> None:
    table = [Row()] * JUDGED_ROWS + [Row("127.0.0.1", "127.0.0.1")]
    found = parsed(*(row.text(other) for row in table))
    assert found[0] != Row().connection()


def test_the_order_that_is_given_needs_no_evidence() -> None:
    lines = [Row().text(OTHER), Row("127.0.0.1").text(sys.byteorder)]
    assert parsed(*lines, byteorder=OTHER)[0] == Row().connection()


# --- other tables, damaged rows ------------------------------------------------------------------


def test_both_tables_may_stand_in_one_text() -> None:
    v6 = Row("fd77::2", "2001:db8::1")
    header6 = HEADER.replace("rem_address", "remote_address")
    found = parsed(HEADER, Row().text(), header6, v6.text())
    assert found == [Row().connection(), v6.connection()]


def test_the_tables_of_udp_are_passed_over() -> None:
    udp = "  123: 00000000:0035 00000000:0000 07 00000000:00000000 "
    udp += "00:00000000 00000000     0        0 12345 2 0000000000000000 0"
    assert parsed(HEADER_OF_UDP, udp, HEADER, Row().text()) == [Row().connection()]
    (problem,) = parsed(udp)
    assert isinstance(problem, Problem)
    assert "UDP" in problem.reason


WHOLE = Row().text()


@pytest.mark.parametrize(
    "line",
    [
        WHOLE[: WHOLE.index(" 777 ") + 3],
        WHOLE[:40],
        WHOLE.replace(" 02 ", " 0D "),
        WHOLE.replace(" 02 ", " 2 "),
        WHOLE.replace(" 02 ", " -2 "),
        WHOLE.replace(":01BB", ":1BB"),
        WHOLE.replace(":01BB", ":0_BB"),
        WHOLE.replace(":01BB", ":01BB0"),
        WHOLE.replace(words("10.0.0.9", sys.byteorder), "0A000009" * 2),
        WHOLE.replace(words("10.0.0.9", sys.byteorder), "0A000009" * 4),
        re.sub(r"([0-9A-F]{8}):([0-9A-F]{4}) ", r"\1\1:\2 ", WHOLE),
        WHOLE.replace(" 777 ", " x "),
        WHOLE.replace(" 1000 ", " root "),
        WHOLE.replace(" 1000 ", " -1 "),
        WHOLE.replace("00000001 ", "1 "),
        WHOLE.replace(" 777 ", " 777\x00 "),
        WHOLE + " " * 1000,
        "garbage",
        "\ufffd\ufffd",
    ],
)
@pytest.mark.parametrize("byteorder", [None, sys.byteorder])
def test_a_damaged_row_is_a_problem_that_says_where_and_what(
    line: str, byteorder: ByteOrder | None
) -> None:
    assert line != WHOLE
    found = parsed(WHOLE, line, WHOLE, byteorder=byteorder)
    assert [row for row in found if isinstance(row, Connection)] == [Row().connection()] * 2
    (problem,) = (row for row in found if isinstance(row, Problem))
    assert (problem.file, problem.line_number) == ("file", 2)
    assert line.startswith(problem.line)
    assert len(problem.line) <= 200


def test_a_problem_can_be_shown_on_a_terminal() -> None:
    (problem,) = parsed("   0: 0A000009:\x1b[2J")
    assert str(problem) == r'file:1: not a whole row of /proc/net/tcp: "0: 0A000009:\x1b[2J"'
