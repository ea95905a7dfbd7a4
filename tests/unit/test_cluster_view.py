"""What the cluster says of an attempt: which policies are asked about what, and of the backend."""

from __future__ import annotations

import json
import time
import timeit
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from tracer.enrich import cluster
from tracer.enrich.cluster import MAX_JUDGED, ClusterView
from tracer.facts import Backend, PolicyFinding, PolicyVerdict
from tracer.kube.names import Names, Record, Resource
from tracer.kube.pod import PodInfo, read_pod
from tracer.kube.policy_records import NamespaceRecord, PolicyRecord, read_namespace, read_policy
from tracer.kube.records import (
    EndpointRecord,
    NodeRecord,
    ServicePort,
    ServiceRecord,
    SliceRecord,
    read_node,
    read_service,
    read_slice,
)
from tracer.model import (
    Attempt,
    Change,
    ChangeKind,
    Destination,
    Endpoint,
    Endpoints,
    Flow,
    Kind,
    Nat,
    Owner,
    PodIdentity,
    Report,
    Scope,
    SourceName,
)

FIXTURES: Final = Path(__file__).parents[1] / "fixtures/kube"

NOT_SELECTED = PolicyVerdict.NOT_SELECTED
ALLOWED = PolicyVerdict.ALLOWED
DENIED = PolicyVerdict.DENIED
UNKNOWN = PolicyVerdict.UNKNOWN

Document = dict[str, object]

WEB, NODE, AGENT = "10.4.7.21", "10.4.0.1", "uid-agent"
LOCAL_DB, REMOTE_DB, REMOTE_DB_2 = "10.4.7.40", "10.4.9.50", "10.4.9.51"
CLUSTER_IP = Endpoint("10.96.0.10", 5432)
ANYWHERE: Final[Document] = {}
TO_5432: Final[Document] = {"ports": [{"port": 5432}]}
TO_DATA: Final[Document] = {"to": [{"namespaceSelector": {"matchLabels": {"team": "data"}}}]}
TO_SHOP: Final[Document] = {"to": [{"podSelector": {}}]}
TO_DB_PODS: Final[Document] = {
    "to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}]
}
TO_REMOTE: Final[Document] = {"to": [{"ipBlock": {"cidr": f"{REMOTE_DB}/32"}}]}
TO_PG: Final[Document] = {"ports": [{"port": "pg"}]}


def pod(
    namespace: str, name: str, *ips: str, labels: Mapping[str, str] | None = None, **parts: object
) -> PodInfo:
    document = {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": f"uid-{name}",
            "labels": labels or {"app": name},
        },
        "spec": {
            "nodeName": "node1",
            "containers": [{"name": "app", "ports": [{"name": "pg", "containerPort": 5432}]}],
        },
        "status": {"phase": "Running", "podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]},
    }
    made = read_pod(document)
    assert made is not None
    return replace(made, **parts)  # type: ignore[arg-type]


def policy(namespace: str, direction: str, *rules: Document, **spec: object) -> PolicyRecord:
    """Named after its direction; for all pods of the namespace."""
    made = read_policy(
        {
            "metadata": {"namespace": namespace, "name": direction},
            "spec": {
                "podSelector": {},
                "policyTypes": [direction.capitalize()],
                direction: [*rules],
                **spec,
            },
        }
    )
    assert made is not None
    return made


def out(*rules: Document, **spec: object) -> PolicyRecord:
    """Of the connecting pod's namespace."""
    return policy("shop", "egress", *rules, **spec)


def into(*rules: Document, **spec: object) -> PolicyRecord:
    """Of the database's namespace."""
    return policy("data", "ingress", *rules, **spec)


def db_slice(
    *endpoints: EndpointRecord, name: str = "db-1", port: int | None = 5432
) -> SliceRecord:
    return SliceRecord("data", name, "db", 4, (("", port),), endpoints)


def at(address: str, pod_name: str | None = "db", *, ready: bool = True) -> EndpointRecord:
    node = "node1" if address == LOCAL_DB else "node2"
    return EndpointRecord(address, ready, None if pod_name is None else f"data/{pod_name}", node)


