"""How long the evidence's thread rests, so that it takes no more than its share of a core."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracer.evidence.budget import LONGEST_WAIT_SECONDS, Budget


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_free_and_what_comes_after_it_is_waited_for() -> None:
    clock = Clock()
    budget = Budget(share=0.1, burst_seconds=1.0, clock=clock)
    assert budget.wait_after(1.0) == 0
    assert budget.wait_after(0.2) == 2.0
    clock.now = 2.0
    assert budget.wait_after(0.0) == 0


def test_a_quiet_time_saves_up_no_more_than_a_burst() -> None:
    clock = Clock()
    budget = Budget(share=0.1, burst_seconds=1.0, clock=clock)
    clock.now = 3_600.0
    assert budget.wait_after(1.1) > 0


def test_no_wait_is_longer_than_what_somebody_would_wait_for_a_verdict() -> None:
    assert Budget(share=0.1, clock=Clock()).wait_after(1_000.0) == LONGEST_WAIT_SECONDS


@given(rounds=st.lists(st.floats(0.001, 0.3), min_size=1, max_size=200))
def test_on_average_the_share_is_kept(rounds: list[float]) -> None:
    clock = Clock()
    budget = Budget(share=0.1, burst_seconds=0.5, clock=clock)
    for took in rounds:
        clock.now += took
        clock.now += budget.wait_after(took)
    assert sum(rounds) <= 0.1 * clock.now + 0.5 + 1e-6
