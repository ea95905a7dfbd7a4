"""Threads that watch, with sources and clocks that do what the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import pytest

from tracer.model import Endpoint, Flow, Owner, SourceName, Sweep, Transition, TransitionKind
from tracer.sources import feed as feed_module
from tracer.sources.feed import Batch, Inbox, StreamFeed, SweepFeed

if TYPE_CHECKING:
    from tracer.sources.bpf import BpfSource
    from tracer.sources.poll import Poller

WAIT_SECONDS = 10
"""For another thread to do what takes it no time."""

THRESHOLD = 1.0
LOOK_SECONDS = 0.25
"""How often the table is looked at for this threshold."""

Read = tuple[list[Transition], int]
Step = Callable[[], None]


def transition(number: int) -> Transition:
    return Transition(
        kind=TransitionKind.RETRANSMIT,
        key=number,
        time_ns=number,
        flow=Flow(None, 4, Endpoint("10.0.0.9", None), Endpoint("198.51.100.7", 443)),
        owner=Owner(),
        started_ns=None,
        syns_sent=2,
        last_syn_ns=None,
        next_retry_ns=None,
    )


def sweep(number: int = 0) -> Sweep:
    return Sweep(SourceName.SOCK_DIAG, number, number + 1, frozenset(), ())


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.used = 50.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.used


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(feed_module, "time", clock)
    return clock


class FakeBpf:
    """A ring buffer and a table. Each waiting read takes one step, then what is in the ring.

    All of it runs in the feed's thread; what is in `late` happens just after a waiting read has
    emptied the ring. `done` is set when all steps are taken; from then on such reads wait until the
    test lets them go.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.ring: list[Transition] = []
        self.garbage = 0
        self.late: list[Step] = []
        self.in_table = 0
        self.overdue_found: list[Transition] = []
        self.overdue_asked = 0
        self.waits: list[float] = []
        self.done = threading.Event()
        self.let_go = threading.Event()

    def read(self, timeout_seconds: float) -> Read:
        if timeout_seconds:
            self.waits.append(timeout_seconds)
            if self.steps:
                self.steps.pop(0)()
            else:
                self.done.set()
                self.let_go.wait(WAIT_SECONDS)
        records, self.ring = self.ring, []
        garbage, self.garbage = self.garbage, 0
        while timeout_seconds and self.late:
            self.late.pop(0)()
        return records, garbage

    def counters(self) -> dict[str, int]:
        return {"added": 10 + self.in_table, "removed": 10}

    def overdue(self) -> list[Transition]:
        self.overdue_asked += 1
        return self.overdue_found


@pytest.fixture
def bpf() -> Iterator[FakeBpf]:
    source = FakeBpf()
    yield source
    source.let_go.set()


def stream(source: FakeBpf, inbox: Inbox, threshold: float = THRESHOLD) -> StreamFeed:
    return StreamFeed(cast("BpfSource", source), inbox, threshold)


def run(feed: StreamFeed, source: FakeBpf) -> None:
    """Lets the feed take every step, then ends it."""
    feed.start()
    assert source.done.wait(WAIT_SECONDS), "the feed has not taken every step"
    # The feed is asked to stop before its last read returns.
    stopping = threading.Thread(target=feed.stop)
    stopping.start()
    assert feed._stopping.wait(WAIT_SECONDS)
    source.let_go.set()
    stopping.join(WAIT_SECONDS)
    assert not stopping.is_alive(), "the feed has not stopped"


def taken(inbox: Inbox) -> list[Batch]:
    return inbox.get(0.001)


# --- inbox ---------------------------------------------------------------------------------------


def test_batches_come_out_in_the_order_they_went_in() -> None:
    inbox = Inbox(10)
    batches = [Batch((transition(number),)) for number in range(3)]
    for batch in batches:
        inbox.put(batch)
    assert taken(inbox) == batches
    assert taken(inbox) == []