DB_SERVICE: Final = ServiceRecord(
    "data", "db", (CLUSTER_IP.address,), (ServicePort("", "TCP", 5432, 30432),)
)
PODS: Final = (
    pod("shop", "web", WEB, "fd00:4::21"),
    pod("data", "db", LOCAL_DB),
    pod("shop", "agent", NODE, host_network=True),
)
NAMESPACES: Final = (
    NamespaceRecord("shop", {"team": "checkout"}),
    NamespaceRecord("data", {"team": "data"}),
)


def names(
    policies: Iterable[PolicyRecord] = (),
    *,
    slices: Iterable[SliceRecord] = (db_slice(at(REMOTE_DB)),),
    pods: Iterable[PodInfo] = PODS,
    without: Sequence[Resource] = (),
    stale: Sequence[Resource] = (),
) -> Names:
    """A cluster with a database in another namespace, and a service for it; all is followed."""
    told: dict[Resource, Iterable[Record]] = {
        Resource.PODS: pods,
        Resource.SERVICES: [DB_SERVICE],
        Resource.ENDPOINT_SLICES: slices,
        Resource.NODES: [NodeRecord("node1", (NODE,)), NodeRecord("node2", ("10.4.0.2",))],
        Resource.NETWORK_POLICIES: policies,
        Resource.NAMESPACES: NAMESPACES,
    }
    made = Names()
    for resource, records in told.items():
        if resource not in without:
            made.replace(resource, records)
            made.follows(resource, current=resource not in stale)
    return made


def report(
    known: Names,
    to: Endpoint,
    *,
    uid: str | None = "uid-web",
    source: str = WEB,
    scope: Scope = Scope.VPC,
) -> Report:
    """What the enrichment makes of an attempt of a pod."""
    flow = Flow(4_026_532_100, 6 if ":" in to.address else 4, Endpoint(source, 40_000), to)
    attempt = Attempt("1", flow, Owner(), SourceName.BPF, first_seen_ns=0)
    named = known.destination(to.address, to.port)
    destination = (
        Destination(scope) if named is None else Destination(scope, named.kind, named.name)
    )
    return Report(
        change=Change(ChangeKind.STUCK, attempt, 0),
        destination=destination,
        process=None,
        wall_ns=0,
        age_seconds=1.0,
        next_retry_seconds=None,
        pod=None if uid is None else PodIdentity(uid=uid),
    )


def nat_to(address: str, port: int | None = 5432) -> Nat:
    return Nat(Endpoint(address, port), "SYN_SENT", replied=False)


def brief(findings: Sequence[PolicyFinding]) -> dict[str, PolicyVerdict]:
    assert [one.direction for one in findings] in (["egress"], ["egress", "ingress"], [])
    return {one.direction: one.verdict for one in findings}


# -- policies --------------------------------------------------------------------------------------


ELSEWHERE: Final = Endpoint(REMOTE_DB, 5432)


@dataclass(frozen=True)
class Case:
    """An attempt of shop/web, and what is found."""

    name: str
    egress: PolicyVerdict | None
    ingress: PolicyVerdict | None = None
    policies: Sequence[PolicyRecord] = ()
    to: Endpoint = ELSEWHERE
    nat: Nat | None = None
    scope: Scope = Scope.VPC
    uid: str | None = "uid-web"
    source: str = WEB
    slices: Sequence[SliceRecord] = (db_slice(at(REMOTE_DB)),)
    pods: Sequence[PodInfo] = PODS
    without: Sequence[Resource] = ()
    stale: Sequence[Resource] = ()


TO_LOCAL = Endpoint(LOCAL_DB, 5432)
OUTSIDE = Endpoint("52.94.10.112", 443)
STRANGER = Endpoint("10.4.55.5", 443)
TWO_DBS = (db_slice(at(REMOTE_DB), at(REMOTE_DB_2, "db-2")),)
MANY = tuple(at(f"10.4.10.{n}", f"db-{n}") for n in range(MAX_JUDGED + 1))

