"""Whether NetworkPolicies allow a connection, by the semantics of the API.

The sources are the concept page "Network Policies" of kubernetes.io and the comments of
k8s.io/api networking/v1/types.go:

- A policy selects pods of its own namespace. A pod that some policy selects for a direction is
  isolated in it: only what a rule of one of these policies allows is allowed. Policies only add;
  their order, and that of rules, is nothing. For a connection between two pods, both the egress
  side of the one and the ingress side of the other must allow it: ask for each.
- A connection is judged as it is after a service's address was translated: whoever asks passes the
  backend's address and port. A service's own address is no peer that a policy could mean.
- Traffic within a pod is not filtered ("a pod cannot block access to itself"). What a pod sends to
  itself through a service leaves it and comes back: plugins differ, and so the answer is never
  DENIED (kubernetes-sigs/network-policy-api issue 343).
- "Traffic to and from the node where a Pod is running is always allowed", says the page. Of ingress
  types.go says so too, and the kubelet's probes depend on it: ALLOWED. For egress types.go makes no
  such exception: unless a rule allows it, the answer is UNKNOWN.
- What policies do to hostNetwork pods is not defined: the answer for one that is selected is
  UNKNOWN, and so is whether a selector means one as a peer. An ipBlock means its node's address.

Decided here, where the API leaves it open: an ipBlock that covers a pod's address matches that pod.
It should name addresses outside the cluster, and some plugins do not match pods by address
(cilium/cilium issue 19601); the reason says so where the answer depends on it. Ports up to
`endPort` count, though plugins without support for it take `port` alone.

Not seen here: plugins that enforce no policies, policies of other APIs (AdminNetworkPolicy, those
of Calico and Cilium), the seconds until a plugin has put a new policy or pod into effect, and
source addresses that were translated on the way.

What is not known stays unknown, in three-valued logic: an answer that no unknown piece could change
is given, any other is UNKNOWN and says on what it depends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal

from tracer.facts import PolicyFinding, PolicyVerdict
from tracer.kube.policy_records import (
    NAMESPACE_NAME,
    IpBlock,
    LabelSelector,
    NamedPort,
    NamespaceRecord,
    Network,
    PodSelection,
    PolicyRecord,
    PortRange,
    Requirement,
    Rule,
    Side,
    Unread,
)
from tracer.kube.records import parsed
from tracer.text import safe

_MAX_LISTED: Final = 3
"""How many policies, or things unknown, a reason names before it counts the others."""


@dataclass(frozen=True, slots=True)
class PeerPod:
    """A pod at one end of a connection; None is unknown.

    address       the one of its addresses that the connection uses
    ports         numbers of its named TCP ports, of all its containers (see named_ports)
    host_network  it has its node's addresses
    node          the node it runs on
    """

    namespace: str
    labels: Mapping[str, str] | None
    address: str | None = None
    ports: Mapping[str, int] | None = None
    host_network: bool | None = False
    node: str | None = None


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """An end of a connection at which no pod is known.

    may_be_pod  false only where it is certain that the address is no pod's; None: nobody knows
    node        the node whose own address this is
    """

    address: str | None
    may_be_pod: bool | None = None
    node: str | None = None


Peer = PeerPod | PeerAddress


@dataclass(frozen=True, slots=True)
class Target:
    """Where a connection goes, after translation: the backend and its port.

    `translated` is whether a service's address was translated to it.
    """

    peer: Peer
    port: int
    translated: bool = False


def egress(
    policies: Iterable[PolicyRecord],
    namespaces: Mapping[str, NamespaceRecord],
    source: PeerPod,
    destination: Target,
) -> PolicyFinding:
    """What the policies that select `source` for egress say of its connection to `destination`.

    Policies may be those of all namespaces. A namespace that is missing has labels nobody knows
    but the one that holds its name.
    """
    return _judge(
        policies,
        _Connection(
            direction="egress",
            pod=source,
            peer=destination.peer,
            port=destination.port,
            listener=destination.peer,
            translated=destination.translated,
            namespaces=namespaces,
        ),
    )


def ingress(
    policies: Iterable[PolicyRecord],
    namespaces: Mapping[str, NamespaceRecord],
    source: Peer,
    destination: Target,
) -> PolicyFinding:
    """What the policies that select the destination's pod for ingress say; see egress.

    `source` is as the destination sees it.
    """
    pod = destination.peer
    if isinstance(pod, PeerAddress):
        return _of_no_pod(pod)
    return _judge(
        policies,
        _Connection(
            direction="ingress",
            pod=pod,
            peer=source,
            port=destination.port,
            listener=pod,
            translated=destination.translated,
            namespaces=namespaces,
        ),
    )


def _of_no_pod(address: PeerAddress) -> PolicyFinding:
    if address.may_be_pod is False:
        verdict, reason = PolicyVerdict.NOT_SELECTED, f"{_whose(address)} is no pod's"
    else:
        verdict, reason = PolicyVerdict.UNKNOWN, f"no pod is known at {_whose(address)}"
    return PolicyFinding("ingress", verdict, (), safe(reason))


@dataclass(frozen=True, slots=True)
class _Connection:
    """What is asked: `pod` is the end whose policies count, `listener` the one with the port."""

    direction: Literal["egress", "ingress"]
    pod: PeerPod
    peer: Peer
    port: int
    listener: Peer
    translated: bool
    namespaces: Mapping[str, NamespaceRecord]
    blocks_mean_pods: bool = True

    def __str__(self) -> str:
        towards = "to" if self.direction == "egress" else "from"
        return f"TCP {self.port} {towards} {_whose(self.peer)}"

    @property
    def within_pod(self) -> bool:
        """The peer has an address of the pod itself."""
        peer = parsed(self.peer.address)
        return peer is not None and (peer.is_loopback or peer == parsed(self.pod.address))

    @property
    def with_own_node(self) -> bool:
        on_host = isinstance(self.peer, PeerAddress) or self.peer.host_network is True
        return on_host and self.peer.node is not None and self.peer.node == self.pod.node


@dataclass(frozen=True, slots=True)
class _Unknown:
    """Neither true nor false: that depends on `reasons`."""

    reasons: frozenset[str]


_Answer = bool | _Unknown


def _unknown(reason: str) -> _Unknown:
    return _Unknown(frozenset({reason}))


def _unread(piece: Unread) -> _Unknown:
    return _unknown(f"{piece.where}, which cannot be read")


def _any_of(answers: Iterable[_Answer]) -> _Answer:
    """Kleene's or."""
    reasons: set[str] = set()
    for one in answers:
        if one is True:
            return True
        if isinstance(one, _Unknown):
            reasons |= one.reasons
    return _Unknown(frozenset(reasons)) if reasons else False


