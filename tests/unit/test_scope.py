"""Which reports a scope lets through, and what it makes of attempts that enter it late."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tracer.enrich.scope import PodScope, ScopeFilter
from tracer.errors import UsageError
from tracer.kube.names import Names, Resource
from tracer.kube.pod import PodInfo, read_pod
from tracer.model import (
    Attempt,
    Change,
    ChangeKind,
    Destination,
    Endpoint,
    Flow,
    Health,
    Losses,
    Outcome,
    Owner,
    PodIdentity,
    Rates,
    Report,
    Scope,
    SourceName,
)

RECORDED = Path(__file__).parents[1] / "fixtures/kube/pods-on-node1.json"

CART = PodIdentity("shop", "cart-0", "uid-cart-0")
DB = PodIdentity("shop", "db-0", "uid-db-0")
DNS = PodIdentity("kube-system", "dns", "uid-dns")
UNNAMED = PodIdentity(uid="uid-cart-0")
STUCK, RETRANSMIT, END = ChangeKind.STUCK, ChangeKind.RETRANSMIT, ChangeKind.END


def report(
    kind: ChangeKind,
    attempt_id: str = "a",
    pod: PodIdentity | None = CART,
    outcome: Outcome | None = None,
    stuck_ns: int | None = 2,
) -> Report:
    flow = Flow(1, 4, Endpoint("10.4.7.21", 40_000), Endpoint("10.4.100.50", 5432))
    attempt = Attempt(
        attempt_id, flow, Owner(), SourceName.BPF, 1, stuck_ns=stuck_ns, outcome=outcome
    )
    return Report(
        change=Change(kind, attempt, 3),
        destination=Destination(Scope.VPC),
        process=None,
        wall_ns=4,
        age_seconds=None,
        next_retry_seconds=None,
        pod=pod,
    )


def kinds(reports: list[Report]) -> list[ChangeKind]:
    return [each.change.kind for each in reports]


def carts() -> ScopeFilter:
    return ScopeFilter(PodScope(pods=[("shop", "cart-0")]), None)


def node_health() -> Health:
    return Health(
        backend=SourceName.BPF,
        hooks=(),
        lacking=(),
        stuck_now=70,
        tracked_now=700,
        outcomes={Outcome.REFUSED: 7},
        became_stuck=77,
        rates=Rates(1_000, 900),
        losses=Losses(ring_full=1),
    )


@pytest.mark.parametrize(
    ("scope", "wanted"),
    [
        (PodScope(pods=[("shop", "cart-0")]), {CART}),
        (PodScope(pods=[("shop", "cart-0"), ("kube-system", "dns")]), {CART, DNS}),
        (PodScope(pods=[("kube-system", "cart-0")]), set()),
        (PodScope(namespaces=["shop"]), {CART, DB}),
        (PodScope(namespaces=["shop", "kube-system"]), {CART, DB, DNS}),
        (PodScope(selector="app=cart"), {CART}),
        (PodScope(namespaces=["kube-system"], selector="app=cart"), set()),
        (PodScope(namespaces=["shop"], selector="app!=cart"), {DB}),
        (PodScope(pods=[("kube-system", "dns")], selector="app=cart"), {CART, DNS}),
        (PodScope(), set()),
    ],
)
def test_scope_holds_the_pods_that_were_asked_for(
    scope: PodScope, wanted: set[PodIdentity]
) -> None:
    labels = {CART: {"app": "cart"}, DB: {"app": "db"}, DNS: {"app": "dns"}}
    assert {pod for pod in labels if scope.wants(pod, labels[pod])} == wanted


@pytest.mark.parametrize("pod", [None, UNNAMED, PodIdentity(namespace="shop", uid="uid-cart-0")])
def test_what_has_no_name_is_in_no_scope(pod: PodIdentity | None) -> None:
    labels = {"app": "cart"}
    scopes = (PodScope([("shop", "cart-0")]), PodScope((), ["shop"]), PodScope(selector="app=cart"))
    assert not any(scope.wants(pod, labels) for scope in scopes)


def test_selector_without_labels_says_that_it_selects_nothing() -> None:
    names = Names()
    scope = ScopeFilter(PodScope(selector="app=cart"), names)
    (told,) = scope.narrowed(node_health()).lacking
    assert told == "labels are not known: --selector selects nothing until the API server answers"
    names.replace(Resource.PODS, [])
    assert scope.narrowed(node_health()).lacking == ()
    assert ScopeFilter(PodScope(namespaces=["shop"]), Names()).narrowed(node_health()) == replace(
        node_health(), stuck_now=0, tracked_now=0, outcomes={}, became_stuck=0
    )


def test_attempts_that_cannot_be_judged_are_counted_once_each_until_they_can() -> None:
    by_labels = ScopeFilter(PodScope(selector="app=cart"), Names())
    by_labels.filter(
        [report(STUCK), report(RETRANSMIT), report(STUCK, "b"), report(STUCK, "c", None)]
    )
    by_labels.filter([report(END, outcome=Outcome.TIMED_OUT)])
    assert by_labels.narrowed(node_health()).withheld == 2
    scope = carts()
    scope.filter([report(STUCK, pod=UNNAMED), report(STUCK, "b", UNNAMED), report(STUCK, "c", DB)])
    assert scope.narrowed(node_health()).withheld == 2
    scope.filter([report(RETRANSMIT), report(RETRANSMIT, "b", DB)])
    assert scope.narrowed(node_health()).withheld == 0


def test_attempts_that_cannot_be_judged_are_bounded_in_memory_and_not_in_number() -> None:
    scope = ScopeFilter(PodScope(namespaces=["shop"]), None, max_told=3)
    scope.filter([report(STUCK, str(number), UNNAMED) for number in range(10)])
    assert len(scope._unjudged) == 3
    assert scope.narrowed(node_health()).withheld == 10


def test_pod_whose_labels_are_unknown_is_in_no_selectors_scope() -> None:
    assert not PodScope(selector="app!=db").wants(CART, None)
    assert PodScope(selector="app!=db").wants(CART, {})


def test_selector_that_makes_no_sense_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        PodScope(selector="app in (")


def test_attempts_of_the_scope_pass_and_others_do_not() -> None:
    scope = carts()
    told = [report(STUCK), report(RETRANSMIT), report(END, outcome=Outcome.REFUSED)]
    others = [report(STUCK, "b", DB), report(STUCK, "c", None), report(RETRANSMIT, "d", UNNAMED)]
    assert scope.filter([*others, *told, *others]) == told


def test_attempt_whose_pod_is_named_late_begins_with_stuck() -> None:
    scope = carts()
    assert scope.filter([report(STUCK, pod=None), report(RETRANSMIT, pod=UNNAMED)]) == []
    late = report(RETRANSMIT)
    passed = scope.filter([late, report(RETRANSMIT), report(END, outcome=Outcome.TIMED_OUT)])
    assert kinds(passed) == [STUCK, RETRANSMIT, END]
    assert passed[0] == replace(late, change=replace(late.change, kind=STUCK))


def test_attempt_whose_pod_is_named_at_its_end_has_an_end_alone() -> None:
    scope = carts()
    scope.filter([report(STUCK, pod=None)])
    assert kinds(scope.filter([report(END, outcome=Outcome.TIMED_OUT)])) == [END]
    health = scope.narrowed(node_health())
    assert (health.became_stuck, health.stuck_now) == (1, 0)
    assert health.outcomes == {Outcome.TIMED_OUT: 1}


def test_attempt_that_was_told_is_told_to_its_end_whatever_becomes_of_its_pod() -> None:
    scope = carts()
    scope.filter([report(STUCK)])
    rest = [report(RETRANSMIT, pod=UNNAMED), report(END, pod=None, outcome=Outcome.VANISHED)]
    assert scope.filter(rest) == rest
    assert scope.filter([report(END, pod=None, outcome=Outcome.VANISHED)]) == []


def test_attempt_that_failed_without_being_stuck_counts_as_an_outcome_alone() -> None:
    scope = carts()
    failed = report(END, outcome=Outcome.REFUSED, stuck_ns=None)
    assert scope.filter([failed]) == [failed]
    health = scope.narrowed(node_health())
    assert (health.became_stuck, health.outcomes) == (0, {Outcome.REFUSED: 1})


def test_health_is_narrowed_to_the_scopes_own_counts() -> None:
    scope = carts()
    scope.filter(
        [
            report(STUCK, "a"),
            report(STUCK, "b"),
            report(STUCK, "c", DB),
            report(END, "c", DB, Outcome.ABORTED),
            report(END, "b", outcome=Outcome.ESTABLISHED),
        ]
    )
    assert scope.narrowed(node_health()) == replace(
        node_health(),
        stuck_now=1,
        tracked_now=1,
        became_stuck=2,
        outcomes={Outcome.ESTABLISHED: 1},
    )


def test_attempts_in_memory_are_bounded_and_gone_with_their_end() -> None:
    scope = ScopeFilter(PodScope(namespaces=["shop"]), None, max_told=3)
    scope.filter([report(STUCK, str(number)) for number in range(10)])
    assert list(scope._told) == ["7", "8", "9"]
    scope.filter([report(END, str(number), outcome=Outcome.REFUSED) for number in range(10)])
    assert scope._told == {}


class TestSelector:
    """A selector follows the labels that the API tells, as they change."""

    def setup_method(self) -> None:
        items = json.loads(RECORDED.read_text())["items"]
        self.pods = [pod for pod in map(read_pod, items) if pod is not None]
        self.names = Names()
        self.names.replace(Resource.PODS, self.pods)
        self.scope = ScopeFilter(PodScope(selector="app=db"), self.names)

    def pod(self, name: str) -> PodInfo:
        return next(pod for pod in self.pods if pod.name == name)

    def passes(self, name: str, attempt_id: str, kind: ChangeKind = STUCK) -> bool:
        pod = self.pod(name)
        identity = PodIdentity(pod.namespace, pod.name, pod.uid)
        return bool(self.scope.filter([report(kind, attempt_id, identity)]))

    def label(self, name: str, labels: Mapping[str, str]) -> None:
        self.names.put(Resource.PODS, replace(self.pod(name), labels=labels))

    def test_recorded_pods_are_told_apart(self) -> None:
        assert self.passes("db-0", "a")
        assert not self.passes("hostnet", "b")

    def test_pod_that_is_labelled_later_joins(self) -> None:
        assert not self.passes("hostnet", "a")
        self.label("hostnet", {"app": "db"})
        assert self.passes("hostnet", "a", RETRANSMIT)

    def test_pod_that_loses_the_label_leaves_with_its_next_attempt(self) -> None:
        assert self.passes("db-0", "a")
        self.label("db-0", {})
        assert self.passes("db-0", "a", RETRANSMIT)
        assert not self.passes("db-0", "b")

    def test_pod_that_the_api_has_not_told_is_not_in_it(self) -> None:
        self.names.remove(Resource.PODS, "shop", "db-0")
        assert not self.passes("db-0", "a")
