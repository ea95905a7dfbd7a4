"""Whether rules may translate an address, which then needs no route on the node."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.netns import CLIENT_V4, Namespace, PodPair, iptables, pod_pair
from tests.support.sockets import path_of
from tracer.evidence.places import Places
from tracer.host.nat_rules import may_translate
from tracer.model import Endpoint, Flow, Scope

pytestmark = pytest.mark.kernel

SERVICE = "10.96.0.10"
DNAT = ("-d", SERVICE, "-p", "tcp", "-j", "DNAT", "--to", "10.77.2.3:80")


@pytest.fixture
def pods() -> Iterator[PodPair]:
    with pod_pair() as made:
        yield made


def nft(namespace: Namespace, hook: str, rule: str) -> None:
    chain = f"type nat hook {hook} priority 0;"
    namespace.run(["nft", "-f", "-"], stdin=f"table ip t {{ chain c {{ {chain} {rule}\n}}\n}}\n")


def test_a_namespace_without_rules_translates_nothing(pods: PodPair) -> None:
    assert not may_translate(path_of(pods.router))


def test_rules_of_iptables_may(pods: PodPair) -> None:
    iptables(pods.router, "-t", "nat", "-A", "PREROUTING", *DNAT)
    assert may_translate(path_of(pods.router))
    assert not may_translate(path_of(pods.client)), "it is another namespace"
    iptables(pods.router, "-t", "nat", "-F", "PREROUTING")
    assert not may_translate(path_of(pods.router)), "an empty chain is left"


def test_rules_of_ip6tables_may(pods: PodPair) -> None:
    rule = ("-d", "fd96::10", "-p", "tcp", "-j", "DNAT", "--to", "[fd77:2::3]:80")
    iptables(pods.router, "-t", "nat", "-A", "PREROUTING", *rule, family=6)
    assert may_translate(path_of(pods.router))


def test_rules_of_nftables_may(pods: PodPair) -> None:
    nft(pods.router, "prerouting", f"ip daddr {SERVICE} tcp dport 443 dnat to 10.77.2.3:80")
    assert may_translate(path_of(pods.router))


def test_rules_about_the_source_alone_do_not(pods: PodPair) -> None:
    iptables(pods.router, "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE")
    nft(pods.router, "postrouting", "masquerade")
    assert not may_translate(path_of(pods.router))


def test_a_namespace_that_is_gone_cannot_be_asked() -> None:
    with pytest.raises(FileNotFoundError):
        may_translate("/run/netns/not-there")


def test_no_descriptor_is_left_open(pods: PodPair) -> None:
    path = path_of(pods.router)
    may_translate(path)
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    may_translate(path)
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_services_address_without_a_route_on_the_node_is_no_missing_route(pods: PodPair) -> None:
    flow = Flow(pods.client.inode, 4, Endpoint(CLIENT_V4, 40_000), Endpoint(SERVICE, 443))
    places = Places(pods.router.inode, path_of(pods.router))
    missing = places.look(flow, Scope.VPC, None).host_route
    assert missing is not None
    assert missing.kind == "none"
    iptables(pods.router, "-t", "nat", "-A", "PREROUTING", *DNAT)
    found = places.look(flow, Scope.VPC, None)
    assert found.host_route is None
    assert found.route is not None
    assert found.route.kind == "unicast"