def _all_of(answers: Iterable[_Answer]) -> _Answer:
    """Kleene's and."""
    reasons: set[str] = set()
    for one in answers:
        if one is False:
            return False
        if isinstance(one, _Unknown):
            reasons |= one.reasons
    return _Unknown(frozenset(reasons)) if reasons else True


@dataclass(frozen=True, slots=True)
class _Applying:
    """A policy that selects the pod in this direction, or may; and whether it allows."""

    label: str
    selects: _Answer
    allows: _Answer
    side: Side


def _judge(policies: Iterable[PolicyRecord], connection: _Connection) -> PolicyFinding:
    applying = _applying(policies, connection)
    if not applying:
        return PolicyFinding(
            connection.direction, PolicyVerdict.NOT_SELECTED, (), "no policy selects this pod"
        )
    verdict, reason = _verdict(applying, connection)
    selecting = dict.fromkeys(one.label for one in applying if one.selects is True)
    return PolicyFinding(connection.direction, verdict, tuple(selecting), safe(reason))


def _applying(policies: Iterable[PolicyRecord], connection: _Connection) -> list[_Applying]:
    """In the order of their names."""
    pod = connection.pod
    labels = _Labels(pod.labels or {}, None if pod.labels is not None else "the pod's labels")
    found = []
    for policy in policies:
        if policy.namespace != pod.namespace:
            continue
        side = policy.egress if connection.direction == "egress" else policy.ingress
        applies = _unread(side.applies) if isinstance(side.applies, Unread) else side.applies
        selects = _all_of((applies, _selects(policy.pods, labels)))
        if selects is not False:
            label = f"{policy.namespace}/{policy.name}"
            found.append(_Applying(label, selects, _allows(side, connection), side))
    return sorted(found, key=lambda one: one.label)


