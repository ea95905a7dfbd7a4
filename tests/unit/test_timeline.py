"""The course of an attempt from its retransmission timer, against a kernel played here."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.sources.timeline import Timeline, timeline

MS = 1_000_000
SECOND = 1_000 * MS
START = 1_000_000 * SECOND
FIRST_MS, LONGEST_MS = 1_000, 120_000


@dataclass(frozen=True)
class Timer:
    """A socket in SYN_SENT as the kernel shows it at `now_ns`, and the truth that it hides."""

    now_ns: int
    expires_ms: int
    interval_ms: int
    doublings: int
    timeouts: int
    since_first_ms: int
    syns_ns: tuple[int, ...]
    due_ns: int

    def read(self, *, told: bool = False) -> Timeline:
        return timeline(
            now_ns=self.now_ns,
            expires_ms=self.expires_ms,
            interval_ms=self.interval_ms,
            doublings=self.doublings,
            timeouts=self.timeouts,
            since_first_timeout_ms=self.since_first_ms if told else 0,
        )


def play(*, timeouts: int, linear: int = 0, passed: float = 0.5, late: float = 0.0) -> Timer:
    """The schedule of tcp_retransmit_timer() (Linux 6.8) up to a number of timeouts.

    `linear` is the namespace's tcp_syn_linear_timeouts, `passed` the share of the last interval
    that is over, `late` the share of its interval by which every timer fires too late.
    """
    interval_ms, doublings, syns = FIRST_MS, 0, [START]
    for sent in range(1, timeouts + 1):
        syns.append(syns[-1] + int(interval_ms * (1 + late)) * MS)
        if sent > linear:
            doublings += 1
            interval_ms = min(interval_ms * 2, LONGEST_MS)
    now_ns = syns[-1] + int(interval_ms * passed * MS)
    due_ns = syns[-1] + interval_ms * MS
    return Timer(
        now_ns=now_ns,
        expires_ms=max(0, due_ns - now_ns) // MS,
        interval_ms=interval_ms,
        doublings=doublings,
        timeouts=timeouts,
        since_first_ms=(now_ns - syns[1]) // MS if timeouts else 0,
        syns_ns=tuple(syns),
        due_ns=due_ns,
    )


# --- written out ---------------------------------------------------------------------------------


def test_before_the_first_timeout_the_interval_began_with_the_attempt() -> None:
    assert timeline(
        now_ns=START, expires_ms=250, interval_ms=1_000, doublings=0, timeouts=0
    ) == Timeline(started_ns=START - 750 * MS, last_syn_ns=None, next_retry_ns=START + 250 * MS)


@pytest.mark.parametrize(
    ("timeouts", "doublings", "interval_ms", "past_seconds"),
    [
        (1, 1, 2_000, 1),
        (2, 2, 4_000, 1 + 2),
        (3, 3, 8_000, 1 + 2 + 4),
        (6, 6, 64_000, 1 + 2 + 4 + 8 + 16 + 32),
    ],
)
def test_an_interval_that_doubles_at_once_is_undone_by_halving(
    timeouts: int, doublings: int, interval_ms: int, past_seconds: int
) -> None:
    course = timeline(
        now_ns=START,
        expires_ms=interval_ms,
        interval_ms=interval_ms,
        doublings=doublings,
        timeouts=timeouts,
    )
    assert course == Timeline(
        started_ns=START - past_seconds * SECOND,
        last_syn_ns=START,
        next_retry_ns=START + interval_ms * MS,
    )


@pytest.mark.parametrize(
    ("timeouts", "doublings", "interval_ms", "past_seconds"),
    [
        (1, 0, 1_000, 1),
        (4, 0, 1_000, 4),
        (5, 1, 2_000, 5),
        (6, 2, 4_000, 5 + 2),
        (10, 6, 64_000, 5 + 2 + 4 + 8 + 16 + 32),
    ],
)
def test_linear_timeouts_keep_the_first_interval(
    timeouts: int, doublings: int, interval_ms: int, past_seconds: int
) -> None:
    course = timeline(
        now_ns=START,
        expires_ms=interval_ms,
        interval_ms=interval_ms,
        doublings=doublings,
        timeouts=timeouts,
    )
    assert course.started_ns == START - past_seconds * SECOND


def test_another_first_interval_is_recognised() -> None:
    course = timeline(now_ns=START, expires_ms=0, interval_ms=12_000, doublings=2, timeouts=2)
    assert course.started_ns == START - (3 + 6 + 12) * SECOND


@pytest.mark.parametrize(("timeouts", "past_seconds"), [(7, 127), (8, 247), (12, 727)])
def test_intervals_are_no_longer_than_two_minutes(timeouts: int, past_seconds: int) -> None:
    course = timeline(
        now_ns=START,
        expires_ms=LONGEST_MS,
        interval_ms=LONGEST_MS,
        doublings=timeouts,
        timeouts=timeouts,
    )
    assert course.started_ns == START - past_seconds * SECOND
    assert course.next_retry_ns == START + LONGEST_MS * MS


def test_a_start_that_the_kernel_tells_is_taken_where_it_is_earlier() -> None:
    course = timeline(
        now_ns=START,
        expires_ms=1_000,
        interval_ms=2_000,
        doublings=1,
        timeouts=1,
        since_first_timeout_ms=1_100,
    )
    assert course.started_ns == START - 2_100 * MS
    assert course.last_syn_ns == START - 1_000 * MS


def test_a_start_that_the_kernel_tells_is_not_taken_where_it_is_later() -> None:
    course = timeline(
        now_ns=START,
        expires_ms=1_000,
        interval_ms=2_000,
        doublings=1,
        timeouts=1,
        since_first_timeout_ms=900,
    )
    assert course.started_ns == START - 2_000 * MS


def test_a_timer_that_is_overdue_is_due_now() -> None:
    course = timeline(now_ns=START, expires_ms=0, interval_ms=1_000, doublings=0, timeouts=1)
    assert course == Timeline(
        started_ns=START - 2 * SECOND, last_syn_ns=START - SECOND, next_retry_ns=START
    )


# --- against the schedule itself -----------------------------------------------------------------

schedules = st.builds(
    play,
    timeouts=st.integers(0, 20),
    linear=st.integers(0, 20),
    passed=st.floats(0, 1),
)


@given(schedules)
def test_the_true_start_is_found_to_the_millisecond(timer: Timer) -> None:
    course = timer.read()
    assert abs(course.started_ns - timer.syns_ns[0]) <= MS
    assert abs(course.next_retry_ns - timer.due_ns) <= MS
    if timer.timeouts:
        assert course.last_syn_ns is not None
        assert abs(course.last_syn_ns - timer.syns_ns[-1]) <= MS
    else:
        assert course.last_syn_ns is None


@given(schedules)
def test_what_the_kernel_tells_does_not_spoil_the_true_start(timer: Timer) -> None:
    assert abs(timer.read(told=True).started_ns - timer.syns_ns[0]) <= MS


@pytest.mark.parametrize("timeouts", range(1, 12))
@pytest.mark.parametrize("linear", [0, 4])
def test_late_timers_add_up_except_where_the_kernel_tells(timeouts: int, linear: int) -> None:
    timer = play(timeouts=timeouts, linear=linear, late=0.125)
    first_is_late_ns = FIRST_MS * MS // 8
    guessed, told = timer.read().started_ns, timer.read(told=True).started_ns
    assert guessed >= timer.syns_ns[0] + first_is_late_ns
    assert abs(told - timer.syns_ns[0] - first_is_late_ns) <= MS


@given(
    interval_ms=st.integers(1, LONGEST_MS),
    left=st.floats(0, 1),
    timeouts=st.integers(0, 255),
    doublings=st.integers(0, 255),
    since_first_ms=st.integers(0, 2**32 - 1),
)
def test_an_attempt_starts_before_its_last_syn_and_that_before_the_next(
    interval_ms: int, left: float, timeouts: int, doublings: int, since_first_ms: int
) -> None:
    course = timeline(
        now_ns=START,
        expires_ms=int(interval_ms * left),
        interval_ms=interval_ms,
        doublings=doublings,
        timeouts=timeouts,
        since_first_timeout_ms=since_first_ms,
    )
    assert course.started_ns <= START <= course.next_retry_ns
    if timeouts:
        assert course.last_syn_ns is not None
        assert course.started_ns <= course.last_syn_ns <= START
    else:
        assert course.last_syn_ns is None
