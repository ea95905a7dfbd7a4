"""What counters grew by since an attempt began, of readings taken now and then."""

from __future__ import annotations

import pytest

from tests.support.reports import SECOND
from tracer.evidence.ledger import MAX_READINGS, Growth, Ledger, Reading
from tracer.host.counters import ConntrackDrops, TcpCounters


def reading(seconds: float, count: int) -> Reading:
    tcp = TcpCounters(count, 2 * count, 3 * count, None, 0)
    return Reading(int(seconds * SECOND), tcp, ConntrackDrops(4 * count))


def ledger(*readings: Reading) -> Ledger:
    made = Ledger()
    for one in readings:
        made.note(one)
    return made


@pytest.mark.parametrize(
    ("since", "overflows"),
    [
        (9.0, 6),  # nothing was read before: from the first reading on
        (10.0, 6),
        (12.9, 6),  # the last reading before is where it began
        (13.5, 2),  # too long before: from the next one on, or others' would be its own
        (19.0, 2),
        (20.0, 2),
        (23.0, 2),
        (23.5, 0),
        (31.0, 0),  # nothing was read since it began, or shortly before
    ],
)
def test_growth_counts_from_where_an_attempt_began(since: float, overflows: int) -> None:
    found = ledger(reading(10, 1), reading(20, 5), reading(30, 7)).growth(int(since * SECOND))
    assert found.overflows == overflows
    assert found.refused == 4 * overflows


def test_every_counter_is_its_own_and_one_that_is_not_known_did_not_grow() -> None:
    found = ledger(reading(10, 1), reading(20, 5)).growth(10 * SECOND)
    assert found == Growth(overflows=4, drops=8, syn_queue_drops=12, syn_cookies=0, refused=16)


def test_counters_that_could_not_be_read_did_not_grow() -> None:
    nothing = Reading(20 * SECOND, None, None)
    assert ledger(reading(10, 1), nothing).growth(10 * SECOND) == Growth()
    assert ledger().growth(0) == Growth()


def test_a_namespace_that_was_made_anew_did_not_grow() -> None:
    assert ledger(reading(10, 9), reading(20, 1)).growth(10 * SECOND).overflows == 0


def test_of_a_long_outage_fewer_old_readings_are_kept_and_the_first_one() -> None:
    made = ledger(*(reading(second, second) for second in range(10_000)))
    assert len(made._readings) <= MAX_READINGS
    assert made.growth(0).overflows == 9_999
    assert made.growth(9_990 * SECOND).overflows == 10
    # Where nothing was kept of when it began, less is counted, never more.
    assert made.growth(5_000 * SECOND).overflows <= 5_003


def test_it_is_due_when_a_second_has_passed() -> None:
    made = ledger(reading(10, 1))
    assert not made.is_due(int(10.9 * SECOND))
    assert made.is_due(11 * SECOND)
    assert Ledger().is_due(0)
