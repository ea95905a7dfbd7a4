from __future__ import annotations

from dataclasses import replace

from tests.support.picture import DROP, HEALTH, Fake, outage, pod, verdict
from tracer.board import BoardLimits
from tracer.model import Cause, ChangeKind, CrossCheck, Evidence, Outcome, Rates
from tracer.snapshot import HISTORY_STEPS, STEP_SECONDS, PointKind


def test_an_attempt_is_held_with_the_last_that_was_reported_of_it() -> None:
    fake = Fake()
    fake.stuck(1, pod())
    fake.advance(2)
    fake.retry(1)

    (held,) = fake.snapshot().attempts.values()
    assert held.live
    assert held.attempt.syns_sent == 3


def test_its_time_line_has_every_syn_drop_and_its_end_in_their_order() -> None:
    fake = Fake()
    fake.stuck(1, pod())
    fake.advance(2)
    fake.retry(1)
    fake.why(
        1,
        verdict(
            Cause.DROPPED_HERE, verdict().confidence, Evidence("drop", "dropped", fake.now_ns + 5)
        ),
    )
    fake.advance(1)
    fake.end(1, Outcome.TIMED_OUT)

    (held,) = fake.snapshot().attempts.values()
    assert [point.kind for point in held.points] == [
        PointKind.SYN,
        PointKind.SYN,
        PointKind.SYN,
        PointKind.DROP,
        PointKind.END,
    ]


def test_a_report_told_twice_is_one_point() -> None:
    fake = Fake()
    fake.stuck(1, pod(), verdict=DROP)
    before = fake.why(1, DROP)
    fake.board.write([before])

    (held,) = fake.snapshot().attempts.values()
    assert [point.kind for point in held.points].count(PointKind.DROP) == 1


def test_a_time_line_is_bounded_and_keeps_its_beginning_and_end() -> None:
    fake = Fake()
    fake.stuck(1, pod())
    for _ in range(200):
        fake.advance(1)
        fake.retry(1)

    (held,) = fake.snapshot().attempts.values()
    assert len(held.points) == 64
    assert held.points[0].text == "SYN 1"
    assert held.points[-1].text == "SYN 202"


def test_an_older_snapshot_does_not_change() -> None:
    fake = Fake()
    fake.stuck(1, pod())
    before = fake.snapshot()
    fake.stuck(2, pod())
    fake.end(1, Outcome.ABORTED)

    assert [held.live for held in before.attempts.values()] == [True]
    assert before.totals.stuck_now == 1
    assert fake.snapshot().version > before.version


def test_what_has_ended_leaves_after_a_minute() -> None:
    fake = Fake()
    fake.stuck(1, pod())
    fake.end(1, Outcome.REFUSED)
    fake.advance(59)
    assert len(fake.snapshot().attempts) == len(fake.snapshot().pairs) == 1

    fake.advance(2)
    assert len(fake.snapshot().attempts) == len(fake.snapshot().pairs) == 0


def test_what_has_ended_stays_where_it_is_to_be_kept() -> None:
    fake = Fake(keep=True)
    fake.stuck(1, pod())
    fake.end(1, Outcome.REFUSED)
    fake.advance(3_600)

    (pair,) = fake.snapshot().pairs.values()
    assert pair.ended == {Outcome.REFUSED: 1}


def test_a_pair_adds_up_ends_of_attempts_that_are_no_longer_held() -> None:
    fake = Fake()
    fake.stuck(0, pod())
    for number in range(1, 4):
        fake.stuck(number, pod())
        fake.end(number, Outcome.TIMED_OUT)
        fake.advance(61)
        fake.retry(0)

    (pair,) = fake.snapshot().pairs.values()
    assert pair.live == 1
    assert pair.ended == {Outcome.TIMED_OUT: 3}


def test_an_attempt_whose_pod_gets_its_name_later_moves_to_its_pair() -> None:
    fake = Fake()
    fake.stuck(1, None)
    fake.named(1, pod())

    (pair,) = fake.snapshot().pairs.values()
    assert pair.live == 1
    assert pair.report.pod == pod()


def test_evidence_that_comes_after_the_end_changes_no_count() -> None:
    fake = Fake()
    fake.stuck(1, pod())
    fake.end(1, Outcome.REFUSED)
    ended_ns = fake.now_ns
    fake.advance(26)
    fake.why(1, DROP)

    snapshot = fake.snapshot()
    (pair,) = snapshot.pairs.values()
    assert pair.last_ns == ended_ns
    assert (pair.live, dict(pair.ended)) == (0, {Outcome.REFUSED: 1})
    assert pair.verdict == DROP
    assert snapshot.totals.stuck_now == 0


