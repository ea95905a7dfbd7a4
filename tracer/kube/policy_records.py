"""What is kept of NetworkPolicies and Namespaces: what it takes to judge a connection by them.

Readers take documents as decoded from JSON, whatever their shape. They read fields as the API's
types define them (k8s.io/api networking/v1/types.go) and fill in its defaults (kubernetes
pkg/apis/networking/v1/defaults.go). A piece that cannot be read becomes an Unread in its place, so
that what depends on it is known to be unknown: a value that the API server would refuse, or a field
that is not of this version of the API and might narrow or widen what the others say.

Only TCP matters here: ports of other protocols are read and left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from types import MappingProxyType
from typing import Final, TypeVar

from tracer.kube.pod import TCP, mapping, port_number, shared_text, text

NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
"""The label that the API server sets on every namespace, to its name (since Kubernetes 1.21)."""

_OTHER_PROTOCOLS: Final = frozenset({"UDP", "SCTP"})
_POLICY_TYPES: Final = ("Ingress", "Egress")
_MAX_PORT: Final = 65_535
# As net.ParseCIDR of Go takes it: always with a length, never with a netmask, no zone.
_CIDR: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}/[0-9]{1,3}")
_IPV4_MAPPED: Final = IPv6Network("::ffff:0:0/96")

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Unread:
    """A piece that could not be read; `where` names it: "shop/web spec.egress[0].to[1]"."""

    where: str


class Operator(StrEnum):
    """Of a requirement, by its name in the API."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """What one label must be like. `values` is empty for EXISTS and DOES_NOT_EXIST."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def holds(self, value: str | None) -> bool:
        """Whether a label with that value, None for a missing one, is as required.

        NotIn holds for a missing label (k8s.io/apimachinery/pkg/labels, Requirement.Matches).
        """
        if self.operator is Operator.EXISTS:
            return value is not None
        if self.operator is Operator.DOES_NOT_EXIST:
            return value is None
        return (value in self.values) is (self.operator is Operator.IN)


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All of `requirements` must hold; with none, everything is selected."""

    requirements: tuple[Requirement | Unread, ...] = ()


@dataclass(frozen=True, slots=True)
class PortRange:
    """TCP ports `first` to `last`, both included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class NamedPort:
    """The TCP port that a pod's containers give this name."""

    name: str


ALL_PORTS: Final = PortRange(0, _MAX_PORT)


@dataclass(frozen=True, slots=True)
class IpBlock:
    """The addresses of `cidr` that are in none of `excepts`."""

    cidr: Network
    excepts: tuple[Network | Unread, ...] = ()


@dataclass(frozen=True, slots=True)
class PodSelection:
    """The selected pods of the selected namespaces.

    `namespaces` None means the policy's own namespace, `pods` None all pods.
    """

    namespaces: LabelSelector | None
    pods: LabelSelector | None


@dataclass(frozen=True, slots=True)
class Rule:
    """Allows what matches one of `ports` and one of `peers`; None is any.

    No ports at all, (), are left where all are of other protocols: then nothing matches.
    """

    ports: tuple[PortRange | NamedPort | Unread, ...] | None
    peers: tuple[IpBlock | PodSelection | Unread, ...] | None