CASES: Final = [
    # Who connects.
    Case("no policy at all is a finding", NOT_SELECTED, NOT_SELECTED),
    Case("no policy of the pod's namespace is one too", NOT_SELECTED, DENIED, [into()]),
    Case("what no pod does is not judged", None, policies=[out()], uid=None),
    Case("a pod that nobody knows is not judged", None, policies=[out()], uid="uid-gone"),
    Case("a process in another pod's namespace is not judged by its own pod", None,
         policies=[out()], source=LOCAL_DB),
    Case("an interface that the API does not know is not judged", None, policies=[out()],
         source="169.254.172.2"),
    Case("a source that is not chosen yet is the pod's", DENIED, NOT_SELECTED, [out()],
         source="0.0.0.0"),  # noqa: S104
    Case("the pod's other address is its own too", DENIED, policies=[out()],
         to=Endpoint("2001:db8::1", 443), source="fd00:4::21", scope=Scope.EXTERNAL),
    Case("a pod without an address yet is judged", DENIED, NOT_SELECTED, [out()],
         pods=[pod("shop", "web", WEB, pod_ips=())]),
    Case("what policies do to a hostNetwork pod is not known", UNKNOWN, NOT_SELECTED, [out()],
         uid=AGENT, source=NODE),
    # Where to.
    Case("a pod of this node is judged at both ends", DENIED, DENIED, [out(), into()],
         to=TO_LOCAL),
    Case("the labels of a pod of this node are known", ALLOWED, NOT_SELECTED, [out(TO_DB_PODS)],
         to=TO_LOCAL),
    Case("the ports of a pod of this node are known by their names", ALLOWED, ALLOWED,
         [out(TO_PG), into(TO_PG)], to=TO_LOCAL),
    Case("another port is none of that name", DENIED, DENIED, [out(TO_PG), into(TO_PG)],
         to=Endpoint(LOCAL_DB, 5433)),
    Case("ingress by the labels of the connecting pod", DENIED, ALLOWED,
         [out(), into({"from": [{"namespaceSelector": {"matchLabels": {"team": "checkout"}},
                                 "podSelector": {"matchLabels": {"app": "web"}}}]})], to=TO_LOCAL),
    Case("the namespace of another node's pod is known", ALLOWED, NOT_SELECTED, [out(TO_DATA)]),
    Case("the labels of another node's pod are not", UNKNOWN, NOT_SELECTED, [out(TO_DB_PODS)]),
    Case("the ports of another node's pod are not", UNKNOWN, NOT_SELECTED, [out(TO_PG)]),
    Case("ingress of another node's pod is told where its labels are no matter", NOT_SELECTED,
         DENIED, [into()]),
    Case("ingress of another node's pod is not told where they are", NOT_SELECTED, None,
         [into(podSelector={"matchLabels": {"app": "db"}})]),
    Case("endpoints of a moment ago tell no namespace", UNKNOWN, None, [out(TO_DATA)],
         stale=[Resource.ENDPOINT_SLICES]),
    Case("without nodes an endpoint may be a node's", UNKNOWN, None, [out(TO_DATA)],
         without=[Resource.NODES]),
    Case("an unknown private address may be a pod's", UNKNOWN, None, [out(TO_DATA)], to=STRANGER),
    Case("an unknown private address may be denied all the same", DENIED, None, [out(TO_5432)],
         to=STRANGER),
    Case("a public address is no pod's", DENIED, None, [out(TO_DATA)], to=OUTSIDE,
         scope=Scope.EXTERNAL),
    Case("a public address may be one where this pod's is public", UNKNOWN, None, [out(TO_DATA)],
         to=OUTSIDE, scope=Scope.EXTERNAL, source="44.0.0.7",
         pods=[pod("shop", "web", "44.0.0.7")]),
    Case("a public address of IPv6 may always be one", UNKNOWN, None, [out(TO_DATA)],
         to=Endpoint("2001:4860::1", 443), scope=Scope.EXTERNAL, source="fd00:4::21"),
    Case("the metadata service is no pod", DENIED, None, [out(TO_DATA)],
         to=Endpoint("169.254.169.254", 80), scope=Scope.LINK_LOCAL),
    Case("a pod cannot deny itself its loopback", ALLOWED, None, [out()],
         to=Endpoint("127.0.0.1", 80), source="127.0.0.1", scope=Scope.LOOPBACK),
    Case("whether its own node is exempt is not known", UNKNOWN, None, [out()],
         to=Endpoint(NODE, 10250)),
    Case("another node is as any address", DENIED, None, [out()], to=Endpoint("10.4.0.2", 10250)),
    # Services.
    Case("the backend after translation is judged", DENIED, DENIED, [out(TO_REMOTE), into()],
         to=CLUSTER_IP, nat=nat_to(LOCAL_DB)),
    Case("the backend's port is judged, not the service's", DENIED, NOT_SELECTED, [out(TO_5432)],
         to=CLUSTER_IP, nat=nat_to(REMOTE_DB, 15432)),
    Case("a service's own address is never judged",
         ALLOWED, NOT_SELECTED, [out(TO_REMOTE)], to=CLUSTER_IP),
    Case("a service that is not translated is judged by its endpoints", DENIED, NOT_SELECTED,
         [out()], to=CLUSTER_IP, nat=Nat(CLUSTER_IP, "SYN_SENT", replied=False)),
    Case("endpoints that differ leave it open", UNKNOWN, NOT_SELECTED, [out(TO_REMOTE)],
         to=CLUSTER_IP, slices=TWO_DBS),
    Case("endpoints that agree do not", ALLOWED, DENIED, [out(TO_DATA), into()],
         to=CLUSTER_IP, slices=TWO_DBS),
    Case("ingress needs to be known of every endpoint", DENIED, None, [out(), into()],
         to=CLUSTER_IP, slices=(db_slice(at(LOCAL_DB), at("10.4.77.1", None)),)),
    Case("many endpoints are judged by what holds for any of them", DENIED, None,
         [out()], to=CLUSTER_IP, slices=(db_slice(*MANY),)),
    Case("many endpoints that might differ leave it open", UNKNOWN, None, [out(TO_DATA)],
         to=CLUSTER_IP, slices=(db_slice(*MANY),)),
    Case("many endpoints among which is the pod itself leave it open", UNKNOWN, None, [out()],
         to=CLUSTER_IP, slices=(db_slice(*MANY, replace(at(WEB), node="node1")),)),
    Case("many endpoints among which is its own node leave it open", UNKNOWN, None, [out()],
         to=CLUSTER_IP, slices=(db_slice(*MANY, at(NODE, None)),)),
    Case("many endpoints with different ports leave it open", UNKNOWN, None, [out()],
         to=CLUSTER_IP, slices=(db_slice(*MANY), db_slice(at(REMOTE_DB), name="b", port=5433))),
    Case("what a selector makes of a hostNetwork endpoint is not known", UNKNOWN, None,
         [out(TO_DATA), into(ANYWHERE)], to=CLUSTER_IP, slices=(db_slice(at("10.4.0.2")),)),
    Case("a hostNetwork endpoint is no pod of another namespace", DENIED, NOT_SELECTED,
         [out(TO_SHOP)], to=CLUSTER_IP, slices=(db_slice(at("10.4.0.2")),)),
    Case("a service of unknown endpoints leaves it open", UNKNOWN, None, [out()], to=CLUSTER_IP,
         without=[Resource.ENDPOINT_SLICES]),
    Case("a service whose endpoints are of a moment ago too", UNKNOWN, None, [out()],
         to=CLUSTER_IP, stale=[Resource.ENDPOINT_SLICES]),
    Case("a service without endpoints too", UNKNOWN, None, [out()], to=CLUSTER_IP, slices=()),
    Case("a service whose endpoints have no ports too", UNKNOWN, None, [out()], to=CLUSTER_IP,
         slices=(db_slice(at(REMOTE_DB), port=None),)),
    Case("a port that the service does not have too", UNKNOWN, None, [out()],
         to=Endpoint(CLUSTER_IP.address, 80)),
    Case("its own node's port of a service is judged by the endpoints", DENIED, NOT_SELECTED,
         [out()], to=Endpoint(NODE, 30432)),
    Case("another node's port of a service is translated who knows where", UNKNOWN, None,
         [out()], to=Endpoint("10.4.0.2", 30432)),
    Case("that no policy selects the pod is known in any case", NOT_SELECTED, None,
         to=CLUSTER_IP, without=[Resource.ENDPOINT_SLICES]),
    Case("what may be a service's address is not judged", UNKNOWN, None, [out()],
         without=[Resource.SERVICES]),
    Case("what is redirected within the pod does not leave it", ALLOWED, None, [out()],
         to=CLUSTER_IP, nat=nat_to("127.0.0.1", 15001)),
    Case("a pod's way to itself through a service is up to the plugin", UNKNOWN, NOT_SELECTED,
         [out()], to=CLUSTER_IP, nat=nat_to(WEB)),
    Case("a translation to no port is none", UNKNOWN, None, [out()], to=CLUSTER_IP,
         nat=nat_to(REMOTE_DB, None)),
    Case("an attempt without a port is not judged", None, policies=[out()],
         to=Endpoint(REMOTE_DB, None)),
    # What the API server tells.
    Case("policies that were never listed are no evidence", None,
         without=[Resource.NETWORK_POLICIES]),
    Case("without namespaces their labels are unknown", UNKNOWN, NOT_SELECTED, [out(TO_DATA)],
         without=[Resource.NAMESPACES]),
    Case("policies of a moment ago are judged by", DENIED, DENIED, [out(), into()],
         stale=[Resource.NETWORK_POLICIES]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_policies_are_asked_about_the_connection_as_it_is_known(case: Case) -> None:
    known = names(
        case.policies, slices=case.slices, pods=case.pods, without=case.without, stale=case.stale
    )
    asked = report(known, case.to, uid=case.uid, source=case.source, scope=case.scope)
    found = ClusterView(known).policies(asked, case.nat)
    expected = {"egress": case.egress, "ingress": case.ingress}
    assert brief(found) == {key: one for key, one in expected.items() if one is not None}


def reasons(known: Names, to: Endpoint, nat: Nat | None = None) -> list[str]:
    return [one.reason for one in ClusterView(known).policies(report(known, to), nat)]


def test_reasons_say_by_what_a_service_was_judged() -> None:
    assert reasons(names([out()], slices=TWO_DBS), CLUSTER_IP)[0] == (
        f"shop/egress selects the pod for egress and no policy allows TCP 5432 to {REMOTE_DB},"
        " and likewise for all of the service's 2 endpoints"
    )
    assert reasons(names([out(TO_REMOTE)], slices=TWO_DBS), CLUSTER_IP)[0] == (
        "that depends on which of the service's 2 endpoints it is sent to"
    )
    assert reasons(names([out()], slices=()), CLUSTER_IP) == [
        "which endpoint of data/db:5432 it is sent to is not known"
    ]


def test_policies_that_are_not_followed_are_said_to_be_of_a_moment_ago() -> None:
    (told, _) = reasons(names([out()], stale=[Resource.NETWORK_POLICIES]), TO_LOCAL)
    assert told.endswith("; by the policies as they were told last: they are not followed now")


def test_the_policies_that_select_the_pod_are_named() -> None:
    known = names([out(), into()], slices=TWO_DBS)
    found = ClusterView(known).policies(report(known, CLUSTER_IP), None)
    assert [one.policies for one in found] == [("shop/egress",), ("data/ingress",)]


def test_policies_that_had_no_room_in_part_are_no_evidence() -> None:
    room = dict.fromkeys(Resource, 100) | {Resource.NETWORK_POLICIES: 1}
    known = Names(room)
    for resource in Resource:
        known.replace(resource, PODS if resource is Resource.PODS else ())
    known.replace(Resource.NETWORK_POLICIES, [out(), out(TO_DATA)])
    assert known.overflow > 0
    assert ClusterView(known).policies(report(known, TO_LOCAL), None) == ()


def recorded() -> Names:
    made = Names()
    for resource, name, read in (
        (Resource.PODS, "pods-on-node1.json", read_pod),
        (Resource.SERVICES, "services.json", read_service),
        (Resource.ENDPOINT_SLICES, "endpointslices.json", read_slice),
        (Resource.NETWORK_POLICIES, "networkpolicies.json", read_policy),
        (Resource.NAMESPACES, "namespaces.json", read_namespace),
    ):
        items = json.loads((FIXTURES / name).read_text())["items"]
        made.replace(resource, [one for each in items if (one := read(each)) is not None])
    node = read_node(json.loads((FIXTURES / "node-node1.json").read_text()))
    made.replace(Resource.NODES, [] if node is None else [node])
    for resource in Resource:
        made.follows(resource, current=True)
    return made


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        (Endpoint("10.88.64.4", 5432), {"egress": DENIED, "ingress": NOT_SELECTED}),
        (Endpoint("10.4.7.1", 444), {"egress": ALLOWED}),
        (Endpoint("10.4.100.50", 443), {"egress": UNKNOWN}),  # a pod of team data, perhaps
        (Endpoint("10.96.162.209", 80), {"egress": UNKNOWN, "ingress": NOT_SELECTED}),  # itself
        (Endpoint("10.96.168.46", 5432), {"egress": UNKNOWN}),  # a service without endpoints
    ],
)
def test_attempts_of_the_recorded_cluster_are_judged(
    to: Endpoint, expected: dict[str, PolicyVerdict]
) -> None:
    known = recorded()
    checkout = "cc33e9d2-b540-4962-b5b8-d770610a31a6"
    asked = report(known, to, uid=checkout, source="10.88.64.3")
    assert brief(ClusterView(known).policies(asked, None)) == expected


