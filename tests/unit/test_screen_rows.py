"""Grouping, filters and the order of rows, without a screen."""

from __future__ import annotations

import pytest

from tests.support.picture import DB, DROP, EXTERNAL, Fake, outage, pod, verdict
from tracer.model import Cause, Confidence, Destination, Outcome, Process, Scope
from tracer.screen.query import NoQuery, Query, parse
from tracer.screen.rows import Row, Rows, others_to
from tracer.screen.view import Group, Scopes, Sort, View


def rows_of(fake: Fake, **view: object) -> tuple[Row, ...]:
    rows = Rows()
    rows.change(View(**view), fake.snapshot())  # type: ignore[arg-type]
    return rows.rows


def count(rows: Rows) -> int:
    return len(rows.rows)


def names(rows: tuple[Row, ...]) -> list[str]:
    return [row.report.pod.name or "?" if row.report.pod else "-" for row in rows]


# --- grouping ------------------------------------------------------------------------------------


def three_pods() -> Fake:
    fake = Fake()
    one, two = pod(name="web-1"), pod(name="web-2")
    other = pod("batch", "job", None)
    fake.stuck(1, one)
    fake.stuck(2, one)
    fake.stuck(3, one, port=80)
    fake.stuck(4, two)
    fake.stuck(5, other)
    return fake


@pytest.mark.parametrize(
    ("group", "stuck"),
    [
        (Group.PAIR, [2, 1, 1, 1]),
        (Group.DESTINATION, [4, 1]),
        (Group.POD, [3, 1, 1]),
        (Group.WORKLOAD, [4, 1]),
        (Group.ATTEMPT, [1, 1, 1, 1, 1]),
    ],
)
def test_every_grouping_adds_up_the_same_attempts(group: Group, stuck: list[int]) -> None:
    assert [row.stuck for row in rows_of(three_pods(), group=group)] == stuck


def test_a_row_says_how_many_pods_and_destinations_it_stands_for() -> None:
    by_destination = rows_of(three_pods(), group=Group.DESTINATION)
    by_pod = rows_of(three_pods(), group=Group.POD)
    assert [row.whos for row in by_destination] == [3, 1]
    assert [row.wheres for row in by_pod] == [2, 1, 1]


def test_the_oldest_the_most_syns_and_the_next_retry_are_those_of_the_row() -> None:
    fake = Fake()
    fake.stuck(1, pod(), age=10)
    fake.stuck(2, pod(), age=3)
    fake.advance(1)
    fake.retry(2)

    (row,) = rows_of(fake)
    assert row.oldest_ns == fake.attempts[1].change.attempt.started_ns
    assert row.syns == 3
    assert row.next_ns == fake.attempts[1].change.attempt.next_retry_ns


def test_the_verdict_of_most_is_shown_and_an_unknown_one_last() -> None:
    fake = Fake()
    unknown = verdict(Cause.UNKNOWN, Confidence.LOW)
    for number, found in enumerate([unknown, unknown, unknown, DROP, verdict(), verdict()]):
        fake.stuck(number, pod(), verdict=found)

    (row,) = rows_of(fake)
    assert row.verdict is not None
    assert (row.verdict.cause, row.causes) == (Cause.NO_REPLY, 2)


def test_trend_is_the_difference_to_a_minute_ago() -> None:
    fake = Fake()
    for number in range(5):
        fake.stuck(number, pod())
    fake.advance(61)
    fake.retry(0)
    fake.end(1, Outcome.ABORTED)
    fake.end(2, Outcome.ABORTED)

    (row,) = rows_of(fake)
    assert row.trend(fake.now_ns) == -2


def test_others_to_the_same_destination_are_told_but_not_the_row_itself() -> None:
    fake = three_pods()
    snapshot = fake.snapshot()
    row = rows_of(fake)[0]
    assert [pair.report.pod.name for pair in others_to(row, snapshot) if pair.report.pod] == [
        "web-2",
        "job",
    ]


# --- order ---------------------------------------------------------------------------------------