@dataclass(frozen=True, slots=True)
class Side:
    """A policy in one direction: whether it isolates the pods it selects, and what it allows."""

    applies: bool | Unread
    rules: tuple[Rule | Unread, ...]


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A networking.k8s.io/v1 NetworkPolicy; `pods` selects in its own namespace."""

    namespace: str
    name: str
    pods: LabelSelector
    ingress: Side
    egress: Side


@dataclass(frozen=True, slots=True)
class NamespaceRecord:
    """A v1 Namespace. `labels` are None where they could not be read."""

    name: str
    labels: Mapping[str, str] | None


def read_policy(document: object) -> PolicyRecord | None:
    """A networking.k8s.io/v1 NetworkPolicy; None where it has no name or namespace (a bookmark)."""
    policy = mapping(document)
    metadata = mapping(policy.get("metadata"))
    namespace, name = shared_text(metadata.get("namespace")), text(metadata.get("name"))
    if namespace is None or name is None:
        return None
    where = f"{namespace}/{name} spec"
    spec = policy.get("spec", {})
    if spec is not None and not isinstance(spec, dict):
        unread = Unread(where)
        side = Side(unread, (unread,))
        return PolicyRecord(namespace, name, LabelSelector((unread,)), side, side)
    fields = mapping(spec)
    applies_ingress, applies_egress = _applies(fields, where)
    return PolicyRecord(
        namespace=namespace,
        name=name,
        pods=_selector(fields.get("podSelector"), f"{where}.podSelector"),
        ingress=Side(applies_ingress, _rules(fields.get("ingress"), "from", f"{where}.ingress")),
        egress=Side(applies_egress, _rules(fields.get("egress"), "to", f"{where}.egress")),
    )


def read_namespace(document: object) -> NamespaceRecord | None:
    """A v1 Namespace; None where it has no name (a bookmark)."""
    metadata = mapping(mapping(document).get("metadata"))
    name = shared_text(metadata.get("name"))
    if name is None:
        return None
    labels = metadata.get("labels")
    if labels is None:
        labels = {}
    if not isinstance(labels, dict) or not all(isinstance(one, str) for one in labels.values()):
        return NamespaceRecord(name, None)
    return NamespaceRecord(
        name,
        MappingProxyType({sys.intern(key): sys.intern(one) for key, one in labels.items()}),
    )


def pieces(policy: PolicyRecord) -> int:
    """How much is kept of a policy: itself, rules, ports, peers, requirements and their values."""
    rules = (*policy.ingress.rules, *policy.egress.rules)
    return 1 + _selector_pieces(policy.pods) + sum(map(_rule_pieces, rules))


def _rule_pieces(rule: Rule | Unread) -> int:
    if isinstance(rule, Unread):
        return 1
    return 1 + len(rule.ports or ()) + sum(map(_peer_pieces, rule.peers or ()))


def _peer_pieces(peer: IpBlock | PodSelection | Unread) -> int:
    if isinstance(peer, IpBlock):
        return 1 + len(peer.excepts)
    if isinstance(peer, PodSelection):
        return 1 + _selector_pieces(peer.namespaces) + _selector_pieces(peer.pods)
    return 1


def _selector_pieces(selector: LabelSelector | None) -> int:
    requirements = () if selector is None else selector.requirements
    return sum(1 if isinstance(one, Unread) else 1 + len(one.values) for one in requirements)


def _applies(spec: Mapping[str, object], where: str) -> tuple[bool | Unread, bool | Unread]:
    """Whether a policy applies to ingress, and to egress.

    Where it does not say, to ingress, and to egress if it has egress rules: the API server fills
    that in when a policy is written (SetDefaults_NetworkPolicy).
    """
    types, egress = spec.get("policyTypes"), spec.get("egress")
    if types is None or types == []:
        readable = egress is None or isinstance(egress, list)
        return True, bool(egress) if readable else Unread(f"{where}.egress")
    ingress_listed, egress_listed = (
        _lists(types, kind, f"{where}.policyTypes") for kind in _POLICY_TYPES
    )
    return ingress_listed, egress_listed


def _lists(types: object, kind: str, where: str) -> bool | Unread:
    """Whether policyTypes lists that type; something unheard of might stand for it."""
    if not isinstance(types, list):
        return Unread(where)
    if kind in types:
        return True
    return Unread(where) if any(one not in _POLICY_TYPES for one in types) else False


def _rules(rules: object, peers: str, where: str) -> tuple[Rule | Unread, ...]:
    def rule(document: object, at: str) -> Rule | Unread:
        fields = _fields(document, "ports", peers)
        if fields is None:
            return Unread(at)
        return Rule(
            ports=_each(fields.get("ports"), f"{at}.ports", _port),
            peers=_each(fields.get(peers), f"{at}.{peers}", _peer),
        )

    return _each(rules, where, rule) or ()


def _port(document: object, where: str) -> PortRange | NamedPort | Unread | None:
    """None for a port of another protocol. A protocol alone stands for all its ports."""
    fields = _fields(document, "protocol", "port", "endPort")
    if fields is None:
        return Unread(where)
    protocol = fields.get("protocol", TCP)
    if protocol != TCP:
        known = isinstance(protocol, str) and protocol in _OTHER_PROTOCOLS
        return None if known else Unread(f"{where}.protocol")
    port, end = fields.get("port"), fields.get("endPort")
    if isinstance(port, str):
        # A name has a letter (IsValidPortName): "80" is neither name nor number.
        named = any(char.isalpha() for char in port) and end is None
        return NamedPort(sys.intern(port)) if named else Unread(f"{where}.port")
    if port is None:
        return ALL_PORTS if end is None else Unread(f"{where}.endPort")
    first = port_number(port)
    if first is None:
        return Unread(f"{where}.port")
    last = first if end is None else port_number(end)
    return Unread(f"{where}.endPort") if last is None or last < first else PortRange(first, last)


def _peer(document: object, where: str) -> IpBlock | PodSelection | Unread:
    fields = _fields(document, "ipBlock", "namespaceSelector", "podSelector")
    if not fields or ("ipBlock" in fields and len(fields) > 1):
        return Unread(where)
    if "ipBlock" in fields:
        return _ip_block(fields["ipBlock"], f"{where}.ipBlock")
    namespaces, pods = (
        _selector(fields[key], f"{where}.{key}") if key in fields else None
        for key in ("namespaceSelector", "podSelector")
    )
    return PodSelection(namespaces, pods)


def _ip_block(document: object, where: str) -> IpBlock | Unread:
    fields = _fields(document, "cidr", "except")
    if fields is None:
        return Unread(where)
    cidr = _network(fields.get("cidr"), f"{where}.cidr")
    if isinstance(cidr, Unread):
        return cidr
    return IpBlock(cidr, _each(fields.get("except"), f"{where}.except", _network) or ())


def _network(cidr: object, where: str) -> Network | Unread:
    """Bits behind the length are masked away, as Go does.

    An IPv4-mapped network is refused: which family it is of depends on who reads it.
    """
    if not isinstance(cidr, str) or not _CIDR.fullmatch(cidr):
        return Unread(where)
    try:
        network = ip_network(cidr, strict=False)
    except ValueError:
        return Unread(where)
    if isinstance(network, IPv6Network) and network.subnet_of(_IPV4_MAPPED):
        return Unread(where)
    return network


def _selector(document: object, where: str) -> LabelSelector:
    """A meta/v1 LabelSelector; one that is not given selects everything."""
    fields = _fields({} if document is None else document, "matchLabels", "matchExpressions")
    if fields is None:
        return LabelSelector((Unread(where),))
    labels = fields.get("matchLabels", {})
    requirements: list[Requirement | Unread] = []
    if isinstance(labels, dict):
        requirements += [
            _label(key, value, f"{where}.matchLabels") for key, value in labels.items()
        ]
    else:
        requirements.append(Unread(f"{where}.matchLabels"))
    expressions = fields.get("matchExpressions")
    requirements += _each(expressions, f"{where}.matchExpressions", _expression) or ()
    return LabelSelector(tuple(requirements))


def _label(key: str, value: object, where: str) -> Requirement | Unread:
    if not isinstance(value, str):
        return Unread(where)
    return Requirement(sys.intern(key), Operator.IN, frozenset({sys.intern(value)}))


def _expression(document: object, where: str) -> Requirement | Unread:
    fields = _fields(document, "key", "operator", "values")
    if fields is None:
        return Unread(where)
    key, operator, values = fields.get("key"), fields.get("operator"), fields.get("values", [])
    if not isinstance(key, str) or not isinstance(operator, str) or operator not in {*Operator}:
        return Unread(where)
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        return Unread(where)
    takes_values = operator in {Operator.IN, Operator.NOT_IN}
    if bool(values) is not takes_values:  # LabelSelectorAsSelector refuses both
        return Unread(where)
    return Requirement(sys.intern(key), Operator(operator), frozenset(map(sys.intern, values)))


_T = TypeVar("_T")


def _each(
    several: object, where: str, read: Callable[[object, str], _T | None]
) -> tuple[_T | Unread, ...] | None:
    """What `read` makes of each item but None; None where there are no items."""
    if several is None or several == []:
        return None
    if not isinstance(several, list):
        return (Unread(where),)
    found = (read(one, f"{where}[{number}]") for number, one in enumerate(several))
    return tuple(one for one in found if one is not None)


def _fields(document: object, *known: str) -> dict[str, object] | None:
    """What is set in an object; None for what is no object, or has a field that is not known."""
    if not isinstance(document, dict):
        return None
    fields = {key: value for key, value in document.items() if value is not None}
    return fields if fields.keys() <= {*known} else None