def _verdict(applying: Sequence[_Applying], connection: _Connection) -> tuple[PolicyVerdict, str]:
    certain = [one for one in applying if one.selects is True]
    selection = _selection(certain, applying, connection)
    if connection.pod.host_network:
        reason = f"{selection}; what that does to a hostNetwork pod is up to the network plugin"
        return PolicyVerdict.UNKNOWN, reason
    if connection.within_pod and not connection.translated:
        return PolicyVerdict.ALLOWED, "traffic within a pod is always allowed"
    if connection.with_own_node and connection.direction == "ingress":
        return PolicyVerdict.ALLOWED, "traffic from the pod's own node is always allowed"

    allowing = [one for one in applying if one.allows is True]
    named = [one for one in allowing if one.selects is True]
    if named:
        reason = f"{_names(named, 'allows', 'allow')} {connection}"
        return PolicyVerdict.ALLOWED, reason + _caveat(named, connection)
    if len(allowing) == len(applying):
        reason = f"{selection}, and if so, {connection} is allowed"
        return PolicyVerdict.ALLOWED, reason + _caveat(allowing, connection)

    open_questions = _open_questions(applying, certain, connection)
    if open_questions:
        reason = f"{selection}; whether {connection} is allowed depends on {open_questions}"
        return PolicyVerdict.UNKNOWN, reason
    return PolicyVerdict.DENIED, f"{selection} and no policy allows {connection}"


def _open_questions(
    applying: Sequence[_Applying], certain: Sequence[_Applying], connection: _Connection
) -> str:
    """What an answer would depend on, where no policy allows the connection for certain."""
    answers = [_all_of((one.selects, one.allows)) for one in applying]
    if not certain:  # it may be that the pod is not isolated
        answers += [one.selects for one in applying]
    reasons = {reason for one in answers if isinstance(one, _Unknown) for reason in one.reasons}
    if connection.within_pod:
        reasons.add("how the network plugin treats a pod's traffic to itself through a service")
    if connection.with_own_node:
        reasons.add("whether the network plugin exempts traffic to the pod's own node")
    if connection.pod.host_network is None:
        reasons.add("whether it is a hostNetwork pod")
    return _listed(sorted(reasons))


def _selection(
    certain: Sequence[_Applying], applying: Sequence[_Applying], connection: _Connection
) -> str:
    if certain:
        return f"{_names(certain, 'selects', 'select')} the pod for {connection.direction}"
    return f"{_names(applying, 'may select', 'may select')} the pod for {connection.direction}"


def _caveat(allowing: Sequence[_Applying], connection: _Connection) -> str:
    """Where the connection is allowed by nothing but an ipBlock that covers a pod's address."""
    by_selectors = replace(connection, blocks_mean_pods=False)
    if any(_allows(one.side, by_selectors) is True for one in allowing):
        return ""
    return " by the pod's address, which some network plugins do not match"


def _allows(side: Side, connection: _Connection) -> _Answer:
    return _any_of(
        _unread(rule) if isinstance(rule, Unread) else _rule_allows(rule, connection)
        for rule in side.rules
    )


def _rule_allows(rule: Rule, connection: _Connection) -> _Answer:
    has_port, is_peer = partial(_has_port, connection), partial(_is_peer, connection)
    return _all_of(
        (
            rule.ports is None or _any_of(map(has_port, rule.ports)),
            rule.peers is None or _any_of(map(is_peer, rule.peers)),
        )
    )


