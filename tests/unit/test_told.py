"""Which verdicts are worth a line: what was told a moment ago of the same pod and place is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.support.reports import HOST, SECOND, stuck
from tracer.model import Cause, Confidence, Endpoint, PodIdentity, Report, Verdict
from tracer.sinks.told import Told

DROPPED = Verdict(Cause.DROPPED_HERE, Confidence.HIGH, "it is dropped")
SILENT = Verdict(Cause.NO_REPLY, Confidence.MEDIUM, "nobody answers")


def judged(
    verdict: Verdict | None,
    after_seconds: int = 0,
    **known: Any,  # noqa: ANN401 - see report()
) -> Report:
    plain = stuck(**known)
    return replace(plain, verdict=verdict, wall_ns=plain.wall_ns + after_seconds * SECOND)


def test_a_verdict_is_told_once_for_all_attempts_that_share_it() -> None:
    told = Told(60.0, 16)
    assert told.is_news(judged(DROPPED, name="a"))
    assert not told.is_news(judged(DROPPED, name="b"))
    assert not told.is_news(judged(replace(DROPPED, summary="in other words"), name="a"))


def test_it_is_told_again_after_a_while() -> None:
    told = Told(60.0, 16)
    assert told.is_news(judged(DROPPED))
    assert not told.is_news(judged(DROPPED, 59))
    assert told.is_news(judged(DROPPED, 60))
    assert not told.is_news(judged(DROPPED, 61))


def test_another_cause_confidence_place_or_pod_is_news() -> None:
    told = Told(60.0, 16)
    assert told.is_news(judged(DROPPED))
    assert told.is_news(judged(SILENT))
    assert told.is_news(judged(replace(DROPPED, confidence=Confidence.LOW)))
    assert told.is_news(judged(DROPPED, netns=HOST))
    assert told.is_news(judged(DROPPED, destination=Endpoint("10.4.100.50", 444)))


def test_pods_are_told_apart_by_name_whatever_their_namespace() -> None:
    told = Told(60.0, 16)
    pods = [PodIdentity(namespace="shop", name=name) for name in ("cart", "till")]
    assert [told.is_news(replace(judged(DROPPED), pod=pod)) for pod in pods] == [True, True]
    assert not told.is_news(replace(judged(DROPPED, netns=HOST), pod=pods[0]))


def test_without_a_verdict_there_is_nothing_to_tell() -> None:
    assert not Told(60.0, 16).is_news(judged(None))


def test_of_more_than_it_keeps_the_oldest_are_told_again() -> None:
    told = Told(60.0, 2)
    ports = [Endpoint("10.4.100.50", port) for port in (1, 2, 3)]
    assert all(told.is_news(judged(DROPPED, destination=port)) for port in ports)
    assert not told.is_news(judged(DROPPED, destination=ports[2]))
    assert told.is_news(judged(DROPPED, destination=ports[0]))
