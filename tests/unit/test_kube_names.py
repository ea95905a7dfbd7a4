"""What addresses and pods are called, through every kind of change, and what that costs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import timeit
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.kube import index
from tracer.kube.names import ROOM, Named, Names, Record, Resource, ServiceBackend, key_of
from tracer.kube.pod import ContainerInfo, PodInfo, read_pod
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
from tracer.model import Endpoints, Kind

FIXTURES = Path(__file__).parents[1] / "fixtures/kube"
ROOT = Path(__file__).parents[2]

PODS, SERVICES = Resource.PODS, Resource.SERVICES
SLICES, NODES = Resource.ENDPOINT_SLICES, Resource.NODES
POLICIES, NAMESPACES = Resource.NETWORK_POLICIES, Resource.NAMESPACES

HTTP = ServicePort("http", "TCP", 80)
LOOKUP_SECONDS = 5e-6


def pod(name: str = "web-0", *ips: str, **parts: object) -> PodInfo:
    made = PodInfo(
        namespace="shop",
        name=name,
        uid=f"uid-{name}",
        node="node1",
        pod_ip=next(iter(ips), None),
        pod_ips=ips,
        host_network=False,
        phase="Running",
        containers=(ContainerInfo("app", f"id-{name}"), ContainerInfo("late", None)),
        default_container="app",
        annotations={},
        owner=None,
    )
    return replace(made, **parts)  # type: ignore[arg-type]


def service(name: str = "web", *addresses: str, ports: tuple[ServicePort, ...] = (HTTP,)) -> Record:
    return ServiceRecord("shop", name, addresses, ports)


def endpoint(address: str, name: str | None = None, *, ready: bool = True) -> EndpointRecord:
    return EndpointRecord(address, ready, None if name is None else f"shop/{name}", "node2")


def endpoints(
    *those: EndpointRecord,
    name: str = "web-1",
    of: str = "web",
    family: int = 4,
    ports: tuple[tuple[str, int | None], ...] = (("http", 8080),),
) -> SliceRecord:
    return SliceRecord("shop", name, of, family, ports, those)


def names(**records: Iterable[Record]) -> Names:
    """Names that were told all of every resource: `records`, and no others."""
    made = Names()
    known = {
        "pods": PODS,
        "services": SERVICES,
        "slices": SLICES,
        "nodes": NODES,
        "policies": POLICIES,
        "namespaces": NAMESPACES,
    }
    for given_as, resource in known.items():
        made.replace(resource, records.get(given_as, ()))
    return made


def policy(name: str = "deny", namespace: str = "shop", *ports: int) -> PolicyRecord:
    """For all pods of a namespace; it allows ingress to `ports`, each by a rule."""
    rules = [{"ports": [{"port": port}]} for port in ports]
    metadata = {"namespace": namespace, "name": name}
    made = read_policy({"metadata": metadata, "spec": {"podSelector": {}, "ingress": rules}})
    assert made is not None
    return made


def namespace(name: str = "shop", **labels: str) -> NamespaceRecord:
    return NamespaceRecord(name, labels)


def recorded() -> Names:
    """The recorded cluster, as its lists tell it."""
    known = Names()
    for resource, name, read in (
        (PODS, "pods-on-node1.json", read_pod),
        (SERVICES, "services.json", read_service),
        (SLICES, "endpointslices.json", read_slice),
        (POLICIES, "networkpolicies.json", read_policy),
        (NAMESPACES, "namespaces.json", read_namespace),
    ):
        items = json.loads((FIXTURES / name).read_text())["items"]
        known.replace(resource, [one for each in items if (one := read(each)) is not None])
    node = read_node(json.loads((FIXTURES / "node-node1.json").read_text()))
    known.replace(NODES, [] if node is None else [node])
    return known


def named(kind: Kind, name: str, ready: int | None = None, total: int | None = None) -> Named:
    counts = None if ready is None or total is None else Endpoints(ready, total)
    return Named(kind, name, endpoints=counts)


# -- the recorded cluster --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "port", "expected"),
    [
        ("10.96.162.209", 80, named(Kind.SERVICE, "shop/checkout:80", 2, 2)),
        ("10.96.168.46", 5432, named(Kind.SERVICE, "shop/noendpoints:5432", 0, 0)),
        ("10.96.162.209", 8080, named(Kind.SERVICE, "shop/checkout")),
        ("10.96.162.209", None, named(Kind.SERVICE, "shop/checkout")),
        ("10.88.64.3", 8080, named(Kind.POD, "shop/checkout-cb5cf55df-9rn26")),
        ("10.88.64.4", 5432, named(Kind.POD, "shop/db-0")),
        ("10.88.64.5", 80, None),  # of a CronJob's pod that has succeeded
        ("192.0.2.2", 10250, Named(Kind.NODE, "node1", ambiguous=True)),  # hostnet is there too
        ("10.88.64.200", 80, None),
        ("8.8.8.8", 53, None),
        ("None", 80, None),
    ],
)
def test_recorded_destinations_are_named(address: str, port: int | None, expected: Named) -> None:
    assert recorded().destination(address, port) == expected


def test_names_follow_a_recorded_rolling_restart() -> None:
    known = recorded()
    lines = (FIXTURES / "pods-watch.jsonl").read_text().splitlines()
    for event in map(json.loads, lines):
        found = read_pod(event["object"])
        if found is None:
            continue
        if event["type"] == "DELETED":
            known.remove(PODS, found.namespace, found.name)
        else:
            known.put(PODS, found)
    remaining = {one.name: one for one in known.records(PODS) if isinstance(one, PodInfo)}
    assert sorted(remaining) == [
        "checkout-b795d4969-8nqt6",
        "checkout-b795d4969-qns2q",
        "db-0",
        "nightly-29921139-4djv8",
        "nightly-29921140-sd277",
        "nightly-29921141-6p6m9",
    ]
    assert known.pod_at("10.88.64.7") == remaining["checkout-b795d4969-8nqt6"]
    assert known.pod_at("10.88.64.3") is None
    assert known.pod_at("10.88.64.6") is None  # succeeded
    assert known.pod_at("192.0.2.2") is None  # hostnet's, and the node's
    assert known.destination("192.0.2.2", 1) == named(Kind.NODE, "node1")


# -- pods ------------------------------------------------------------------------------------------


def test_a_pod_is_found_by_uid_address_and_container() -> None:
    web = pod("web-0", "10.0.0.1", "FD00::1")
    known = names(pods=[web])
    assert known.pod("uid-web-0") is web
    assert known.pod_at("10.0.0.1") is web
    assert known.pod_at("fd00::1") is web
    assert known.container("id-web-0") == "app"
    assert known.pod("uid") is None
    assert known.pod_at("10.0.0.2") is None
    assert known.container("id") is None


def test_a_static_pod_is_found_by_the_hash_that_its_cgroup_carries() -> None:
    mirror = pod("etcd-node1", "192.0.2.2", host_network=True, config_hash="3b1f6c0d")
    known = names(pods=[mirror])
    assert known.pod("3b1f6c0d") is known.pod("uid-etcd-node1") is mirror


def test_a_hash_that_two_pods_claim_is_neithers() -> None:
    mirror = pod("etcd-node1", "192.0.2.2", host_network=True, config_hash="3b1f6c0d")
    for others in (
        [pod("x", config_hash="3b1f6c0d")],
        [pod(n, config_hash="3b1f6c0d") for n in "xy"],
    ):
        known = names(pods=[mirror, *others])
        assert known.pod("3b1f6c0d") is None
        assert known.pod("uid-etcd-node1") is mirror


def test_a_pod_of_the_nodes_network_has_no_address_of_its_own() -> None:
    known = names(pods=[pod("agent", "192.0.2.2", host_network=True)])
    assert known.pod_at("192.0.2.2") is None
    assert known.destination("192.0.2.2", 80) == Named(Kind.NODE, "node1", ambiguous=True)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_is_known_but_has_no_address(phase: str) -> None:
    known = names(pods=[pod("job", "10.0.0.1", phase=phase)])
    assert known.pod("uid-job") is not None
    assert known.pod_at("10.0.0.1") is None
    assert known.destination("10.0.0.1", 80) is None


def test_an_address_that_was_given_again_belongs_to_the_pod_made_last() -> None:
    old = pod("old", "10.0.0.1", created="2026-11-21T13:38:36Z")
    new = pod("new", "10.0.0.1", created="2026-11-21T13:40:00Z")
    for order in ([old, new], [new, old]):
        known = names(pods=order)
        assert known.pod_at("10.0.0.1") is new
    known.put(PODS, replace(old, default_container=None))
    assert known.pod_at("10.0.0.1") is new
    known.remove(PODS, "shop", "new")
    assert known.pod_at("10.0.0.1") is not None


def test_a_pod_of_this_node_is_surer_than_what_endpoints_say() -> None:
    known = names(pods=[pod("web-0", "10.0.0.1")], slices=[endpoints(endpoint("10.0.0.1", "gone"))])
    assert known.destination("10.0.0.1", 80) == named(Kind.POD, "shop/web-0")


def test_a_pod_of_another_node_is_known_by_the_endpoint_it_is() -> None:
    known = names(slices=[endpoints(endpoint("10.0.1.1", "web-7"), endpoint("10.0.1.2"))])
    assert known.destination("10.0.1.1", 8080) == named(Kind.POD, "shop/web-7")
    assert known.destination("10.0.1.2", 8080) is None


def test_an_address_that_endpoints_of_different_pods_have_is_ambiguous() -> None:
    first, second = endpoint("10.0.1.1", "old"), endpoint("10.0.1.1", "new")
    known = names(slices=[endpoints(first), endpoints(second, name="web-2")])
    assert known.destination("10.0.1.1", 1) == Named(Kind.POD, "shop/new", ambiguous=True)
    known.put(SLICES, endpoints(endpoint("10.0.1.1", "new", ready=False), name="web-2"))
    assert known.destination("10.0.1.1", 1) == Named(Kind.POD, "shop/old", ambiguous=True)
    known.remove(SLICES, "shop", "web-1")
    assert known.destination("10.0.1.1", 1) == Named(Kind.POD, "shop/new")


def test_a_pod_that_many_services_have_is_not_ambiguous() -> None:
    known = names(
        slices=[
            endpoints(endpoint("10.0.1.1", "web-7"), name=f"s{n}", of=f"s{n}") for n in range(3)
        ]
    )
    assert known.destination("10.0.1.1", 80) == named(Kind.POD, "shop/web-7")
    known.remove(SLICES, "shop", "s0")
    known.remove(SLICES, "shop", "s2")
    assert known.destination("10.0.1.1", 80) == named(Kind.POD, "shop/web-7")
    known.remove(SLICES, "shop", "s1")
    assert known.destination("10.0.1.1", 80) is None


def test_nothing_is_left_of_endpoints_however_often_their_slice_changed() -> None:
    known = names(nodes=[NodeRecord("node2", ("192.0.2.2",))])
    for others in ([], ["10.0.1.2"], ["10.0.1.3", "10.0.1.2"], ["10.0.1.3"], []):
        those = [endpoint(address, "web-8") for address in others]
        agent, again = (endpoint("192.0.2.2", "agent") for _ in range(2))
        known.put(SLICES, endpoints(agent, endpoint("10.0.1.1", "web-7"), *those, again))
        assert known.destination("10.0.1.1", 80) == named(Kind.POD, "shop/web-7")
    known.remove(SLICES, "shop", "web-1")
    for address in ("10.0.1.1", "10.0.1.2", "10.0.1.3"):
        assert known.destination(address, 80) is None
    assert known.destination("192.0.2.2", 80) == named(Kind.NODE, "node2")


def test_a_pod_of_another_node_is_ambiguous_where_nodes_are_not_known() -> None:
    known = Names()
    known.replace(PODS, [pod("web-0", "10.0.0.1")])
    known.replace(SLICES, [endpoints(endpoint("10.0.1.1", "web-7"))])
    assert known.destination("10.0.1.1", 80) == Named(Kind.POD, "shop/web-7", ambiguous=True)
    assert known.destination("10.0.0.1", 80) == Named(Kind.POD, "shop/web-0")


# -- nodes -----------------------------------------------------------------------------------------


def test_a_node_is_ambiguous_where_an_endpoint_has_its_address() -> None:
    known = names(
        nodes=[NodeRecord("node1", ("192.0.2.1",)), NodeRecord("node2", ("192.0.2.2",))],
        slices=[endpoints(endpoint("192.0.2.2", "agent-2"))],
    )
    assert known.destination("192.0.2.1", 22) == named(Kind.NODE, "node1")
    assert known.destination("192.0.2.2", 22) == Named(Kind.NODE, "node2", ambiguous=True)
    known.remove(SLICES, "shop", "web-1")
    assert known.destination("192.0.2.2", 22) == named(Kind.NODE, "node2")


def test_a_port_of_every_node_is_its_services() -> None:
    web = service("web", "10.96.0.1", ports=(ServicePort("http", "TCP", 80, 30080),))
    known = names(
        nodes=[NodeRecord("node1", ("192.0.2.1", "fd00::1"))],
        services=[web],
        slices=[endpoints(endpoint("10.0.1.1"))],
    )
    expected = named(Kind.SERVICE, "shop/web:80", 1, 1)
    assert known.destination("192.0.2.1", 30080) == expected
    assert known.destination("192.0.2.1", 80) == named(Kind.NODE, "node1")
    assert known.destination("192.0.2.1", None) == named(Kind.NODE, "node1")
    assert known.destination("fd00::1", 30080) == named(Kind.NODE, "node1")  # the service has IPv4
    assert known.destination("10.0.1.9", 30080) is None
    known.remove(SERVICES, "shop", "web")
    assert known.destination("192.0.2.1", 30080) == named(Kind.NODE, "node1")


def test_a_node_that_changes_its_address_is_found_there() -> None:
    known = names(nodes=[NodeRecord("node1", ("192.0.2.1",))])
    known.put(NODES, NodeRecord("node1", ("192.0.2.9",)))
    assert known.destination("192.0.2.1", 22) is None
    assert known.destination("192.0.2.9", 22) == named(Kind.NODE, "node1")
    known.remove(NODES, "", "node1")
    assert known.destination("192.0.2.9", 22) is None


# -- services --------------------------------------------------------------------------------------


def test_a_service_is_found_at_all_of_its_addresses() -> None:
    known = names(services=[service("web", "10.96.0.1", "fd00::1", "203.0.113.7")])
    for address in ("10.96.0.1", "fd00::1", "203.0.113.7"):
        assert known.destination(address, 80) == named(Kind.SERVICE, "shop/web:80")


def test_a_port_that_a_service_does_not_have_is_not_named() -> None:
    ports = (HTTP, ServicePort("dns", "UDP", 53))
    known = names(services=[service("web", "10.96.0.1", ports=ports)])
    for port in (53, 443):
        assert known.destination("10.96.0.1", port) == named(Kind.SERVICE, "shop/web")


def test_services_that_share_an_address_are_told_by_their_ports() -> None:
    https = ServicePort("https", "TCP", 443)
    known = names(
        services=[service("web", "203.0.113.7"), service("api", "203.0.113.7", ports=(https,))]
    )
    assert known.destination("203.0.113.7", 80) == named(Kind.SERVICE, "shop/web:80")
    assert known.destination("203.0.113.7", 443) == named(Kind.SERVICE, "shop/api:443")
    assert known.destination("203.0.113.7", 22) is None
    known.remove(SERVICES, "shop", "web")
    assert known.destination("203.0.113.7", 22) == named(Kind.SERVICE, "shop/api")


def test_a_port_that_two_services_claim_is_ambiguous() -> None:
    known = names(services=[service("old", "203.0.113.7"), service("new", "203.0.113.7")])
    found = known.destination("203.0.113.7", 80)
    assert found == Named(Kind.SERVICE, "shop/new:80", True)
    known.put(SERVICES, ServiceRecord("shop", "old", ("203.0.113.7",), (HTTP,), has_selector=False))
    assert known.destination("203.0.113.7", 80) == found  # what is old may change and stay old
    known.remove(SERVICES, "shop", "new")
    assert known.destination("203.0.113.7", 80) == named(Kind.SERVICE, "shop/old:80", 0, 0)


def test_a_nodes_address_that_is_a_services_too_is_the_services_at_its_ports_alone() -> None:
    known = names(  # k3s gives load balancers the nodes' addresses
        nodes=[NodeRecord("node1", ("192.0.2.1",))],
        services=[service("web", "10.96.0.1", "192.0.2.1")],
    )
    assert known.destination("192.0.2.1", 80) == named(Kind.SERVICE, "shop/web:80")
    assert known.destination("192.0.2.1", 22) == named(Kind.NODE, "node1")


def test_endpoints_are_counted_by_family_and_port() -> None:
    ports = (HTTP, ServicePort("metrics", "TCP", 9090))
    both = (("http", 8080), ("metrics", 9090))
    known = names(
        services=[service("web", "10.96.0.1", "fd00::1", ports=ports)],
        slices=[
            endpoints(endpoint("10.0.1.1"), endpoint("10.0.1.2", ready=False), ports=both),
            endpoints(endpoint("10.0.1.3"), name="web-2"),
            endpoints(endpoint("fd00:1::1", ready=False), name="web-3", family=6),
            endpoints(endpoint("10.0.1.9"), name="other-1", of="other"),
        ],
    )
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80", 2, 3)
    assert known.destination("10.96.0.1", 9090) == named(Kind.SERVICE, "shop/web:9090", 1, 2)
    assert known.destination("fd00::1", 80) == named(Kind.SERVICE, "shop/web:80", 0, 1)
    assert known.destination("fd00::1", 9090) == named(Kind.SERVICE, "shop/web:9090", 0, 0)


def test_an_endpoint_on_its_way_from_one_slice_to_another_counts_once() -> None:
    known = names(
        services=[service("web", "10.96.0.1")],
        slices=[endpoints(endpoint("10.0.1.1")), endpoints(endpoint("10.0.1.1"), name="web-2")],
    )
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80", 1, 1)


def test_endpoints_are_unknown_until_they_were_listed() -> None:
    known = Names()
    known.replace(SERVICES, [service("web", "10.96.0.1")])
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80")
    known.put(SLICES, endpoints(endpoint("10.0.1.1")))
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80")
    known.replace(SLICES, [endpoints()])
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80", 0, 0)


def test_a_service_has_no_counts_before_its_slice_was_heard_of() -> None:
    known = names(services=[service("web", "10.96.0.1", "fd00::1")])
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80")
    # The controller makes one for each family, even where there is nothing in it.
    known.put(SLICES, endpoints(ports=()))
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80", 0, 0)
    assert known.destination("fd00::1", 80) == named(Kind.SERVICE, "shop/web:80")


def test_a_service_without_a_selector_has_the_slices_that_somebody_made() -> None:
    by_hand = ServiceRecord("shop", "web", ("10.96.0.1",), (HTTP,), has_selector=False)
    known = names(services=[by_hand])
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80", 0, 0)


def test_slices_from_the_cache_are_not_counted_until_they_are_listed() -> None:
    known = Names()
    known.replace(SERVICES, [service("web", "10.96.0.1")], cached=True)
    known.replace(SLICES, [endpoints(endpoint("10.0.1.1", "web-0"))], cached=True)
    known.replace(NODES, [], cached=True)
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80")
    assert known.destination("10.0.1.1", 80) == named(Kind.POD, "shop/web-0")
    before = known.version
    known.replace(SLICES, [endpoints(endpoint("10.0.1.1", "web-0"))])
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80", 1, 1)
    assert known.version == before + 1


@pytest.mark.parametrize("address", ["52.94.10.112", "2600:1f18::1"])
def test_a_public_address_is_no_pods_only_because_an_endpoint_says_so(address: str) -> None:
    known = names(slices=[endpoints(endpoint(address, "web-0"))])
    assert known.destination(address, 443) is None
    known.put(PODS, pod("web-0", address))
    assert known.destination(address, 443) == named(Kind.POD, "shop/web-0")


def test_things_that_are_told_before_any_list_are_named() -> None:
    known = Names()
    known.put(SLICES, endpoints(endpoint("10.0.1.1", "web-0")))
    known.put(SERVICES, service("web", "10.96.0.1"))
    known.put(NODES, NodeRecord("node1", ("192.0.2.1",)))
    known.put(PODS, pod("web-0", "10.0.0.1"))
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80")
    assert known.destination("192.0.2.1", 80) == named(Kind.NODE, "node1")
    assert known.destination("10.0.0.1", 80) == named(Kind.POD, "shop/web-0")


def test_counts_follow_slices_in_whatever_order_things_come() -> None:
    known = names()
    known.put(SLICES, endpoints(endpoint("10.0.1.1", ready=False)))
    known.put(SERVICES, service("web", "10.96.0.1"))
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80", 0, 1)
    known.put(SLICES, endpoints(endpoint("10.0.1.1"), endpoint("10.0.1.2")))
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80", 2, 2)
    known.put(SLICES, endpoints(endpoint("10.0.1.1"), of="other"))
    known.put(SLICES, endpoints(name="web-2"))
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80", 0, 0)


def test_the_endpoints_behind_a_service_are_told_with_their_ports() -> None:
    ports = (replace(HTTP, node_port=30080), ServicePort("metrics", "TCP", 9090))
    one, other = endpoint("10.0.1.1", "web-0"), endpoint("10.0.1.2", "web-1", ready=False)
    both = (("http", 8080), ("metrics", None))
    known = names(
        nodes=[NodeRecord("node1", ("192.0.2.1",))],
        services=[service("web", "10.96.0.1", "fd00::1", ports=ports)],
        slices=[
            endpoints(one, ports=both),
            endpoints(other, name="web-2"),
            endpoints(endpoint("10.0.1.9"), name="other-1", of="other"),
        ],
    )
    http = (ServiceBackend(one, 8080), ServiceBackend(other, 8080))
    assert known.backends("10.96.0.1", 80) == http
    assert known.backends("192.0.2.1", 30080) == http
    assert known.backends("10.96.0.1", 9090) == (ServiceBackend(one, None),)
    assert known.backends("10.96.0.1", 443) is None
    assert known.backends("192.0.2.1", 80) is None
    assert known.backends("192.0.2.9", 30080) is None
    assert known.backends("fd00::1", 80) is None  # no slice of that family
    known.put(SLICES, endpoints(name="web-3", family=6, ports=()))
    assert known.backends("fd00::1", 80) == ()
    known.remove(SERVICES, "shop", "web")
    assert known.backends("10.96.0.1", 80) is None


def test_endpoints_behind_an_address_that_services_share_are_not_told() -> None:
    known = names(
        services=[service("old", "203.0.113.7"), service("web", "203.0.113.7")],
        slices=[endpoints(endpoint("10.0.1.1")), endpoints(name="old-1", of="old")],
    )
    assert known.backends("203.0.113.7", 80) is None
    known.remove(SERVICES, "shop", "old")
    assert known.backends("203.0.113.7", 80) == (ServiceBackend(endpoint("10.0.1.1"), 8080),)


def test_endpoints_of_which_some_are_not_known_are_not_told() -> None:
    known = small()
    known.replace(SERVICES, [service("web", "10.96.0.1")])
    known.put(SLICES, endpoints(endpoint("10.0.1.1")))
    assert known.backends("10.96.0.1", 80) is None  # not listed
    known.replace(SLICES, [endpoints(endpoint("10.0.1.1"))])
    assert known.backends("10.96.0.1", 80) is not None
    known.put(SLICES, endpoints(*(endpoint(f"10.0.2.{n}") for n in range(9)), name="web-2"))
    assert known.backends("10.96.0.1", 80) is None  # there was no room


# -- policies and namespaces -----------------------------------------------------------------------


def test_recorded_policies_and_namespaces_are_known() -> None:
    known = recorded()
    assert [one.name for one in known.policies("shop")] == ["deny-egress-but-dns"]
    assert known.policies("default") == ()
    assert known.namespaces()["shop"].labels == {
        "kubernetes.io/metadata.name": "shop",
        "team": "checkout",
    }


def test_policies_are_told_by_namespace_through_every_change() -> None:
    first, other = policy("first"), policy("other", "data")
    known = names(policies=[first, other])
    second, changed = policy("second"), policy("first", "shop", 80)
    known.put(POLICIES, second)
    assert known.policies("shop") == (first, second)
    known.put(POLICIES, changed)
    assert known.policies("shop") == (second, changed)
    known.remove(POLICIES, "shop", "second")
    assert known.policies("shop") == (changed,)
    known.remove(POLICIES, "shop", "first")
    assert known.policies("shop") == ()
    assert known.policies("data") == (other,)
    known.replace(POLICIES, [first])
    assert (known.policies("shop"), known.policies("data")) == ((first,), ())


def test_namespaces_are_told_through_every_change() -> None:
    known = names(namespaces=[namespace("shop", team="a"), namespace("data")])
    known.put(NAMESPACES, namespace("shop", team="b"))
    known.remove(NAMESPACES, "", "data")
    assert known.namespaces() == {"shop": namespace("shop", team="b")}
    known.replace(NAMESPACES, [namespace("lab")])
    assert known.namespaces() == {"lab": namespace("lab")}


def test_policies_that_there_is_no_room_for_are_counted_and_said_not_to_be_all() -> None:
    known = small()
    known.replace(POLICIES, [policy("one", "shop", 80), policy("two")])
    assert [one.name for one in known.policies("shop")] == ["one"]
    assert (known.overflow, known.complete(POLICIES)) == (1, False)
    known.put(POLICIES, policy("one", "shop", 80, 443))
    assert known.policies("shop") == ()
    known.replace(POLICIES, [policy("one")])
    assert (known.overflow, known.complete(POLICIES)) == (0, True)
    known.put(NAMESPACES, namespace("shop", a="", b=""))
    known.put(NAMESPACES, namespace("shop", a="", b="", c=""))
    assert known.namespaces() == {}


def test_what_is_followed_is_told_and_is_no_change() -> None:
    known, version = names(), names().version
    assert known.current == set()
    known.follows(PODS, current=True)
    known.follows(POLICIES, current=True)
    known.follows(PODS, current=False)
    known.follows(NODES, current=False)
    assert known.current == {POLICIES}
    assert known.version == version


# -- bounds ----------------------------------------------------------------------------------------


def small() -> Names:
    return Names({PODS: 3, SERVICES: 4, SLICES: 4, NODES: 2, POLICIES: 3, NAMESPACES: 3})


def test_what_there_is_no_room_for_is_counted_and_not_kept() -> None:
    known = small()
    known.replace(PODS, [pod("web-0", "10.0.0.1"), pod("web-1", "10.0.0.2")])
    known.replace(NODES, [NodeRecord("node1", ("192.0.2.1",)), NodeRecord("node2", ("192.0.2.2",))])
    assert (known.pod_at("10.0.0.1") is None, known.pod_at("10.0.0.2")) == (False, None)
    assert known.overflow == 2
    assert [known.complete(each) for each in (PODS, NODES, SERVICES)] == [False, False, False]
    known.replace(NODES, [NodeRecord("node2", ("192.0.2.2",))])
    assert known.overflow == 1
    assert known.complete(NODES)
    known.remove(PODS, "shop", "web-0")
    known.put(PODS, pod("web-1", "10.0.0.2"))
    assert known.pod_at("10.0.0.2") is not None


def test_a_record_that_changes_takes_no_more_room_than_it_has() -> None:
    known = small()
    for number in range(9):
        known.put(PODS, pod("web-0", f"10.0.0.{number}"))
    assert known.overflow == 0
    assert known.pod_at("10.0.0.8") is not None


def test_a_service_with_a_slice_that_was_not_kept_has_no_counts() -> None:
    known = small()
    known.replace(SERVICES, [service("web", "10.96.0.1"), service("db", "10.96.0.2")])
    kept = endpoints(endpoint("10.0.1.1"))
    lost = endpoints(endpoint("10.0.2.1"), endpoint("10.0.2.2"), name="db-1", of="db")
    for told in ("listed", "watched"):
        known.replace(SLICES, [kept, lost] if told == "listed" else [kept])
        known.put(SLICES, lost)
        assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80", 1, 1)
        assert known.destination("10.96.0.2", 80) == named(Kind.SERVICE, "shop/db:80")
    known.put(SLICES, replace(kept, endpoints=tuple(endpoint(f"10.0.1.{n}") for n in range(9))))
    assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/web:80")
    assert known.destination("10.0.1.1", 80) is None
    known.replace(SLICES, [replace(lost, endpoints=())])
    assert known.destination("10.96.0.2", 80) == named(Kind.SERVICE, "shop/db:80", 0, 0)


def test_no_service_has_counts_where_too_many_slices_were_lost_to_remember(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (index, sys.modules["tracer.kube.names"]):
        monkeypatch.setattr(module, "MAX_INCOMPLETE", 1)
    many = [endpoints(name=f"s{n}", of=f"s{n}") for n in range(7)]
    listed, watched = small(), small()
    for known in (listed, watched):
        known.replace(SERVICES, [service("s0", "10.96.0.1")])
    listed.replace(SLICES, many)
    watched.replace(SLICES, [])
    for one in many:
        watched.put(SLICES, one)
    for known in (listed, watched):
        assert known.destination("10.96.0.1", 80) == named(Kind.SERVICE, "shop/s0:80")


def test_there_is_room_for_the_largest_clusters() -> None:
    assert ROOM[PODS] >= 1_000 * (1 + 4)
    assert ROOM[SERVICES] >= 10_000 * (1 + 2)
    assert ROOM[SLICES] >= 50_000 + 10_000
    assert ROOM[NODES] >= 5_000 * (1 + 4)
    assert ROOM[POLICIES] >= 10_000 * 20
    assert ROOM[NAMESPACES] >= 10_000 * (1 + 10)


# -- changes ---------------------------------------------------------------------------------------


def test_the_version_grows_with_every_change_and_with_nothing_else() -> None:
    known, versions = Names(), [0]

    def changes() -> bool:
        versions.append(known.version)
        return versions[-1] > versions[-2]

    everything: list[tuple[Resource, Record, Record]] = [
        (PODS, pod("web-0", "10.0.0.1"), pod("web-0", "10.0.0.2")),
        (SERVICES, service("web", "10.96.0.1"), service("web", "10.96.0.2")),
        (SLICES, endpoints(endpoint("10.0.1.1")), endpoints(endpoint("10.0.1.2"))),
        (NODES, NodeRecord("node1", ("192.0.2.1",)), NodeRecord("node1", ())),
        (POLICIES, policy("deny"), policy("deny", "shop", 80)),
        (NAMESPACES, namespace("shop"), namespace("shop", team="a")),
    ]
    for resource, one, other in everything:
        known.replace(resource, [])
        assert changes()  # now it is known that there are none
        known.replace(resource, [])
        assert not changes()
        known.put(resource, one)
        assert changes()
        known.put(resource, replace(one))
        assert not changes()
        known.replace(resource, [replace(one)])
        assert not changes()
        known.put(resource, other)
        assert changes()
        known.replace(resource, [one])
        assert changes()
        of, name = key_of(one)
        known.remove(resource, of, name)
        assert changes()
        known.remove(resource, of, name)
        assert not changes()


def test_nodes_and_pods_are_told_of_without_waiting_for_a_writer() -> None:
    known = names(nodes=[NodeRecord("node1", ())])
    with known._writing:
        assert [known.has_pods, *map(known.has_node, ("node1", "node2"))] == [False, True, False]
    known.put(PODS, pod("web-0"))
    known.remove(NODES, "", "node1")
    assert [known.has_pods, known.has_node("node1")] == [True, False]


def test_a_list_that_breaks_off_changes_nothing() -> None:
    known = names(pods=[pod("web-0", "10.0.0.1")])

    def cut() -> Iterable[Record]:
        yield pod("web-1", "10.0.0.2")
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        known.replace(PODS, cut())
    assert [one.name for one in known.records(PODS)] == ["web-0"]


def test_a_record_of_another_resource_is_refused() -> None:
    known = names()
    with pytest.raises(TypeError):
        known.put(SERVICES, pod())
    with pytest.raises(TypeError):
        known.replace(SERVICES, [pod()])


def test_what_did_not_change_stays_the_object_it_was() -> None:
    web = pod("web-0", "10.0.0.1")
    known = names(pods=[web])
    assert known.same(PODS, replace(web)) is web
    changed = replace(web, phase="Failed")
    assert known.same(PODS, changed) is changed
    known.replace(PODS, [replace(web)])
    assert known.records(PODS)[0] is web


ADDRESSES = [f"10.0.1.{n}" for n in range(4)]
PLACES = ["10.96.0.1", "10.96.0.2", "fd00::1", "192.0.2.1"]
PORTS = [HTTP, ServicePort("metrics", "TCP", 9090, 30090), ServicePort("dns", "UDP", 53, 30053)]

some_services = st.builds(
    ServiceRecord,
    namespace=st.just("shop"),
    name=st.sampled_from(["web", "db"]),
    addresses=st.lists(st.sampled_from(PLACES), unique=True).map(tuple),
    ports=st.lists(st.sampled_from(PORTS), unique=True).map(tuple),
)
some_endpoints = st.builds(
    lambda address, ready: endpoint(address, f"at-{address}", ready=ready),
    st.sampled_from(ADDRESSES),
    st.booleans(),
)
some_slices = st.builds(
    SliceRecord,
    namespace=st.just("shop"),
    name=st.sampled_from(["s1", "s2"]),
    service=st.sampled_from(["web", "db"]),
    family=st.sampled_from([4, 6]),
    ports=st.sampled_from([(), (("http", 8080),), (("http", 8080), ("metrics", None))]),
    endpoints=st.lists(some_endpoints).map(tuple),
)
some_nodes = st.builds(
    NodeRecord,
    name=st.just("node1"),
    addresses=st.lists(st.sampled_from(PLACES + ADDRESSES), unique=True, max_size=1).map(tuple),
)
some_pods = st.builds(
    lambda name, ip, host_network, phase: pod(name, ip, host_network=host_network, phase=phase),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["10.0.0.1", "10.0.0.2"]),
    st.booleans(),
    st.sampled_from(["Running", "Failed"]),
)
some_policies = st.builds(
    policy,
    st.sampled_from(["a", "b"]),
    st.sampled_from(["shop", "data"]),
    st.sampled_from([80, 443]),
)
some_changes = st.one_of(
    st.tuples(st.just(SERVICES), some_services, st.booleans()),
    st.tuples(st.just(SLICES), some_slices, st.booleans()),
    st.tuples(st.just(NODES), some_nodes, st.booleans()),
    st.tuples(st.just(PODS), some_pods, st.booleans()),
    st.tuples(st.just(POLICIES), some_policies, st.booleans()),
)


def everything_named(known: Names) -> dict[tuple[str, int], object]:
    """What is said of every address and port; where several claim one, not which is the newest."""
    found = {
        (address, port): known.destination(address, port)
        for address in [*PLACES, *ADDRESSES, "10.0.0.1", "10.0.0.2"]
        for port in (80, 9090, 30090, 53, 1)
    }
    return {
        place: one.kind if one is not None and one.ambiguous and one.kind is Kind.SERVICE else one
        for place, one in found.items()
    }


@given(st.lists(some_changes, max_size=40))
def test_changes_lead_to_the_names_that_a_list_of_the_outcome_has(
    changes: list[tuple[Resource, Record, bool]],
) -> None:
    known, model = names(), dict[tuple[Resource, tuple[str, str]], Record]()
    for resource, record, removed in changes:
        key = key_of(record)
        if removed:
            known.remove(resource, *key)
            model.pop((resource, key), None)
        else:
            known.put(resource, record)
            model[resource, key] = record
    listed = names()
    for resource in Resource:
        listed.replace(resource, [one for (of, _), one in model.items() if of is resource])
    assert everything_named(known) == everything_named(listed)
    for of in ("shop", "data"):
        assert {*known.policies(of)} == {*listed.policies(of)}


# -- readers ---------------------------------------------------------------------------------------


def test_a_reader_gets_what_was_or_what_is_and_nothing_in_between() -> None:
    """Whatever a writer does meanwhile, through single changes and whole lists."""
    before: list[tuple[Resource, Record]] = [
        (SERVICES, service("web", "10.96.0.1", "203.0.113.7")),
        (SLICES, endpoints(endpoint("10.0.1.1", "web-0"))),
    ]
    https = (ServicePort("http", "TCP", 443),)
    after: list[tuple[Resource, Record]] = [
        (SERVICES, service("web", "10.96.0.1", ports=https)),
        (SLICES, endpoints(endpoint("10.0.1.2", "web-1"), endpoint("10.0.1.3", "web-2"))),
    ]
    known = names()
    seen: dict[tuple[str, int], set[Named | None]] = {
        (address, port): set()
        for address in ("10.96.0.1", "203.0.113.7", "10.0.1.1", "10.0.1.2")
        for port in (80, 443)
    }
    reading, stop = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                for (address, port), answers in seen.items():
                    answers.add(known.destination(address, port))
                reading.set()
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    reader = threading.Thread(target=read)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        reader.start()
        assert reading.wait(10)
        for _ in range(300):
            for state in (before, after):
                for resource, record in state:
                    known.put(resource, record)
            known.replace(SERVICES, [before[0][1]])
            known.replace(SLICES, [before[1][1]])
    finally:
        stop.set()
        reader.join(10)
        sys.setswitchinterval(interval)
    assert errors == []
    counts = [(None, None), (1, 1), (2, 2)]  # at first there is no slice
    web = {
        port: {named(Kind.SERVICE, f"shop/web:{port}", *one) for one in counts}
        for port in (80, 443)
    }
    none, alone = {None}, {named(Kind.SERVICE, "shop/web")}
    assert seen["10.96.0.1", 80] <= web[80] | alone | none
    assert seen["10.96.0.1", 443] <= web[443] | alone | none
    assert seen["203.0.113.7", 80] <= web[80] | none
    assert seen["203.0.113.7", 443] <= alone | none
    assert seen["10.0.1.1", 80] <= {named(Kind.POD, "shop/web-0")} | none
    assert seen["10.0.1.2", 80] <= {named(Kind.POD, "shop/web-1")} | none


# -- cost ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large() -> Names:
    """10,000 services with 50,000 endpoints, a thousand of them of one service."""
    return names(
        services=[
            service(f"s{n}", f"10.96.{n >> 8}.{n & 255}", ports=tuple(PORTS)) for n in range(10_000)
        ],
        slices=[
            *(
                endpoints(
                    *(endpoint(f"10.{n >> 8}.{n & 255}.{i}", f"s{n}-{i}") for i in range(5)),
                    name=f"s{n}-1",
                    of=f"s{n}",
                )
                for n in range(9_800)
            ),
            *(
                endpoints(
                    *(endpoint(f"10.100.{i}.{j}", f"large-{i}-{j}") for j in range(100)),
                    name=f"large-{i}",
                    of="s9999",
                )
                for i in range(10)
            ),
        ],
        nodes=[NodeRecord(f"node{n}", (f"192.0.{n >> 8}.{n & 255}",)) for n in range(5_000)],
        pods=[pod(f"p{n}", f"10.200.{n >> 8}.{n & 255}") for n in range(500)],
    )


@pytest.mark.parametrize(
    ("address", "port", "kind"),
    [
        ("10.96.0.7", 80, Kind.SERVICE),
        ("10.96.39.15", 80, Kind.SERVICE),  # a thousand endpoints
        ("10.96.0.7", 443, Kind.SERVICE),
        ("10.1.2.3", 8080, Kind.POD),
        ("10.200.0.7", 8080, Kind.POD),
        ("192.0.2.7", 22, Kind.NODE),
        ("192.0.2.7", 30090, Kind.SERVICE),
        ("8.8.8.8", 443, None),
        ("2001:db8::1", 443, None),
    ],
)
def test_a_destination_is_looked_up_in_microseconds(
    large: Names, address: str, port: int, kind: Kind | None
) -> None:
    found = large.destination(address, port)
    assert (None if found is None else found.kind) == kind
    times = timeit.repeat(lambda: large.destination(address, port), number=1_000, repeat=5)
    assert min(times) / 1_000 < LOOKUP_SECONDS


def test_a_large_cluster_is_read_within_its_budget_of_time_and_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kube_scale"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=50,
    )
    cost = json.loads(done.stdout)
    assert cost["records"] == {
        "pods": 500,
        "services": 10_000,
        "endpointslices": 10_000,
        "nodes": 1_000,
        "networkpolicies": 2_000,
        "namespaces": 500,
    }
    assert cost["endpoints"] == 50_000
    assert min(turn["cpu_seconds"] for turn in cost["turns"]) < 3
    assert max(turn["megabytes"] for turn in cost["turns"]) < 60
