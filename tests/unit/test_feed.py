"""Threads that watch, with sources and clocks that do what the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, cast

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
from tracer.sources import feed as feed_module
from tracer.sources.feed import Batch, Feed, Inbox, StreamFeed, SweepFeed
from tracer.sources.wire import ATTEMPT, RawAttempt

if TYPE_CHECKING:
    from tracer.sources.bpf import BpfSource
    from tracer.sources.poll import Poller

WAIT_SECONDS = 10
"""For another thread to do what takes it no time."""

THRESHOLD = 1.0
LOOK_SECONDS = 0.25
"""How often the table is looked at for this threshold."""

NETNS, OTHER_NETNS = 4026532001, 4026532002
FAR = 10**18
"""A time after every other: of a sweep that has begun after all that was noted."""

STARTED = 5 * NANOSECONDS

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


def late(started: int = STARTED, netns: int = NETNS) -> RawAttempt:
    """An entry of the kernel's table that is past the threshold."""
    empty = RawAttempt._make(ATTEMPT.unpack(bytes(ATTEMPT.size)))
    mapped = bytes(10) + b"\xff\xff"
    return empty._replace(
        start_ns=started,
        netns=netns,
        dport=443,
        saddr=mapped + bytes([10, 0, 0, 9]),
        daddr=mapped + bytes([198, 51, 100, 7]),
    )


def confirming(port: int, *, started: int = STARTED, began: int = FAR) -> Sweep:
    """A sweep that shows the socket of a late entry."""
    flow = Flow(NETNS, 4, Endpoint("10.0.0.9", port), Endpoint("198.51.100.7", 443))
    swept = SweptSocket(port, flow, Owner(), 0, started, None, started + NANOSECONDS)
    return Sweep(SourceName.SOCK_DIAG, began, began + 1, frozenset({NETNS}), (swept,))


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
        self.retransmitted = 0
        self.overdue_found: dict[int, RawAttempt] = {}
        self.overdue_asked = 0
        self.forgotten: list[tuple[int, int]] = []
        self.looking_costs: Step = lambda: None
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
        return {
            "added": 10 + self.in_table,
            "removed": 10,
            "retransmitted": 7 + self.retransmitted,
            "retransmitted_removed": 7,
        }

    def overdue(self) -> dict[int, RawAttempt]:
        self.overdue_asked += 1
        self.looking_costs()
        return dict(self.overdue_found)

    def forget(self, key: int, start_ns: int) -> None:
        self.forgotten.append((key, start_ns))


@pytest.fixture
def bpf() -> Iterator[FakeBpf]:
    source = FakeBpf()
    yield source
    source.let_go.set()


def stream(
    source: FakeBpf,
    inbox: Inbox,
    threshold: float = THRESHOLD,
    verify: Callable[[frozenset[int]], None] = lambda _: None,
    *,
    forward_sweeps: bool = True,
) -> StreamFeed:
    return StreamFeed(
        cast("BpfSource", source), inbox, threshold, verify, forward_sweeps=forward_sweeps
    )


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


def test_a_feed_keeps_what_it_has_died_of() -> None:
    class Dying(Feed):
        def _run(self) -> None:
            raise OSError(5, "the ring is gone")

    inbox = Inbox(1)
    inbox.put(Batch((transition(0),)))
    feed = Dying("dying", inbox)
    feed.start()
    feed.stop()
    assert isinstance(feed.failure, OSError)
    assert feed.failure.strerror == "the ring is gone"
    assert len(taken(inbox)) == 1, "what it had said before is still there"


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


@pytest.mark.parametrize("stuck", [0, 3])
def test_a_table_without_a_late_attempt_that_is_not_known_is_not_searched(
    bpf: FakeBpf, clock: Clock, stuck: int
) -> None:
    inbox = Inbox(10)
    bpf.in_table = bpf.retransmitted = stuck
    bpf.overdue_found = {1: late()}
    bpf.steps = [lambda: setattr(clock, "now", clock.now + 1)] * 5
    run(stream(bpf, inbox), bpf)
    assert bpf.overdue_asked == 0
    assert taken(inbox) == []


