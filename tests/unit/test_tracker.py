"""The state machine, driven with made-up records: no kernel, no clock."""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.model import (
    Change,
    ChangeKind,
    Endpoint,
    Flow,
    Outcome,
    Owner,
    SourceName,
    Sweep,
    SweptSocket,
    TcpState,
    Transition,
    TransitionKind,
)
from tracer.settings import Limits
from tracer.tracker import Tracker

SECOND = 1_000_000_000
OFFSET = 1_700_000_000 * SECOND
BEGAN = 100 * SECOND
START = 101 * SECOND
NETNS = 4026531840


def tracker(*, streaming: bool = True, limits: Limits | None = None) -> Tracker:
    return Tracker(
        run_id="run",
        limits=limits or Limits(),
        threshold_seconds=1.0,
        streaming=streaming,
        began_ns=BEGAN,
    )


def flow(port: int | None = 40_000, *, netns: int | None = NETNS) -> Flow:
    return Flow(netns, 4, Endpoint("10.0.0.2", port), Endpoint("10.0.0.3", 443))


def retransmission(
    number: int = 1,
    *,
    key: int = 7,
    port: int | None = 40_000,
    started: int | None = START,
    at: int | None = None,
    netns: int | None = NETNS,
) -> Transition:
    time_ns = at if at is not None else (started or START) + number * SECOND
    return Transition(
        kind=TransitionKind.RETRANSMIT,
        key=key,
        time_ns=time_ns,
        flow=flow(port, netns=netns),
        owner=Owner(pid=42, uid=0, comm="curl"),
        started_ns=started,
        syns_sent=number + 1,
        last_syn_ns=time_ns,
        next_retry_ns=time_ns + SECOND,
    )


