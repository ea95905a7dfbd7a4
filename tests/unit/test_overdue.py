"""Entries that the kernel's table shows as late, and the sweeps that settle them."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import IPv6Address
from socket import AF_INET

import pytest

from tracer.model import (
    NANOSECONDS,
    Endpoint,
    Flow,
    Owner,
    SourceName,
    Sweep,
    SweptSocket,
    Transition,
    TransitionKind,
)
from tracer.sources import overdue as overdue_module
from tracer.sources.overdue import Overdue
from tracer.sources.wire import ATTEMPT, RawAttempt

NETNS, OTHER_NETNS = 4026532001, 4026532002
KEY, OTHER_KEY = 0xFFFF_8881_0000_0100, 0xFFFF_8881_0000_0200
SOURCE, DESTINATION = "10.4.7.21", "198.51.100.7"
PID = 4_711
MILLISECOND = NANOSECONDS // 1_000
STARTED, NOTED, SWEPT = (seconds * NANOSECONDS for seconds in (100, 101, 102))
QUICK_SECONDS = 0.5


class Clock:
    """Tells the time at which entries are noted."""

    def __init__(self) -> None:
        self.now = NOTED

    def monotonic_ns(self) -> int:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(overdue_module, "time", clock)
    return clock


def entry(
    started: int = STARTED,
    *,
    port: int = 0,
    netns: int = NETNS,
    destination: str = DESTINATION,
    destination_port: int = 443,
) -> RawAttempt:
    """An entry of the kernel's table; port 0: the kernel has not told it yet."""
    return RawAttempt._make(ATTEMPT.unpack(bytes(ATTEMPT.size)))._replace(
        start_ns=started,
        netns=netns,
        pid=PID,
        family=AF_INET,
        sport=port,
        dport=destination_port,
        seen_start=1,
        saddr=IPv6Address(f"::ffff:{SOURCE}").packed,
        daddr=IPv6Address(f"::ffff:{destination}").packed,
        comm=b"curl",
    )


def swept(
    port: int,
    started: int | None = STARTED,
    *,
    netns: int = NETNS,
    destination: str = DESTINATION,
    destination_port: int = 443,
) -> SweptSocket:
    """A socket in SYN_SENT; no start stands for one without a timer."""
    return SweptSocket(
        cookie=port,
        flow=Flow(netns, 4, Endpoint(SOURCE, port), Endpoint(destination, destination_port)),
        owner=Owner(),
        retransmissions=0,
        started_ns=started,
        last_syn_ns=None,
        next_retry_ns=None if started is None else started + NANOSECONDS,
    )


def sweep(
    *sockets: SweptSocket,
    started: int = SWEPT,
    looked: frozenset[int] = frozenset({NETNS}),
    gone: frozenset[int] = frozenset(),
) -> Sweep:
    return Sweep(SourceName.SOCK_DIAG, started, started + MILLISECOND, looked, sockets, gone)


def ports(confirmed: list[Transition]) -> dict[int, int | None]:
    """Source port by key of what was confirmed."""
    assert len({found.key for found in confirmed}) == len(confirmed)
    return {found.key: found.flow.source.port for found in confirmed}


# --- one entry -----------------------------------------------------------------------------------


def test_an_entry_that_a_sweep_shows_is_confirmed_with_the_port_that_was_swept() -> None:
    overdue = Overdue()
    assert overdue.note({KEY: entry()}) == {NETNS}
    assert overdue.settle(sweep(swept(40_001))) == (
        [
            Transition(
                kind=TransitionKind.OVERDUE,
                key=KEY,
                time_ns=NOTED,
                flow=swept(40_001).flow,
                owner=Owner(pid=PID, uid=0, comm="curl"),
                started_ns=STARTED,
                syns_sent=1,
                last_syn_ns=None,
                next_retry_ns=None,
                backoff=0,
            )
        ],
        [],
    )


def test_an_entry_keeps_the_time_at_which_it_was_first_noted(clock: Clock) -> None:
    overdue = Overdue()
    overdue.note({KEY: entry()})
    clock.now += NANOSECONDS // 4
    overdue.note({KEY: entry()})
    ((found,), _) = overdue.settle(sweep(swept(40_001)))
    assert found.time_ns == NOTED