def test_rows_stay_where_they_are_and_new_ones_come_at_the_end() -> None:
    fake = Fake()
    rows = Rows()
    fake.stuck(1, pod(name="a"))
    fake.stuck(2, pod(name="b"))
    rows.update(fake.snapshot())
    assert names(rows.rows) == ["a", "b"]
    for number in range(10, 15):
        fake.stuck(number, pod(name="b"))
    for number in range(20, 30):
        fake.stuck(number, pod(name="c"))
    rows.update(fake.snapshot())
    assert names(rows.rows) == ["a", "b", "c"]
    assert rows.unsorted == 1

    rows.sort()
    assert names(rows.rows) == ["c", "b", "a"]
    assert rows.unsorted == 0


def test_rows_of_which_nothing_changed_are_the_same_objects() -> None:
    fake = three_pods()
    rows = Rows()
    rows.update(fake.snapshot())
    before = rows.rows
    fake.advance(1)
    fake.retry(5)
    rows.update(fake.snapshot())

    assert [old is new for old, new in zip(before, rows.rows, strict=True)].count(False) == 1


def test_a_row_in_which_all_has_ended_stays_until_the_picture_lets_it_go() -> None:
    fake = Fake()
    rows = Rows()
    fake.stuck(1, pod())
    fake.end(1, Outcome.TIMED_OUT)
    rows.update(fake.snapshot())
    (row,) = rows.rows
    assert (row.stuck, row.ended_ns, dict(row.ended)) == (0, fake.now_ns, {Outcome.TIMED_OUT: 1})

    fake.advance(61)
    rows.update(fake.snapshot())
    assert count(rows) == 0


def test_evidence_that_comes_late_makes_no_end_younger() -> None:
    fake = Fake()
    fake.stuck(1, pod())
    fake.end(1, Outcome.TIMED_OUT)
    ended_ns = fake.now_ns
    fake.advance(25)
    fake.why(1, verdict())
    rows = Rows()
    rows.update(fake.snapshot())
    (row,) = rows.rows
    assert row.ended_ns == ended_ns
    assert row.verdict == verdict()


def test_what_changed_is_marked_with_when() -> None:
    fake = Fake()
    rows = Rows()
    fake.stuck(1, pod())
    rows.update(fake.snapshot())
    fake.advance(5)
    fake.retry(1)
    rows.update(fake.snapshot())
    (row,) = rows.rows
    assert row.changed["syns"] == fake.now_ns
    assert row.changed["stuck"] == fake.now_ns - 5_000_000_000


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        (Sort.STUCK, "many"),
        (Sort.AGE, "old"),
        (Sort.SYNS, "eager"),
        (Sort.ENDED, "ended"),
        (Sort.CAUSE, "caused"),
        (Sort.WHO, "caused"),
        (Sort.WHERE, "where"),
    ],
)
def test_every_order_has_its_first_and_reversed_its_last(sort: Sort, first: str) -> None:
    fake = Fake()
    fake.stuck(1, pod(name="many"))
    fake.stuck(2, pod(name="many"))
    fake.stuck(3, pod(name="old"), age=100)
    fake.stuck(4, pod(name="eager"))
    for _ in range(5):
        fake.retry(4)
    fake.stuck(5, pod(name="ended"))
    fake.stuck(6, pod(name="ended"))
    fake.end(6, Outcome.REFUSED)
    fake.stuck(7, pod(name="caused"), verdict=DROP)
    fake.stuck(8, pod(name="where"), "1.2.3.4")

    assert names(rows_of(fake, sort=sort))[0] == first
    assert names(rows_of(fake, sort=sort, reverse=True))[-1] == first


# --- filters -------------------------------------------------------------------------------------