def test_what_finds_the_inbox_full_is_counted_by_its_transitions() -> None:
    inbox = Inbox(2)
    for number in range(2):
        inbox.put(Batch((transition(number),)))
    assert inbox.dropped == 0
    inbox.put(Batch((transition(2), transition(3), transition(4))))
    inbox.put(Batch((transition(5),)))
    assert inbox.dropped == 4
    assert [batch.transitions[0].key for batch in taken(inbox)] == [0, 1]


def test_an_inbox_that_was_emptied_takes_batches_again() -> None:
    inbox = Inbox(1)
    inbox.put(Batch((transition(0),)))
    inbox.put(Batch((transition(1),)))
    taken(inbox)
    inbox.put(Batch((transition(2),)))
    assert [batch.transitions[0].key for batch in taken(inbox)] == [2]
    assert inbox.dropped == 1


def test_undecodable_records_that_find_the_inbox_full_are_counted_too() -> None:
    inbox = Inbox(1)
    inbox.put(Batch(undecodable=1))
    inbox.put(Batch((transition(0),), undecodable=2))
    assert inbox.dropped == 3


def test_a_failure_is_raised_by_every_get_from_then_on() -> None:
    inbox = Inbox(1)
    inbox.fail(OSError(5, "the ring is gone"))
    for _ in range(2):
        with pytest.raises(OSError, match="the ring is gone"):
            taken(inbox)


# --- stream --------------------------------------------------------------------------------------


def test_records_are_handed_over_as_they_are_read(bpf: FakeBpf) -> None:
    inbox = Inbox(10)
    bpf.steps = [
        lambda: bpf.ring.extend([transition(1), transition(2)]),
        lambda: None,
        lambda: bpf.ring.append(transition(3)),
    ]
    run(stream(bpf, inbox), bpf)
    assert taken(inbox) == [
        Batch((transition(1), transition(2))),
        Batch((transition(3),)),
    ]


def test_records_that_made_no_sense_are_handed_over_as_a_number(bpf: FakeBpf) -> None:
    inbox = Inbox(10)
    bpf.steps = [lambda: setattr(bpf, "garbage", 3)]
    run(stream(bpf, inbox), bpf)
    assert taken(inbox) == [Batch(undecodable=3)]


def test_a_sweep_comes_after_all_that_was_in_the_ring_when_it_ended(bpf: FakeBpf) -> None:
    inbox = Inbox(10)
    feed = stream(bpf, inbox)

    def sweep_ends_just_after_the_read() -> None:
        bpf.ring += [transition(2), transition(3)]
        feed.take_sweep(sweep())

    bpf.steps = [lambda: bpf.ring.append(transition(1))]
    bpf.late = [sweep_ends_just_after_the_read]
    run(feed, bpf)
    assert taken(inbox) == [
        Batch((transition(1),)),
        Batch((transition(2), transition(3)), sweep()),
    ]


def test_records_that_made_no_sense_before_a_sweep_are_told_with_it(bpf: FakeBpf) -> None:
    inbox = Inbox(10)
    feed = stream(bpf, inbox)

    def sweep_ends() -> None:
        bpf.garbage = 2
        feed.take_sweep(sweep())

    bpf.steps = [lambda: None]
    bpf.late = [sweep_ends]
    run(feed, bpf)
    assert taken(inbox) == [Batch((), sweep(), 2)]


def test_a_sweep_is_handed_over_once_and_a_newer_one_replaces_it(bpf: FakeBpf) -> None:
    inbox = Inbox(10)
    feed = stream(bpf, inbox)
    feed.take_sweep(sweep(1))
    feed.take_sweep(sweep(2))
    bpf.steps = [lambda: None] * 3
    run(feed, bpf)
    assert taken(inbox) == [Batch(sweep=sweep(2))]


def test_records_of_the_last_moment_are_handed_over_at_the_end(bpf: FakeBpf) -> None:
    inbox = Inbox(10)
    bpf.late = [lambda: bpf.ring.append(transition(1))]
    run(stream(bpf, inbox), bpf)
    assert len(bpf.waits) == 1
    assert taken(inbox) == [Batch((transition(1),))]