# -- the backend -----------------------------------------------------------------------------------


BACKENDS: Final = (
    db_slice(at(REMOTE_DB), at(REMOTE_DB_2, "db-2", ready=False)),
    db_slice(at(LOCAL_DB, ready=False), name="db-2"),
    db_slice(at(LOCAL_DB), name="db-3"),
)
GONE = "10.4.9.99"


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (nat_to(REMOTE_DB), Backend.READY),
        (nat_to(REMOTE_DB_2), Backend.NOT_READY),
        (nat_to(LOCAL_DB), Backend.READY),
        (nat_to(GONE), Backend.GONE),
        (nat_to(REMOTE_DB, 5433), Backend.GONE),
        (nat_to("127.0.0.1", 15001), None),
        (Nat(CLUSTER_IP, "SYN_SENT", replied=False), None),
        (None, None),
    ],
)
def test_the_backend_is_what_the_services_endpoints_say(
    chosen: Nat | None, expected: Backend | None
) -> None:
    known = names(slices=BACKENDS)
    assert ClusterView(known).backend(report(known, CLUSTER_IP), chosen) is expected


def test_endpoints_that_serve_every_port_are_told_by_their_address() -> None:
    known = names(slices=[db_slice(at(REMOTE_DB), port=None)])
    view, asked = ClusterView(known), report(known, CLUSTER_IP)
    assert view.backend(asked, nat_to(REMOTE_DB, 9)) is Backend.READY
    assert view.backend(asked, nat_to(GONE, 9)) is Backend.GONE