def test_a_table_with_attempts_is_searched_at_an_interval(bpf: FakeBpf, clock: Clock) -> None:
    inbox = Inbox(10)
    bpf.in_table, bpf.retransmitted = 4, 3
    asked: list[int] = []

    def passes(seconds: float) -> Step:
        def step() -> None:
            asked.append(bpf.overdue_asked)
            clock.now += seconds

        return step

    bpf.steps = [passes(share * LOOK_SECONDS) for share in (0.9, 0.2, 0.5, 0.4, 0.2, 0)]
    run(stream(bpf, inbox), bpf)
    assert asked == [0, 0, 1, 1, 1, 2]


def test_a_look_that_costs_much_comes_less_often(bpf: FakeBpf, clock: Clock) -> None:
    """A twentieth of a CPU: twenty times the cost passes before the next look."""
    bpf.in_table = 1
    asked: list[int] = []

    def costs() -> None:
        clock.used += 0.1

    def passes(seconds: float) -> Step:
        def step() -> None:
            clock.now += seconds
            asked.append(bpf.overdue_asked)

        return step

    bpf.looking_costs = costs
    bpf.steps = [passes(seconds) for seconds in (LOOK_SECONDS, 1.0, 0.9, 0.2, 0)]
    run(stream(bpf, Inbox(10)), bpf)
    assert asked == [0, 1, 1, 1, 2]


def test_a_late_attempt_is_asked_about_and_not_told(bpf: FakeBpf, clock: Clock) -> None:
    inbox = Inbox(10)
    asked: list[frozenset[int]] = []
    bpf.in_table = 2
    bpf.overdue_found = {7: late(), 8: late(netns=OTHER_NETNS)}
    bpf.steps = [lambda: setattr(clock, "now", clock.now + LOOK_SECONDS)] * 2
    run(stream(bpf, inbox, verify=asked.append), bpf)
    assert asked == [frozenset({NETNS, OTHER_NETNS})] * 2, "asked for until it is settled"
    assert taken(inbox) == []


def test_nothing_is_asked_where_nothing_is_late(bpf: FakeBpf, clock: Clock) -> None:
    asked: list[frozenset[int]] = []
    bpf.in_table = 1
    bpf.steps = [lambda: setattr(clock, "now", clock.now + LOOK_SECONDS)] * 2
    run(stream(bpf, Inbox(10), verify=asked.append), bpf)
    assert bpf.overdue_asked == 2
    assert asked == []


@pytest.mark.parametrize("forward", [True, False])
def test_a_late_attempt_is_told_when_a_sweep_confirms_it_and_behind_the_kernels_records(
    bpf: FakeBpf, clock: Clock, *, forward: bool
) -> None:
    inbox = Inbox(10)
    bpf.in_table = 1
    bpf.overdue_found = {7: late()}
    shown = confirming(40_001)

    def asked_for_a_sweep(namespaces: frozenset[int]) -> None:
        assert namespaces == {NETNS}
        feed.take_sweep(shown)

    feed = stream(bpf, inbox, verify=asked_for_a_sweep, forward_sweeps=forward)
    bpf.steps = [
        lambda: setattr(clock, "now", clock.now + LOOK_SECONDS),
        lambda: bpf.late.append(lambda: bpf.ring.append(transition(1))),
    ]
    run(feed, bpf)
    assert feed.failure is None
    (batch,) = taken(inbox)
    first, second = batch.transitions
    assert first == transition(1)
    assert (second.kind, second.key) == (TransitionKind.OVERDUE, 7)
    assert second.flow == shown.sockets[0].flow
    assert batch.sweep == (shown if forward else None)
    assert bpf.forgotten == []


