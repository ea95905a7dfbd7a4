"""One contract for every source: the JSONL that a user gets of each thing that may happen.

Each scenario runs once per backend, whatever the number of tests that look at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import pytest

from tests.kernel import scenarios
from tests.kernel.scenarios import MANY, PORT, SAME_SOURCE_PORT, Observation
from tests.support.netns import (
    CLIENT_V4,
    CLIENT_V6,
    NOBODY_V4,
    SERVER_EXTERNAL,
    SERVER_V4,
    SERVER_V6,
)
from tests.support.tracer import Event, get

# The first test waits for its scenario only, a later one may wait for all of them.
pytestmark = pytest.mark.timeout(300)

BPF = ("bpf",)
POLL = ("poll",)

SLACK_SECONDS = 0.3
"""Between what the application and the kernel call the same moment, on a busy machine."""

TIMER_SECONDS = 0.5
"""For times derived from a kernel timer, which may be late by an eighth of its two seconds."""

ROUND_SECONDS = 2.5
"""For a poller to notice: a round that was just missed, and the next one, on a busy machine."""


# --- black hole ----------------------------------------------------------------------------------


@pytest.mark.scenario(run=scenarios.black_hole)
def test_swallowed_syns_are_one_stuck_attempt_from_the_connecting_process(
    observed: Observation,
) -> None:
    stuck, end = the_story_of_one_attempt(observed)

    for event in (stuck, end):
        assert_includes(
            event,
            {
                "destination.address": SERVER_EXTERNAL,
                "destination.port": PORT,
                "destination.scope": "external",
                "destination.tag": "external",
                "source.address": CLIENT_V4,
                "source.port": observed.client.ports[0],
                "network.type": "ipv4",
                "network.transport": "tcp",
                "attempt.mapped": False,
                "attempt.stuck": True,
                "process.pid": observed.client.pid,
                "process.executable.name": observed.client.executable.name,
                "user.id": 0,
            },
        )
    assert_outcome(observed, end, "aborted", error=None)


@pytest.mark.scenario(run=scenarios.black_hole)
def test_an_attempt_is_detected_by_the_source_that_was_asked_for(observed: Observation) -> None:
    sources = {"bpf": {"bpf"}, "poll": {"sock_diag", "procfs"}}[observed.backend]

    assert {event["detected_by"] for event in observed.events} <= sources
    assert get(observed.lifecycle[0], "tracer.backend") in sources


@pytest.mark.scenario(run=scenarios.black_hole, backends=BPF)
def test_stuck_is_dated_at_the_first_syn_retransmission(observed: Observation) -> None:
    stuck = observed.only("attempt.stuck")

    assert observed.client.opened_at is not None
    assert moment(stuck, "time") == pytest.approx(observed.client.opened_at + 1, abs=SLACK_SECONDS)
    assert get(stuck, "attempt.age_seconds") == pytest.approx(1, abs=SLACK_SECONDS)
    assert get(stuck, "attempt.syns_sent") == 2


@pytest.mark.scenario(run=scenarios.black_hole, backends=BPF)
def test_each_retransmission_is_an_event_with_one_syn_more(observed: Observation) -> None:
    retransmissions = observed.of_kind("attempt.retransmit")

    sent = [get(event, "attempt.syns_sent") for event in retransmissions]
    assert sent == list(range(3, 3 + len(sent)))
    assert all(get(event, "attempt.next_retry_seconds") > 0.5 for event in retransmissions)


@pytest.mark.scenario(run=scenarios.black_hole, backends=POLL)
def test_a_poller_knows_when_an_attempt_began(observed: Observation) -> None:
    stuck = observed.only("attempt.stuck")

    assert observed.client.opened_at is not None
    assert moment(stuck, "attempt.started_at") == pytest.approx(
        observed.client.opened_at, abs=TIMER_SECONDS
    )
    assert get(stuck, "attempt.syns_sent") >= 2


@pytest.mark.scenario(run=scenarios.ipv6_black_hole)
def test_swallowed_ipv6_syns_are_one_stuck_attempt(observed: Observation) -> None:
    stuck, end = the_story_of_one_attempt(observed)

    assert_includes(
        stuck,
        {
            "destination.address": SERVER_V6,
            "destination.port": PORT,
            "destination.tag": "VPC/internal",
            "source.address": CLIENT_V6,
            "source.port": observed.client.ports[0],
            "network.type": "ipv6",
            "attempt.mapped": False,
            "process.pid": observed.client.pid,
        },
    )
    assert_outcome(observed, end, "aborted", error=None)


@pytest.mark.scenario(run=scenarios.mapped_black_hole)
def test_an_ipv4_mapped_attempt_is_shown_by_its_ipv4_addresses(observed: Observation) -> None:
    stuck, end = the_story_of_one_attempt(observed)

    assert_includes(
        stuck,
        {
            "destination.address": SERVER_V4,
            "destination.port": PORT,
            "destination.scope": "vpc",
            "source.address": CLIENT_V4,
            "source.port": observed.client.ports[0],
            "network.type": "ipv4",
            "attempt.mapped": True,
            "process.pid": observed.client.pid,
        },
    )
    assert_outcome(observed, end, "aborted", error=None)


@pytest.mark.scenario(run=scenarios.loopback)
def test_an_attempt_to_loopback_is_tagged_loopback(observed: Observation) -> None:
    stuck, end = the_story_of_one_attempt(observed)

    assert_includes(
        stuck,
        {
            "destination.address": "127.0.0.1",
            "destination.scope": "loopback",
            "destination.tag": "loopback",
            "source.address": "127.0.0.1",
            "source.port": observed.client.ports[0],
            "process.pid": observed.client.pid,
        },
    )
    assert_outcome(observed, end, "aborted", error=None)


# --- answered with an error ----------------------------------------------------------------------


@pytest.mark.scenario(run=scenarios.refused, backends=BPF)
def test_a_reset_ends_an_attempt_as_refused_without_its_being_stuck(
    observed: Observation,
) -> None:
    assert observed.client.results == ("ECONNREFUSED",)
    assert not observed.of_kind("attempt.stuck")
    assert not observed.of_kind("attempt.retransmit")
    assert_includes(
        observed.only("attempt.end"),
        {
            "attempt.outcome": "refused",
            "attempt.stuck": False,
            "attempt.syns_sent": 1,
            "error.type": "ECONNREFUSED",
            "destination.address": SERVER_V4,
            "destination.port": PORT,
            "destination.tag": "VPC/internal",
            "source.address": CLIENT_V4,
            "process.pid": observed.client.pid,
            "detected_by": "bpf",
        },
    )


@pytest.mark.scenario(run=scenarios.refused, backends=POLL)
def test_a_poller_says_nothing_of_an_attempt_that_was_refused_at_once(
    observed: Observation,
) -> None:
    assert observed.client.results == ("ECONNREFUSED",)
    assert not observed.events


@pytest.mark.scenario(run=scenarios.icmp_reject, backends=BPF)
def test_icmp_host_unreachable_ends_an_attempt_as_unreachable(observed: Observation) -> None:
    assert observed.client.results == ("EHOSTUNREACH",)
    end = observed.only("attempt.end")

    assert_includes(
        end,
        {
            "attempt.outcome": "unreachable",
            "error.type": "EHOSTUNREACH",
            "destination.address": SERVER_V4,
            "process.pid": observed.client.pid,
            "detected_by": "bpf",
        },
    )
    assert len(observed.of_kind("attempt.stuck")) == (1 if get(end, "attempt.stuck") else 0)


@pytest.mark.scenario(run=scenarios.icmp_reject, backends=POLL)
def test_a_poller_may_miss_an_icmp_error_but_invents_no_reason(observed: Observation) -> None:
    assert observed.client.results == ("EHOSTUNREACH",)
    if observed.events:
        _, end = the_story_of_one_attempt(observed)
        assert_outcome(observed, end, "unreachable", error="EHOSTUNREACH")


@pytest.mark.scenario(run=scenarios.dead_neighbour)
def test_a_dead_neighbour_is_stuck_and_then_unreachable(observed: Observation) -> None:
    assert observed.client.results == ("EHOSTUNREACH",)
    stuck, end = the_story_of_one_attempt(observed)

    assert_includes(
        stuck,
        {
            "destination.address": NOBODY_V4,
            "destination.tag": "VPC/internal",
            "source.address": CLIENT_V4,
            "source.port": observed.client.ports[0],
            "process.pid": observed.client.pid,
        },
    )
    assert_outcome(observed, end, "unreachable", error="EHOSTUNREACH")
    assert_age(observed, end)


# --- ends after a while --------------------------------------------------------------------------


@pytest.mark.scenario(run=scenarios.accepted_late)
def test_an_attempt_accepted_at_its_third_syn_ends_established(observed: Observation) -> None:
    assert observed.client.results == ("established",)
    _, end = the_story_of_one_attempt(observed)

    assert get(end, "attempt.outcome") == "established"
    assert get(end, "error.type") is None
    assert_age(observed, end)


@pytest.mark.scenario(run=scenarios.accepted_late, backends=BPF)
def test_an_attempt_accepted_at_its_third_syn_has_sent_three(observed: Observation) -> None:
    assert get(observed.only("attempt.end"), "attempt.syns_sent") == 3


@pytest.mark.scenario(run=scenarios.application_gives_up)
def test_an_application_that_closes_after_three_seconds_aborted(observed: Observation) -> None:
    assert observed.client.results == ("gave up",)
    _, end = the_story_of_one_attempt(observed)

    assert_outcome(observed, end, "aborted", error=None)
    assert_age(observed, end)


@pytest.mark.scenario(run=scenarios.process_killed)
def test_a_process_killed_in_connect_aborted(observed: Observation) -> None:
    stuck, end = the_story_of_one_attempt(observed)

    for event in (stuck, end):
        assert_includes(
            event,
            {
                "process.pid": observed.client.pid,
                "process.executable.name": observed.client.executable.name,
            },
        )
    assert_outcome(observed, end, "aborted", error=None)


@pytest.mark.scenario(run=scenarios.kernel_timeout)
def test_an_attempt_the_kernel_gives_up_timed_out(observed: Observation) -> None:
    assert observed.client.results == ("ETIMEDOUT",)
    stuck, end = the_story_of_one_attempt(observed)

    assert_outcome(observed, end, "timed_out", error="ETIMEDOUT")
    for event in (stuck, end):
        assert get(event, "attempt.syns_sent") == 2
    assert not observed.of_kind("attempt.retransmit")


# --- more than one -------------------------------------------------------------------------------


@pytest.mark.scenario(run=scenarios.stuck_before_start)
def test_an_attempt_stuck_before_the_start_is_found_with_its_own_start(
    observed: Observation,
) -> None:
    stuck, end = the_story_of_one_attempt(observed)
    start = observed.lifecycle[0]

    assert start["event"] == "tracer.start"
    assert observed.client.opened_at is not None
    began = moment(end, "attempt.started_at")
    assert began < moment(start, "time")
    assert began == pytest.approx(observed.client.opened_at, abs=TIMER_SECONDS)
    assert get(stuck, "process.pid") in {None, observed.client.pid}
    for event in (stuck, end):
        assert_includes(
            event,
            {"destination.address": SERVER_V4, "source.port": observed.client.ports[0]},
        )
    assert get(end, "process.pid") == observed.client.pid
    assert_outcome(observed, end, "aborted", error=None)


@pytest.mark.scenario(run=scenarios.same_addresses_twice)
def test_the_same_addresses_in_two_namespaces_are_two_attempts(observed: Observation) -> None:
    ids = set()
    for netns, client in zip(observed.netns, observed.clients, strict=True):
        stuck, end = the_story_of_one_attempt(observed, netns)
        assert_includes(
            stuck,
            {
                "source.address": CLIENT_V4,
                "source.port": SAME_SOURCE_PORT,
                "destination.address": SERVER_V4,
                "process.pid": client.pid,
            },
        )
        assert_outcome(observed, end, "aborted", error=None)
        ids.add(get(stuck, "attempt.id"))

    assert len(ids) == 2


@pytest.mark.scenario(run=scenarios.many_at_once)
def test_five_hundred_attempts_are_each_reported_once(observed: Observation) -> None:
    stuck, ends = observed.of_kind("attempt.stuck"), observed.of_kind("attempt.end")

    assert len(observed.client.ports) == MANY
    for events in (stuck, ends):
        ports = [get(event, "source.port") for event in events]
        assert sorted(ports) == sorted(observed.client.ports)
        assert {get(event, "process.pid") for event in events} == {observed.client.pid}
    assert len({get(event, "attempt.id") for event in stuck}) == MANY
    assert {get(event, "attempt.id") for event in ends} == {
        get(event, "attempt.id") for event in stuck
    }
    for end in ends:
        assert_outcome(observed, end, "aborted", error=None)


@pytest.mark.scenario(run=scenarios.many_at_once)
def test_five_hundred_attempts_lose_nothing(observed: Observation) -> None:
    stop = observed.lifecycle[-1]

    assert stop["event"] == "tracer.stop"
    assert_includes(stop, {"tracer.lost_events": 0, "tracer.dropped_events": 0})
    assert get(stop, "tracer.became_stuck") >= MANY


# --- what the tests have in common ---------------------------------------------------------------


def the_story_of_one_attempt(
    observed: Observation, netns: int | None = None
) -> tuple[Event, Event]:
    """The one stuck event and the one end of the only attempt, which all other events lie between.

    Without `netns`, the only attempt of the scenario.
    """
    stuck = observed.only("attempt.stuck", netns)
    end = observed.only("attempt.end", netns)
    story = [event for event in observed.events if netns in {None, event["netns"]}]

    assert story[0] is stuck, f"something comes before it became stuck: {story}"
    assert story[-1] is end, f"something comes after its end: {story}"
    assert len({get(event, "attempt.id") for event in story}) == 1
    assert get(stuck, "attempt.outcome") is None
    times = [moment(event, "time") for event in story]
    assert times == sorted(times)
    return stuck, end


def assert_outcome(observed: Observation, end: Event, outcome: str, *, error: str | None) -> None:
    """BPF tells how an attempt ended; of a poller's it is only known that it is over."""
    if observed.backend == "poll":
        outcome, error = "vanished", None
    assert_includes(end, {"attempt.outcome": outcome, "error.type": error})


def assert_age(observed: Observation, end: Event) -> None:
    """The age at the end is what the application measured; a poller notices up to a round later."""
    client = observed.client
    assert client.opened_at is not None
    assert client.ended_at is not None
    took = client.ended_at - client.opened_at
    late = SLACK_SECONDS if observed.backend == "bpf" else ROUND_SECONDS
    assert took - TIMER_SECONDS <= get(end, "attempt.age_seconds") <= took + late


def assert_includes(event: Event, expected: Mapping[str, object]) -> None:
    """Holds an event against the fields that matter, by their dotted paths."""
    assert {path: get(event, path) for path in expected} == dict(expected)


def moment(event: Event, path: str) -> float:
    """A time of the event as epoch seconds."""
    return datetime.fromisoformat(get(event, path)).timestamp()
