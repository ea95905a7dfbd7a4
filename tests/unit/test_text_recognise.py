"""Text of unknown origin: recognised by content, read to its end, never an unforeseen error."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracer.errors import InputError
from tracer.sources.text import conntrack, netstat, procnet, ss
from tracer.sources.text.connection import QUOTED_CHARACTERS, Connection, Problem
from tracer.sources.text.lines import file_lines, text_lines
from tracer.sources.text.reader import MAX_LINE
from tracer.sources.text.recognise import KEPT_PROBLEMS, Parsed, Row, read

FOLDER = Path(__file__).parents[1] / "fixtures/text"
FIXTURES = [path.read_bytes() for path in sorted(FOLDER.glob("*.txt"))]

SS = "SYN-SENT 0      1      10.0.0.9:40112 198.51.100.7:443"
SS_HEADER = "State    Recv-Q Send-Q  Local Address:Port  Peer Address:PortProcess"
NETSTAT = "tcp        0      1 10.0.0.9:40112          198.51.100.7:443        SYN_SENT   "
NETSTAT_HEADER = "Proto Recv-Q Send-Q Local Address           Foreign Address         State      "
PROC = (
    "   0: 0900000A:9CB0 076433C6:01BB 02 00000001:00000000 01:00000032 00000001  1000        0 "
    "777 2 00000000b5ea3cf8 100 4 24 10 -1"
)
PROC_HEADER = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
    "inode"
)
CONNTRACK = (
    "tcp      6 117 SYN_SENT src=10.0.0.9 dst=198.51.100.7 sport=40112 dport=443 [UNREPLIED] "
    "src=198.51.100.7 dst=10.0.0.9 sport=443 dport=40112 mark=0 use=1"
)
ROWS = {"ss": SS, "netstat": NETSTAT, "/proc/net/tcp": PROC, "conntrack": CONNTRACK}
HEADERS = {"ss": SS_HEADER, "netstat": NETSTAT_HEADER, "/proc/net/tcp": PROC_HEADER}


def parsed(*lines: str) -> Parsed:
    return read(lines, "file", byteorder="little")


def finished(*lines: str) -> tuple[list[Row], Parsed]:
    result = parsed(*lines)
    return list(result), result


# --- recognition ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_a_format_is_recognised_by_its_rows_alone(name: str) -> None:
    rows, result = finished(ROWS[name])
    assert len(rows) == 1
    assert rows[0].state == "SYN_SENT"
    assert (result.formats, result.lines, result.problem_count) == ([name], 1, 0)


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_without_rows_says_that_there_is_no_socket(name: str) -> None:
    rows, result = finished(HEADERS[name])
    assert rows == []
    assert (result.formats, result.rows) == ([name], 0)


def test_conntrack_says_by_its_last_line_that_there_is_no_entry() -> None:
    assert finished("conntrack v1.4.7 (conntrack-tools): 0 flow entries have been shown.")[0] == []


@pytest.mark.parametrize("before", ROWS)
@pytest.mark.parametrize("after", ROWS)
def test_every_format_may_follow_every_other(before: str, after: str) -> None:
    rows, result = finished(ROWS[before], ROWS[after], ROWS[before], ROWS[after])
    assert len(rows) == 4
    assert (result.given, result.rows, result.problem_count) == (4, 4, 0)
    assert result.formats == list(dict.fromkeys([before, after]))


ASIDES = [
    "",
    "   ",
    "root@pod-7d9:/# cat /proc/net/tcp{,6}",
    "[root@ip-10-0-0-9 ~]# ss -tan dst 10.0.0.1:443",
    "/ # netstat -tan",
    "$ ss -tan",
    "# of pod default/web-7d9, 10.0.0.9:443",
    "=== Connections ===",
    "--- Established connections (ss -tun) ---",
    "TCP connections:",
    "Active Internet connections (w/o servers)",
    "(Not all processes could be identified, non-owned process info",
    " will not be shown, you would have to be root to see it all.)",
    "cat: /proc/net/tcp6: No such file or directory",
    'Defaulted container "web" out of: web, sidecar',
    "command terminated with exit code 1",
    "ss command failed",
]


@pytest.mark.parametrize("aside", ASIDES)
@pytest.mark.parametrize("name", ROWS)
def test_headings_prompts_and_messages_are_no_problem_anywhere(name: str, aside: str) -> None:
    rows, result = finished(aside, ROWS[name], aside, ROWS[name], aside)
    assert len(rows) == 2
    assert (result.problem_count, result.lines) == (0, 5)


def test_prose_before_the_first_section_is_no_problem() -> None:
    _, result = finished("Connections of the pod at noon", SS)
    assert result.problem_count == 0


@pytest.mark.parametrize("name", ROWS)
def test_a_line_within_a_section_that_is_none_of_it_is_a_problem(name: str) -> None:
    rows, result = finished(ROWS[name], "what is this", ROWS[name])
    assert len(rows) == 2
    assert [(found.line_number, found.line) for found in result.problems] == [(2, "what is this")]
    assert name in result.problems[0].reason


def test_details_after_another_section_belong_to_no_row_of_ss() -> None:
    rows, result = finished(SS, PROC, "   timer:(on,1sec,2)", SS)
    assert [row.state for row in rows] == ["SYN_SENT"] * 3
    assert [found.line_number for found in result.problems] == [3]


def test_a_broken_row_before_the_first_section_is_a_problem() -> None:
    _, result = finished("SYN-SENT 0 1 10.0.0.9:40112", SS)
    assert [found.line_number for found in result.problems] == [1]


def test_first_problems_are_kept_and_the_others_counted() -> None:
    _, result = finished(*["what is this"] * 100, *[SS, "what is this"] * 100)
    assert result.problem_count == 100
    assert len(result.problems) == KEPT_PROBLEMS
    assert result.problems[0].line_number == 102
    assert result.lines == 300


def test_rows_of_other_protocols_are_counted() -> None:
    udp = CONNTRACK.replace("tcp      6 117 SYN_SENT", "udp     17 29")
    _, result = finished(CONNTRACK, udp, udp)
    assert (result.given, result.skipped, result.problem_count) == (1, 2, 0)


@pytest.mark.parametrize(
    "line",
    [
        CONNTRACK.replace("tcp      6 117 SYN_SENT", "udp     17 29"),
        CONNTRACK.replace("tcp      6 117 SYN_SENT", "icmp     1 29"),
        CONNTRACK.replace("tcp      6 117 SYN_SENT", "sctp   132 9 COOKIE_WAIT"),
    ],
)
def test_another_protocol_in_the_first_line_makes_conntrack_no_list_of_sockets(line: str) -> None:
    rows, result = finished(line, CONNTRACK)
    assert len(rows) == 1
    assert (result.formats, result.lists_sockets, result.skipped) == (["conntrack"], False, 1)


@pytest.mark.parametrize("name", ["ss", "netstat", "/proc/net/tcp"])
def test_a_list_of_sockets_is_one_though_nothing_of_it_is_wanted(name: str) -> None:
    for line in (ROWS[name], HEADERS[name]):
        result = read([line], "file", states={"LISTEN"})
        assert (list(result), result.lists_sockets) == ([], True)


@pytest.mark.parametrize(
    "after", [SS, f"tcp {SS}", NETSTAT, PROC, CONNTRACK, f"ipv4 2 {CONNTRACK}"]
)
def test_an_indented_row_is_no_detail_of_the_row_of_ss_above_it(after: str) -> None:
    rows, result = finished(f"    {SS}", f"    {after}", f"    udp UNCONN 0 0 {SS[19:]}")
    assert [row.state for row in rows] == ["SYN_SENT"] * 2
    assert (result.skipped, result.problem_count) == (1, 0)


def test_rows_are_given_as_they_are_read() -> None:
    def lines() -> Iterator[str]:
        yield from (SS, SS)
        raise AssertionError("was read before it was asked for")

    result = read(lines(), "file")
    assert isinstance(next(result), Connection)
    assert (result.lines, result.given) == (2, 1)


def test_the_state_that_is_assumed_reaches_the_rows() -> None:
    row = SS.removeprefix("SYN-SENT ")
    (found,) = read([row], "file", assume_state="SYN_SENT")
    assert found.state == "SYN_SENT"


# --- nothing usable ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [""],
        ["Dear all,", "see the attached file."],
        ['{"connections": [{"state": "SYN_SENT"}]}'],
        [SS[:30]],
        [SS.removeprefix("SYN-SENT ")],
        [NETSTAT_HEADER, NETSTAT.replace("10.0.0.9:40112 ", "fe80::28d7:8cff:f:60186")],
        [SS_HEADER, SS.replace(":443", ":https")],
        ["x" * (MAX_LINE + 1)],
        ["\x00" * 100],
    ],
    ids=lambda lines: repr(lines)[:60],
)
def test_a_file_with_nothing_usable_is_an_error_that_names_it(lines: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        finished(*lines)
    assert caught.value.exit_code == 5
    assert str(caught.value).startswith("file")
    for format_name in ("ss", "netstat", "conntrack", "/proc/net/tcp"):
        assert format_name in caught.value.hint


def test_the_error_quotes_the_first_problem() -> None:
    with pytest.raises(InputError, match=r"file:2: the port is no number.*:https"):
        finished(SS_HEADER, SS.replace(":443", ":https"))


def test_one_row_is_enough() -> None:
    rows, result = finished("what is SYN_SENT", *["\x00"] * 50, SS, *["\x00"] * 50)
    assert len(rows) == 1
    assert result.problem_count == 51


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    with pytest.raises(InputError, match=path):
        list(read(file_lines(path), path))


# --- bytes ---------------------------------------------------------------------------------------


def lines_of(data: bytes) -> list[str]:
    return list(text_lines(io.BytesIO(data), "file"))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_may_end_in_either_way(end: str) -> None:
    text = end.join([SS_HEADER, f"{SS} ino:7", NETSTAT, PROC_HEADER, PROC, CONNTRACK, ""])
    rows, result = finished(*lines_of(text.encode()))
    assert len(rows) == 4
    assert result.problem_count == 0
    assert isinstance(rows[0], Connection)
    assert rows[0].inode == 7


def test_the_last_line_needs_no_end() -> None:
    assert lines_of(b"a\nb") == ["a", "b"]


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    rows, result = finished(*lines_of(b"\xef\xbb\xbf" + SS.encode()))
    assert (len(rows), result.problem_count) == (1, 0)


def test_bytes_that_are_no_text_cost_no_more_than_their_line() -> None:
    rows, result = finished(*lines_of(f"{SS}\n".encode() + b"\xff\xfe\x00\n" + SS.encode()))
    assert (len(rows), result.problem_count) == (2, 1)


@pytest.mark.parametrize("length", [MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 10 * MAX_LINE, 2**21])
def test_a_line_that_is_too_long_is_a_problem_and_the_next_is_read(length: int) -> None:
    data = f"{SS}\n{'x' * length}\n{SS}\n".encode()
    rows, result = finished(*lines_of(data))
    assert len(rows) == 2
    (problem,) = result.problems
    assert problem.line_number == 2
    assert len(problem.line) == QUOTED_CHARACTERS
    assert problem.reason.startswith("longer than") == (length > MAX_LINE)
    assert result.lines == 3


def test_a_line_that_is_too_long_in_bytes_is_too_long_whatever_its_characters() -> None:
    data = f"{SS}\n{'é' * MAX_LINE * 5}".encode()
    _, result = finished(*lines_of(data))
    assert result.problems[0].reason.startswith("longer than")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n")), max_size=20))
def test_text_comes_back_line_by_line(lines: list[str]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode().removeprefix(b"\xef\xbb\xbf")
    given_back = "".join(f"{line}\n" for line in lines_of(data))
    # At its end a stream may lack the newline, or have one more.
    assert given_back.removesuffix("\n") == data.decode().removesuffix("\n")


# --- any input -----------------------------------------------------------------------------------


@st.composite
def damaged_fixtures(draw: st.DrawFn) -> bytes:
    """A piece of a true file with some of its bytes lost, doubled or exchanged."""
    data = draw(st.sampled_from(FIXTURES))
    begin = draw(st.integers(0, len(data)))
    piece = bytearray(data[begin : begin + draw(st.integers(0, 2000))])
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(piece)))
        length = draw(st.integers(0, 40))
        new = draw(
            st.one_of(
                st.binary(max_size=12),
                st.sampled_from(
                    [b"\n", b"\0", b"\r\n", b" ", b":", b'"', b"((", b"users:((", b'",pid=1,fd=2)']
                ),
                st.just(bytes(piece[place : place + length]) * 2),
            )
        )
        piece[place : place + length] = new
    return bytes(piece)


any_bytes = st.one_of(st.binary(max_size=2000), damaged_fixtures())
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@given(any_bytes, st.sampled_from([None, {"SYN_SENT"}]))
@example(b"\xff" * 100, None)
@example(UTF_16[0] + SS.encode("utf-16-le"), None)
@example(SS.encode() + b' users:(("', None)
def test_no_bytes_make_anything_but_an_input_error(data: bytes, states: set[str] | None) -> None:
    result = read(text_lines(io.BytesIO(data), "file"), "file", states=states)
    try:
        rows = list(result)
    except InputError:
        rows = []
    assert all(states is None or row.state in states for row in rows)
    assert len(result.problems) == min(result.problem_count, KEPT_PROBLEMS)
    assert all(len(str(problem)) < 2 * MAX_LINE for problem in result.problems)


@given(any_bytes.filter(lambda data: not data.startswith(UTF_16)))
def test_no_bytes_make_a_parser_raise(data: bytes) -> None:
    lines = lines_of(data)
    for items in (
        ss.parse(lines, assume_state="SYN_SENT"),
        netstat.parse(lines),
        procnet.parse(lines),
        conntrack.parse(lines),
    ):
        for item in items:
            assert isinstance(item, Problem) or item.family in {4, 6}


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_makes_a_parser_raise(text: str) -> None:
    for line in (text, f"{SS} {text}", f"{NETSTAT} {text}", f"{PROC} {text}", text + CONNTRACK):
        list(read([SS, line], "file"))


LONG_LINES = [
    " " * MAX_LINE,
    "9" * MAX_LINE,
    ":" * MAX_LINE,
    "a" * MAX_LINE,
    "1 " * (MAX_LINE // 2),
    "a:" * (MAX_LINE // 2),
    f"{SS} " + '("' * (MAX_LINE // 2 - 50),
    f"{SS} users:((" + '"' * (MAX_LINE - 100),
    f'{SS} users:((""' + '",pid=1,fd=1),("' * (MAX_LINE // 17),
    f'{SS} users:((""' + '",pid=1,fd=1)' * (MAX_LINE // 14),
    f'{SS} users:((""' + '",pid=1,fd=1),(",pid=1,fd=1),("' * (MAX_LINE // 33) + "))",
    f"{SS} " + "timer:(on," * (MAX_LINE // 11),
    f"{SS} " + "uid:1 " * (MAX_LINE // 7),
    f"{NETSTAT} " + "on (1.00/" * (MAX_LINE // 10),
    f"{NETSTAT} " + "1 " * (MAX_LINE // 2 - 50),
    f"{PROC} " + "0 " * (MAX_LINE // 2 - 100),
    "   0: " + "0" * (MAX_LINE - 10),
    f"{CONNTRACK} " + "src=1 " * (MAX_LINE // 6 - 50),
    f"{CONNTRACK} " + "a=" * (MAX_LINE // 2 - 100),
    "tcp 6 " + "src=" * (MAX_LINE // 4 - 10),
    "user@host" * (MAX_LINE // 9),
    "user@" + "a" * (MAX_LINE - 10),
    "ss state " * (MAX_LINE // 9),
    "[" * MAX_LINE,
]


@pytest.mark.parametrize("line", LONG_LINES, ids=lambda line: repr(line[:70]))
def test_no_line_takes_long(line: str) -> None:
    assert len(line) <= MAX_LINE
    began = time.process_time()
    for above in (SS, f'{SS} users:(("a', NETSTAT, PROC, CONNTRACK):
        # Continuations of a row are read again with it: many of them, too.
        list(read([above, *[line] * 5, SS], "file"))
    assert time.process_time() - began < 2
