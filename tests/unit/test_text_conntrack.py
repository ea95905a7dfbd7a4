"""Entries of conntrack -L and /proc/net/nf_conntrack."""

from __future__ import annotations

import pytest

from tracer.model import Endpoint
from tracer.sources.text.connection import ConntrackEntry, ConntrackTuple, Problem
from tracer.sources.text.conntrack import parse

CLIENT, SERVICE = Endpoint("10.0.0.9", 40112), Endpoint("10.96.0.1", 80)
BACKEND = Endpoint("10.0.2.3", 8080)
STUCK = (
    "tcp      6 117 SYN_SENT src=10.0.0.9 dst=10.96.0.1 sport=40112 dport=80 [UNREPLIED] "
    "src=10.0.2.3 dst=10.0.0.9 sport=8080 dport=40112 mark=0 use=1"
)
ENTRY = ConntrackEntry(
    family=4,
    original=ConntrackTuple(CLIENT, SERVICE),
    reply=ConntrackTuple(BACKEND, CLIENT),
    state="SYN_SENT",
    unreplied=True,
    assured=False,
    timeout_seconds=117,
    mark=0,
)


def parsed(*lines: str) -> list[ConntrackEntry | Problem]:
    return list(parse(lines, name="file"))


def one(line: str) -> ConntrackEntry:
    (found,) = parsed(line)
    assert isinstance(found, ConntrackEntry), found
    return found


def test_an_entry_comes_through_member_for_member() -> None:
    assert one(STUCK) == ENTRY
    assert one(STUCK).nat


def test_the_layer_below_may_be_named_too() -> None:
    assert one(f"ipv4     2 {STUCK}\r\n") == ENTRY


def test_an_entry_without_translation_is_answered_by_whom_it_asked() -> None:
    line = STUCK.replace("10.96.0.1", "10.0.2.3").replace("dport=80 ", "dport=8080 ")
    assert not one(line).nat


def test_a_translated_port_is_a_translation() -> None:
    assert one(STUCK.replace("10.96.0.1", "10.0.2.3")).nat


def test_an_entry_of_ipv6_is_written_in_full_by_the_kernel() -> None:
    found = one(
        "ipv6     10 tcp      6 431999 ESTABLISHED "
        "src=fd77:0001:0000:0000:0000:0000:0000:0002 dst=fd77:0002:0000:0000:0000:0000:0000:0003 "
        "sport=42018 dport=443 packets=3 bytes=180 "
        "src=fd77:0002:0000:0000:0000:0000:0000:0003 dst=fd77:0001:0000:0000:0000:0000:0000:0002 "
        "sport=443 dport=42018 packets=2 bytes=112 [ASSURED] mark=7 secctx=a:b:c zone=3 use=2"
    )
    assert found == ConntrackEntry(
        family=6,
        original=ConntrackTuple(Endpoint("fd77:1::2", 42018), Endpoint("fd77:2::3", 443)),
        reply=ConntrackTuple(Endpoint("fd77:2::3", 443), Endpoint("fd77:1::2", 42018)),
        state="ESTABLISHED",
        unreplied=False,
        assured=True,
        timeout_seconds=431999,
        mark=7,
        zone=3,
    )
    assert not found.nat


@pytest.mark.parametrize("flag", ["[OFFLOAD]", "[HW_OFFLOAD]"])
def test_of_an_offloaded_connection_the_state_is_unknown(flag: str) -> None:
    line = STUCK.replace("117 SYN_SENT ", "").replace("[UNREPLIED] ", "")
    found = one(line.replace("mark=0", f"{flag} mark=0"))
    assert (found.state, found.timeout_seconds, found.assured) == (None, None, None)


def test_times_and_labels_are_passed_over() -> None:
    more = "delta-time=5 [start=Sat Feb  1 12:00:00 2025] helper=x id=5 labels=a,b"
    assert one(f"{STUCK} {more}") == ENTRY


@pytest.mark.parametrize(
    "line",
    [
        STUCK.replace("tcp      6 117 SYN_SENT", "udp      17 29"),
        STUCK.replace("tcp      6 117 SYN_SENT", "ipv4     2 udp      17 29"),
        "icmp     1 29 src=10.0.0.9 dst=10.0.0.1 type=8 code=0 id=1 src=10.0.0.1 dst=10.0.0.9",
        "ipv4     2 unknown  112 599 src=10.0.0.9 dst=224.0.0.18 [UNREPLIED] src=224.0.0.18",
        "conntrack v1.4.7 (conntrack-tools): 14 flow entries have been shown.",
    ],
)
def test_what_is_no_entry_of_tcp_is_passed_over(line: str) -> None:
    assert parsed(STUCK, line, STUCK) == [ENTRY, ENTRY]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (STUCK[:100], "not the two tuples"),
        (STUCK.replace("sport=8080 ", ""), "not the two tuples"),
        (STUCK.replace("mark=0", "src=10.0.0.1"), "not the two tuples"),
        (STUCK.replace("src=10.0.2.3", "src=fd00::1"), "addresses of two families"),
        (STUCK.replace("10.96.0.1", "10.96.0.1.2"), "the host is no address"),
        (STUCK.replace("dport=80 ", "dport=http "), "the port is no number"),
        (STUCK.replace("mark=0", "mark=x"), "mark is no number"),
        (f"[DESTROY] {STUCK}", "not a line of conntrack"),
        ("tcp      6 117 SYN_SENT", "not a line of conntrack"),
    ],
)
def test_a_damaged_line_is_a_problem_that_says_where_and_what(line: str, reason: str) -> None:
    first, problem, last = parsed(STUCK, line, STUCK)
    assert first == last == ENTRY
    assert isinstance(problem, Problem)
    assert (problem.file, problem.line_number, problem.line) == ("file", 2, line)
    assert problem.reason.startswith(reason)


def test_only_entries_in_the_states_asked_for_are_given() -> None:
    other = STUCK.replace("SYN_SENT", "SYN_RECV")
    assert list(parse([other, STUCK, other], states={"SYN_SENT"})) == [ENTRY]