@pytest.mark.parametrize(
    "known",
    [
        names(slices=BACKENDS, stale=[Resource.ENDPOINT_SLICES]),
        names(slices=BACKENDS, stale=[Resource.SERVICES]),
        names(slices=BACKENDS, without=[Resource.ENDPOINT_SLICES]),
        names(slices=()),
    ],
    ids=["slices of a moment ago", "services of a moment ago", "not listed", "none of the service"],
)
def test_a_backend_is_unknown_where_endpoints_are(known: Names) -> None:
    view, asked = ClusterView(known), report(known, CLUSTER_IP)
    for chosen in (REMOTE_DB, GONE):
        assert view.backend(asked, nat_to(chosen)) is None


def test_a_service_that_was_scaled_to_nothing_has_no_backend_any_more() -> None:
    empty = SliceRecord("data", "db-1", "db", 4, (), ())
    known = names(slices=[empty])
    assert ClusterView(known).backend(report(known, CLUSTER_IP), nat_to(GONE)) is Backend.GONE


def test_what_is_translated_and_no_service_has_no_backend() -> None:
    known = names(slices=BACKENDS)
    assert ClusterView(known).backend(report(known, OUTSIDE), nat_to(GONE)) is None


def test_an_address_that_services_share_has_no_backend() -> None:
    known = names(slices=BACKENDS)
    known.put(Resource.SERVICES, replace(DB_SERVICE, name="other"))
    asked = report(known, CLUSTER_IP)
    assert asked.destination.kind is Kind.SERVICE
    assert ClusterView(known).backend(asked, nat_to(GONE)) is None