def overdue(*, key: int = 7, started: int = START) -> Transition:
    return replace(
        retransmission(0, key=key, port=None, started=started, at=started + SECOND * 5 // 4),
        kind=TransitionKind.OVERDUE,
        last_syn_ns=None,
        next_retry_ns=None,
    )


def end(
    *,
    at: int,
    key: int = 7,
    state: TcpState = TcpState.CLOSE,
    error: int = 0,
    sent: int = 1,
    started: int | None = START,
    port: int | None = 40_000,
    no_syn_sent: bool = False,
) -> Transition:
    return replace(
        retransmission(max(0, sent - 1), key=key, started=started, at=at, port=port),
        kind=TransitionKind.END,
        last_syn_ns=None if sent < 2 else at,
        syns_sent=sent,
        new_state=state,
        errno=error,
        no_syn_sent=no_syn_sent,
    )


def swept(
    *,
    cookie: int = 900,
    port: int = 40_000,
    sent: int = 2,
    started: int | None = START,
    inode: int = 5,
) -> SweptSocket:
    last = None if started is None or sent < 2 else started + (sent - 1) * SECOND
    return SweptSocket(
        cookie=cookie,
        flow=flow(port),
        owner=Owner(uid=1000, inode=inode),
        retransmissions=sent - 1,
        started_ns=started,
        last_syn_ns=last,
        next_retry_ns=None if last is None else last + SECOND,
    )


def sweep(
    *sockets: SweptSocket,
    at: int,
    looked: frozenset[int] = frozenset({NETNS}),
    established: frozenset[int] = frozenset(),
    gone: frozenset[int] = frozenset(),
) -> Sweep:
    return Sweep(
        source=SourceName.SOCK_DIAG,
        started_ns=at,
        finished_ns=at + SECOND // 100,
        looked=looked,
        sockets=sockets,
        established=established,
        gone=gone,
    )


def kinds(changes: list[Change]) -> list[ChangeKind]:
    return [change.kind for change in changes]


# --- the stream --------------------------------------------------------------------------------


def test_the_first_retransmission_makes_an_attempt_stuck_and_the_next_ones_do_not() -> None:
    state = tracker()
    first = state.apply([retransmission(1)], OFFSET)
    later = state.apply([retransmission(2), retransmission(3)], OFFSET)
    assert kinds(first) == [ChangeKind.STUCK]
    assert kinds(later) == [ChangeKind.RETRANSMIT, ChangeKind.RETRANSMIT]
    assert later[-1].attempt.syns_sent == 4
    assert {change.attempt.id for change in first + later} == {first[0].attempt.id}


@pytest.mark.parametrize(
    ("state", "error", "outcome"),
    [
        (TcpState.ESTABLISHED, 0, Outcome.ESTABLISHED),
        (TcpState.CLOSE, errno.ECONNREFUSED, Outcome.REFUSED),
        (TcpState.CLOSE, errno.ETIMEDOUT, Outcome.TIMED_OUT),
        (TcpState.CLOSE, errno.EHOSTUNREACH, Outcome.UNREACHABLE),
        (TcpState.CLOSE, errno.ENETUNREACH, Outcome.UNREACHABLE),
        (TcpState.CLOSE, errno.EACCES, Outcome.UNREACHABLE),
        (TcpState.CLOSE, errno.ECONNABORTED, Outcome.ABORTED),
        (TcpState.CLOSE, 0, Outcome.ABORTED),
    ],
)
def test_the_state_entered_and_the_errno_tell_the_outcome(
    state: TcpState, error: int, outcome: Outcome
) -> None:
    machine = tracker()
    machine.apply([retransmission(1)], OFFSET)
    changes = machine.apply([end(at=START + 3 * SECOND, state=state, error=error, sent=2)], OFFSET)
    assert kinds(changes) == [ChangeKind.END]
    attempt = changes[0].attempt
    assert attempt.outcome is outcome
    assert attempt.errno == (error or None)
    assert attempt.ended_ns == START + 3 * SECOND
    assert attempt.next_retry_ns is None
    assert machine.outcomes == Counter({outcome: 1})
    assert machine.stuck_now == 0


def test_an_attempt_that_fails_at_once_has_an_end_but_was_never_stuck() -> None:
    state = tracker()
    changes = state.apply([end(at=START + 100, error=errno.ECONNREFUSED)], OFFSET)
    assert kinds(changes) == [ChangeKind.END]
    assert not changes[0].attempt.stuck
    assert state.became_stuck == 0


def test_an_attempt_that_sent_no_syn_is_a_local_error() -> None:
    changes = tracker().apply([end(at=START + 100, sent=0, no_syn_sent=True, port=None)], OFFSET)
    assert changes[0].attempt.outcome is Outcome.LOCAL_ERROR


def test_an_attempt_that_connects_without_being_stuck_is_no_news() -> None:
    state = tracker()
    assert state.apply([end(at=START + 100, state=TcpState.ESTABLISHED)], OFFSET) == []
    assert not state.outcomes


def test_a_stuck_attempt_whose_first_record_was_lost_still_has_one_stuck_and_one_end() -> None:
    changes = tracker().apply([end(at=START + 4 * SECOND, sent=3)], OFFSET)
    assert kinds(changes) == [ChangeKind.STUCK, ChangeKind.END]


def test_an_answer_slower_than_the_threshold_is_stuck_since_the_threshold() -> None:
    changes = tracker().apply(
        [end(at=START + 2 * SECOND, state=TcpState.ESTABLISHED, sent=1)], OFFSET
    )
    assert kinds(changes) == [ChangeKind.STUCK, ChangeKind.END]
    assert changes[0].time_ns == START + SECOND


def test_an_overdue_attempt_is_stuck_once_and_learns_its_port_from_the_retransmission() -> None:
    state = tracker()
    first = state.apply([overdue()], OFFSET)
    again = state.apply([overdue()], OFFSET)
    later = state.apply([retransmission(1)], OFFSET)
    assert kinds(first) == [ChangeKind.STUCK]
    assert first[0].attempt.stuck_ns == START + SECOND
    assert first[0].attempt.flow.source.port is None
    assert again == []
    assert kinds(later) == [ChangeKind.RETRANSMIT]
    assert later[0].attempt.flow.source.port == 40_000


def test_a_socket_address_used_again_without_an_end_closes_the_old_attempt_as_vanished() -> None:
    state = tracker()
    state.apply([retransmission(1)], OFFSET)
    restart = START + 60 * SECOND
    changes = state.apply([retransmission(1, started=restart, port=40_001)], OFFSET)
    assert kinds(changes) == [ChangeKind.END, ChangeKind.STUCK]
    assert changes[0].attempt.outcome is Outcome.VANISHED
    assert changes[0].attempt.id != changes[1].attempt.id


def test_a_record_that_arrives_after_the_end_of_its_attempt_opens_no_new_one() -> None:
    state = tracker()
    state.apply([retransmission(1), end(at=START + 3 * SECOND, sent=2)], OFFSET)
    assert state.apply([retransmission(2)], OFFSET) == []
    assert state.apply([retransmission(2, at=START + 4 * SECOND)], OFFSET) == []
    assert state.stuck_now == 0


def test_the_same_socket_stuck_again_at_once_is_a_new_attempt() -> None:
    state = tracker()
    state.apply([retransmission(1), end(at=START + 2 * SECOND, sent=2)], OFFSET)
    restart = START + 2 * SECOND + 50
    changes = state.apply([retransmission(1, started=restart)], OFFSET)
    assert kinds(changes) == [ChangeKind.STUCK]


def test_failures_in_quick_succession_on_one_socket_are_all_told() -> None:
    state = tracker()
    ends = [
        end(at=START + n * 1_000 + 500, started=START + n * 1_000, error=errno.ECONNREFUSED)
        for n in range(100)
    ]
    assert len(state.apply(ends, OFFSET)) == 100
    assert state.outcomes[Outcome.REFUSED] == 100


def test_a_step_of_the_clock_does_not_move_the_start_of_an_attempt() -> None:
    state = tracker()
    before = state.apply([retransmission(1)], OFFSET)[0].attempt
    after = state.apply([retransmission(2)], OFFSET + 3600 * SECOND)[0].attempt
    assert before.started_wall_ns == after.started_wall_ns == START + OFFSET


def test_an_attempt_begun_before_the_tracer_has_an_unknown_start_if_nobody_knows_it() -> None:
    attempt = tracker().apply([retransmission(3, started=None)], OFFSET)[0].attempt
    assert attempt.started_ns is None
    assert attempt.started_wall_ns is None
    assert attempt.age_seconds(START + 9 * SECOND) is None


def test_what_finds_no_room_is_counted_and_the_rest_goes_on() -> None:
    state = tracker(limits=Limits(max_attempts=2))
    changes = state.apply([retransmission(1, key=n, port=40_000 + n) for n in range(5)], OFFSET)
    assert len(changes) == 2
    assert state.table_full == 3


# --- sweeps beside a stream --------------------------------------------------------------------


def test_a_sweep_that_shows_what_the_stream_reported_changes_nothing() -> None:
    state = tracker()
    state.apply([retransmission(1)], OFFSET)
    changes = state.apply_sweep(sweep(swept(sent=2), at=START + SECOND * 3 // 2), OFFSET)
    assert changes == []
    assert state.crosscheck.agreed == 1
    assert state.crosscheck.missed == 0


def test_a_socket_stuck_before_the_tracer_is_adopted_and_is_no_miss_of_the_stream() -> None:
    state = tracker()
    old = BEGAN - 30 * SECOND
    changes = state.apply_sweep(sweep(swept(started=old, sent=5), at=BEGAN + SECOND), OFFSET)
    assert kinds(changes) == [ChangeKind.STUCK]
    assert changes[0].attempt.detected_by is SourceName.SOCK_DIAG
    assert changes[0].attempt.started_ns == old
    assert (state.crosscheck.before_start, state.crosscheck.missed) == (1, 0)


def test_an_adopted_attempt_goes_on_in_the_stream_as_the_same_attempt() -> None:
    state = tracker()
    adopted = state.apply_sweep(
        sweep(swept(started=BEGAN - 30 * SECOND, sent=5), at=BEGAN + SECOND), OFFSET
    )
    later = state.apply([retransmission(5, started=None, at=BEGAN + 2 * SECOND)], OFFSET)
    ended = state.apply([end(at=BEGAN + 3 * SECOND, sent=6, started=None)], OFFSET)
    assert kinds(later) == [ChangeKind.RETRANSMIT]
    assert kinds(ended) == [ChangeKind.END]
    assert {c.attempt.id for c in adopted + later + ended} == {adopted[0].attempt.id}


def test_what_sweep_and_stream_know_of_the_process_is_kept_together() -> None:
    state = tracker()
    nameless = replace(retransmission(5, started=None, at=BEGAN + SECOND), owner=Owner())
    state.apply([nameless], OFFSET)
    found = swept(started=BEGAN - 30 * SECOND, sent=6)
    state.apply_sweep(sweep(found, at=BEGAN + SECOND * 3 // 2), OFFSET)
    later = state.apply([replace(nameless, time_ns=BEGAN + 9 * SECOND, syns_sent=7)], OFFSET)
    assert later[0].attempt.owner == Owner(uid=1000, inode=5)


def test_a_timeout_without_a_syn_is_stuck_but_no_retransmission() -> None:
    state = tracker()
    held_back = [replace(retransmission(n), syns_sent=1, last_syn_ns=None) for n in (1, 2)]
    changes = state.apply(held_back, OFFSET)
    assert kinds(changes) == [ChangeKind.STUCK]
    assert changes[0].attempt.syns_sent == 1


def test_what_the_stream_missed_is_adopted_and_counted() -> None:
    state = tracker()
    changes = state.apply_sweep(sweep(swept(), at=START + 2 * SECOND), OFFSET)
    assert kinds(changes) == [ChangeKind.STUCK]
    assert state.crosscheck.missed == 1


def test_a_pending_socket_in_a_sweep_is_not_stuck() -> None:
    state = tracker()
    assert state.apply_sweep(sweep(swept(sent=1), at=START + SECOND // 2), OFFSET) == []


def test_a_socket_that_the_stream_ended_while_the_sweep_ran_is_not_adopted_again() -> None:
    state = tracker()
    at = START + SECOND * 3 // 2
    state.apply([retransmission(1), end(at=at + 1_000, sent=2)], OFFSET)
    assert state.apply_sweep(sweep(swept(sent=2), at=at), OFFSET) == []
    assert state.crosscheck.missed == 0


def test_an_attempt_absent_from_two_sweeps_is_closed_as_vanished_and_counted() -> None:
    state = tracker()
    state.apply([retransmission(1)], OFFSET)
    assert state.apply_sweep(sweep(at=START + 10 * SECOND), OFFSET) == []
    changes = state.apply_sweep(sweep(at=START + 20 * SECOND), OFFSET)
    assert kinds(changes) == [ChangeKind.END]
    assert changes[0].attempt.outcome is Outcome.VANISHED
    assert state.crosscheck.unended == 1


def test_one_missed_look_is_forgiven_when_the_socket_is_seen_again() -> None:
    state = tracker()
    state.apply([retransmission(1)], OFFSET)
    state.apply_sweep(sweep(at=START + 10 * SECOND), OFFSET)
    state.apply_sweep(sweep(swept(sent=2), at=START + 20 * SECOND), OFFSET)
    assert state.apply_sweep(sweep(at=START + 30 * SECOND), OFFSET) == []
    assert state.stuck_now == 1


def test_absence_means_nothing_in_a_namespace_that_was_not_read() -> None:
    state = tracker()
    state.apply([retransmission(1)], OFFSET)
    for n in range(1, 5):
        unread = sweep(at=START + n * 10 * SECOND, looked=frozenset({1}))
        assert state.apply_sweep(unread, OFFSET) == []
    assert state.stuck_now == 1


def test_a_retransmission_after_the_sweep_began_outweighs_absence() -> None:
    state = tracker()
    state.apply([retransmission(1)], OFFSET)
    state.apply_sweep(sweep(at=START + 10 * SECOND), OFFSET)
    state.apply([retransmission(2, at=START + 20 * SECOND + 5)], OFFSET)
    assert state.apply_sweep(sweep(at=START + 20 * SECOND), OFFSET) == []


def test_a_late_end_of_an_attempt_already_closed_as_vanished_is_not_told_twice() -> None:
    state = tracker()
    state.apply([retransmission(1)], OFFSET)
    state.apply_sweep(sweep(at=START + 10 * SECOND), OFFSET)
    state.apply_sweep(sweep(at=START + 20 * SECOND), OFFSET)
    assert state.apply([end(at=START + 21 * SECOND, sent=2)], OFFSET) == []
    assert sum(state.outcomes.values()) == 1


def test_the_stream_corrects_a_port_that_a_sweep_had_mixed_up() -> None:
    state = tracker()
    mixed = [replace(overdue(key=n), flow=flow(40_000 + n)) for n in (1, 2)]
    state.apply(mixed, OFFSET)
    state.apply_sweep(
        sweep(*(swept(cookie=n, port=40_000 + n) for n in (1, 2)), at=START + 2 * SECOND), OFFSET
    )
    told = [retransmission(2, key=1, port=40_002), retransmission(2, key=2, port=40_001)]
    state.apply(told, OFFSET)
    agreed = sweep(
        *(swept(cookie=n, port=40_000 + n, sent=3) for n in (1, 2)), at=START + 3 * SECOND
    )
    changes = state.apply_sweep(agreed, OFFSET)
    assert [change for change in changes if change.kind is not ChangeKind.RETRANSMIT] == []
    assert state.stuck_now == 2
    assert state.crosscheck.missed == 0


def test_an_attempt_that_only_sweeps_knew_is_no_end_that_the_stream_missed() -> None:
    state = tracker()
    found = swept(started=BEGAN - 30 * SECOND, sent=5)
    state.apply_sweep(sweep(found, at=BEGAN + SECOND), OFFSET)
    for n in (2, 3):
        state.apply_sweep(sweep(at=BEGAN + n * SECOND), OFFSET)
    assert state.outcomes == Counter({Outcome.VANISHED: 1})
    assert state.crosscheck.unended == 0


def test_ten_thousand_ends_during_a_sweep_are_all_recognised() -> None:
    state = tracker()
    at = START + 10 * SECOND
    count = 10_000
    keys = range(count)
    state.apply([retransmission(1, key=n, port=n + 1) for n in keys], OFFSET)
    state.apply([end(at=at + 1, key=n, port=n + 1, sent=2) for n in keys], OFFSET)
    late = sweep(*(swept(cookie=n, port=n + 1) for n in keys), at=at)
    assert state.apply_sweep(late, OFFSET) == []


def test_a_timeout_before_the_threshold_is_not_stuck_while_no_syn_was_sent_again() -> None:
    state = Tracker(
        run_id="run",
        limits=Limits(),
        threshold_seconds=3.0,
        streaming=True,
        began_ns=BEGAN,
    )
    held_back = [replace(retransmission(n), syns_sent=1, last_syn_ns=None) for n in (1, 2, 4)]
    changes = state.apply(held_back, OFFSET)
    assert [(change.kind, change.time_ns) for change in changes] == [
        (ChangeKind.STUCK, START + 4 * SECOND)
    ]


def test_a_retransmission_time_that_is_unknown_now_is_not_taken_from_the_past() -> None:
    state = tracker()
    state.apply([retransmission(1)], OFFSET)
    changes = state.apply([replace(retransmission(2), next_retry_ns=None)], OFFSET)
    assert changes[0].attempt.next_retry_ns is None


def test_two_namespaces_with_the_same_addresses_are_two_attempts() -> None:
    state = tracker()
    changes = state.apply(
        [retransmission(1, key=1), retransmission(1, key=2, netns=NETNS + 1)], OFFSET
    )
    assert kinds(changes) == [ChangeKind.STUCK, ChangeKind.STUCK]
    assert state.stuck_now == 2


# --- polling alone -----------------------------------------------------------------------------


def test_polling_tells_stuck_then_each_further_retransmission_then_vanished() -> None:
    state = tracker(streaming=False)
    first = state.apply_sweep(sweep(swept(sent=2), at=START + 1 * SECOND), OFFSET)
    same = state.apply_sweep(sweep(swept(sent=2), at=START + SECOND * 3 // 2), OFFSET)
    more = state.apply_sweep(sweep(swept(sent=3), at=START + 2 * SECOND), OFFSET)
    gone = state.apply_sweep(sweep(at=START + 3 * SECOND), OFFSET)
    assert kinds(first) == [ChangeKind.STUCK]
    assert same == []
    assert kinds(more) == [ChangeKind.RETRANSMIT]
    assert kinds(gone) == [ChangeKind.END]
    assert gone[0].attempt.outcome is Outcome.VANISHED


def test_polling_tells_established_where_the_socket_was_seen_connected() -> None:
    state = tracker(streaming=False)
    state.apply_sweep(sweep(swept(), at=START + SECOND), OFFSET)
    changes = state.apply_sweep(sweep(at=START + 2 * SECOND, established=frozenset({900})), OFFSET)
    assert changes[0].attempt.outcome is Outcome.ESTABLISHED


def test_polling_closes_the_attempts_of_a_namespace_that_is_gone() -> None:
    state = tracker(streaming=False)
    state.apply_sweep(sweep(swept(), at=START + SECOND), OFFSET)
    nothing: frozenset[int] = frozenset()
    unseen = sweep(at=START + 2 * SECOND, looked=nothing)
    assert state.apply_sweep(unseen, OFFSET) == []
    gone = sweep(at=START + 3 * SECOND, looked=nothing, gone=frozenset({NETNS}))
    assert kinds(state.apply_sweep(gone, OFFSET)) == [ChangeKind.END]


def test_polling_takes_a_new_socket_with_the_same_tuple_for_a_new_attempt() -> None:
    state = tracker(streaming=False)
    state.apply_sweep(sweep(swept(cookie=1), at=START + SECOND), OFFSET)
    changes = state.apply_sweep(
        sweep(swept(cookie=2, started=START + SECOND), at=START + 2 * SECOND), OFFSET
    )
    assert kinds(changes) == [ChangeKind.END, ChangeKind.STUCK]


# --- whatever happens --------------------------------------------------------------------------

_KEYS = st.integers(1, 3)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("retransmit"), _KEYS, st.integers(1, 6)),
        st.tuples(st.just("end"), _KEYS, st.sampled_from([0, 110, 111])),
        st.tuples(st.just("connect"), _KEYS, st.just(0)),
        st.tuples(st.just("sweep"), st.integers(0, 7), st.integers(2, 6)),
        st.tuples(st.just("restart"), _KEYS, st.just(0)),
    ),
    max_size=60,
)


@given(_STEPS, st.booleans())
def test_every_attempt_is_told_stuck_at_most_once_and_ended_at_most_once(
    steps: list[tuple[str, int, int]], streaming: bool
) -> None:
    state = tracker(streaming=streaming)
    started = dict.fromkeys((1, 2, 3), START)
    changes: list[Change] = []
    now = START
    for action, who, value in steps:
        now += SECOND
        if action == "retransmit":
            record = retransmission(value, key=who, port=40_000 + who, started=started[who], at=now)
            changes += state.apply([record], OFFSET)
        elif action in {"end", "connect"}:
            connected = action == "connect"
            record = end(
                at=now,
                key=who,
                port=40_000 + who,
                started=started[who],
                state=TcpState.ESTABLISHED if connected else TcpState.CLOSE,
                error=value,
            )
            changes += state.apply([record], OFFSET)
            started[who] = now + 1
        elif action == "restart":
            started[who] = now
        else:
            present = [
                swept(cookie=900 + n, port=40_000 + n, sent=value, started=started[n])
                for n in (1, 2, 3)
                if who >> (n - 1) & 1
            ]
            changes += state.apply_sweep(sweep(*present, at=now), OFFSET)
    told = Counter((change.kind, change.attempt.id) for change in changes)
    assert all(count == 1 for (kind, _), count in told.items() if kind is not ChangeKind.RETRANSMIT)
    stuck = {change.attempt.id for change in changes if change.kind is ChangeKind.STUCK}
    ended_stuck = {
        change.attempt.id
        for change in changes
        if change.kind is ChangeKind.END and change.attempt.stuck
    }
    assert ended_stuck <= stuck
    assert state.stuck_now == len(stuck) - len(ended_stuck)
    assert {attempt.id for attempt in state.live()} == stuck - ended_stuck


# --- the SYN's number ----------------------------------------------------------------------------


def test_the_syn_s_number_is_learnt_once_and_kept() -> None:
    made = tracker()
    for number, isn in ((1, None), (2, 4_711), (3, None)):
        made.apply([replace(retransmission(number), isn=isn)], OFFSET)
    (attempt,) = made.live()
    assert attempt.isn == 4_711


def test_a_sweep_leaves_the_syn_s_number_alone() -> None:
    made = tracker()
    made.apply([replace(retransmission(), isn=4_711)], OFFSET)
    made.apply_sweep(sweep(swept(), at=START + 3 * SECOND), OFFSET)
    (attempt,) = made.live()
    assert attempt.isn == 4_711