def test_attempts_beyond_the_bound_are_counted_and_stuck_now_stays_true() -> None:
    fake = Fake(limits=BoardLimits(attempts=3))
    for number in range(5):
        fake.stuck(number, pod())

    snapshot = fake.snapshot()
    assert len(snapshot.attempts) == 3
    assert (snapshot.totals.stuck_now, snapshot.totals.unheld, fake.board.dropped) == (5, 2, 2)
    fake.retry(4)
    fake.end(4, Outcome.ABORTED)
    assert fake.snapshot().totals.stuck_now == 4


def test_an_end_that_finds_no_room_is_counted_once() -> None:
    fake = Fake(limits=BoardLimits(pairs=1))
    fake.stuck(1, pod(), port=1)
    told = fake.stuck(2, pod(), port=2)
    fake.end(2, Outcome.REFUSED)
    assert fake.snapshot().totals.unheld == 1
    attempt = replace(
        told.change.attempt,
        id="refused-at-once", stuck_ns=None, outcome=Outcome.REFUSED, ended_ns=fake.now_ns,
    )  # fmt: skip
    change = replace(told.change, kind=ChangeKind.END, attempt=attempt)
    fake.board.write([replace(told, change=change)])
    assert fake.snapshot().totals.unheld == 2


def test_pairs_are_bounded_and_what_is_idle_makes_room() -> None:
    fake = Fake(limits=BoardLimits(pairs=2))
    fake.stuck(1, pod(), port=1)
    fake.end(1, Outcome.REFUSED)
    fake.stuck(2, pod(), port=2)
    fake.stuck(3, pod(), port=3)
    fake.stuck(4, pod(), port=4)

    snapshot = fake.snapshot()
    assert [pair.key[1].port for pair in snapshot.pairs.values()] == [2, 3]
    assert snapshot.totals.unheld == 1


def test_attempts_that_have_ended_are_bounded_by_themselves() -> None:
    fake = Fake(limits=BoardLimits(ended=10))
    for number in range(100):
        fake.stuck(number, pod())
        fake.end(number, Outcome.REFUSED)

    snapshot = fake.snapshot()
    (pair,) = snapshot.pairs.values()
    assert len(snapshot.attempts) == 10
    assert pair.ended == {Outcome.REFUSED: 100}


def test_the_log_is_bounded_and_keeps_the_newest() -> None:
    fake = Fake(limits=BoardLimits(log=5))
    reports = [fake.stuck(number, pod()) for number in range(9)]

    assert list(fake.snapshot().log) == reports[-5:]


def test_the_peak_and_the_last_minute_are_counted() -> None:
    fake = Fake()
    for number in range(4):
        fake.stuck(number, pod())
    fake.end(0, Outcome.ABORTED)
    fake.advance(50)
    fake.stuck(5, pod())
    totals = fake.snapshot().totals
    assert (totals.stuck_now, totals.peak, totals.new_per_minute) == (4, 4, 5)

    fake.advance(20)
    assert fake.snapshot().totals.new_per_minute == 1


def test_the_history_has_the_most_of_each_step_and_nothing_from_before_the_start() -> None:
    fake = Fake()
    fake.stuck(1, pod())
    fake.stuck(2, pod())
    fake.end(1, Outcome.ABORTED)
    fake.advance(30)

    history = fake.snapshot().totals.history
    assert len(history) == HISTORY_STEPS
    assert history[-4:] == (2, 1, 1, 1)
    assert history[0] is None


def test_what_was_stuck_before_the_history_begins_goes_on_in_it() -> None:
    fake = Fake()
    fake.stuck(1, pod())
    fake.advance(STEP_SECONDS * (HISTORY_STEPS + 5))
    assert fake.snapshot().totals.history == (1,) * HISTORY_STEPS


def test_success_is_that_of_the_last_minute() -> None:
    fake = Fake(health=replace(HEALTH, rates=Rates(100, 100), outcomes={Outcome.REFUSED: 50}))
    fake.advance(61)
    fake.health = replace(
        fake.health, rates=Rates(190, 190), outcomes={Outcome.REFUSED: 55, Outcome.TIMED_OUT: 5}
    )
    fake.advance(1)
    assert fake.snapshot().totals.success == 0.9


def test_what_is_told_of_some_pods_alone_knows_no_share_of_success() -> None:
    assert Fake(scoped=True).snapshot().totals.success is None


def test_polling_knows_no_share_of_success() -> None:
    fake = Fake(health=replace(HEALTH, rates=Rates(), crosscheck=CrossCheck()))
    fake.advance(5)
    assert fake.snapshot().totals.success is None


def test_all_counts_agree_in_an_outage() -> None:
    snapshot = outage().snapshot()
    live = [held for held in snapshot.attempts.values() if held.live]
    assert len(live) == snapshot.totals.stuck_now == sum(p.live for p in snapshot.pairs.values())