def settle_twice(overdue: Overdue, shown: Sweep) -> tuple[list[Transition], list[tuple[int, int]]]:
    """Two sweeps with the same answer: what only one does not show need not have ended."""
    confirmed, too_soon = overdue.settle(shown)
    assert too_soon == []
    more, ended = overdue.settle(shown)
    return [*confirmed, *more], ended


def test_an_entry_that_only_one_sweep_does_not_show_is_still_there() -> None:
    overdue = Overdue()
    overdue.note({KEY: entry()})
    assert overdue.settle(sweep()) == ([], [])
    confirmed, ended = overdue.settle(sweep(swept(40_001), started=SWEPT + NANOSECONDS))
    assert (ports(confirmed), ended) == ({KEY: 40_001}, [])


def test_the_socket_of_an_entry_that_was_told_confirms_no_other() -> None:
    overdue = Overdue()
    overdue.note({KEY: entry()})
    overdue.settle(sweep(swept(40_001)))
    late = STARTED + MILLISECOND
    overdue.note({KEY: entry(), OTHER_KEY: entry(late)})
    later = sweep(swept(40_001), started=time.monotonic_ns() + NANOSECONDS)
    assert settle_twice(overdue, later) == ([], [(OTHER_KEY, late)])


def test_an_entry_that_a_sweep_does_not_show_has_ended_and_that_is_said_once() -> None:
    overdue = Overdue()
    overdue.note({KEY: entry()})
    assert settle_twice(overdue, sweep()) == ([], [(KEY, STARTED)])
    assert overdue.settle(sweep(started=SWEPT + NANOSECONDS)) == ([], [])


def test_an_entry_of_a_namespace_that_is_gone_has_ended() -> None:
    overdue = Overdue()
    overdue.note({KEY: entry()})
    told = settle_twice(overdue, sweep(looked=frozenset(), gone=frozenset({NETNS})))
    assert told == ([], [(KEY, STARTED)])


@pytest.mark.parametrize("began", [NOTED - 1, NOTED])
def test_an_entry_noted_after_the_sweep_began_waits_for_the_next(began: int) -> None:
    overdue = Overdue()
    overdue.note({KEY: entry()})
    assert overdue.settle(sweep(started=began)) == ([], [])
    assert overdue.settle(sweep(swept(40_001), started=began)) == ([], [])
    assert overdue.note({KEY: entry()}) == {NETNS}
    confirmed, ended = overdue.settle(sweep(swept(40_001), started=NOTED + 1))
    assert (ports(confirmed), ended) == ({KEY: 40_001}, [])


def test_an_entry_whose_namespace_was_not_looked_into_keeps_waiting() -> None:
    overdue = Overdue()
    overdue.note({KEY: entry(), OTHER_KEY: entry(netns=OTHER_NETNS)})
    confirmed, ended = overdue.settle(sweep(swept(40_001)))
    assert (ports(confirmed), ended) == ({KEY: 40_001}, [])
    assert overdue.note({KEY: entry(), OTHER_KEY: entry(netns=OTHER_NETNS)}) == {OTHER_NETNS}
    told = settle_twice(overdue, sweep(looked=frozenset({OTHER_NETNS})))
    assert told == ([], [(OTHER_KEY, STARTED)])


def test_an_entry_whose_namespace_is_unknown_asks_for_none_and_is_never_settled() -> None:
    overdue = Overdue()
    assert overdue.note({KEY: entry(netns=0)}) == frozenset()
    assert overdue.settle(sweep(swept(40_001))) == ([], [])


def test_an_entry_that_is_no_longer_late_is_not_settled() -> None:
    """It has ended, or its SYN was sent again: the stream has said so."""
    overdue = Overdue()
    overdue.note({KEY: entry()})
    assert overdue.note({}) == frozenset()
    assert overdue.settle(sweep(swept(40_001))) == ([], [])


def test_without_entries_no_sweep_is_asked_for_and_none_tells_anything() -> None:
    overdue = Overdue()
    assert overdue.note({}) == frozenset()
    assert overdue.settle(sweep(swept(40_001))) == ([], [])


# --- once per start ------------------------------------------------------------------------------


def test_an_entry_that_was_told_is_not_told_again_nor_asked_for() -> None:
    overdue = Overdue()
    for number in range(3):
        namespaces = overdue.note({KEY: entry()})
        confirmed, ended = overdue.settle(sweep(swept(40_001), started=SWEPT + number))
        assert namespaces == ({NETNS} if number == 0 else frozenset())
        assert ports(confirmed) == ({KEY: 40_001} if number == 0 else {})
        assert ended == []