def test_a_late_attempt_that_two_sweeps_do_not_show_is_forgotten_and_not_told(
    bpf: FakeBpf, clock: Clock
) -> None:
    inbox = Inbox(10)
    bpf.in_table = 1
    bpf.overdue_found = {7: late()}
    without = Sweep(SourceName.SOCK_DIAG, FAR, FAR + 1, frozenset({NETNS}), ())
    feed = stream(bpf, inbox, verify=lambda _: feed.take_sweep(without))
    look = [lambda: setattr(clock, "now", clock.now + LOOK_SECONDS), lambda: None]
    bpf.steps = [*look, *look]
    run(feed, bpf)
    assert bpf.forgotten == [(7, STARTED)]
    assert taken(inbox) == [Batch(sweep=without), Batch(sweep=without)]


def test_a_sweep_that_began_before_the_look_settles_nothing(bpf: FakeBpf, clock: Clock) -> None:
    inbox = Inbox(10)
    bpf.in_table = 1
    bpf.overdue_found = {7: late()}
    feed = stream(bpf, inbox, verify=lambda _: feed.take_sweep(sweep()), forward_sweeps=False)
    bpf.steps = [lambda: setattr(clock, "now", clock.now + LOOK_SECONDS), lambda: None]
    run(feed, bpf)
    assert bpf.forgotten == []
    assert [batch.transitions for batch in taken(inbox) if batch.transitions] == []


def test_a_sweep_that_is_not_forwarded_still_says_what_the_ring_held(bpf: FakeBpf) -> None:
    inbox = Inbox(10)
    feed = stream(bpf, inbox, forward_sweeps=False)
    feed.take_sweep(sweep())
    bpf.steps = [lambda: None]
    bpf.late = [lambda: bpf.ring.append(transition(1))]
    run(feed, bpf)
    assert [batch for batch in taken(inbox) if batch != Batch()] == [Batch((transition(1),))]


def test_counters_are_read_at_once_and_with_every_look(bpf: FakeBpf, clock: Clock) -> None:
    feed = stream(bpf, Inbox(10))
    assert feed.counters == bpf.counters()
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


def test_an_error_of_the_stream_is_kept_for_who_asks(bpf: FakeBpf) -> None:
    inbox = Inbox(10)

    def dies() -> None:
        raise OSError(9, "the ring is gone")

    bpf.steps = [dies]
    feed = stream(bpf, inbox)
    feed.start()
    feed._thread.join(WAIT_SECONDS)
    assert isinstance(feed.failure, OSError)
    assert feed.failure.strerror == "the ring is gone"
    feed.stop()
    assert taken(inbox) == []


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
        self.asked_for: list[frozenset[int]] = []
        self.swept_at: list[float] = []
        self.meanwhile: list[Step] = []
        self._clock = clock
        self._costs = list(costs)

    def sweep(self, also: frozenset[int]) -> Sweep:
        if not self._costs:
            raise OSError(24, "Too many open files")
        self.asked_for.append(also)
        self.swept_at.append(self._clock.now)
        self._clock.used += self._costs.pop(0)
        if self.meanwhile:
            self.meanwhile.pop(0)()
        return sweep(len(self.asked_for) - 1)

    def close(self) -> None:
        self.closed += 1


class Pauses(threading.Event):
    """The feed's two waits: time passes as long as nothing happens; then the test stops the feed.

    `happens` runs at the start of each wait for the next round, for as long as there is something.
    """

    def __init__(self, clock: Clock, feed: SweepFeed, happens: list[Step]) -> None:
        super().__init__()
        self._clock, self._feed, self._happens = clock, feed, happens

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        if self is self._feed._stopping:
            self._clock.now += timeout
            return self.is_set()
        if self._happens:
            self._happens.pop(0)()
        else:
            self._feed._stopping.set()
        if not self.is_set():
            self._clock.now += timeout
        return self.is_set()


def nothing() -> None:
    """For a wait in which nothing happens."""