# -- what is kept ----------------------------------------------------------------------------------


def test_answers_follow_every_change() -> None:
    known = names()
    view = ClusterView(known)
    asked = report(known, CLUSTER_IP)
    assert brief(view.policies(asked, nat_to(REMOTE_DB)))["egress"] is NOT_SELECTED
    assert view.backend(asked, nat_to(REMOTE_DB)) is Backend.READY
    known.put(Resource.NETWORK_POLICIES, out())
    known.put(Resource.ENDPOINT_SLICES, db_slice(at(REMOTE_DB, ready=False)))
    assert brief(view.policies(asked, nat_to(REMOTE_DB)))["egress"] is DENIED
    assert view.backend(asked, nat_to(REMOTE_DB)) is Backend.NOT_READY
    known.follows(Resource.ENDPOINT_SLICES, current=False)
    assert view.backend(asked, nat_to(REMOTE_DB)) is None


def test_answers_are_kept_for_their_pod_destination_and_translation() -> None:
    known = names([out(TO_REMOTE)])
    view = ClusterView(known)
    asked = report(known, CLUSTER_IP)
    for _ in range(2):
        assert brief(view.policies(asked, nat_to(REMOTE_DB)))["egress"] is ALLOWED
        assert brief(view.policies(asked, nat_to(GONE)))["egress"] is DENIED
        assert brief(view.policies(report(known, TO_LOCAL), None))["egress"] is DENIED
        assert brief(view.policies(report(known, TO_LOCAL, uid=AGENT, source=NODE), None)) == {
            "egress": UNKNOWN,
            "ingress": NOT_SELECTED,
        }
    assert view.policies(asked, nat_to(REMOTE_DB)) is view.policies(asked, nat_to(REMOTE_DB))


