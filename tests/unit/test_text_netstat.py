"""Rows of netstat, of net-tools and of busybox, and addresses that are cut."""

from __future__ import annotations

import pytest

from tracer.model import Endpoint
from tracer.sources.text.connection import Connection, Problem
from tracer.sources.text.netstat import parse

TITLE = "Active Internet connections (servers and established)"
HEADER = "Proto Recv-Q Send-Q Local Address           Foreign Address         State      "
HEADER_OF_BUSYBOX = f"{HEADER} "
SOURCE, DESTINATION = Endpoint("10.0.0.9", 40112), Endpoint("198.51.100.7", 443)
COLUMNS = "tcp        0      1 10.0.0.9:40112          198.51.100.7:443        SYN_SENT   "
STUCK = Connection("SYN_SENT", 4, SOURCE, DESTINATION)


def parsed(*lines: str) -> list[Connection | Problem]:
    return list(parse(lines, name="file"))


def one(*lines: str) -> Connection:
    (found,) = parsed(*lines)
    assert isinstance(found, Connection), found
    return found


def row(local: str, foreign: str, label: str = "tcp6") -> str:
    return f"{label:4s}  {0:6d} {1:6d} {local:23s} {foreign:23s} SYN_SENT   "


# --- columns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("above", [[], [TITLE, HEADER], [TITLE, HEADER_OF_BUSYBOX]])
def test_a_row_is_understood_with_and_without_a_header(above: list[str]) -> None:
    assert one(*above, COLUMNS) == STUCK


@pytest.mark.parametrize(
    ("line", "family", "mapped", "addresses"),
    [
        (row("10.0.0.9:1", "10.0.0.1:2", "tcp"), 4, False, ("10.0.0.9", "10.0.0.1")),
        (row("10.0.0.9:1", "10.0.0.1:2", "tcp6"), 4, True, ("10.0.0.9", "10.0.0.1")),
        (row("::ffff:10.0.0.9:1", "::ffff:10.0.0.1:2", "tcp"), 4, True, ("10.0.0.9", "10.0.0.1")),
        (row("fd00::9:1", "fd00::1:2", "tcp6"), 6, False, ("fd00::9", "fd00::1")),
        (row("fd00::9:1", "fd00::1:2", "tcp"), 6, False, ("fd00::9", "fd00::1")),
        (row("::1:1", "::1:2"), 6, False, ("::1", "::1")),
        (row("fe80::9%eth0:1", "fe80::1:2"), 6, False, ("fe80::9", "fe80::1")),
    ],
)
def test_sockets_of_both_families_are_read(
    *, line: str, family: int, mapped: bool, addresses: tuple[str, str]
) -> None:
    found = one(line)
    assert (found.family, found.mapped) == (family, mapped)
    assert (found.source.address, found.destination.address) == addresses
    assert (found.source.port, found.destination.port) == (1, 2)


def test_listeners_have_no_peer() -> None:
    listening = row(":::8080", ":::*").replace("SYN_SENT", "LISTEN")
    assert one(listening) == Connection("LISTEN", 6, Endpoint("::", 8080), Endpoint("::", None))


@pytest.mark.parametrize(
    "line",
    [
        "udp        0      0 0.0.0.0:68              0.0.0.0:*                           ",
        "udp6       0      0 :::546                  :::*                                ",
        "raw6       0      0 :::58                   :::*                    7          ",
        "unix  2      [ ACC ]     STREAM     LISTENING     20373    /run/x.sock",
        "unix  3      [ ]         STREAM     CONNECTED     20373",
        "Active UNIX domain sockets (servers and established)",
        "Proto RefCnt Flags       Type       State         I-Node   Path",
    ],
)
def test_what_is_no_socket_of_tcp_is_passed_over(line: str) -> None:
    assert parsed(TITLE, HEADER, line, COLUMNS) == [STUCK]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (row("10.0.0.9:1", "10.0.0.1:https", "tcp"), "the port is no number"),
        (row("10.0.0.9:1", "web.example.com:443", "tcp"), "the host is no address"),
        (row("10.0.0.9:1", "fd00::1:443", "tcp6"), "addresses of two families"),
        (row("10.0.0.9:1", "10.0.0.1", "tcp"), "an address without a port"),
        (COLUMNS.replace("SYN_SENT", "SYN_SEND"), "not a line of netstat"),
        (COLUMNS.replace("      1 ", "      x "), "not a line of netstat"),
        (COLUMNS[:60], "not a line of netstat"),
        ("tcp4       0      0  10.0.0.9.40112  10.0.0.1.443  SYN_SENT", "not a line of netstat"),
    ],
)
def test_a_damaged_row_is_a_problem_that_says_where_and_what(line: str, reason: str) -> None:
    first, problem, last = parsed(COLUMNS, line, COLUMNS)
    assert first == last == STUCK
    assert isinstance(problem, Problem)
    assert (problem.file, problem.line_number, problem.line) == ("file", 2, line)
    assert problem.reason.startswith(reason)


# --- cut addresses -------------------------------------------------------------------------------

FULL = "fd77:1::1234:5678:40001"  # of fd77:1::1234:5678:9abc:def0, or whole: who knows
LONG = "fd77:1::1234:5678:9abc:def0:40001"
SHORT = "fd77:2::3:443"


