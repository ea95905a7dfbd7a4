"""What other attempts of a node say: one pod or all, one destination or all, what is unknown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tracer.diagnose.comparison import MAX_PODS, Comparison, Seen, seen
from tracer.facts import Peers
from tracer.model import (
    Attempt,
    Change,
    ChangeKind,
    Destination,
    Endpoint,
    Flow,
    Outcome,
    Owner,
    PodIdentity,
    Report,
    Scope,
    SourceName,
)

SECOND = 1_000_000_000
START = int(datetime(2026, 3, 4, 13, 2, 11, tzinfo=UTC).timestamp()) * SECOND
THERE = Endpoint("10.4.100.50", 443)
VPC = Scope.VPC


class Node:
    """A comparison that is told in short what happened."""

    def __init__(self, **limits: Any) -> None:  # noqa: ANN401 - members of Comparison
        self.comparison = Comparison(zone=UTC, **limits)
        self.count = 0

    def stuck(
        self,
        who: str,
        where: Endpoint = THERE,
        at: float = 0,
        scope: Scope = VPC,
        attempt: str | None = None,
    ) -> str:
        self.count += 1
        name = attempt or f"a{self.count}"
        self.comparison.note(Seen(name, who, where, scope, _at(at)))
        return name

    def end(
        self,
        attempt: str,
        who: str,
        outcome: Outcome,
        where: Endpoint = THERE,
        at: float = 1,
        *,
        was_stuck: bool = True,
    ) -> None:
        self.comparison.note(Seen(attempt, who, where, VPC, _at(at), outcome, was_stuck))

    def reached(self, who: str, where: Endpoint = THERE, at: float = 1) -> None:
        self.comparison.reached(who, where, VPC, _at(at))

    def sentence(self, who: str, where: Endpoint = THERE, scope: Scope = VPC) -> str | None:
        return self.comparison.sentence(who, where, scope)

    def peers(self, who: str, where: Endpoint = THERE) -> Peers:
        known = self.comparison.peers(who, where, VPC)
        assert known is not None
        return known


def _at(seconds: float) -> int:
    return START + int(seconds * SECOND)


def other(number: int) -> Endpoint:
    return Endpoint(f"10.4.100.{number}", 443)


# --- the sentence --------------------------------------------------------------------------------


def test_a_destination_that_fails_from_many_pods_is_told_with_their_number_and_since_when() -> None:
    node = Node()
    for number in range(7):
        node.stuck(f"shop/web-{number}", at=number)
    assert node.sentence("shop/web-3") == (
        "10.4.100.50:443 fails from 7 pods on this node since 13:02:11"
    )


def test_other_destinations_that_were_reached_since_are_counted() -> None:
    node = Node()
    for number in range(2):
        node.stuck(f"shop/web-{number}")
    for number in range(3):
        node.reached("shop/cart-0", other(number), at=5)
    assert node.sentence("shop/web-0") == (
        "10.4.100.50:443 fails from 2 pods on this node since 13:02:11;"
        " 3 other VPC destinations were reached since"
    )


def test_what_was_reached_before_the_trouble_is_not_counted() -> None:
    node = Node()
    node.reached("shop/cart-0", other(1), at=-5)
    node.stuck("shop/web-0")
    node.stuck("shop/web-1")
    assert "other VPC" not in (node.sentence("shop/web-0") or "")


def test_a_destination_that_fails_too_is_not_among_the_reached() -> None:
    node = Node()
    node.stuck("shop/web-0")
    node.stuck("shop/web-1")
    node.reached("shop/cart-0", other(1))
    node.stuck("shop/cart-1", other(1), at=2)
    assert "other VPC" not in (node.sentence("shop/web-0") or "")


def test_all_pods_are_only_said_where_every_success_is_seen() -> None:
    node = Node(sees_every_success=True)
    node.stuck("shop/web-0")
    node.stuck("shop/web-1")
    assert node.sentence("shop/web-0") == (
        "10.4.100.50:443 fails from all 2 pods that tried it since 13:02:11"
    )
    node.reached("shop/cart-0")
    assert node.sentence("shop/web-0") == (
        "10.4.100.50:443 fails from 2 pods on this node since 13:02:11; 1 pod reached it since"
    )


def test_only_one_pod_fails_where_others_are_known_to_reach_it() -> None:
    node = Node()
    node.stuck("shop/web-0")
    for number in range(4):
        node.reached(f"shop/cart-{number}")
    assert node.sentence("shop/web-0") == (
        "10.4.100.50:443 fails only from shop/web-0 since 13:02:11; 4 other pods reached it since"
    )


def test_one_pod_that_fails_alone_is_not_compared_with_silence() -> None:
    node = Node()
    node.stuck("shop/web-0")
    assert node.sentence("shop/web-0") is None
    assert node.sentence("shop/web-1") is None
    assert node.sentence("shop/web-0", other(9)) is None


def test_a_pod_that_fails_at_one_destination_is_told_with_the_others_it_reached() -> None:
    node = Node()
    node.stuck("shop/web-0")
    for number in (1, 2, 3):
        node.reached("shop/web-0", other(number), at=1)
    node.comparison.reached("shop/web-0", Endpoint("52.94.10.112", 443), Scope.EXTERNAL, _at(1))
    node.reached("shop/cart-0", other(4), at=1)
    assert node.sentence("shop/web-0") == (
        "10.4.100.50:443 fails from shop/web-0 since 13:02:11; it reached 3 other VPC destinations"
        " since"
    )


def test_what_is_told_late_is_counted_by_when_it_happened() -> None:
    node = Node()
    node.stuck("shop/web-0", at=5)
    node.reached("shop/web-0", other(1), at=20)
    node.reached("shop/web-0", other(2), at=4)
    node.reached("shop/web-0", other(3), at=10)
    assert node.peers("shop/web-0").other_reached == 2
    node.reached("shop/web-0", at=20)
    assert node.peers("shop/web-0").stuck_here == 1, "what waits still waits"


def test_destinations_that_are_only_reached_take_no_room_from_those_that_fail() -> None:
    node = Node(destinations=4)
    node.stuck("shop/web-0")
    for number in range(10):
        node.reached("shop/web-0", other(number))
    assert node.peers("shop/web-0").stuck_here == 1
    assert node.comparison.forgotten == 0


def test_a_pod_that_fails_everywhere_is_told_with_what_it_reached() -> None:
    node = Node()
    for number in range(5):
        node.stuck("shop/web-0", other(number), at=number)
    assert node.sentence("shop/web-0", other(1)) == (
        "shop/web-0 fails to reach 5 destinations since 13:02:11;"
        " it is not known to have reached any other since"
    )
    node.reached("shop/web-0", other(9), at=9)
    assert "it reached 1 other since" in (node.sentence("shop/web-0", other(1)) or "")


def test_senders_without_a_pod_are_called_network_namespaces() -> None:
    node = Node()
    node.stuck("netns 1")
    node.stuck("netns 2")
    assert "fails from 2 network namespaces on this node" in (node.sentence("netns 1") or "")


def test_loopback_is_another_destination_in_every_namespace() -> None:
    node = Node()
    here = Endpoint("127.0.0.1", 8080)
    node.stuck("shop/web-0", here, scope=Scope.LOOPBACK)
    node.stuck("shop/web-1", here, scope=Scope.LOOPBACK)
    assert node.sentence("shop/web-0", here, Scope.LOOPBACK) is None


def test_trouble_of_another_day_is_told_with_its_date() -> None:
    node = Node()
    node.stuck("shop/web-0")
    node.stuck("shop/web-1", at=2 * 86_400)
    assert "since 2026-03-04 13:02:11" in (node.sentence("shop/web-0") or "")


def test_an_old_failure_is_no_failing() -> None:
    node = Node()
    node.end("a", "shop/web-0", Outcome.REFUSED, at=0)
    node.stuck("shop/web-1", at=400)
    assert node.sentence("shop/web-1") is None


def test_names_from_outside_cannot_repaint_a_terminal() -> None:
    node = Node()
    node.stuck("shop/\x1b[2J")
    node.reached("shop/x")
    assert (node.sentence("shop/\x1b[2J") or "").isprintable()


# --- ends ----------------------------------------------------------------------------------------


def test_refused_at_once_is_a_failure_though_it_was_never_stuck() -> None:
    node = Node()
    for number in range(2):
        node.end(f"a{number}", f"shop/web-{number}", Outcome.REFUSED, was_stuck=False)
    assert "fails from 2 pods" in (node.sentence("shop/web-0") or "")


def test_vanished_and_local_errors_say_nothing_of_the_destination() -> None:
    node = Node()
    node.end("a", "shop/web-0", Outcome.VANISHED)
    node.end("b", "shop/web-1", Outcome.LOCAL_ERROR)
    node.end("c", "shop/web-2", Outcome.ABORTED, was_stuck=False)
    assert node.sentence("shop/web-0") is None


def test_established_in_the_end_clears_the_pod() -> None:
    node = Node()
    first = node.stuck("shop/web-0")
    node.stuck("shop/web-1")
    node.end(first, "shop/web-0", Outcome.ESTABLISHED)
    assert node.sentence("shop/web-0") is None
    assert node.sentence("shop/web-1") == (
        "10.4.100.50:443 fails only from shop/web-1 since 13:02:11; 1 other pod reached it since"
    )


def test_an_attempt_whose_pod_is_learnt_later_is_not_counted_twice() -> None:
    node = Node()
    node.stuck("netns 7", attempt="a")
    node.stuck("shop/web-0", attempt="a")
    assert node.peers("shop/web-0").stuck_pods == 1


# --- the counts ----------------------------------------------------------------------------------


def test_peers_count_what_is_now_stuck_and_what_was_reached() -> None:
    node = Node()
    node.stuck("shop/web-0")
    node.stuck("shop/web-0")
    second = node.stuck("shop/web-1", at=1)
    node.stuck("shop/web-0", other(1), at=2)
    node.reached("shop/cart-0", at=3)
    node.reached("shop/web-0", other(2), at=4)
    node.end(second, "shop/web-1", Outcome.TIMED_OUT, at=5)
    assert node.peers("shop/web-0") == Peers(
        stuck_here=2,
        stuck_pods=1,
        known_pods=3,
        other_stuck=1,
        established=0,
        established_wall_ns=None,
        since_wall_ns=_at(5),
        reached_pods=1,
        other_reached=1,
    )


def test_nothing_is_known_of_a_destination_that_was_never_noted() -> None:
    assert Node().comparison.peers("shop/web-0", THERE, VPC) is None


# --- bounds --------------------------------------------------------------------------------------


def test_the_destinations_least_heard_of_are_forgotten_and_counted() -> None:
    node = Node(destinations=2)
    for number in range(3):
        node.stuck("shop/web-0", other(number))
    assert node.comparison.peers("shop/web-0", other(0), VPC) is None
    assert node.peers("shop/web-0", other(2)).other_stuck == 1
    assert node.comparison.forgotten == 1


def test_the_oldest_attempts_are_forgotten_and_counted() -> None:
    node = Node(attempts=2)
    for number in range(3):
        node.stuck(f"shop/web-{number}")
    assert node.peers("shop/web-2").stuck_pods == 2
    assert node.comparison.forgotten == 1


def test_more_pods_than_a_node_has_are_not_kept() -> None:
    node = Node()
    node.stuck("shop/web-0")
    for number in range(MAX_PODS + 10):
        node.reached(f"shop/web-{number}")
    assert node.peers("shop/web-0").known_pods == MAX_PODS + 1, "itself, and as many as are kept"


_EVENTS = st.builds(
    Seen,
    attempt=st.sampled_from("abcdef"),
    who=st.sampled_from(["shop/web-0", "shop/web-1", "netns 3"]),
    destination=st.sampled_from([THERE, other(1), other(2)]),
    scope=st.just(VPC),
    wall_ns=st.integers(START, START + 1_000 * SECOND),
    outcome=st.none() | st.sampled_from(Outcome),
    was_stuck=st.booleans(),
)


@given(st.lists(_EVENTS, max_size=40), st.integers(1, 3), st.integers(1, 4))
def test_whatever_happens_counts_agree_and_bounds_hold(
    events: list[Seen], destinations: int, attempts: int
) -> None:
    comparison = Comparison(destinations=destinations, attempts=attempts, zone=UTC)
    for event in events:
        comparison.note(event)
    waiting = 0
    for where in (THERE, other(1), other(2)):
        known = comparison.peers("shop/web-0", where, VPC)
        if known is not None:
            waiting += known.stuck_here
            assert known.stuck_pods <= known.known_pods
            assert known.other_stuck < destinations
        comparison.sentence("shop/web-0", where, VPC)
    assert waiting <= attempts


# --- from reports --------------------------------------------------------------------------------


def report(kind: ChangeKind, pod: PodIdentity | None = None, **known: Any) -> Report:  # noqa: ANN401
    flow = Flow(7, 4, Endpoint("10.4.7.21", 40_000), THERE)
    attempt = Attempt("a", flow, Owner(), SourceName.BPF, 0, stuck_ns=1, **known)
    return Report(Change(kind, attempt, 0), Destination(VPC), None, START, None, None, pod)


def test_a_report_names_its_pod_or_its_network_namespace() -> None:
    pod = PodIdentity("shop", "web-0")
    assert seen(report(ChangeKind.STUCK, pod)) == Seen("a", "shop/web-0", THERE, VPC, START)
    assert seen(report(ChangeKind.STUCK)) == Seen("a", "netns 7", THERE, VPC, START)


def test_a_retransmission_is_no_news() -> None:
    assert seen(report(ChangeKind.RETRANSMIT)) is None


def test_the_end_brings_its_outcome() -> None:
    ended = seen(report(ChangeKind.END, outcome=Outcome.TIMED_OUT))
    assert ended is not None
    assert (ended.outcome, ended.was_stuck) == (Outcome.TIMED_OUT, True)