def sweeping(
    poller: FakePoller,
    inbox: Inbox,
    *happens: Callable[[SweepFeed], None] | None,
    clock: Clock,
    interval: float = 1.0,
    deliver: Callable[[Sweep], None] | None = None,
) -> SweepFeed:
    """A feed that was run until all of this had happened in its waits; None: nothing did."""
    feed = SweepFeed(cast("Poller", poller), inbox, interval, deliver)
    steps = [nothing if happening is None else partial(happening, feed) for happening in happens]
    feed._stopping, feed._asked = Pauses(clock, feed, steps), Pauses(clock, feed, steps)
    feed.start()
    feed._thread.join(WAIT_SECONDS)
    assert not feed._thread.is_alive(), "the feed has not come to its end"
    return feed


def asks(*namespaces: int) -> Callable[[SweepFeed], None]:
    return lambda feed: feed.ask(frozenset(namespaces))


def test_sweeps_go_to_the_inbox_and_the_first_without_a_pause(clock: Clock) -> None:
    inbox = Inbox(10)
    poller = FakePoller(clock, 0, 0, 0)
    began = clock.now
    feed = sweeping(poller, inbox, None, None, clock=clock)
    assert feed.failure is None
    assert taken(inbox) == [Batch(sweep=sweep(number)) for number in range(3)]
    assert poller.swept_at == [began, began + 1, began + 2]
    assert poller.asked_for == [frozenset()] * 3


def test_sweeps_go_to_whom_they_are_meant_for(clock: Clock) -> None:
    inbox = Inbox(10)
    delivered: list[Sweep] = []
    sweeping(FakePoller(clock, 0, 0), inbox, None, clock=clock, deliver=delivered.append)
    assert delivered == [sweep(0), sweep(1)]
    assert taken(inbox) == []


def test_expensive_rounds_come_further_apart_by_the_cpu_time_they_took(clock: Clock) -> None:
    poller = FakePoller(clock, 0.1, 0.19, 0.5, 2.0, 0.01)
    sweeping(poller, Inbox(10), None, None, None, None, clock=clock)
    apart = [later - earlier for earlier, later in pairwise(poller.swept_at)]
    # A fifth of a CPU: five times the cost, unless the interval is longer anyway.
    assert apart == pytest.approx([1, 1, 2.5, 10])


def test_the_time_of_a_busy_machine_is_not_taken_for_cost(clock: Clock) -> None:
    poller = FakePoller(clock, 0.1, 0, 0)
    poller.meanwhile = [lambda: setattr(clock, "now", clock.now + 1_000)]
    sweeping(poller, Inbox(10), None, None, clock=clock)
    apart = [later - earlier for earlier, later in pairwise(poller.swept_at)]
    assert apart == [1_001, 1]


def test_a_sweep_that_is_asked_for_comes_at_once_and_reads_what_was_asked(clock: Clock) -> None:
    poller = FakePoller(clock, 0, 0)
    began = clock.now
    sweeping(poller, Inbox(10), asks(NETNS), clock=clock, interval=3_600)
    assert poller.swept_at == [began, began]
    assert poller.asked_for == [frozenset(), {NETNS}]


def test_what_was_asked_for_is_read_once(clock: Clock) -> None:
    poller = FakePoller(clock, 0, 0, 0)
    sweeping(poller, Inbox(10), asks(NETNS), None, clock=clock)
    assert poller.asked_for == [frozenset(), {NETNS}, frozenset()]


def test_requests_that_come_during_a_sweep_are_answered_together_by_the_next(clock: Clock) -> None:
    poller = FakePoller(clock, 0, 0)
    feed = SweepFeed(cast("Poller", poller), Inbox(10), 3_600)

    def asked_twice() -> None:
        feed.ask(frozenset({NETNS}))
        feed.ask(frozenset({OTHER_NETNS}))

    poller.meanwhile = [asked_twice]
    feed._stopping, feed._asked = Pauses(clock, feed, []), Pauses(clock, feed, [nothing])
    feed.start()
    feed._thread.join(WAIT_SECONDS)
    assert not feed._thread.is_alive()
    assert poller.asked_for == [frozenset(), {NETNS, OTHER_NETNS}]
    assert poller.swept_at[0] == poller.swept_at[1]