def test_an_entry_that_was_told_is_not_ended_by_its_age_later() -> None:
    """From then on it is the tracker's."""
    overdue = Overdue()
    overdue.note({KEY: entry()})
    overdue.settle(sweep(swept(40_001)))
    overdue.note({KEY: entry()})
    assert overdue.settle(sweep()) == ([], [])


def test_the_next_attempt_of_a_socket_is_told_again(clock: Clock) -> None:
    overdue = Overdue()
    overdue.note({KEY: entry()})
    overdue.settle(sweep(swept(40_001)))
    clock.now = STARTED + 9 * NANOSECONDS
    later = STARTED + 8 * NANOSECONDS
    assert overdue.note({KEY: entry(later)}) == {NETNS}
    confirmed, _ = overdue.settle(sweep(swept(40_002, later), started=clock.now + 1))
    assert ports(confirmed) == {KEY: 40_002}
    assert confirmed[0].started_ns == later


def test_the_next_attempt_of_a_socket_does_not_inherit_when_the_last_one_was_noted(
    clock: Clock,
) -> None:
    overdue = Overdue()
    overdue.note({KEY: entry()})
    clock.now = SWEPT + NANOSECONDS
    overdue.note({KEY: entry(SWEPT)})
    assert overdue.settle(sweep(started=SWEPT)) == ([], []), "the sweep began before this attempt"


def test_what_is_told_is_remembered_only_while_it_is_late() -> None:
    overdue = Overdue()
    overdue.note({KEY: entry()})
    overdue.settle(sweep(swept(40_001)))
    assert overdue._told
    overdue.note({})
    assert not overdue._told
    assert not overdue._waiting


# --- several entries -----------------------------------------------------------------------------


def test_entries_of_one_route_are_paired_by_their_start_one_to_one() -> None:
    overdue = Overdue()
    starts = [STARTED + number * 100 * MILLISECOND for number in range(4)]
    order = (2, 0, 3, 1)
    overdue.note({KEY + number: entry(starts[number]) for number in order})
    # The timer tells the start to a few milliseconds.
    sockets = [swept(40_000 + number, starts[number] - 4 * MILLISECOND) for number in (1, 3, 0, 2)]
    confirmed, ended = overdue.settle(sweep(*sockets))
    assert ports(confirmed) == {KEY + number: 40_000 + number for number in order}
    assert ended == []


def test_of_two_entries_the_one_without_a_socket_is_the_one_that_ended() -> None:
    second = STARTED + NANOSECONDS
    for socket, confirmed_key, ended_entry in (
        (swept(40_001, STARTED), KEY, (OTHER_KEY, second)),
        (swept(40_001, second), OTHER_KEY, (KEY, STARTED)),
    ):
        overdue = Overdue()
        overdue.note({KEY: entry(STARTED), OTHER_KEY: entry(second)})
        confirmed, ended = settle_twice(overdue, sweep(socket, started=SWEPT + NANOSECONDS))
        assert (ports(confirmed), ended) == ({confirmed_key: 40_001}, [ended_entry])


def test_one_socket_confirms_one_entry() -> None:
    overdue = Overdue()
    overdue.note({KEY: entry(), OTHER_KEY: entry(STARTED + MILLISECOND)})
    confirmed, ended = settle_twice(overdue, sweep(swept(40_001)))
    assert (ports(confirmed), ended) == ({KEY: 40_001}, [(OTHER_KEY, STARTED + MILLISECOND)])


@pytest.mark.parametrize(
    ("apart_ms", "same"), [(-101, False), (-100, True), (100, True), (101, False)]
)
def test_a_socket_that_began_at_another_time_is_another_attempt(
    *, apart_ms: int, same: bool
) -> None:
    overdue = Overdue()
    overdue.note({KEY: entry()})
    confirmed, ended = settle_twice(overdue, sweep(swept(40_001, STARTED + apart_ms * MILLISECOND)))
    assert (ports(confirmed), ended) == (({KEY: 40_001}, []) if same else ({}, [(KEY, STARTED)]))


