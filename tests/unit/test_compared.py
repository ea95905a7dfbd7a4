"""What is put beside a verdict, and whose the connections of a namespace are."""

from __future__ import annotations

import time

import pytest

from tests.support.reports import POD, THERE, ended, stuck
from tracer.evidence.compared import AGAIN_SECONDS, Compared
from tracer.model import (
    Cause,
    Confidence,
    Endpoint,
    Outcome,
    PodIdentity,
    Reached,
    Report,
    Scope,
    Verdict,
)

UNKNOWN = Verdict(Cause.UNKNOWN, Confidence.LOW, "Nobody knows.")
OTHERS = [Endpoint(f"10.4.9.{number}", 443) for number in range(3)]


def of_pod(report: Report, name: str) -> Report:
    object.__setattr__(report, "pod", PodIdentity(uid=name, namespace="shop", name=name))
    return report


def reach(compared: Compared, *destinations: Endpoint, at_ns: int = 2**62) -> None:
    compared.reached([(Reached(POD, one, at_ns), Scope.VPC) for one in destinations], 0)


def told(compared: Compared, report: Report) -> list[str]:
    return [one.summary for one in compared.beside(UNKNOWN, report).evidence]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Compared:
    """Every look at the clock is a while after the last one."""
    clock = iter(range(1_000_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) * (AGAIN_SECONDS + 1))
    return Compared()


def test_what_a_namespace_reached_is_its_pods(compared: Compared) -> None:
    report = of_pod(stuck(), "web-0")
    compared.note(report)
    assert told(compared, report) == []
    reach(compared, *OTHERS)
    (sentence,) = told(compared, report)
    assert "fails from shop/web-0" in sentence
    assert "it reached 3 other VPC destinations since" in sentence


def test_what_was_reached_before_the_trouble_is_not_said(compared: Compared) -> None:
    report = stuck()
    compared.note(report)
    reach(compared, *OTHERS, at_ns=report.wall_ns - 1)
    assert told(compared, report) == []


def test_a_pods_name_comes_later_than_its_first_attempts(compared: Compared) -> None:
    compared.note(stuck())
    report = of_pod(stuck(), "web-0")
    compared.note(report)
    reach(compared, *OTHERS)
    assert len(told(compared, report)) == 1


def test_what_a_namespace_of_several_pods_reached_is_nobodys(compared: Compared) -> None:
    first, second = of_pod(stuck("a"), "web-0"), of_pod(stuck("b"), "web-1")
    compared.note(first)
    compared.note(second)
    compared.note(ended(Outcome.ABORTED, "b", was_stuck=False))
    reach(compared, *OTHERS)
    assert all("reached" not in sentence for sentence in told(compared, first))


def test_a_namespace_of_which_nothing_is_known_is_passed_over(compared: Compared) -> None:
    reach(compared, THERE)
    assert told(compared, stuck()) == []


def test_a_sentence_is_made_once_a_second_for_all_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    compared = Compared()
    report = stuck()
    compared.note(report)
    reach(compared, OTHERS[0])
    first = compared.beside(UNKNOWN, report).evidence
    reach(compared, OTHERS[1])
    assert compared.beside(UNKNOWN, report).evidence[0] is first[0]
    now = AGAIN_SECONDS
    assert "2 other" in compared.beside(UNKNOWN, report).evidence[0].summary
