"""What files of /proc count, as text."""

from __future__ import annotations

import pytest

from tracer.host.counters import (
    ConntrackDrops,
    TcpCounters,
    parse_conntrack_statistics,
    parse_netstat,
)

NETSTAT = """\
TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPReqQFullDoCookies IPReversePathFilter
TcpExt: 0 12 15 3 4
IpExt: InNoRoutes ListenDrops
IpExt: 7 99
"""

CONNTRACK = """\
entries  clashres found new insert insert_failed drop early_drop icmp_error
0000000a  00000000 00000001 00000000 00000000 00000002 0000000f 00000003 00000000
0000000a  00000000 00000001 00000000 00000000 00000001 00000010 00000000 00000000
"""


def test_counters_of_tcp_are_found_by_their_names() -> None:
    assert parse_netstat(NETSTAT) == TcpCounters(12, 15, None, 3, 4)


@pytest.mark.parametrize("text", ["", "TcpExt: ListenDrops\n", "IpExt: ListenDrops\nIpExt: 3\n"])
def test_counters_that_are_not_there_are_unknown(text: str) -> None:
    assert parse_netstat(text) == TcpCounters(None, None, None, None, None)


def test_rows_of_all_processors_are_summed_and_hexadecimal() -> None:
    assert parse_conntrack_statistics(CONNTRACK) == ConntrackDrops(31)


def test_a_table_without_rows_has_dropped_nothing() -> None:
    header = CONNTRACK.splitlines()[0]
    assert parse_conntrack_statistics(header) == ConntrackDrops(0)


@pytest.mark.parametrize("text", ["", "entries found\n0 0\n", CONNTRACK.replace("0f", "xx")])
def test_statistics_that_make_no_sense_are_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_conntrack_statistics(text)
