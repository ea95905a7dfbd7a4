"""What NetworkPolicies say of a connection, case by case from the documentation of the API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.facts import PolicyFinding, PolicyVerdict
from tracer.kube.pod import mapping, named_ports
from tracer.kube.policy import Peer, PeerAddress, PeerPod, Target, egress, ingress
from tracer.kube.policy_records import (
    NamespaceRecord,
    PolicyRecord,
    Rule,
    Side,
    read_namespace,
    read_policy,
)

FIXTURES: Final = Path(__file__).parents[1] / "fixtures/kube"

NOT_SELECTED = PolicyVerdict.NOT_SELECTED
ALLOWED = PolicyVerdict.ALLOWED
DENIED = PolicyVerdict.DENIED
UNKNOWN = PolicyVerdict.UNKNOWN

Document = dict[str, object]
EVERYTHING: Final[Document] = {}

WEB = PeerPod("shop", {"app": "web", "tier": "front"}, "10.4.7.21", {"http": 8080}, node="node-1")
DB = PeerPod("data", {"app": "db", "role": "primary"}, "10.4.100.50", {"postgres": 5432})
CART = PeerPod("shop", {"app": "cart"}, "10.4.7.30", {"http": 9090})
WEB6 = replace(WEB, address="fd00:4::21")
OUTSIDE = PeerAddress("198.51.100.7", may_be_pod=False)
OUTSIDE6 = PeerAddress("2001:db8::7", may_be_pod=False)
STRANGER = PeerAddress("10.4.55.5", may_be_pod=None)

NAMESPACES = {
    name: NamespaceRecord(name, {"kubernetes.io/metadata.name": name, **labels})
    for name, labels in {
        "shop": {"team": "checkout", "env": "prod"},
        "data": {"team": "data", "env": "prod"},
        "lab": {"env": "test"},
    }.items()
}


def to_db(port: int = 5432) -> Target:
    return Target(DB, port)


def labels(**wanted: str) -> Document:
    return {"matchLabels": wanted}


def expression(key: str, operator: str, *values: str) -> Document:
    one: Document = {"key": key, "operator": operator}
    return {"matchExpressions": [{**one, "values": [*values]} if values else one]}


def block(cidr: str, *excepts: str) -> Document:
    return {"ipBlock": {"cidr": cidr, **({"except": [*excepts]} if excepts else {})}}


def tcp(port: int | str, end: int | None = None) -> Document:
    return {"protocol": "TCP", "port": port, **({} if end is None else {"endPort": end})}


def to(*peers: Document, ports: Sequence[Document] = ()) -> Document:
    return {**({"to": [*peers]} if peers else {}), **({"ports": [*ports]} if ports else {})}


def from_(*peers: Document, ports: Sequence[Document] = ()) -> Document:
    return {**({"from": [*peers]} if peers else {}), **({"ports": [*ports]} if ports else {})}


def policy(
    name: str = "one",
    *,
    namespace: str = "shop",
    pods: object = EVERYTHING,
    types: object = None,
    **rules: object,
) -> Document:
    spec: Document = {"podSelector": pods, **rules}
    if types is not None:
        spec["policyTypes"] = types
    return {"metadata": {"namespace": namespace, "name": name}, "spec": spec}


def out(*rules: Document, name: str = "one", pods: object = EVERYTHING) -> Document:
    """An egress policy for pods of shop."""
    return policy(name, pods=pods, types=["Egress"], egress=[*rules])


def into(*rules: Document, name: str = "one", pods: object = EVERYTHING) -> Document:
    """An ingress policy for pods of data."""
    return policy(name, namespace="data", pods=pods, types=["Ingress"], ingress=[*rules])


def records(documents: Sequence[object]) -> list[PolicyRecord]:
    return [record for one in documents if (record := read_policy(one)) is not None]


@dataclass(frozen=True)
class Out:
    """Egress of a pod."""

    name: str
    verdict: PolicyVerdict
    policies: Sequence[Document]
    target: Target = field(default_factory=to_db)
    source: PeerPod = WEB
    namespaces: Mapping[str, NamespaceRecord] = field(default_factory=lambda: NAMESPACES)

    def finding(self) -> PolicyFinding:
        return egress(records(self.policies), self.namespaces, self.source, self.target)


@dataclass(frozen=True)
class Into:
    """Ingress to a pod."""

    name: str
    verdict: PolicyVerdict
    policies: Sequence[Document]
    source: Peer = WEB
    target: Target = field(default_factory=to_db)
    namespaces: Mapping[str, NamespaceRecord] = field(default_factory=lambda: NAMESPACES)

    def finding(self) -> PolicyFinding:
        return ingress(records(self.policies), self.namespaces, self.source, self.target)


SELECTION: Final[list[Out | Into]] = [
    Out("without policies nothing is isolated for egress", NOT_SELECTED, []),
    Into("without policies nothing is isolated for ingress", NOT_SELECTED, []),
    Out("a policy selects pods of its own namespace only", NOT_SELECTED,
        [policy(namespace="data", types=["Egress"])]),
    Out("an empty podSelector selects every pod of the namespace", DENIED, [out()]),
    Out("a podSelector that is left out selects every pod", DENIED,
        [{"metadata": {"namespace": "shop", "name": "one"}, "spec": {"policyTypes": ["Egress"]}}]),
    Out("matchLabels select a pod that has them", DENIED, [out(pods=labels(app="web"))]),
    Out("matchLabels leave a pod alone that lacks one of them", NOT_SELECTED,
        [out(pods=labels(app="web", tier="back"))]),
    Out("In selects one of its values", DENIED, [out(pods=expression("app", "In", "cart", "web"))]),
    Out("In leaves other values alone", NOT_SELECTED, [out(pods=expression("app", "In", "cart"))]),
    Out("In leaves pods without the label alone", NOT_SELECTED,
        [out(pods=expression("zone", "In", "a"))]),
    Out("NotIn selects other values", DENIED, [out(pods=expression("app", "NotIn", "cart"))]),
    Out("NotIn leaves its own values alone", NOT_SELECTED,
        [out(pods=expression("app", "NotIn", "web"))]),
    Out("NotIn selects pods without the label", DENIED,
        [out(pods=expression("zone", "NotIn", "a"))]),
    Out("Exists selects any value", DENIED, [out(pods=expression("app", "Exists"))]),
    Out("Exists leaves pods without the label alone", NOT_SELECTED,
        [out(pods=expression("zone", "Exists"))]),
    Out("DoesNotExist selects pods without the label", DENIED,
        [out(pods=expression("zone", "DoesNotExist"))]),
    Out("DoesNotExist leaves pods with the label alone", NOT_SELECTED,
        [out(pods=expression("app", "DoesNotExist"))]),
    Out("matchLabels and matchExpressions must both hold", NOT_SELECTED,
        [out(pods={**labels(app="web"), **expression("tier", "In", "back")})]),
    Out("a pod whose labels nobody knows is selected by an empty selector", DENIED, [out()],
        source=replace(WEB, labels=None)),
    Out("a pod whose labels nobody knows may be selected by others", UNKNOWN,
        [out(pods=labels(app="web"))], source=replace(WEB, labels=None)),
    Out("whether a policy selects the pod is no matter where it allows", ALLOWED,
        [out(to(), pods=labels(app="web"))], source=replace(WEB, labels=None)),
    Out("of two policies that may select, both must allow", UNKNOWN,
        [out(to(), name="a", pods=labels(app="web")), out(name="b", pods=labels(app="x"))],
        source=replace(WEB, labels=None)),
    Out("a policy that may select and would allow leaves an isolated pod unknown", UNKNOWN,
        [out(name="deny"), out(to(), name="may", pods=labels(app="web"))],
        source=replace(WEB, labels=None)),
    Out("a policy that may select and allows nothing cannot save a denied connection", DENIED,
        [out(name="deny"), out(name="may", pods=labels(app="web"))],
        source=replace(WEB, labels=None)),
]  # fmt: skip

TYPES: Final[list[Out | Into]] = [
    Out("a policy of type Ingress does not isolate for egress", NOT_SELECTED,
        [policy(types=["Ingress"])]),
    Into("a policy of type Egress does not isolate for ingress", NOT_SELECTED,
         [policy(namespace="data", types=["Egress"])]),
    Out("a policy of both types isolates for egress", DENIED,
        [policy(types=["Ingress", "Egress"])]),
    Into("a policy of both types isolates for ingress", DENIED,
         [policy(namespace="data", types=["Ingress", "Egress"])]),
    Into("without policyTypes Ingress is always set", DENIED, [policy(namespace="data")]),
    Into("without policyTypes Ingress is set beside egress rules", DENIED,
         [policy(namespace="data", egress=[{}])]),
    Out("without policyTypes Egress is not set where there are no egress rules", NOT_SELECTED,
        [policy(ingress=[{}])]),
    Out("without policyTypes an empty list of egress rules does not set Egress", NOT_SELECTED,
        [policy(egress=[])]),
    Out("without policyTypes Egress is set by egress rules", DENIED,
        [policy(egress=[to(ports=[tcp(443)])])]),
    Into("an empty list of policyTypes is as good as none", DENIED,
         [policy(namespace="data", types=[])]),
    Out("egress rules of a policy that is not of type Egress are nothing", NOT_SELECTED,
        [policy(types=["Ingress"], egress=[{}])]),
]  # fmt: skip

UNION: Final[list[Out | Into]] = [
    Out("default deny: a policy without egress rules allows nothing", DENIED, [out()]),
    Into("default deny: a policy without ingress rules allows nothing", DENIED, [into()]),
    Out("an empty rule allows everything", ALLOWED, [out({})]),
    Into("an empty ingress rule allows everything", ALLOWED, [into({})]),
    Out("an allow-all policy beats a default deny", ALLOWED, [out(name="a"), out({}, name="b")]),
    Out("policies add up: another one allows it", ALLOWED,
        [out(to(block("192.0.2.0/24")), name="a"), out(to(ports=[tcp(5432)]), name="b")]),
    Out("rules add up: another one allows it", ALLOWED,
        [out(to(ports=[tcp(443)]), to(ports=[tcp(5432)]))]),
    Out("peer of one rule and port of another do not make an allowance", DENIED,
        [out(to(block("10.4.100.0/24"), ports=[tcp(443)]),
             to(block("192.0.2.0/24"), ports=[tcp(5432)]))]),
    Out("what allows other pods does not count", DENIED,
        [out(name="deny"), out({}, name="cart", pods=labels(app="cart"))]),
    Into("egress rules say nothing of ingress", DENIED,
         [policy(namespace="data", types=["Ingress", "Egress"], egress=[{}])]),
]  # fmt: skip

PEERS: Final[list[Out | Into]] = [
    Out("an empty list of peers means all destinations", ALLOWED,
        [out({"to": []})], Target(OUTSIDE, 443)),
    Into("an empty list of peers means all sources", ALLOWED, [into({"from": []})], OUTSIDE),
    Out("a podSelector alone selects in the policy's namespace", ALLOWED,
        [out(to({"podSelector": labels(app="cart")}))], Target(CART, 9090)),
    Out("a podSelector alone does not reach into another namespace", DENIED,
        [out(to({"podSelector": labels(app="db")}))]),
    Out("an empty podSelector means all pods of the policy's namespace", ALLOWED,
        [out(to({"podSelector": {}}))], Target(CART, 9090)),
    Out("an empty podSelector means no pod of another namespace", DENIED,
        [out(to({"podSelector": {}}))]),
    Out("an empty podSelector means no address outside", DENIED,
        [out(to({"podSelector": {}}))], Target(OUTSIDE, 443)),
    Out("a namespaceSelector means all pods of the namespaces it selects", ALLOWED,
        [out(to({"namespaceSelector": labels(team="data")}))]),
    Out("a namespaceSelector leaves other namespaces out", DENIED,
        [out(to({"namespaceSelector": labels(team="billing")}))]),
    Out("an empty namespaceSelector means all pods of all namespaces", ALLOWED,
        [out(to({"namespaceSelector": {}}))]),
    Out("an empty namespaceSelector means no address outside", DENIED,
        [out(to({"namespaceSelector": {}}))], Target(OUTSIDE, 443)),
    Out("a namespace can be meant by its name", ALLOWED,
        [out(to({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "data"}}}))]),
    Out("several namespaces can be meant by an expression", ALLOWED,
        [out(to({"namespaceSelector": expression("team", "In", "data", "billing")}))]),
    Out("namespaces that lack a label can be meant", DENIED,
        [out(to({"namespaceSelector": expression("team", "DoesNotExist")}))]),
    Out("both selectors in one peer must hold: they do", ALLOWED,
        [out(to({"namespaceSelector": labels(team="data"), "podSelector": labels(app="db")}))]),
    Out("both selectors in one peer must hold: the pod's does not", DENIED,
        [out(to({"namespaceSelector": labels(team="data"), "podSelector": labels(app="cache")}))]),
    Out("both selectors in one peer must hold: the namespace's does not", DENIED,
        [out(to({"namespaceSelector": labels(team="billing"), "podSelector": labels(app="db")}))]),
    Out("two selectors in two peers: either is enough", ALLOWED,
        [out(to({"namespaceSelector": labels(team="data")}, {"podSelector": labels(app="x")}))]),
    Out("a podSelector of null is none", ALLOWED,
        [out(to({"namespaceSelector": labels(team="data"), "podSelector": None}))]),
    Out("a field of null is not given", ALLOWED,
        [out(to({"podSelector": labels(app="cart"), "ipBlock": None, "other": None}))],
        Target(CART, 9090)),
    Into("ingress from selected pods of selected namespaces is allowed", ALLOWED,
         [into(from_({"namespaceSelector": labels(team="checkout"),
                      "podSelector": labels(app="web")}))]),
    Into("ingress from other pods of these namespaces is not", DENIED,
         [into(from_({"namespaceSelector": labels(team="checkout"),
                      "podSelector": labels(app="web")}))], CART),
    Into("ingress from an address outside is not what selectors mean", DENIED,
         [into(from_({"namespaceSelector": {}}))], OUTSIDE),
]  # fmt: skip

BLOCKS: Final[list[Out | Into]] = [
    Out("an ipBlock allows addresses in it", ALLOWED,
        [out(to(block("198.51.100.0/24")))], Target(OUTSIDE, 443)),
    Out("an ipBlock leaves other addresses out", DENIED,
        [out(to(block("192.0.2.0/24")))], Target(OUTSIDE, 443)),
    Out("an exception is not allowed", DENIED,
        [out(to(block("198.51.0.0/16", "198.51.100.0/24")))], Target(OUTSIDE, 443)),
    Out("beside an exception all is allowed", ALLOWED,
        [out(to(block("198.51.0.0/16", "198.51.101.0/24", "198.51.99.0/24")))],
        Target(OUTSIDE, 443)),
    Out("an exception of one block does not bind another", ALLOWED,
        [out(to(block("198.51.0.0/16", "198.51.100.0/24"), block("198.51.100.7/32")))],
        Target(OUTSIDE, 443)),
    Out("all of IPv4 is no IPv6", DENIED, [out(to(block("0.0.0.0/0")))], Target(OUTSIDE6, 443)),
    Out("all of IPv6 is no IPv4", DENIED, [out(to(block("::/0")))], Target(OUTSIDE, 443)),
    Out("an IPv6 block allows addresses in it", ALLOWED,
        [out(to(block("2001:db8::/32")))], Target(OUTSIDE6, 443)),
    Out("an IPv6 exception is not allowed", DENIED,
        [out(to(block("2001:db8::/32", "2001:db8::/64")))], Target(OUTSIDE6, 443)),
    Out("an IPv4-mapped destination is in an IPv4 block", ALLOWED,
        [out(to(block("198.51.100.0/24")))],
        Target(PeerAddress("::ffff:198.51.100.7", may_be_pod=False), 443)),
    Out("bits behind the length of a block are nothing", ALLOWED,
        [out(to(block("198.51.100.99/24")))], Target(OUTSIDE, 443)),
    Out("an ipBlock matches a pod's address", ALLOWED, [out(to(block("10.4.0.0/16")))]),
    Into("an ipBlock allows sources in it", ALLOWED,
         [into(from_(block("198.51.100.0/24")))], OUTSIDE),
    Into("an ipBlock leaves sources out that it excepts", DENIED,
         [into(from_(block("198.51.0.0/16", "198.51.100.0/24")))], OUTSIDE),
    Out("whether an address that nobody knows is in a block is unknown", UNKNOWN,
        [out(to(block("10.4.0.0/16")))], Target(replace(DB, address=None), 5432)),
]  # fmt: skip

PORTS: Final[list[Out | Into]] = [
    Out("an empty list of ports means all", ALLOWED, [out({"ports": []})]),
    Out("a port allows itself", ALLOWED, [out(to(ports=[tcp(5432)]))]),
    Out("a port allows no other", DENIED, [out(to(ports=[tcp(5433)]))]),
    Out("one of several ports is enough", ALLOWED, [out(to(ports=[tcp(443), tcp(5432)]))]),
    Out("the protocol defaults to TCP", ALLOWED, [out(to(ports=[{"port": 5432}]))]),
    Out("UDP ports allow no TCP", DENIED, [out(to(ports=[{"protocol": "UDP", "port": 5432}]))]),
    Out("SCTP ports allow no TCP", DENIED, [out(to(ports=[{"protocol": "SCTP", "port": 5432}]))]),
    Out("a protocol without a port means all its ports", ALLOWED,
        [out(to(ports=[{"protocol": "TCP"}]))]),
    Out("all ports of UDP are none of TCP", DENIED, [out(to(ports=[{"protocol": "UDP"}]))]),
    Out("a range holds its first port", ALLOWED, [out(to(ports=[tcp(5432, 5440)]))]),
    Out("a range holds its last port", ALLOWED, [out(to(ports=[tcp(5400, 5432)]))]),
    Out("a range holds ports between", ALLOWED, [out(to(ports=[tcp(32000, 32768)]))],
        to_db(32500)),
    Out("a range ends", DENIED, [out(to(ports=[tcp(32000, 32768)]))], to_db(32769)),
    Out("a range may be one port", ALLOWED, [out(to(ports=[tcp(5432, 5432)]))]),
    Out("ports and peers of a rule must both match", DENIED,
        [out(to({"namespaceSelector": labels(team="data")}, ports=[tcp(443)]))]),
    Out("a named port of an egress rule is the destination's", ALLOWED,
        [out(to(ports=[tcp("postgres")]))]),
    Out("a named port of an egress rule is not the source's", DENIED,
        [out(to(ports=[tcp("http")]))], to_db(8080)),
    Out("a named port means another number at another pod", DENIED,
        [out(to(ports=[tcp("http")]))], Target(CART, 8080)),
    Into("a named port of an ingress rule is the selected pod's", ALLOWED,
         [into(from_(ports=[tcp("postgres")]))]),
    Into("a named port of an ingress rule is not the source's", DENIED,
         [into(from_(ports=[tcp("http")]))], WEB, to_db(8080)),
    Out("a named port of a pod whose ports nobody knows is unknown", UNKNOWN,
        [out(to(ports=[tcp("postgres")]))], Target(replace(DB, ports=None), 5432)),
    Out("a named port of what may be a pod is unknown", UNKNOWN,
        [out(to(ports=[tcp("postgres")]))], Target(STRANGER, 5432)),
    Out("what is no pod has no named ports", DENIED,
        [out(to(ports=[tcp("https")]))], Target(OUTSIDE, 443)),
    Out("a named port that nobody can resolve is no matter where another rule allows", ALLOWED,
        [out(to(ports=[tcp("postgres")]), to(ports=[tcp(5432)]))],
        Target(replace(DB, ports=None), 5432)),
    Out("a named port that nobody can resolve is no matter for peers that do not match", DENIED,
        [out(to(block("192.0.2.0/24"), ports=[tcp("postgres")]))],
        Target(replace(DB, ports=None), 5432)),
]  # fmt: skip

STRANGERS: Final[list[Out | Into]] = [
    Out("an address that may be a pod's may be what a selector means", UNKNOWN,
        [out(to({"podSelector": {}}))], Target(STRANGER, 5432)),
    Out("an address that is likely a pod's may be what a selector means", UNKNOWN,
        [out(to({"podSelector": {}}))], Target(replace(STRANGER, may_be_pod=True), 5432)),
    Out("an address that is certainly no pod's is not what a selector means", DENIED,
        [out(to({"podSelector": {}}))], Target(replace(STRANGER, may_be_pod=False), 5432)),
    Out("a stranger is allowed by an ipBlock whatever it is", ALLOWED,
        [out(to({"podSelector": {}}, block("10.4.0.0/16")))], Target(STRANGER, 5432)),
    Out("a stranger is denied where no selector could mean it", DENIED,
        [out(to(block("192.0.2.0/24")))], Target(STRANGER, 5432)),
    Out("a stranger is denied where the port is another anyway", DENIED,
        [out(to({"podSelector": {}}, ports=[tcp(443)]))], Target(STRANGER, 5432)),
    Into("a source that may be a pod's may be what a selector means", UNKNOWN,
         [into(from_({"namespaceSelector": {}}))], STRANGER),
    Out("the labels of a namespace nobody knows leave it open", UNKNOWN,
        [out(to({"namespaceSelector": labels(team="data")}))], namespaces={}),
    Out("labels of a namespace that could not be read leave it open", UNKNOWN,
        [out(to({"namespaceSelector": labels(team="data")}))],
        namespaces={"data": NamespaceRecord("data", None)}),
    Out("the name of a namespace is known all the same", ALLOWED,
        [out(to({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "data"}}}))],
        namespaces={}),
    Out("the name of another namespace too", DENIED,
        [out(to({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "lab"},
                                       **expression("team", "Exists")}}))],
        namespaces={}),
    Out("an empty namespaceSelector needs no labels", ALLOWED,
        [out(to({"namespaceSelector": {}}))], namespaces={}),
    Out("the labels of a peer nobody knows leave it open", UNKNOWN,
        [out(to({"namespaceSelector": {}, "podSelector": labels(app="db")}))],
        Target(replace(DB, labels=None), 5432)),
    Out("they are no matter where the namespace is another", DENIED,
        [out(to({"podSelector": labels(app="db")}))], Target(replace(DB, labels=None), 5432)),
    Into("of what is not known to be a pod no ingress is known", UNKNOWN,
         [into({})], WEB, Target(STRANGER, 5432)),
    Into("what is no pod is selected by no policy", NOT_SELECTED,
         [into()], WEB, Target(OUTSIDE, 443)),
]  # fmt: skip

HOSTED = replace(WEB, host_network=True, address="10.4.0.1")
NODE_1 = PeerAddress("10.4.0.1", may_be_pod=False, node="node-1")
NODE_2 = PeerAddress("10.4.0.2", may_be_pod=False, node="node-2")
WEB_ITSELF = Target(WEB, 8080)

EXCEPTIONS: Final[list[Out | Into]] = [
    Out("what a policy does to a hostNetwork pod is undefined", UNKNOWN, [out()], source=HOSTED),
    Out("a hostNetwork pod that no policy selects is not selected", NOT_SELECTED,
        [out(pods=labels(app="cart"))], source=HOSTED),
    Out("what may be a hostNetwork pod is not denied", UNKNOWN, [out()],
        source=replace(WEB, host_network=None)),
    Into("a hostNetwork destination is not denied", UNKNOWN,
         [into()], WEB, Target(replace(DB, host_network=True), 5432)),
    Out("whether a selector means a hostNetwork peer is undefined", UNKNOWN,
        [out(to({"namespaceSelector": {}}))], Target(replace(DB, host_network=True), 5432)),
    Out("whether a selector means what may be a hostNetwork peer is unknown", UNKNOWN,
        [out(to({"namespaceSelector": {}}))], Target(replace(DB, host_network=None), 5432)),
    Out("a selector that does not match a hostNetwork peer does not mean it", DENIED,
        [out(to({"podSelector": labels(app="x")}))], Target(replace(CART, host_network=True), 80)),
    Into("an ipBlock means a hostNetwork pod by its node's address", ALLOWED,
         [into(from_(block("10.4.0.0/24")))], HOSTED),
    Out("a pod cannot block access to itself", ALLOWED, [out()], WEB_ITSELF),
    Into("nor can it block access from itself", ALLOWED,
         [policy(types=["Ingress"])], WEB, WEB_ITSELF),
    Out("loopback never leaves the pod", ALLOWED, [out()],
        Target(PeerAddress("127.0.0.1", may_be_pod=False), 8080)),
    Out("IPv6 loopback neither", ALLOWED, [out()],
        Target(PeerAddress("::1", may_be_pod=False), 8080), source=WEB6),
    Out("through a service to itself is up to the plugin", UNKNOWN, [out()],
        replace(WEB_ITSELF, translated=True)),
    Out("through a service to itself is allowed by a rule", ALLOWED,
        [out(to({"podSelector": {}}))], replace(WEB_ITSELF, translated=True)),
    Into("ingress from the pod's node is always allowed", ALLOWED,
         [policy(types=["Ingress"])], NODE_1, WEB_ITSELF),
    Into("ingress from a hostNetwork pod of the pod's node is from the node", ALLOWED,
         [policy(types=["Ingress"])], replace(HOSTED, labels={}), WEB_ITSELF),
    Into("ingress from another node is not exempt", DENIED,
         [policy(types=["Ingress"])], NODE_2, WEB_ITSELF),
    Into("ingress from a node is not exempt where the pod's own is not known", DENIED,
         [policy(types=["Ingress"])], NODE_1, Target(replace(WEB, node=None), 8080)),
    Out("egress to the pod's node is never denied", UNKNOWN, [out()], Target(NODE_1, 10250)),
    Out("a pod of the same node is not the node", DENIED,
        [out()], Target(replace(CART, node="node-1"), 9090)),
    Out("egress to another node is not exempt", DENIED, [out()], Target(NODE_2, 10250)),
]  # fmt: skip

UNREADABLE: Final[list[Out | Into]] = [
    Out("an unreadable selector may select", UNKNOWN, [out(pods=[])]),
    Out("an unreadable requirement is no matter where another does not hold", NOT_SELECTED,
        [out(pods={**labels(app="cart"), "matchExpressions": [7]})]),
    Out("an operator nobody heard of may hold", UNKNOWN,
        [out(pods=expression("app", "Like", "w"))]),
    Out("In without values is unreadable", UNKNOWN, [out(pods=expression("app", "In"))]),
    Out("Exists with values is unreadable", UNKNOWN, [out(pods=expression("app", "Exists", "w"))]),
    Out("an unreadable rule may allow", UNKNOWN, [policy(types=["Egress"], egress=[7])]),
    Out("unreadable rules may allow", UNKNOWN, [policy(types=["Egress"], egress="all")]),
    Out("an unreadable rule is no matter where another allows", ALLOWED,
        [policy(types=["Egress"], egress=[7, {}])]),
    Out("a rule with a field nobody heard of may allow or not", UNKNOWN,
        [out({"to": [], "when": "night"})]),
    Out("a peer with a field nobody heard of may be the one", UNKNOWN,
        [out(to({"service": "db"}))]),
    Out("an empty peer is unreadable", UNKNOWN, [out({"to": [{}]})]),
    Out("a peer of block and selector is unreadable", UNKNOWN,
        [out(to({**block("10.4.0.0/16"), "podSelector": {}}))]),
    Out("an unreadable block may hold the address", UNKNOWN, [out(to(block("10.4.0.0/99")))]),
    Out("a block without a length is unreadable", UNKNOWN, [out(to(block("10.4.100.50")))]),
    Out("a block with leading zeros is unreadable", UNKNOWN, [out(to(block("010.4.0.0/16")))]),
    Out("a block with a netmask is unreadable", UNKNOWN, [out(to(block("10.4.0.0/255.255.0.0")))]),
    Out("an IPv4-mapped block is unreadable", UNKNOWN, [out(to(block("::ffff:10.4.0.0/112")))]),
    Out("an unreadable exception may hold the address", UNKNOWN,
        [out(to(block("10.4.0.0/16", "x")))]),
    Out("an unreadable exception is no matter outside the block", DENIED,
        [out(to(block("192.0.2.0/24", "x")))]),
    Out("an unreadable exception is no matter where another holds", DENIED,
        [out(to(block("10.4.0.0/16", "x", "10.4.100.0/24")))]),
    Out("an unreadable port may be the one", UNKNOWN, [out(to(ports=[{"port": 5432.0}]))]),
    Out("a number in quotes is no port", UNKNOWN, [out(to(ports=[tcp("5432")]))]),
    Out("true is no port", UNKNOWN, [out(to(ports=[{"port": True}]))], to_db(1)),
    Out("port 0 is no port", UNKNOWN, [out(to(ports=[tcp(0)]))]),
    Out("a range that ends before its start is unreadable", UNKNOWN,
        [out(to(ports=[tcp(6000, 5)]))]),
    Out("a range from a named port is unreadable", UNKNOWN,
        [out(to(ports=[tcp("postgres", 6000)]))]),
    Out("a range without a start is unreadable", UNKNOWN, [out(to(ports=[{"endPort": 6000}]))]),
    Out("a protocol nobody heard of may be TCP", UNKNOWN,
        [out(to(ports=[{"protocol": "tcp", "port": 5432}]))]),
    Out("unreadable policyTypes may isolate", UNKNOWN, [policy(types="Egress")]),
    Out("a type nobody heard of may isolate", UNKNOWN, [policy(types=["Ingress", "Exit"])]),
    Out("a type nobody heard of is no matter beside Egress", DENIED,
        [policy(types=["Egress", "Exit"])]),
    Out("without policyTypes unreadable egress may be rules", UNKNOWN, [policy(egress={})]),
    Out("an unreadable policy may select", UNKNOWN,
        [{"metadata": {"namespace": "shop", "name": "one"}, "spec": "x"}]),
    Into("a policy without a spec isolates for ingress", DENIED,
         [{"metadata": {"namespace": "data", "name": "one"}}]),
    Out("a document that is no policy is none", NOT_SELECTED, [{"metadata": {"name": "x"}}, {}]),
]  # fmt: skip

CASES: Final = [
    *SELECTION, *TYPES, *UNION, *PEERS, *BLOCKS, *PORTS, *STRANGERS, *EXCEPTIONS, *UNREADABLE,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdict_follows_the_documentation(case: Out | Into) -> None:
    finding = case.finding()
    assert finding.verdict is case.verdict, finding.reason
    assert finding.direction == ("egress" if isinstance(case, Out) else "ingress")
    assert finding.reason


def test_each_case_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


# The documentation's own example: kubernetes.io/docs, service/networking/networkpolicy.yaml.

EXAMPLE: Final = policy(
    "test-network-policy",
    namespace="default",
    pods=labels(role="db"),
    types=["Ingress", "Egress"],
    ingress=[
        from_(
            block("172.17.0.0/16", "172.17.1.0/24"),
            {"namespaceSelector": labels(project="myproject")},
            {"podSelector": labels(role="frontend")},
            ports=[tcp(6379)],
        )
    ],
    egress=[to(block("10.0.0.0/24"), ports=[tcp(5978)])],
)
EXAMPLE_DB = PeerPod("default", {"role": "db"}, "172.17.9.9")
EXAMPLE_NAMESPACES = {
    "default": NamespaceRecord("default", {}),
    "mine": NamespaceRecord("mine", {"project": "myproject"}),
    "theirs": NamespaceRecord("theirs", {"project": "theirs"}),
}


@pytest.mark.parametrize(
    ("source", "port", "verdict"),
    [
        (PeerPod("default", {"role": "frontend"}, "10.9.0.1"), 6379, ALLOWED),
        (PeerPod("default", {"role": "frontend"}, "10.9.0.1"), 6380, DENIED),
        (PeerPod("default", {"role": "backend"}, "10.9.0.1"), 6379, DENIED),
        (PeerPod("theirs", {"role": "frontend"}, "10.9.0.1"), 6379, DENIED),
        (PeerPod("mine", {}, "10.9.0.1"), 6379, ALLOWED),
        (PeerAddress("172.17.0.255", may_be_pod=False), 6379, ALLOWED),
        (PeerAddress("172.17.1.1", may_be_pod=False), 6379, DENIED),
        (PeerAddress("172.17.2.0", may_be_pod=False), 6379, ALLOWED),
        (PeerAddress("172.18.0.0", may_be_pod=False), 6379, DENIED),
    ],
)
def test_the_documented_example_allows_the_sources_it_explains(
    source: Peer, port: int, verdict: PolicyVerdict
) -> None:
    finding = ingress(records([EXAMPLE]), EXAMPLE_NAMESPACES, source, Target(EXAMPLE_DB, port))
    assert finding.verdict is verdict


@pytest.mark.parametrize(
    ("address", "port", "verdict"),
    [("10.0.0.9", 5978, ALLOWED), ("10.0.0.9", 5979, DENIED), ("10.0.1.9", 5978, DENIED)],
)
def test_the_documented_example_allows_the_destinations_it_explains(
    address: str, port: int, verdict: PolicyVerdict
) -> None:
    target = Target(PeerAddress(address, may_be_pod=False), port)
    finding = egress(records([EXAMPLE]), EXAMPLE_NAMESPACES, EXAMPLE_DB, target)
    assert finding.verdict is verdict


# The policy of the recorded cluster, its pods and its namespaces.


def recorded(name: str) -> list[object]:
    items = json.loads((FIXTURES / f"{name}.json").read_text())["items"]
    assert isinstance(items, list)
    return items


RECORDED_NAMESPACES = {
    record.name: record
    for one in recorded("namespaces")
    if (record := read_namespace(one)) is not None
}
CHECKOUT = PeerPod("shop", {"app": "checkout", "tier": "web"}, "10.88.64.3", {"http": 8080})
CACHE = PeerPod("data", {"app": "cache"}, "10.88.65.9", {})


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        (Target(PeerPod("kube-system", {"k8s-app": "kube-dns"}, "10.88.1.2"), 53), ALLOWED),
        (Target(PeerAddress("10.4.7.1", may_be_pod=False), 443), ALLOWED),
        (Target(PeerAddress("10.4.7.1", may_be_pod=False), 445), ALLOWED),
        (Target(PeerAddress("10.4.7.1", may_be_pod=False), 446), DENIED),
        (Target(PeerAddress("10.4.100.50", may_be_pod=False), 443), DENIED),
        (Target(PeerAddress("10.4.100.50", may_be_pod=None), 5432), UNKNOWN),
        (Target(PeerPod("shop", {"app": "db"}, "10.88.64.4"), 5432), DENIED),
    ],
)
def test_the_recorded_policy_judges_destinations(target: Target, verdict: PolicyVerdict) -> None:
    finding = egress(records(recorded("networkpolicies")), RECORDED_NAMESPACES, CHECKOUT, target)
    assert finding.policies == ("shop/deny-egress-but-dns",)
    assert finding.verdict is verdict


def test_the_recorded_policy_allows_pods_of_the_selected_team_alone() -> None:
    policies = records(recorded("networkpolicies"))
    with_data = {**RECORDED_NAMESPACES, "data": NamespaceRecord("data", {"team": "data"})}
    assert egress(policies, with_data, CHECKOUT, Target(CACHE, 6379)).verdict is ALLOWED
    other = replace(CACHE, labels={"app": "queue"})
    assert egress(policies, with_data, CHECKOUT, Target(other, 6379)).verdict is DENIED
    assert egress(policies, RECORDED_NAMESPACES, CHECKOUT, Target(CACHE, 6379)).verdict is UNKNOWN


def test_the_recorded_policy_leaves_other_pods_and_ingress_alone() -> None:
    policies = records(recorded("networkpolicies"))
    other = PeerPod("shop", {"app": "db"}, "10.88.64.4")
    assert egress(policies, {}, other, Target(CACHE, 6379)) == PolicyFinding(
        "egress", NOT_SELECTED, (), "no policy selects this pod"
    )
    assert ingress(policies, {}, other, Target(CHECKOUT, 8080)).verdict is NOT_SELECTED


def test_recorded_namespaces_keep_their_labels() -> None:
    assert RECORDED_NAMESPACES["shop"].labels == {
        "kubernetes.io/metadata.name": "shop",
        "team": "checkout",
    }
    assert len(RECORDED_NAMESPACES) == 6


def test_named_ports_of_recorded_pods_are_found() -> None:
    names = {}
    for pod in recorded("pods-on-node1"):
        metadata = mapping(mapping(pod).get("metadata"))
        names[str(metadata["name"])] = named_ports(pod)
    assert names["checkout-cb5cf55df-9rn26"] == {"http": 8080}
    assert names["db-0"] == {}


def test_named_ports_are_those_of_tcp_of_containers_that_keep_running() -> None:
    def container(name: str, number: object, **more: object) -> Document:
        return {"ports": [{"name": name, "containerPort": number, **more}]}

    spec = {
        "containers": [
            container("http", 80),
            container("http", 81),
            container("dns", 53, protocol="UDP"),
            container("bad", "80"),
            "x",
        ],
        "initContainers": [
            {**container("proxy", 15001), "restartPolicy": "Always"},
            container("once", 1),
        ],
    }
    assert named_ports({"spec": spec}) == {"http": 80, "proxy": 15001}
    assert named_ports({"spec": {"containers": None}}) is None
    assert named_ports("x") is None


# Reasons.


def reason(policies: Sequence[Document], target: Target | None = None, **changes: object) -> str:
    source = replace(WEB, **changes)  # type: ignore[arg-type]
    return egress(records(policies), NAMESPACES, source, target or to_db()).reason


def test_denial_names_the_policies_and_what_is_missing() -> None:
    finding = egress(records([out(name="default-deny")]), NAMESPACES, WEB, to_db())
    assert finding == PolicyFinding(
        "egress",
        DENIED,
        ("shop/default-deny",),
        "shop/default-deny selects the pod for egress and no policy allows TCP 5432 to 10.4.100.50",
    )


def test_denial_of_ingress_names_the_source() -> None:
    finding = ingress(records([into(name="a"), into(name="b")]), NAMESPACES, WEB, to_db())
    assert finding.policies == ("data/a", "data/b")
    assert finding.reason == (
        "data/a and data/b select the pod for ingress and no policy allows TCP 5432 from 10.4.7.21"
    )


def test_allowance_names_the_policies_that_allow() -> None:
    finding = egress(records([out(name="deny"), out({}, name="all")]), NAMESPACES, WEB, to_db())
    assert finding.policies == ("shop/all", "shop/deny")
    assert finding.reason == "shop/all allows TCP 5432 to 10.4.100.50"


def test_allowance_of_a_pod_by_address_alone_says_that_plugins_differ() -> None:
    by_block = to(block("10.4.0.0/16"))
    caveat = " by the pod's address, which some network plugins do not match"
    assert reason([out(by_block)]).endswith(caveat)
    assert not reason([out(by_block, to({"namespaceSelector": {}}))]).endswith(caveat)
    assert not reason([out(by_block)], Target(replace(DB, host_network=True), 80)).endswith(caveat)
    assert not reason([out(to(block("0.0.0.0/0")))], Target(OUTSIDE, 443)).endswith(caveat)


def test_many_policies_are_counted() -> None:
    assert reason([out(name=name) for name in "edcba"]).startswith(
        "shop/a, shop/b, shop/c and 2 more select the pod for egress"
    )


@pytest.mark.parametrize(
    ("policies", "target", "depends_on"),
    [
        (
            [out(to({"podSelector": {}}))],
            Target(STRANGER, 5432),
            "whether 10.4.55.5 is a pod's, and what labels that has",
        ),
        (
            [out(to(ports=[tcp("pg")]))],
            Target(replace(DB, ports=None), 5432),
            'the number of port "pg" at 10.4.100.50',
        ),
        (
            [out(to(block("10.4.0.0/99")))],
            to_db(),
            "shop/one spec.egress[0].to[0].ipBlock.cidr, which cannot be read",
        ),
        (
            [out(to({"namespaceSelector": labels(team="data")}))],
            Target(replace(DB, namespace="gone"), 5432),
            "the labels of namespace gone",
        ),
        (
            [out(to({"namespaceSelector": {}}))],
            Target(replace(DB, host_network=True), 5432),
            "what the network plugin makes of the peer, which is a hostNetwork pod",
        ),
    ],
)
def test_unknown_says_what_it_depends_on(
    policies: Sequence[Document], target: Target, depends_on: str
) -> None:
    port = f"TCP {target.port} to {target.peer.address}"
    assert reason(policies, target) == (
        f"shop/one selects the pod for egress; whether {port} is allowed depends on {depends_on}"
    )


def test_policies_that_may_select_are_named_and_not_listed() -> None:
    source = replace(WEB, labels=None)
    finding = egress(records([out(pods=labels(app="web"))]), NAMESPACES, source, to_db())
    assert finding.policies == ()
    assert finding.reason == (
        "shop/one may select the pod for egress; whether TCP 5432 to 10.4.100.50 is allowed"
        " depends on the pod's labels"
    )


def test_a_hostnetwork_pod_has_a_reason_of_its_own() -> None:
    assert reason([out()], host_network=True) == (
        "shop/one selects the pod for egress; what that does to a hostNetwork pod is up to the"
        " network plugin"
    )


def test_reasons_are_safe_for_a_terminal() -> None:
    assert "\\x1b" in reason([out(name="\x1b[2J")])


# Properties.

KEYS = st.sampled_from(["app", "tier", "team"])
VALUES = st.sampled_from(["web", "db", "front"])
LABELS = st.dictionaries(KEYS, VALUES, max_size=2)


@st.composite
def selectors(draw: st.DrawFn) -> Document:
    operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]))
    values = draw(st.lists(VALUES, min_size=1, max_size=2)) if "In" in operator else []
    found: Document = {"matchLabels": draw(LABELS)}
    return {**found, **expression(draw(KEYS), operator, *values)} if draw(st.booleans()) else found


BLOCKS_OF_ALL = st.sampled_from(
    [block("10.4.0.0/16"), block("10.4.0.0/16", "10.4.100.0/24"), block("::/0"), block("0.0.0.0/0")]
)
PEERS_OF_ALL = st.one_of(
    BLOCKS_OF_ALL,
    st.fixed_dictionaries({"podSelector": selectors()}),
    st.fixed_dictionaries({"namespaceSelector": selectors()}),
    st.fixed_dictionaries({"namespaceSelector": selectors(), "podSelector": selectors()}),
)
PORTS_OF_ALL = st.sampled_from(
    [tcp(443), tcp(5432), tcp(5000, 6000), tcp("http"), {"protocol": "UDP", "port": 5432}]
)
RULES = st.lists(
    st.fixed_dictionaries(
        {
            "ports": st.lists(PORTS_OF_ALL, max_size=2),
            "peers": st.lists(PEERS_OF_ALL, max_size=2),
        }
    ),
    max_size=3,
)


@st.composite
def read_policies(draw: st.DrawFn) -> PolicyRecord:
    """A policy for both directions, of a namespace that pods are in."""
    ingress_rules, egress_rules = draw(RULES), draw(RULES)
    record = read_policy(
        policy(
            draw(st.sampled_from("abcdef")),
            namespace=draw(st.sampled_from(["shop", "data"])),
            pods=draw(st.one_of(st.just(EVERYTHING), selectors())),
            types=["Ingress", "Egress"],
            ingress=[{"ports": one["ports"], "from": one["peers"]} for one in ingress_rules],
            egress=[{"ports": one["ports"], "to": one["peers"]} for one in egress_rules],
        )
    )
    assert record is not None
    return record


ADDRESSES = st.sampled_from(["10.4.7.21", "10.4.100.50", "198.51.100.7", "2001:db8::7", None])
MAYBE = st.sampled_from([True, False, None])
PODS = st.builds(
    PeerPod,
    namespace=st.sampled_from(["shop", "data", "lab", "gone"]),
    labels=st.none() | LABELS,
    address=ADDRESSES,
    ports=st.none() | st.just({"http": 5432}),
    host_network=st.sampled_from([False, False, None, True]),
    node=st.sampled_from([None, "node-1", "node-2"]),
)
SELECTED = st.builds(
    replace, PODS, namespace=st.sampled_from(["shop", "data"]), host_network=st.just(False)
)
PEER = st.one_of(PODS, st.builds(PeerAddress, ADDRESSES, MAYBE, st.none() | st.just("node-1")))
POLICIES = st.lists(read_policies(), max_size=3)
PORT = st.sampled_from([443, 5432])


def both(
    policies: Sequence[PolicyRecord], pod: PeerPod, peer: Peer, port: int
) -> tuple[PolicyFinding, PolicyFinding]:
    """Egress of `pod` to `peer`, and ingress from there."""
    return (
        egress(policies, NAMESPACES, pod, Target(peer, port)),
        ingress(policies, NAMESPACES, peer, Target(pod, port)),
    )


PERMISSION = [DENIED, UNKNOWN, ALLOWED]


@given(POLICIES.filter(bool), SELECTED, PEER, PORT, read_policies(), st.data())
def test_adding_an_allow_rule_never_turns_an_allow_into_a_deny(
    policies: list[PolicyRecord],
    pod: PeerPod,
    peer: Peer,
    port: int,
    giver: PolicyRecord,
    data: st.DataObject,
) -> None:
    at = data.draw(st.integers(0, len(policies) - 1))

    def more(side: Side, given_side: Side) -> Side:
        return replace(side, rules=(*side.rules, *given_side.rules))

    changed = replace(
        policies[at],
        ingress=more(policies[at].ingress, giver.ingress),
        egress=more(policies[at].egress, giver.egress),
    )
    wider = [*policies[:at], changed, *policies[at + 1 :]]
    for before, after in zip(
        both(policies, pod, peer, port), both(wider, pod, peer, port), strict=True
    ):
        assert before.policies == after.policies
        if before.verdict is NOT_SELECTED:
            assert after.verdict is NOT_SELECTED
        else:
            assert PERMISSION.index(after.verdict) >= PERMISSION.index(before.verdict)


@given(POLICIES, read_policies(), SELECTED, PEER, PORT)
def test_adding_a_policy_to_an_isolated_pod_never_takes_an_allowance_away(
    policies: list[PolicyRecord], another: PolicyRecord, pod: PeerPod, peer: Peer, port: int
) -> None:
    for before, after in zip(
        both(policies, pod, peer, port), both([*policies, another], pod, peer, port), strict=True
    ):
        if before.policies and before.verdict is ALLOWED:
            assert after.verdict is ALLOWED


def reversed_rules(side: Side) -> Side:
    def turned(rule: object) -> Rule:
        assert isinstance(rule, Rule)
        return Rule(
            ports=None if rule.ports is None else rule.ports[::-1],
            peers=None if rule.peers is None else rule.peers[::-1],
        )

    return replace(side, rules=tuple(turned(rule) for rule in side.rules[::-1]))


@given(POLICIES, SELECTED, PEER, PORT, st.data())
def test_the_order_of_policies_and_rules_is_nothing(
    policies: list[PolicyRecord], pod: PeerPod, peer: Peer, port: int, data: st.DataObject
) -> None:
    shuffled = [
        replace(one, ingress=reversed_rules(one.ingress), egress=reversed_rules(one.egress))
        for one in data.draw(st.permutations(policies))
    ]
    assert both(policies, pod, peer, port) == both(shuffled, pod, peer, port)


@given(POLICIES, read_policies(), SELECTED, PEER, PORT)
def test_a_policy_that_selects_other_pods_changes_nothing(
    policies: list[PolicyRecord], another: PolicyRecord, pod: PeerPod, peer: Peer, port: int
) -> None:
    if egress([another], NAMESPACES, pod, Target(peer, port)).verdict is NOT_SELECTED:
        more = [*policies, another]
        assert both(policies, pod, peer, port) == both(more, pod, peer, port)


@given(POLICIES, SELECTED, PEER, PORT)
def test_an_answer_holds_whatever_the_unknown_labels_are(
    policies: list[PolicyRecord], pod: PeerPod, peer: Peer, port: int
) -> None:
    hidden = replace(pod, labels=None)
    for known, unknown in zip(
        both(policies, pod, peer, port), both(policies, hidden, peer, port), strict=True
    ):
        if pod.labels is None or unknown.verdict is UNKNOWN:
            continue
        allowed = {ALLOWED, NOT_SELECTED}
        assert known.verdict is unknown.verdict or {known.verdict, unknown.verdict} == allowed


@given(POLICIES, SELECTED, PODS, PORT)
def test_an_answer_about_a_stranger_holds_for_the_pod_it_may_be(
    policies: list[PolicyRecord], pod: PeerPod, peer: PeerPod, port: int
) -> None:
    stranger = PeerAddress(peer.address, may_be_pod=None)
    about_stranger = egress(policies, NAMESPACES, pod, Target(stranger, port)).verdict
    about_pod = egress(policies, NAMESPACES, pod, Target(peer, port)).verdict
    if about_stranger is not UNKNOWN:
        assert about_pod in {about_stranger, UNKNOWN}  # of the same node, it may be exempt


# Documents of any shape.

WORDS = st.sampled_from(
    [
        *("metadata", "namespace", "name", "labels", "spec", "podSelector", "namespaceSelector"),
        *("matchLabels", "matchExpressions", "key", "operator", "values", "In", "Exists", "TCP"),
        *("policyTypes", "Ingress", "Egress", "ingress", "egress", "from", "to", "ports", "port"),
        *("endPort", "protocol", "ipBlock", "cidr", "except", "10.4.0.0/16", "::/0", "shop", "app"),
    ]
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | WORDS | PORT
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "podSelector": JSON,
        "policyTypes": JSON,
        "egress": JSON
        | st.lists(st.fixed_dictionaries({}, optional={"to": JSON, "ports": JSON}), max_size=2),
        "ingress": JSON
        | st.lists(st.fixed_dictionaries({}, optional={"from": JSON, "ports": JSON}), max_size=2),
    },
)


@given(JSON | SPECS, JSON, PODS, PEER, PORT)
def test_no_document_raises(
    spec: object, namespace_labels: object, pod: PeerPod, peer: Peer, port: int
) -> None:
    document = {"metadata": {"namespace": "shop", "name": "any"}, "spec": spec}
    record = read_policy(document)
    namespace = read_namespace({"metadata": {"name": "shop", "labels": namespace_labels}})
    assert record is not None
    assert namespace is not None
    selected = replace(pod, namespace="shop")
    target = Target(peer, port)
    for finding in (
        egress([record], {"shop": namespace}, selected, target),
        ingress([record], {"shop": namespace}, peer, Target(selected, port)),
    ):
        assert finding.reason.isprintable()
        assert finding == replace(finding)


@given(JSON)
def test_what_is_no_object_of_the_api_is_none_or_named(document: object) -> None:
    policy_record, namespace = read_policy(document), read_namespace(document)
    assert policy_record is None or (policy_record.namespace and policy_record.name)
    assert namespace is None or namespace.name
    named_ports(document)