@pytest.mark.parametrize(
    "local",
    [
        FULL,
        "fe80::28d7:8cff:f:60186",
        "::ffff:10.244.10.2:4321",
        "fd77:2:1:1:1:1:1:12:443",
    ],
)
@pytest.mark.parametrize("label", ["tcp", "tcp6"])
def test_an_address_that_may_have_been_cut_is_a_problem(local: str, label: str) -> None:
    assert len(local) == 23
    for line in (row(local, SHORT, label), row(SHORT, local, label)):
        (problem,) = parsed(HEADER, line)
        assert isinstance(problem, Problem)
        assert "option -W" in problem.reason


@pytest.mark.parametrize(
    ("local", "address"),
    [
        ("fd77:1::1234:5678:4000", "fd77:1::1234:5678"),
        ("::ffff:10.24.10.200:443", "10.24.10.200"),
        ("::ffff:10.244.10.26:443", "10.244.10.26"),
        ("::ffff:10.24.100.0:4321", "10.24.100.0"),
        ("1:2:3:4:5:6:77:abcd:443", "1:2:3:4:5:6:77:abcd"),
        ("1::5:6:777:888:abcd:443", "1::5:6:777:888:abcd"),
    ],
)
def test_an_address_to_which_nothing_could_be_added_is_whole(local: str, address: str) -> None:
    peer = "::ffff:10.0.0.1:443" if "." in local else SHORT
    assert one(HEADER, row(local, peer)).source.address == address


def test_an_address_wider_than_its_column_shows_that_nothing_is_cut() -> None:
    first, *others = parsed(HEADER, row(FULL, SHORT), row(LONG, SHORT), row(FULL, SHORT))
    assert isinstance(first, Problem)
    assert [type(other) for other in others] == [Connection, Connection]


def test_each_output_must_show_by_itself_that_nothing_is_cut() -> None:
    last = parsed(HEADER, row(LONG, SHORT), HEADER, row(FULL, SHORT))[-1]
    assert isinstance(last, Problem)


def test_busybox_cuts_nothing() -> None:
    assert one(HEADER_OF_BUSYBOX, row(FULL, SHORT, "tcp")).source.port == 40001


def test_a_cut_that_leaves_no_address_is_a_problem() -> None:
    (problem,) = parsed(HEADER, row("fd77:2:1:1:1234:5:44443", SHORT))
    assert isinstance(problem, Problem)


# --- behind the state ----------------------------------------------------------------------------

WITH_ALL = f"{HEADER} User       Inode      PID/Program name     Timer"
WITH_PROGRAM = f"{HEADER} PID/Program name    "
WITH_TIMER = f"{HEADER} Timer"


@pytest.mark.parametrize("header", ["", WITH_ALL])
def test_everything_behind_the_state_is_read(header: str) -> None:
    text = f"{COLUMNS} 1000       777        7/worker: one        on (1.66/2/0)"
    assert one(header, text) == Connection(
        "SYN_SENT", 4, SOURCE, DESTINATION, False, None, 2, 1.66, "on", 1000, 777, 7, "worker: one"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shown", "timer", "retransmissions", "seconds"),
    [
        ("on (3.66/2/0)", "on", 2, 3.66),
        ("off (0.00/0/0)", "off", 0, None),
        ("keepalive (7196.51/0/0)", "keepalive", 0, None),
        ("probe (1.00/0/3)", "persist", 0, None),
        ("unkn-5 (1.00/0/0)", "unknown", 0, None),
    ],
)
def test_timers_are_read(
    shown: str, timer: str, retransmissions: int, seconds: float | None
) -> None:
    found = one(WITH_TIMER, f"{COLUMNS} {shown}")
    assert (found.timer, found.retransmissions) == (timer, retransmissions)
    assert found.next_retry_seconds == seconds


def test_a_socket_in_time_wait_has_neither_owner_nor_retransmissions() -> None:
    line = COLUMNS.replace("SYN_SENT  ", "TIME_WAIT ")
    found = one(WITH_ALL, f"{line} 0          0          -                    timewait (56.5/0/0)")
    assert (found.timer, found.uid, found.inode, found.retransmissions) == (
        "timewait",
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("shown", "pid", "name"),
    [
        ("7/nginx: master pro", 7, "nginx: master pro"),
        ("7/a/b", 7, "a/b"),
        ("7/", 7, ""),
        ("7/a on (1.00/3/0)", 7, "a on (1.00/3/0)"),
        ("-", None, None),
        ("-                   ", None, None),
    ],
)
def test_programs_are_read_whatever_they_call_themselves(
    shown: str, pid: int | None, name: str | None
) -> None:
    found = one(WITH_PROGRAM, f"{COLUMNS} {shown}")
    assert (found.pid, found.process, found.processes) == (pid, name, None)
    assert found.timer is None


def test_a_user_s_name_is_no_uid() -> None:
    found = one(f"{HEADER} User       Inode     ", f"{COLUMNS} www-data   777       ")
    assert (found.uid, found.inode) == (None, 777)


@pytest.mark.parametrize(
    ("header", "behind"),
    [
        (WITH_TIMER, "on (1.66/2"),
        (WITH_ALL, "1000 x 7/a on (1.66/2/0)"),
        (WITH_PROGRAM, "seven/worker"),
    ],
)
def test_of_a_row_with_a_damaged_end_the_rest_is_used(header: str, behind: str) -> None:
    connection, problem = parsed(header, f"{COLUMNS} {behind}")
    assert isinstance(connection, Connection)
    assert (connection.source, connection.destination) == (SOURCE, DESTINATION)
    assert isinstance(problem, Problem)
    assert problem.line_number == 2


def test_lines_may_end_in_crlf() -> None:
    assert one(f"{WITH_TIMER}\r\n", f"{COLUMNS} on (1.66/2/0)\r\n").retransmissions == 2