def _has_port(connection: _Connection, port: PortRange | NamedPort | Unread) -> _Answer:
    """A name means what the containers of the pod that is connected to call so."""
    if isinstance(port, Unread):
        return _unread(port)
    if isinstance(port, PortRange):
        return port.first <= connection.port <= port.last
    listener = connection.listener
    if isinstance(listener, PeerPod):
        if listener.ports is not None:
            return listener.ports.get(port.name) == connection.port
    elif listener.may_be_pod is False:
        return False
    return _unknown(f'the number of port "{port.name}" at {_whose(listener)}')


def _is_peer(connection: _Connection, peers: IpBlock | PodSelection | Unread) -> _Answer:
    if isinstance(peers, Unread):
        return _unread(peers)
    if isinstance(peers, IpBlock):
        return _is_in_block(connection, peers)
    return _is_selected(connection, peers)


def _is_in_block(connection: _Connection, block: IpBlock) -> _Answer:
    peer = connection.peer
    if isinstance(peer, PeerPod) and not peer.host_network and not connection.blocks_mean_pods:
        return False
    address = parsed(peer.address)
    if address is None:
        return _unknown("the peer's address")
    return address in block.cidr and _all_of(_is_outside(address, one) for one in block.excepts)


def _is_outside(address: IPv4Address | IPv6Address, network: Network | Unread) -> _Answer:
    return _unread(network) if isinstance(network, Unread) else address not in network


def _is_selected(connection: _Connection, selection: PodSelection) -> _Answer:
    peer = connection.peer
    if isinstance(peer, PeerAddress):
        if peer.may_be_pod is False:
            return False
        return _unknown(f"whether {_whose(peer)} is a pod's, and what labels that has")
    if selection.namespaces is None:
        in_namespace: _Answer = peer.namespace == connection.pod.namespace
    else:
        labels = _labels_of_namespace(connection.namespaces, peer.namespace)
        in_namespace = _selects(selection.namespaces, labels)
    of_peer = _Labels(peer.labels or {}, None if peer.labels is not None else "the peer's labels")
    selected = _all_of((in_namespace, _selects(selection.pods or LabelSelector(), of_peer)))
    if selected is False or peer.host_network is False:
        return selected
    is_host = "which is" if peer.host_network else "which may be"
    return _unknown(f"what the network plugin makes of the peer, {is_host} a hostNetwork pod")


@dataclass(frozen=True, slots=True)
class _Labels:
    """The labels that are known; `missing` names what others depend on, None: there are none."""

    known: Mapping[str, str]
    missing: str | None


def _labels_of_namespace(namespaces: Mapping[str, NamespaceRecord], name: str) -> _Labels:
    record = namespaces.get(name)
    if record is not None and record.labels is not None:
        return _Labels(record.labels, None)
    return _Labels({NAMESPACE_NAME: name}, f"the labels of namespace {name}")


def _selects(selector: LabelSelector, labels: _Labels) -> _Answer:
    return _all_of(_holds(one, labels) for one in selector.requirements)


def _holds(requirement: Requirement | Unread, labels: _Labels) -> _Answer:
    if isinstance(requirement, Unread):
        return _unread(requirement)
    value = labels.known.get(requirement.key)
    if value is None and labels.missing is not None:
        return _unknown(labels.missing)
    return requirement.holds(value)


def _whose(peer: Peer) -> str:
    if peer.address is not None:
        return peer.address
    return f"a pod of {peer.namespace}" if isinstance(peer, PeerPod) else "an unknown address"


def _names(policies: Sequence[_Applying], one_does: str, several_do: str) -> str:
    """The policies as the subject of a sentence, with its verb: "shop/a and shop/b select"."""
    labels = list(dict.fromkeys(policy.label for policy in policies))
    return f"{_listed(labels)} {one_does if len(labels) == 1 else several_do}"


def _listed(things: Sequence[str]) -> str:
    """Things as a sentence lists them, the last of many as a number."""
    named = [*things[:_MAX_LISTED]]
    if len(things) > _MAX_LISTED:
        named.append(f"{len(things) - _MAX_LISTED} more")
    return " and ".join(part for part in (", ".join(named[:-1]), *named[-1:]) if part)