def test_an_entry_with_a_port_is_the_socket_with_that_port_whatever_their_starts() -> None:
    overdue = Overdue()
    overdue.note({KEY: entry(port=40_001), OTHER_KEY: entry(port=40_002)})
    sockets = (swept(40_002, STARTED), swept(40_001, STARTED + 5 * NANOSECONDS))
    confirmed, ended = overdue.settle(sweep(*sockets))
    assert (ports(confirmed), ended) == ({KEY: 40_001, OTHER_KEY: 40_002}, [])


def test_an_entry_with_a_port_is_no_socket_with_another() -> None:
    overdue = Overdue()
    overdue.note({KEY: entry(port=40_001)})
    assert settle_twice(overdue, sweep(swept(40_002))) == ([], [(KEY, STARTED)])


def test_the_socket_of_an_entry_with_a_port_is_not_given_to_one_without() -> None:
    overdue = Overdue()
    late = STARTED + MILLISECOND
    overdue.note({OTHER_KEY: entry(late), KEY: entry(port=40_001)})
    confirmed, ended = settle_twice(overdue, sweep(swept(40_001)))
    assert (ports(confirmed), ended) == ({KEY: 40_001}, [(OTHER_KEY, late)])


@pytest.mark.parametrize(
    "other",
    [
        swept(40_001, netns=OTHER_NETNS),
        swept(40_001, destination="198.51.100.8"),
        swept(40_001, destination_port=444),
        replace(
            swept(40_001),
            flow=replace(swept(40_001).flow, source=Endpoint("10.4.7.22", 40_001)),
        ),
    ],
    ids=["namespace", "destination", "destination port", "source"],
)
def test_a_socket_of_another_route_confirms_nothing(other: SweptSocket) -> None:
    overdue = Overdue()
    overdue.note({KEY: entry()})
    told = settle_twice(overdue, sweep(other, looked=frozenset({NETNS, OTHER_NETNS})))
    assert told == ([], [(KEY, STARTED)])


# --- TCP Fast Open -------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [0, 40_001])
def test_a_socket_without_a_timer_is_neither_reported_nor_ended(port: int) -> None:
    """connect() has returned, the SYN goes out with the first write."""
    overdue = Overdue()
    overdue.note({KEY: entry(port=port)})
    assert overdue.settle(sweep(swept(40_001, None))) == ([], [])
    assert overdue.note({KEY: entry(port=port)}) == frozenset(), "it is not asked for again"


@pytest.mark.parametrize(
    "apart",
    [
        pytest.param(-NANOSECONDS, id="older"),
        pytest.param(
            NANOSECONDS,
            id="younger",
        ),
    ],
)
def test_a_socket_without_a_timer_does_not_take_an_entry_from_one_that_has_its_start(
    apart: int,
) -> None:
    overdue = Overdue()
    overdue.note({KEY: entry(STARTED), OTHER_KEY: entry(STARTED + apart)})
    sockets = swept(40_001, STARTED), swept(40_002, None)
    confirmed, ended = overdue.settle(sweep(*sockets, started=SWEPT + NANOSECONDS))
    assert (ports(confirmed), ended) == ({KEY: 40_001}, [])


# --- cost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [0, 10_000], ids=["by start", "by port"])
def test_ten_thousand_entries_of_one_route_settle_quickly(port: int) -> None:
    count = 10_000
    found = {
        KEY + number: entry(STARTED - number * MILLISECOND, port=port and port + number)
        for number in range(count)
    }
    sockets = [swept(10_000 + number, STARTED - number * MILLISECOND) for number in range(count)]
    overdue = Overdue()
    began = time.thread_time()
    overdue.note(found)
    confirmed, ended = overdue.settle(sweep(*sockets))
    took = time.thread_time() - began
    assert ports(confirmed) == {KEY + number: 10_000 + number for number in range(count)}
    assert ended == []
    assert took < QUICK_SECONDS


def test_ten_thousand_entries_whose_ends_went_unseen_are_ended_quickly() -> None:
    count = 10_000
    found = {KEY + number: entry(STARTED - number * MILLISECOND) for number in range(count)}
    overdue = Overdue()
    began = time.thread_time()
    overdue.note(found)
    confirmed, ended = settle_twice(overdue, sweep())
    took = time.thread_time() - began
    assert confirmed == []
    assert sorted(ended) == sorted((key, raw.start_ns) for key, raw in found.items())
    assert took < QUICK_SECONDS