def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "REMEMBERED", 10)
    known = names([out()])
    view = ClusterView(known)
    for port in range(1, 100):
        view.policies(report(known, Endpoint(REMOTE_DB, port)), None)
        view.backend(report(known, CLUSTER_IP), nat_to(REMOTE_DB, port))
        assert len(view._findings) <= 10
        assert len(view._backends) <= 10


# -- cost ------------------------------------------------------------------------------------------


def test_an_answer_takes_microseconds_and_a_new_one_a_fraction_of_a_millisecond() -> None:
    """A namespace with thirty policies, a service with a thousand endpoints."""
    policies = [replace(out(TO_DATA, TO_5432, TO_REMOTE), name=f"egress-{n}") for n in range(30)]
    many = [
        db_slice(*(at(f"10.5.{n}.{i}", f"db-{n}-{i}") for i in range(100)), name=f"db-{n}")
        for n in range(10)
    ]
    known = names(policies, slices=many)
    view = ClusterView(known)
    direct, translated = report(known, TO_LOCAL), report(known, CLUSTER_IP)
    nat = nat_to("10.5.9.99")

    def ask() -> None:
        view.policies(direct, None)
        view.policies(translated, nat)
        view.backend(translated, nat)

    def ask_anew() -> None:
        view._made_from = None
        ask()

    ask()
    timer = time.thread_time  # other tests have the CPU in between
    assert min(timeit.repeat(ask, timer=timer, number=100, repeat=5)) / 100 < 50e-6
    assert min(timeit.repeat(ask_anew, timer=timer, number=10, repeat=5)) / 10 < 5e-3


# -- what it is called now -------------------------------------------------------------------------


def test_the_destination_is_as_the_cluster_knows_it_now_and_not_as_it_was_reported() -> None:
    known = names()
    view, told = ClusterView(known), report(known, CLUSTER_IP)
    assert view.destination(told) == Destination(
        Scope.VPC, Kind.SERVICE, "data/db:5432", endpoints=Endpoints(1, 1)
    )
    before = view.version
    known.replace(Resource.ENDPOINT_SLICES, [db_slice(at(REMOTE_DB, ready=False))])
    assert view.version != before
    assert view.destination(told).endpoints == Endpoints(0, 1)


def test_a_service_that_is_gone_keeps_its_name_and_no_endpoints() -> None:
    known = names()
    view = ClusterView(known)
    told = report(known, CLUSTER_IP)
    told = replace(told, destination=view.destination(told))
    known.replace(Resource.SERVICES, [])
    now = view.destination(told)
    assert (now.name, now.endpoints) == ("data/db:5432", None)
