"""Lines of /proc/net/tcp and tcp6, written by machines of either byte order."""

from __future__ import annotations

import os
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.model import Endpoint, Flow, Owner, SweptSocket, TcpState
from tracer.sources.procfs import parse_lines, read_namespace

NETNS, INODE, UID = 4026532321, 777_001, 1_000
NOW = 5_000_000_000_000
MS = 1_000_000
TICKS = os.sysconf("SC_CLK_TCK")
ESTABLISHED, SYN_SENT, TIME_WAIT, CLOSE, LISTEN = "01", "02", "06", "07", "0A"
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  ..."
BYTE_ORDERS = ("little", "big")


def address(text: str, byteorder: str = "little") -> str:
    """An address as %08X prints it: words of 32 bits in the machine's byte order."""
    packed = ip_address(text).packed
    words = [packed[i : i + 4] for i in range(0, len(packed), 4)]
    return "".join((word[::-1] if byteorder == "little" else word).hex().upper() for word in words)


def line(
    source: str = "10.0.0.9",
    destination: str = "198.51.100.7",
    *,
    sport: int = 40_112,
    dport: int = 443,
    state: str = SYN_SENT,
    timer: int = 1,
    when_seconds: float = 0.5,
    retransmissions: int = 0,
    inode: int = INODE,
    interval_seconds: float = 1.0,
    byteorder: str = "little",
) -> str:
    """What get_tcp4_sock() and get_tcp6_sock() of the Linux tree print for a socket."""
    local = f"{address(source, byteorder)}:{sport:04X}"
    remote = f"{address(destination, byteorder)}:{dport:04X}"
    when = f"{timer:02X}:{int(when_seconds * TICKS):08X}"
    interval = int(interval_seconds * TICKS)
    return (
        f"   0: {local} {remote} {state} 00000001:00000000 {when} {retransmissions:08X}  "
        f"{UID:5d}        0 {inode} 2 0000000000000000 {interval} 0 0 1 7\n"
    )


def parsed(*lines: str, byteorder: str = "little") -> list[tuple[int, int, SweptSocket | None]]:
    return list(parse_lines(lines, netns=NETNS, now_ns=NOW, byteorder=byteorder))


def swept(text: str, byteorder: str = "little") -> SweptSocket:
    """The socket in SYN_SENT that a line is about."""
    ((state, _, socket),) = parsed(text, byteorder=byteorder)
    assert state == TcpState.SYN_SENT.value
    assert socket is not None
    return socket


# --- what a line says ----------------------------------------------------------------------------


def test_a_socket_in_syn_sent_comes_through_member_for_member() -> None:
    assert swept(line(retransmissions=1, when_seconds=1.5, interval_seconds=2)) == SweptSocket(
        cookie=INODE,
        flow=Flow(NETNS, 4, Endpoint("10.0.0.9", 40_112), Endpoint("198.51.100.7", 443)),
        owner=Owner(uid=UID, inode=INODE),
        retransmissions=1,
        started_ns=NOW - 1_500 * MS,
        last_syn_ns=NOW - 500 * MS,
        next_retry_ns=NOW + 1_500 * MS,
    )


def test_a_line_of_a_real_kernel_is_understood() -> None:
    text = (
        "   1: 0100007F:9D1E 0100007F:20FB 02 00000001:00000000 01:00000032 00000003     0"
        "        0 21374 2 00000000b5ea3cf8 800 0 0 1 7\n"
    )
    found = swept(text)
    assert found.flow == Flow(NETNS, 4, Endpoint("127.0.0.1", 40222), Endpoint("127.0.0.1", 8443))
    assert (found.cookie, found.retransmissions, found.owner) == (
        21374,
        3,
        Owner(uid=0, inode=21374),
    )


@pytest.mark.parametrize("byteorder", BYTE_ORDERS)
@pytest.mark.parametrize(
    ("source", "destination", "family", "mapped"),
    [
        ("10.0.0.9", "198.51.100.7", 4, False),
        ("1.2.3.4", "4.3.2.1", 4, False),
        ("fd77:1::2", "2001:db8:1:2:3:4:5:6", 6, False),
        ("::1", "::1", 6, False),
        ("::ffff:10.0.0.9", "::ffff:198.51.100.7", 4, True),
    ],
)
def test_addresses_are_read_in_the_writer_s_byte_order(
    *, byteorder: str, source: str, destination: str, family: int, mapped: bool
) -> None:
    flow = swept(line(source, destination, byteorder=byteorder), byteorder).flow
    shown = [text.removeprefix("::ffff:") for text in (source, destination)]
    assert [flow.source.address, flow.destination.address] == shown
    assert (flow.family, flow.mapped, flow.netns) == (family, mapped, NETNS)
    assert (flow.source.port, flow.destination.port) == (40_112, 443)


def test_a_port_that_is_not_chosen_is_unknown() -> None:
    assert swept(line(sport=0)).flow.source.port is None


def test_a_socket_without_a_file_has_no_inode() -> None:
    assert swept(line(inode=0)).owner.inode is None


@pytest.mark.parametrize(
    "state", [ESTABLISHED, TIME_WAIT, CLOSE, LISTEN], ids=lambda state: f"state {state}"
)
def test_of_other_sockets_only_state_and_inode_are_told(state: str) -> None:
    assert parsed(line(state=state)) == [(int(state, 16), INODE, None)]


def test_a_short_line_of_a_socket_in_time_wait_is_understood() -> None:
    short = (
        "   2: 0100007F:9D1E 0100007F:20FB 06 00000000:00000000 03:00001770 00000000     0"
        "        0 0 3 0000000000000000\n"
    )
    assert parsed(short) == [(TcpState.TIME_WAIT.value, 0, None)]