def mixed() -> Fake:
    fake = Fake()
    fake.stuck(1, pod("shop", "cart-1"), "10.4.7.9", 5432, known=DB, verdict=DROP, age=20)
    fake.stuck(2, pod("shop", "web-1"), known=EXTERNAL, comm="php-fpm", verdict=verdict())
    fake.stuck(3, None, "fd00::1", 80, known=Destination(Scope.VPC), age=120)
    fake.stuck(
        4, None, "127.0.0.1", 9, known=Destination(Scope.LOOPBACK),
        process=Process(4, "sshd", executable="/usr/sbin/sshd", unit="ssh.service"),
    )  # fmt: skip
    return fake


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", {1, 2, 3, 4}),
        ("pod:cart", {1}),
        ("POD:CART", {1}),
        ("ns:shop", {1, 2}),
        ("ns:shop !pod:web", {1}),
        ("dst:5432", {1}),
        ("dst:shop/db", {1}),
        ("dst:[fd00", {3}),
        ("tag:vpc", {1, 3}),
        ("tag:VPC/internal", {1, 3}),
        ("tag:ext", {2}),
        ("!tag:vpc !tag:loop", {2}),
        ("cause:drop", {1}),
        ("cause:unknown", {3, 4}),
        ("age>5s", {1, 3}),
        ("age>5", {1, 3}),
        ("age>1m", {3}),
        ("age<2m age>10s", {1}),
        ("age<=500ms", set()),
        ("php", {2}),
        ("sshd", {4}),
        ("ssh.service", {4}),
        ("no-reply", {2}),
        ("external php", {2}),
        ("nothing-like-it", set()),
        ("http://10.4", set()),
    ],
)
def test_a_filter_shows_what_it_says(text: str, numbers: set[int]) -> None:
    rows = rows_of(mixed(), query=parse(text), group=Group.ATTEMPT)
    assert {int(str(row.key).removeprefix("a-")) for row in rows} == numbers
    pairs = rows_of(mixed(), query=parse(text))
    assert sum(row.stuck for row in pairs) == len(numbers)


@pytest.mark.parametrize(
    "text", ["pod:", "!", "!ns:", "age>x", "age>5y", "age:5s", "age>", "!age>5s"]
)
def test_what_is_no_filter_is_said_with_its_word(text: str) -> None:
    with pytest.raises(NoQuery, match=r".+: "):
        parse(f"web {text}")


def test_an_age_filter_takes_in_what_grows_old() -> None:
    fake = Fake()
    rows = Rows(View(query=parse("age>5s")))
    fake.stuck(1, pod())
    rows.update(fake.snapshot())
    assert count(rows) == 0

    fake.advance(10)
    rows.update(fake.snapshot())
    assert [row.stuck for row in rows.rows] == [1]
    fake.end(1, Outcome.ABORTED)
    rows.update(fake.snapshot())
    assert count(rows) == 0


@pytest.mark.parametrize(
    ("scopes", "count"), [(Scopes.ALL, 4), (Scopes.VPC, 2), (Scopes.EXTERNAL, 1)]
)
def test_scopes_are_shown_alone(scopes: Scopes, count: int) -> None:
    assert len(rows_of(mixed(), scopes=scopes)) == count


def test_a_filter_by_cause_follows_a_verdict_that_changes() -> None:
    fake = Fake()
    fake.stuck(1, pod())
    rows = Rows(View(query=parse("cause:drop")))
    rows.update(fake.snapshot())
    assert count(rows) == 0
    fake.why(1, DROP)
    rows.update(fake.snapshot())
    assert len(rows.rows) == 1
    fake.why(1, verdict())
    rows.update(fake.snapshot())
    assert count(rows) == 0


def test_changed_bit_by_bit_or_made_at_once_the_rows_are_the_same() -> None:
    """What is kept between snapshots must not show."""
    fake = outage()
    for group in Group:
        view = View(group=group, query=Query())
        slow = Rows(view)
        slow.update(fake.snapshot())
        fake.retry(1)
        fake.end(2, Outcome.ABORTED) if group is Group.PAIR else fake.retry(0)
        fake.stuck(100 + list(Group).index(group), pod(name=f"new-{group}"))
        slow.update(fake.snapshot())
        quick = Rows(view)
        quick.update(fake.snapshot())
        assert sorted(map(_gist, slow.rows)) == sorted(map(_gist, quick.rows))


def _gist(row: Row) -> tuple[str, int, int, str]:
    return str(row.key), row.stuck, row.syns or 0, str(sorted(row.ended.items()))