def test_expensive_sweeps_that_are_asked_for_come_further_apart_too(clock: Clock) -> None:
    poller = FakePoller(clock, 0.5, 0.5, 0)
    sweeping(poller, Inbox(10), asks(NETNS), asks(NETNS), clock=clock, interval=3_600)
    apart = [later - earlier for earlier, later in pairwise(poller.swept_at)]
    assert apart == pytest.approx([2.5, 2.5])


def test_sweeps_that_are_asked_for_do_not_put_off_the_regular_one(clock: Clock) -> None:
    poller = FakePoller(clock, 0.01, 0.01, 0)
    began = clock.now
    sweeping(poller, Inbox(10), asks(NETNS), None, clock=clock, interval=1.0)
    assert poller.swept_at == pytest.approx([began, began + 0.05, began + 1.0])


def test_watched_namespaces_are_read_by_every_sweep(clock: Clock) -> None:
    poller = FakePoller(clock, 0, 0, 0, 0)

    def watches(feed: SweepFeed) -> None:
        feed.watched = frozenset({NETNS})

    def no_longer_watches(feed: SweepFeed) -> None:
        feed.watched = frozenset()

    sweeping(poller, Inbox(10), watches, asks(OTHER_NETNS), no_longer_watches, clock=clock)
    assert poller.asked_for == [frozenset(), {NETNS}, {NETNS, OTHER_NETNS}, frozenset()]


def test_without_an_interval_sweeps_come_only_when_asked_for(clock: Clock) -> None:
    poller = FakePoller(clock, 0, 0)
    sweeping(poller, Inbox(10), None, None, asks(NETNS), None, clock=clock, interval=0)
    assert poller.asked_for == [{NETNS}]


def test_the_poller_is_closed_when_the_feed_stops(clock: Clock) -> None:
    poller = FakePoller(clock, 0)
    sweeping(poller, Inbox(10), clock=clock)
    assert poller.closed == 1


def test_the_poller_is_closed_when_it_dies_and_its_error_is_kept(clock: Clock) -> None:
    poller = FakePoller(clock, 0)
    inbox = Inbox(10)
    feed = sweeping(poller, inbox, None, None, None, clock=clock)
    assert poller.closed == 1
    assert isinstance(feed.failure, OSError)
    assert feed.failure.strerror == "Too many open files"
    assert taken(inbox) == [Batch(sweep=sweep(0))]


@pytest.mark.parametrize("interval", [0, 3_600], ids=["on request", "regular"])
def test_a_feed_in_its_pause_is_woken_by_a_request_and_stops_at_once(
    clock: Clock, interval: float
) -> None:
    swept = threading.Semaphore(0)
    poller = FakePoller(clock, 0, 0)
    feed = SweepFeed(cast("Poller", poller), Inbox(10), interval, lambda _: swept.release())
    feed.start()
    if interval:
        assert swept.acquire(timeout=WAIT_SECONDS)
    feed.ask(frozenset({NETNS}))
    assert swept.acquire(timeout=WAIT_SECONDS)
    assert poller.asked_for[-1] == {NETNS}
    stopping = threading.Thread(target=feed.stop)
    stopping.start()
    stopping.join(WAIT_SECONDS)
    assert not stopping.is_alive(), "the feed has not stopped"
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
    feed = sweeping(poller, Inbox(10), clock=clock)
    assert feed.unseen == told


def test_before_the_first_sweep_nothing_is_said_to_be_unseen(clock: Clock) -> None:
    poller = FakePoller(clock, 0)
    poller.unreadable = 2
    feed = SweepFeed(cast("Poller", poller), Inbox(10), 1.0)
    assert feed.unseen == ""
