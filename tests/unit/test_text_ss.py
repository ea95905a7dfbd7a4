"""Rows of ss, with every option and oddity that its output may have."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracer.model import Endpoint
from tracer.sources.text.connection import Connection, Problem
from tracer.sources.text.ss import parse

ANY_V4 = "0.0.0.0"  # noqa: S104 - nothing is bound to it
HEADER = "State    Recv-Q Send-Q  Local Address:Port  Peer Address:PortProcess"
HEADER_WITHOUT_STATE = "Recv-Q Send-Q  Local Address:Port  Peer Address:PortProcess"
SOURCE, DESTINATION = Endpoint("10.0.0.9", 40112), Endpoint("198.51.100.7", 443)
COLUMNS = "SYN-SENT 0      1      10.0.0.9:40112 198.51.100.7:443"
STUCK = Connection("SYN_SENT", 4, SOURCE, DESTINATION)


def parsed(text: str, **options: str) -> list[Connection | Problem]:
    return list(parse(text.split("\n"), name="file", assume_state=options.get("assume_state")))


def one(text: str) -> Connection:
    """The only thing that is in a text."""
    (found,) = parsed(text)
    assert isinstance(found, Connection), found
    return found


def reasons(text: str) -> list[str]:
    return [found.reason for found in parsed(text) if isinstance(found, Problem)]


def connections(text: str) -> list[Connection]:
    return [found for found in parsed(text) if isinstance(found, Connection)]


# --- columns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["", HEADER, "State Recv-Q Send-Q Local Address:Port Peer ..."])
def test_a_row_is_understood_with_and_without_a_header(header: str) -> None:
    assert one(f"{header}\n{COLUMNS}") == STUCK


@pytest.mark.parametrize(
    ("shown", "state"),
    [
        ("ESTAB", "ESTABLISHED"),
        ("SYN-SENT", "SYN_SENT"),
        ("SYN-RECV", "SYN_RECV"),
        ("FIN-WAIT-1", "FIN_WAIT1"),
        ("FIN-WAIT-2", "FIN_WAIT2"),
        ("TIME-WAIT", "TIME_WAIT"),
        ("UNCONN", "CLOSE"),
        ("CLOSE-WAIT", "CLOSE_WAIT"),
        ("LAST-ACK", "LAST_ACK"),
        ("LISTEN", "LISTEN"),
        ("CLOSING", "CLOSING"),
        ("BOUND-INACTIVE", "BOUND_INACTIVE"),
    ],
)
def test_every_state_has_the_kernel_s_name(shown: str, state: str) -> None:
    assert one(COLUMNS.replace("SYN-SENT", shown)).state == state


@pytest.mark.parametrize(
    ("local", "peer", "family", "source", "destination", "mapped", "interface"),
    [
        ("10.0.0.9:1", "10.0.0.1:2", 4, "10.0.0.9", "10.0.0.1", False, None),
        ("10.0.0.9%eth0:1", "10.0.0.1:2", 4, "10.0.0.9", "10.0.0.1", False, "eth0"),
        ("[fd00::9]:1", "[fd00::1]:2", 6, "fd00::9", "fd00::1", False, None),
        ("fd00::9:1", "fd00::1:2", 6, "fd00::9", "fd00::1", False, None),
        ("[fe80::9]%eth0:1", "[fe80::1]:2", 6, "fe80::9", "fe80::1", False, "eth0"),
        ("fe80::9%eth0.100:1", "fe80::1:2", 6, "fe80::9", "fe80::1", False, "eth0.100"),
        ("[fe80::9%eth0]:1", "[fe80::1%eth0]:2", 6, "fe80::9", "fe80::1", False, "eth0"),
        ("[::ffff:10.0.0.9]:1", "[::ffff:10.0.0.1]:2", 4, "10.0.0.9", "10.0.0.1", True, None),
        ("::ffff:10.0.0.9:1", "::ffff:10.0.0.1:2", 4, "10.0.0.9", "10.0.0.1", True, None),
        ("[FD00:0:0::9]:1", "[fd00:0000::1]:2", 6, "fd00::9", "fd00::1", False, None),
        ("[64:ff9b::a00:1]:1", "[64:ff9b::10.0.0.2]:2", 6, "64:ff9b::a00:1", "64:ff9b::a00:2", False, None),  # noqa: E501
    ],
)  # fmt: skip
def test_addresses_are_read_in_all_their_forms(
    *,
    local: str,
    peer: str,
    family: int,
    source: str,
    destination: str,
    mapped: bool,
    interface: str | None,
) -> None:
    assert one(f"SYN-SENT 0 1 {local} {peer}") == Connection(
        "SYN_SENT", family, Endpoint(source, 1), Endpoint(destination, 2), mapped, interface
    )


@pytest.mark.parametrize(
    ("local", "peer", "family", "unspecified"),
    [
        ("0.0.0.0:80", "0.0.0.0:*", 4, (ANY_V4, ANY_V4)),
        ("[::]:80", "[::]:*", 6, ("::", "::")),
        ("*:80", "*:*", 6, ("::", "::")),
        (":::80", ":::*", 6, ("::", "::")),
        ("10.0.0.9:80", "*:*", 4, ("10.0.0.9", ANY_V4)),
        ("[::1]:80", "*:*", 6, ("::1", "::")),
        ("[::ffff:10.0.0.9]:80", "*:*", 4, ("10.0.0.9", ANY_V4)),
        ("[::ffff:10.0.0.9]:80", "[::]:*", 4, ("10.0.0.9", ANY_V4)),
        ("*%eth0:80", "*:*", 6, ("::", "::")),
    ],
)
def test_a_star_is_the_unspecified_address_and_no_port(
    local: str, peer: str, family: int, unspecified: tuple[str, str]
) -> None:
    found = one(f"LISTEN 0 128 {local} {peer}")
    assert (found.source.address, found.destination.address) == unspecified
    assert (found.family, found.source.port, found.destination.port) == (family, 80, None)


def test_a_port_that_is_not_chosen_is_unknown() -> None:
    assert one("SYN-SENT 0 1 10.0.0.9:* 10.0.0.1:443").source.port is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("SYN-SENT 0 1 10.0.0.9:1 10.0.0.1:https", "the port is no number"),
        ("SYN-SENT 0 1 10.0.0.9:1 web.example.com:443", "the host is no address"),
        ("SYN-SENT 0 1 10.0.0.9:1 10.0.0.1:65536", "the port is no number"),
        ("SYN-SENT 0 1 10.0.0.9:1 10.0.0.1:-1", "the port is no number"),
        ("SYN-SENT 0 1 10.0.0.9:1 10.0.0.1:1_0", "the port is no number"),
        ("SYN-SENT 0 1 10.0.0.9:1 10.0.0.1:٤٤٣", "the port is no number"),
        ("SYN-SENT 0 1 10.0.0.9:1 10.0.0.256:443", "the host is no address"),
        ("SYN-SENT 0 1 10.0.0.9:1 [fd00:::1]:443", "the host is no address"),
        ("SYN-SENT 0 1 10.0.0.9:1 [fd00::1:443", "the host is no address"),
        ("SYN-SENT 0 1 10.0.0.9:1 [fd00::1]:443", "addresses of two families"),
        ("SYN-SENT 0 1 10.0.0.9:1 10.0.0.1", "an address without a port"),
        ("SYN-SENT 0 1 10.0.0.9:1 10.0.0.1\x00:443", "the host is no address"),
        ("SYN-SENT x 1 10.0.0.9:1 10.0.0.1:443", "not a line of ss"),
        ("SYN-SENT 0 1 10.0.0.9:1", "not a line of ss"),
        ("SYN-SEND 0 1 10.0.0.9:1 10.0.0.1:443", "not a line of ss"),
        ("tcp SYN-SENT 0 1 10.0.0.9 10.0.0.1", "not a line of ss"),
    ],
)
def test_a_damaged_row_is_a_problem_that_says_where_and_what(row: str, reason: str) -> None:
    text = f"{COLUMNS}\n{row}\n{COLUMNS}"
    assert connections(text) == [STUCK, STUCK]
    (problem,) = (found for found in parsed(text) if isinstance(found, Problem))
    assert (problem.file, problem.line_number, problem.line) == ("file", 2, row)
    assert problem.reason.startswith(reason)


# --- no State column -----------------------------------------------------------------------------

ROW_WITHOUT_STATE = COLUMNS.removeprefix("SYN-SENT ")


@pytest.mark.parametrize("header", ["", HEADER_WITHOUT_STATE])
def test_a_row_without_a_state_has_the_state_the_caller_assumes(header: str) -> None:
    assert parsed(f"{header}\n{ROW_WITHOUT_STATE}", assume_state="SYN_SENT") == [STUCK]


@pytest.mark.parametrize("header", ["", HEADER_WITHOUT_STATE])
def test_a_state_that_nothing_tells_is_not_guessed(header: str) -> None:
    (problem,) = parsed(f"{header}\n{ROW_WITHOUT_STATE}")
    assert isinstance(problem, Problem)
    assert "no State column" in problem.reason


@pytest.mark.parametrize(
    ("command", "state"),
    [
        ("$ ss -Htn state syn-sent", "SYN_SENT"),
        ("root@pod:/# ss -tn state syn-sent dst 198.51.100.7", "SYN_SENT"),
        ("--- stuck (ss -tn state syn-sent) ---", "SYN_SENT"),
        ("# ss -tn state established", "ESTABLISHED"),
    ],
)
def test_the_command_above_the_rows_tells_their_state(command: str, state: str) -> None:
    assert one(f"{command}\n{HEADER_WITHOUT_STATE}\n{ROW_WITHOUT_STATE}").state == state


def test_a_command_that_asks_for_no_state_takes_the_one_before_back() -> None:
    text = f"$ ss -tn state syn-sent\n$ ss -tn\n{ROW_WITHOUT_STATE}"
    assert len(reasons(text)) == 1


def test_a_column_of_netids_is_told_by_its_header() -> None:
    text = f"# ss -an state syn-sent\nNetid {HEADER_WITHOUT_STATE}\ntcp {ROW_WITHOUT_STATE}"
    assert one(f"{text}\nudp {ROW_WITHOUT_STATE}") == STUCK


# --- other protocols -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        "udp   UNCONN 0 0 127.0.0.1:53 0.0.0.0:*",
        "icmp6 UNCONN 0 0 *:58 *:*",
        "nl    UNCONN 0 0 rtmgr:123 *",
        "u_str ESTAB  0 0 * 12345 * 12346",
        "p_raw UNCONN 0 0 *:eth0 *",
        "???   UNCONN 0 0 *:1 *:2",
        "sctp  LISTEN 0 0 10.0.0.1:1 0.0.0.0:*",
        "`- ESTAB 0 0 10.0.0.1:1 10.0.0.2:2",
    ],
)
def test_sockets_of_other_protocols_are_passed_over(row: str) -> None:
    assert parsed(f"Netid {HEADER}\n{row}\n\t details:1\ntcp   {COLUMNS}") == [STUCK]


# --- timers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "seconds"),
    [
        ("1.2sec", 1.2),
        ("1.200ms", 1.2),
        ("9.501sec", 9.501),
        ("776ms", 0.776),
        ("012ms", 0.012),
        ("13sec", 13),
        ("1min30sec", 90),
        ("2min", 120),
        ("119min", 7140),
        ("", 0),
    ],
)
def test_a_timer_is_read_in_every_unit(shown: str, seconds: float) -> None:
    found = one(f"{COLUMNS} timer:(on,{shown},3)")
    assert (found.timer, found.retransmissions) == ("on", 3)
    assert found.next_retry_seconds == pytest.approx(seconds)


@pytest.mark.parametrize("name", ["keepalive", "timewait", "persist", "unknown"])
def test_another_timer_says_nothing_of_retransmissions(name: str) -> None:
    found = one(f"ESTAB 0 0 10.0.0.9:1 10.0.0.1:2 timer:({name},1min,7)")
    assert (found.timer, found.retransmissions, found.next_retry_seconds) == (name, None, None)


@pytest.mark.parametrize("timer", ["timer:(on,1.2s,3)", "timer:(on,1.2sec", "timer:(on,1sec,x)"])
def test_of_a_row_with_a_damaged_timer_the_rest_is_used(timer: str) -> None:
    connection, problem = parsed(f"{COLUMNS} {timer} uid:7 ino:9")
    assert isinstance(connection, Connection)
    assert (connection.timer, connection.uid, connection.inode) == (None, 7, 9)
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.line_number) == ("the timer is damaged", 1)


# --- details -------------------------------------------------------------------------------------


def test_owner_and_inode_are_read() -> None:
    found = one(f"{COLUMNS} timer:(on,1sec,0) uid:1000 ino:777 sk:b5 cgroup:/a <->")
    assert (found.uid, found.inode) == (1000, 777)


def test_a_uid_that_is_not_shown_is_root_s_where_there_is_an_inode() -> None:
    assert one(f"{COLUMNS} ino:777 sk:b5 <->").uid == 0
    assert one("TIME-WAIT 0 0 10.0.0.9:1 10.0.0.1:2 timer:(timewait,9sec,0) ino:0 sk:1").uid is None
    assert one(COLUMNS).uid is None


def test_a_cgroup_s_name_adds_nothing() -> None:
    found = one(f"{COLUMNS} ino:777 sk:b5 cgroup:/x uid:7 timer:(on,1sec,9) ino:8 <->")
    assert (found.uid, found.inode, found.timer) == (0, 777, None)


def test_lines_of_details_belong_to_the_row_above() -> None:
    text = (
        f"{COLUMNS} ino:1 sk:1\n\t cubic rto:4000 backoff:2 mss:524 retrans:1/2 lost:1\n"
        f"{COLUMNS} ino:2 sk:2\n\t skmem:(r0,rb131072) cubic rto:2000 retrans:1/1\n"
    )
    assert [(found.inode, found.retransmissions) for found in connections(text)] == [(1, 2), (2, 1)]
    assert reasons(text) == []


def test_details_of_a_row_that_nobody_wants_belong_to_no_other() -> None:
    text = f"{COLUMNS}\n{COLUMNS.replace('SYN-SENT', 'ESTAB')} ino:9\n\t cubic retrans:0/7 uid:5"
    assert list(parse(text.split("\n"), states={"SYN_SENT"})) == [STUCK]


def test_retransmissions_of_data_are_not_those_of_a_syn() -> None:
    row = COLUMNS.replace("SYN-SENT", "ESTAB")
    assert one(f"{row}\n\t cubic retrans:0/7").retransmissions is None


@pytest.mark.parametrize("between", ["", "and now for something else"])
def test_details_below_something_else_belong_to_no_row(between: str) -> None:
    text = f"{COLUMNS}\n{between}\n          timer:(on,1sec,2)"
    assert connections(text) == [STUCK]
    assert "not a line of ss" in reasons(text)


def test_columns_that_were_wrapped_onto_lines_of_their_own_are_put_together() -> None:
    found = one(
        f'{COLUMNS}\n          users:(("a b",pid=7,fd=3))\n          timer:(on,1sec,2) ino:5'
    )
    assert (found.process, found.timer, found.inode) == ("a b", "on", 5)


def test_lines_may_end_as_a_terminal_ends_them() -> None:
    text = f'{HEADER}\r\n{COLUMNS} users:(("a\r\nb",pid=7,fd=3)) timer:(on,1sec,2)   \r\n'
    found = one(text)
    assert (found.process, found.pid, found.retransmissions) == ("a\nb", 7, 2)


# --- processes -----------------------------------------------------------------------------------

# comm holds 15 bytes; the kernel lets a process put anything but a NUL there.
names = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=15),
    st.text('a",()=pidf1 \n', max_size=15),
    st.sampled_from(
        [
            'na"me',
            "two words",
            "(x",
            "(sd-pam)",
            "new\nline",
            "\n\n\n",
            "\n# ss -tn\n",
            "#x\n$ y",
            '",pid=1,fd=2',
            '",pid=1,fd=2)',
            '",pid=1,fd=2))',
            '",pid=1,fd=2)) ',
            '",pid=1,fd=2),(',
            '("x",pid=1,fd=2',
            "timer:(on,9sec,",
            "\n0 1 ::1:1 *:* ",
            "\nESTAB 0 0 *:*",
            "users:((",
            'users:(("',
            "a ino:5 uid:6",
            "\t\t indented",
            "\n nl ESTAB 0 0 ",
            "\nnl ESTAB 0 0 :",
            "\n tcp 0 0 a:b c",
            "\n  sl  local",
        ]
    ),
).filter(lambda name: len(name.encode()) <= 15)


def users(owners: list[tuple[str, int]]) -> str:
    return ",".join(f'("{name}",pid={pid},fd=3)' for name, pid in owners)


@given(st.lists(st.tuples(names, st.integers(1, 4_194_304)), min_size=1, max_size=4))
@example([('",pid=1,fd=2),(', 77), ("x", 78)])
def test_a_process_may_call_itself_whatever_it_likes(owners: list[tuple[str, int]]) -> None:
    text = f"{COLUMNS} users:({users(owners)}) timer:(on,1sec,2) uid:8 ino:9\n{COLUMNS}"
    first, last = parsed(text)
    assert last == STUCK
    assert isinstance(first, Connection)
    assert (first.process, first.pid, first.processes) == (*owners[0], len(owners))
    assert (first.timer, first.retransmissions, first.uid, first.inode) == ("on", 2, 8, 9)
    assert list(parse(f"{line}\n" for line in text.split("\n"))) == [first, last]


@pytest.mark.parametrize("name", ["\n0 1 ::1:1 *:* ", "\n0 1 ::1:1 *:*"])
def test_no_name_adds_a_socket_of_its_own(name: str) -> None:
    text = f"{ROW_WITHOUT_STATE} users:({users([(name, 7)])})\n{ROW_WITHOUT_STATE}"
    first, last = parsed(text, assume_state="SYN_SENT")
    assert last == STUCK
    assert isinstance(first, Connection)
    assert (first.destination, first.process) == (DESTINATION, name)


@pytest.mark.parametrize("name", ["new\nline", "\n\nx", "\n# y", '"\n",'])
def test_a_newline_in_the_name_of_a_process_that_nobody_wants_is_no_problem(name: str) -> None:
    row = COLUMNS.replace("SYN-SENT", "ESTAB")
    text = f"{row} users:({users([(name, 7)])})\n{COLUMNS}"
    assert list(parse(text.split("\n"), states={"SYN_SENT"})) == [STUCK]


@pytest.mark.parametrize("name", ["\nESTAB 0 0 *:*", "\nESTAB 0 0 a:b "])
def test_a_name_that_looks_like_a_row_is_a_name(name: str) -> None:
    found = one(f"{COLUMNS} users:({users([(name, 7)])}) timer:(on,1sec,2) ino:9")
    assert (found.process, found.pid, found.inode) == (name, 7, 9)


def test_threads_are_read_like_processes() -> None:
    found = one(f'{COLUMNS} users:(("a",pid=7,tid=9,fd=3),("a",pid=7,tid=7,fd=3))')
    assert (found.pid, found.process, found.processes) == (7, "a", 2)


@pytest.mark.parametrize(
    "cut",
    [
        'users:(("chrome",pid=12',
        'users:(("chro',
        'users:(("chrome",pid=1,fd=3)',
        "users:((",
        "users:(",
        'users:(("chrome",pid=x,fd=3))',
    ],
)
def test_of_a_row_with_a_damaged_list_of_processes_the_rest_is_used(cut: str) -> None:
    first, problem, last = parsed(f"{COLUMNS} {cut}\n{COLUMNS} ino:7")
    assert first == STUCK
    assert isinstance(problem, Problem)
    assert (problem.line_number, problem.reason) == (1, "the list of processes is damaged")
    assert isinstance(last, Connection)
    assert last.inode == 7


def test_a_list_of_processes_that_was_cut_does_not_swallow_what_follows() -> None:
    other = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  ..."
    found = reasons(f'{COLUMNS} users:(("chro\n{other}')
    assert set(found) == {"the list of processes is damaged", "not a line of ss"}