# --- timers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("timer", [0, 2, 3, 4])
def test_without_a_retransmission_timer_no_time_is_known(timer: int) -> None:
    found = swept(line(timer=timer, retransmissions=2))
    assert (found.started_ns, found.last_syn_ns, found.next_retry_ns) == (None, None, None)
    assert found.retransmissions == 2


def test_without_an_interval_no_time_is_known() -> None:
    cut = " ".join(line().split()[:12])
    found = swept(cut)
    assert (found.started_ns, found.last_syn_ns, found.next_retry_ns) == (None, None, None)


@pytest.mark.parametrize(
    ("retransmissions", "interval_seconds", "past_seconds"),
    [
        (0, 1, 0),
        (1, 2, 1),
        (3, 8, 7),
        (3, 1, 3),
        (6, 4, 7),
        (10, 64, 5 + 62),
        # 120 s instead of 128: doubled seven times, so never linear.
        (7, 120, 127),
    ],
    ids=str,
)
def test_the_start_is_derived_from_the_interval(
    retransmissions: int, interval_seconds: int, past_seconds: int
) -> None:
    found = swept(
        line(
            retransmissions=retransmissions,
            interval_seconds=interval_seconds,
            when_seconds=interval_seconds,
        )
    )
    assert found.started_ns == NOW - past_seconds * 1_000 * MS
    assert found.last_syn_ns == (NOW if retransmissions else None)
    assert found.next_retry_ns == NOW + interval_seconds * 1_000 * MS


# --- what is no socket ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "\n",
        HEADER,
        "one two three",
        line()[:40],
        line().replace(" 02 ", " XY "),
        line().replace(f" {INODE} ", " inode "),
        line().replace(f":{40_112:04X}", ":PORT"),
        line().replace(address("10.0.0.9"), "0A0000"),
        line().replace(address("10.0.0.9"), "0A00000900"),
        line().replace(address("10.0.0.9"), "ZZZZZZZZ"),
        line().replace(" 01:", " zz:"),
        line().replace(f" {UID} ", " root "),
    ],
)
def test_a_line_that_is_none_of_a_socket_is_passed_over(garbage: str) -> None:
    assert garbage != line()
    found = parsed(line(inode=1), garbage, line(inode=2))
    assert [inode for _, inode, _ in found] == [1, 2]


words = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
    st.text("0123456789ABCDEF", min_size=1, max_size=40),
    st.builds(lambda a, b: f"{a}:{b}", *[st.text("0123456789ABCDEF", max_size=32)] * 2),
    st.sampled_from(["02", "01:00000064", f"{address('::1')}:0016", f"{address('10.0.0.9')}:01BB"]),
)


@pytest.mark.parametrize("byteorder", BYTE_ORDERS)
@given(st.one_of(st.text(), st.lists(words, min_size=8, max_size=18).map(" ".join)))
def test_no_text_is_an_error(byteorder: str, text: str) -> None:
    parsed(text, byteorder=byteorder)


@st.composite
def damaged_lines(draw: st.DrawFn) -> str:
    """A true line of which some fields are something else."""
    fields = line(retransmissions=draw(st.integers(0, 255))).split()
    for position in draw(st.sets(st.integers(0, len(fields) - 1), max_size=3)):
        # The count of retransmissions is a byte in the kernel: see the test below.
        if position != 6:
            fields[position] = draw(words)
    return " ".join(fields)


@given(damaged_lines())
def test_no_damaged_line_is_an_error(text: str) -> None:
    parsed(text)


@pytest.mark.timeout(10, method="signal")  # fails the test; the other method ends the run
def test_a_count_that_makes_no_sense_does_not_stop_the_reader() -> None:
    fields = line().split()
    fields[6] = "FFFFFFFF"
    found = parsed(" ".join(fields), line(inode=2))
    assert found[-1][1] == 2


def test_an_interval_that_makes_no_sense_is_no_error() -> None:
    fields = line(retransmissions=1).split()
    fields[12] = "9" * 400
    found = parsed(" ".join(fields), line(inode=2))
    assert found[-1][1] == 2


# --- whole files ---------------------------------------------------------------------------------


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A process's folder with an IPv4 table, an IPv6 one, and a line of no text."""
    own = sys.byteorder
    v4 = line(inode=1, byteorder=own) + line(inode=2, state=ESTABLISHED, byteorder=own)
    v6 = line("::1", "::2", inode=3, byteorder=own) + line(inode=0, state=TIME_WAIT, byteorder=own)
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_bytes(f"{HEADER}\n{v4}".encode() + b"\xff\xfe\n")
    (tmp_path / "net/tcp6").write_text(f"{HEADER}\n{v6}")
    return tmp_path


def test_both_tables_are_read(proc: Path) -> None:
    stuck, states = read_namespace(str(proc), NETNS)
    assert [(found.cookie, found.flow.family) for found in stuck] == [(1, 4), (3, 6)]
    assert states == {1: 2, 2: 1, 3: 2}


def test_a_machine_without_ipv6_has_one_table(proc: Path) -> None:
    (proc / "net/tcp6").unlink()
    stuck, states = read_namespace(str(proc), NETNS)
    assert [found.cookie for found in stuck] == [1]
    assert states == {1: 2, 2: 1}


def test_a_process_that_is_gone_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_namespace(str(tmp_path / "77"), NETNS)


def test_an_empty_table_is_no_error(proc: Path) -> None:
    (proc / "net/tcp").write_text("")
    (proc / "net/tcp6").write_text(HEADER)
    assert read_namespace(str(proc), NETNS) == ([], {})