def test_an_empty_table_is_not_searched_for_overdue_attempts(bpf: FakeBpf, clock: Clock) -> None:
    inbox = Inbox(10)
    bpf.overdue_found = [transition(1)]
    bpf.steps = [lambda: setattr(clock, "now", clock.now + 1)] * 5
    run(stream(bpf, inbox), bpf)
    assert bpf.overdue_asked == 0
    assert taken(inbox) == []


def test_a_table_with_attempts_is_searched_at_an_interval(bpf: FakeBpf, clock: Clock) -> None:
    inbox = Inbox(10)
    bpf.in_table = 1
    asked: list[int] = []

    def passes(seconds: float) -> Step:
        def step() -> None:
            asked.append(bpf.overdue_asked)
            clock.now += seconds

        return step

    bpf.steps = [passes(share * LOOK_SECONDS) for share in (0.9, 0.2, 0.5, 0.4, 0.2, 0)]
    run(stream(bpf, inbox), bpf)
    assert asked == [0, 0, 1, 1, 1, 2]


def test_overdue_attempts_are_handed_over(bpf: FakeBpf, clock: Clock) -> None:
    inbox = Inbox(10)
    bpf.in_table = 1

    def one_passes_the_threshold() -> None:
        bpf.overdue_found = [transition(7)]
        clock.now += LOOK_SECONDS

    def it_was_told() -> None:
        bpf.overdue_found = []

    bpf.steps = [one_passes_the_threshold, it_was_told]
    run(stream(bpf, inbox), bpf)
    assert taken(inbox) == [Batch((transition(7),))]


def test_counters_are_read_at_once_and_with_every_look(bpf: FakeBpf, clock: Clock) -> None:
    feed = stream(bpf, Inbox(10))
    assert feed.counters == {"added": 10, "removed": 10}
    seen: list[int] = []

    def one_is_added() -> None:
        bpf.in_table = 1
        clock.now += LOOK_SECONDS

    bpf.steps = [one_is_added, lambda: seen.append(feed.counters["added"])]
    run(feed, bpf)
    assert seen == [11]


def test_counters_of_the_end_are_read_at_the_end(bpf: FakeBpf, clock: Clock) -> None:
    feed = stream(bpf, Inbox(10))
    bpf.steps = [lambda: setattr(bpf, "in_table", 5)]
    run(feed, bpf)
    assert clock.now == 1_000.0
    assert feed.counters["added"] == 15


@pytest.mark.parametrize(
    ("threshold", "wait"), [(0.01, 0.02), (0.2, 0.05), (1.0, 0.25), (30.0, 0.25)]
)
def test_a_short_threshold_is_looked_for_more_often(
    bpf: FakeBpf, threshold: float, wait: float
) -> None:
    run(stream(bpf, Inbox(10), threshold), bpf)
    assert bpf.waits == [wait]


def test_an_error_of_the_stream_reaches_the_reader_of_the_inbox(bpf: FakeBpf) -> None:
    inbox = Inbox(10)

    def dies() -> None:
        raise OSError(9, "the ring is gone")

    bpf.steps = [dies]
    feed = stream(bpf, inbox)
    feed.start()
    feed.stop()
    with pytest.raises(OSError, match="the ring is gone"):
        taken(inbox)


def test_a_stream_that_cannot_be_read_from_the_start_is_not_begun(
    bpf: FakeBpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counters() -> dict[str, int]:
        raise OSError(9, "no counters")

    monkeypatch.setattr(bpf, "counters", counters)
    with pytest.raises(OSError, match="no counters"):
        stream(bpf, Inbox(10))


def test_a_feed_that_was_never_started_can_be_stopped(bpf: FakeBpf) -> None:
    stream(bpf, Inbox(10)).stop()
    assert bpf.waits == []


# --- sweeps --------------------------------------------------------------------------------------


class FakePoller:
    """Sweeps numbered from 0; each costs the next of `costs` in CPU time, then dies."""

    def __init__(self, clock: Clock, *costs: float) -> None:
        self.unreadable = 0
        self.denied = 0
        self.closed = 0
        self._clock = clock
        self._costs = list(costs)
        self._count = 0

    def sweep(self) -> Sweep:
        if not self._costs:
            raise OSError(24, "Too many open files")
        self._clock.used += self._costs.pop(0)
        self._clock.now += 1_000  # wall time of a machine that is busy with other things
        self._count += 1
        return sweep(self._count - 1)

    def close(self) -> None:
        self.closed += 1


class Pauses(threading.Event):
    """Notes how long a feed would wait, and ends it after `rounds`."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._rounds = rounds

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        return len(self.seconds) > self._rounds


def sweeping(
    poller: FakePoller,
    inbox: Inbox,
    rounds: int,
    *,
    interval: float = 1.0,
    deliver: Callable[[Sweep], None] | None = None,
) -> tuple[SweepFeed, Pauses]:
    """A feed that was run for a number of rounds, and its pauses."""
    feed = SweepFeed(cast("Poller", poller), inbox, interval, deliver)
    pauses = Pauses(rounds)
    feed._stopping = pauses
    feed.start()
    feed.stop()
    return feed, pauses


def test_sweeps_go_to_the_inbox_and_the_first_without_a_pause(clock: Clock) -> None:
    inbox = Inbox(10)
    _, pauses = sweeping(FakePoller(clock, 0, 0, 0), inbox, 3)
    assert taken(inbox) == [Batch(sweep=sweep(number)) for number in range(3)]
    assert pauses.seconds == [0, 1, 1, 1]


def test_sweeps_go_to_whom_they_are_meant_for(clock: Clock) -> None:
    inbox = Inbox(10)
    delivered: list[Sweep] = []
    sweeping(FakePoller(clock, 0, 0), inbox, 2, deliver=delivered.append)
    assert delivered == [sweep(0), sweep(1)]
    assert taken(inbox) == []


def test_expensive_rounds_come_further_apart_by_the_cpu_time_they_took(clock: Clock) -> None:
    poller = FakePoller(clock, 0.1, 0.19, 0.5, 2.0, 0.01)
    _, pauses = sweeping(poller, Inbox(10), 5, interval=1.0)
    # A fifth of a CPU: five times the cost, unless the interval is longer anyway.
    assert pauses.seconds == pytest.approx([0, 1, 1, 2.5, 10, 1])


def test_the_poller_is_closed_when_the_feed_stops(clock: Clock) -> None:
    poller = FakePoller(clock, 0)
    sweeping(poller, Inbox(10), 1)
    assert poller.closed == 1


def test_the_poller_is_closed_when_it_dies_and_its_error_reaches_the_reader(clock: Clock) -> None:
    poller = FakePoller(clock, 0)
    inbox = Inbox(10)
    _, pauses = sweeping(poller, inbox, 5)
    assert poller.closed == 1
    assert len(pauses.seconds) == 2
    with pytest.raises(OSError, match="Too many open files"):
        taken(inbox)


def test_a_feed_in_its_pause_stops_at_once(clock: Clock) -> None:
    swept = threading.Event()
    poller = FakePoller(clock, 0)
    feed = SweepFeed(cast("Poller", poller), Inbox(10), 3_600, lambda _: swept.set())
    feed.start()
    assert swept.wait(WAIT_SECONDS)
    feed.stop()
    assert poller.closed == 1


BOTH_UNSEEN = (
    "network namespaces: 2 that could not be looked into"
    " and that of 7 process(es) which may not be read"
)


@pytest.mark.parametrize(
    ("unreadable", "denied", "told"),
    [
        (0, 0, ""),
        (2, 0, "network namespaces: 2 that could not be looked into"),
        (0, 7, "network namespaces: that of 7 process(es) which may not be read"),
        (2, 7, BOTH_UNSEEN),
    ],
)
def test_what_the_last_sweep_could_not_see_is_said(
    clock: Clock, unreadable: int, denied: int, told: str
) -> None:
    poller = FakePoller(clock, 0)
    poller.unreadable, poller.denied = unreadable, denied
    feed, _ = sweeping(poller, Inbox(10), 1)
    assert feed.unseen == told


def test_before_the_first_sweep_nothing_is_said_to_be_unseen(clock: Clock) -> None:
    feed, _ = sweeping(FakePoller(clock), Inbox(10), 0)
    assert feed.unseen == ""
