"""What the cluster says of an attempt: its NetworkPolicies, and the backend that NAT chose.

A connection is judged as it is after a service's address was translated, never by that address.
Where the translation is not known, it is judged by every endpoint that the service has: a plugin
that drops a SYN drops the entry of connection tracking with it, so that nobody sees what it would
have been. Where they do not agree, the answer is UNKNOWN.

Pods of other nodes are known by EndpointSlices alone, without their labels. What policies say of
their ingress is told only where it does not depend on labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from tracer.facts import Backend, PolicyFinding, PolicyVerdict
from tracer.kube.names import Named, Names, Resource, ServiceBackend
from tracer.kube.pod import PodInfo
from tracer.kube.policy import Peer, PeerAddress, PeerPod, Target, egress, ingress
from tracer.kube.records import canonical, parsed
from tracer.model import Destination, Endpoint, Flow, Kind, Nat, Report, Scope
from tracer.text import safe

REMEMBERED: Final = 8_192
"""Answers of each kind, some 500 bytes each."""
MAX_JUDGED: Final = 8
"""Endpoints of a service that are judged one by one, at some 20 µs each; of more, only what holds
for any address is told."""

_ENDPOINTS: Final = frozenset({Resource.SERVICES, Resource.ENDPOINT_SLICES})
_NOT_FOLLOWED: Final = "; by the policies as they were told last: they are not followed now"

_A = TypeVar("_A")


class ClusterView:
    """Answers by what the names know now. For one thread at a time; never raises or waits.

    1 µs for what was asked before, 0.1 ms for what was not, or where the names have changed since.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._made_from: tuple[int, frozenset[Resource]] | None = None
        self._findings: dict[object, tuple[PolicyFinding, ...]] = {}
        self._backends: dict[object, Backend | None] = {}
        self._named: dict[object, Named | None] = {}

    @property
    def version(self) -> object:
        """Another one when an answer may be another."""
        return self._names.version, self._names.current

    def destination(self, report: Report) -> Destination:
        """What the cluster calls an attempt's destination now, and how many endpoints it has.

        Where it knows of nothing there any more, the name stays, for those who read of it, and its
        endpoints are not known.
        """
        known, asked = report.destination, report.change.attempt.flow.destination
        named = self._remembered(
            self._named, asked, lambda: self._names.destination(asked.address, asked.port)
        )
        if named is None:
            return known if known.endpoints is None else replace(known, endpoints=None)
        return replace(
            known,
            kind=named.kind,
            name=named.name,
            ambiguous=named.ambiguous,
            endpoints=named.endpoints,
        )

    def policies(self, report: Report, nat: Nat | None) -> tuple[PolicyFinding, ...]:
        """What NetworkPolicies say of an attempt: egress of its pod, then ingress where it goes.

        Empty where no pod makes it, or not by an address of that pod; and where the API server has
        not told all policies. Ingress is left out where no pod is known to be the destination.
        """
        flow = report.change.attempt.flow
        uid = None if report.pod is None else report.pod.uid
        if uid is None:
            return ()
        after = None if nat is None else nat.destination
        key = (uid, flow.source.address, flow.destination, after)
        scope = report.destination.scope
        return self._remembered(self._findings, key, lambda: self._judged(uid, flow, after, scope))

    def backend(self, report: Report, nat: Nat | None) -> Backend | None:
        """What became of the service's endpoint that NAT chose, by its address and port.

        None where NAT chose none, and where the endpoints of the service are not all known, or not
        as they are now.
        """
        asked = report.change.attempt.flow.destination
        if nat is None or nat.destination == asked or report.destination.kind is not Kind.SERVICE:
            return None
        chosen = nat.destination
        return self._remembered(self._backends, (asked, chosen), lambda: self._fate(asked, chosen))

    def _remembered(self, answers: dict[object, _A], key: object, ask: Callable[[], _A]) -> _A:
        now = (self._names.version, self._names.current)
        if now != self._made_from:
            self._findings.clear()
            self._backends.clear()
            self._named.clear()
            self._made_from = now
        if key in answers:
            return answers[key]
        if len(answers) >= REMEMBERED:
            answers.clear()
        answer = answers[key] = ask()
        return answer

    # --- the backend ---------------------------------------------------------------------------

    def _fate(self, asked: Endpoint, chosen: Endpoint) -> Backend | None:
        # What is redirected to a proxy within the pod was not chosen among endpoints.
        if _is_local(chosen.address):
            return None
        known = self._endpoints_of(asked)
        if known is None:
            return None
        ready = [
            one.endpoint.ready
            for one in known
            if one.endpoint.address == chosen.address and one.port in {None, chosen.port}
        ]
        if not ready:
            return Backend.GONE
        return Backend.READY if any(ready) else Backend.NOT_READY

    def _endpoints_of(self, asked: Endpoint) -> Sequence[ServiceBackend] | None:
        """The endpoints of a service as they are now; None where they are not known."""
        if asked.port is None or not self._names.current >= _ENDPOINTS:
            return None
        return self._names.backends(asked.address, asked.port)

    # --- policies ------------------------------------------------------------------------------

    def _judged(
        self, uid: str, flow: Flow, after: Endpoint | None, scope: Scope
    ) -> tuple[PolicyFinding, ...]:
        names = self._names
        pod = names.pod(uid)
        if pod is None or not names.complete(Resource.NETWORK_POLICIES):
            return ()
        source, port = _source(pod, flow), flow.destination.port
        if source is None or port is None:
            return ()
        if after is not None and after != flow.destination:
            targets, open_question = self._translated(after), "its port after translation"
        else:
            targets, open_question = self._untranslated(pod, flow, port, scope)
        found = self._findings_of(pod.namespace, source, port, targets)
        if not targets and not source.host_network:
            found = tuple(_undecided(one, open_question) for one in found)
        if Resource.NETWORK_POLICIES not in names.current:
            found = tuple(replace(one, reason=one.reason + _NOT_FOLLOWED) for one in found)
        return found

    def _findings_of(
        self, namespace: str, source: PeerPod, port: int, targets: Sequence[Target]
    ) -> tuple[PolicyFinding, ...]:
        """Egress, and ingress if all `targets` are pods; without targets, egress to anywhere."""
        names = self._names
        labels, policies = names.namespaces(), names.policies(namespace)
        anywhere = (Target(PeerAddress(None), port),)
        out = _agreed([egress(policies, labels, source, one) for one in targets or anywhere])
        into = [
            ingress(names.policies(one.peer.namespace), labels, source, one)
            for one in targets
            if isinstance(one.peer, PeerPod)
        ]
        if not into or len(into) < len(targets):
            return (out,)
        agreed = _agreed(into)
        foreign = any(isinstance(one.peer, PeerPod) and one.peer.labels is None for one in targets)
        if foreign and agreed.verdict is PolicyVerdict.UNKNOWN:
            return (out,)
        return out, agreed

    def _translated(self, after: Endpoint) -> tuple[Target, ...]:
        if after.port is None:
            return ()
        # What is redirected to a proxy within the pod does not leave it: that is no service's.
        translated = not _is_local(after.address)
        return (Target(self._peer(after.address), after.port, translated),)

    def _untranslated(
        self, pod: PodInfo, flow: Flow, port: int, scope: Scope
    ) -> tuple[tuple[Target, ...], str]:
        """Where an attempt may go of which no translation is known; none where nobody knows.

        The second says what is not known then. A port of another node is translated there, unless
        it is a load balancer's here, too.
        """
        names, asked = self._names, flow.destination
        peer = self._peer(asked.address, may_be_pod=_may_be_pod(pod, flow, scope))
        named = names.destination(asked.address, port)
        if named is not None and named.kind is Kind.SERVICE:
            if isinstance(peer, PeerAddress) and peer.node not in {None, pod.node}:
                return (), f"which node translates {asked.address}"
            return self._behind(pod, asked), f"which endpoint of {named.name} it is sent to"
        if not names.complete(Resource.SERVICES):
            return (), f"whether {asked.address} is a service's"
        return (Target(peer, port),), ""

    def _behind(self, pod: PodInfo, asked: Endpoint) -> tuple[Target, ...]:
        """The endpoints of a service, of many one that stands for all; none: not known."""
        known = dict.fromkeys(self._endpoints_of(asked) or ())
        ports = {one.port for one in known}
        if None in ports:
            return ()
        if len(known) <= MAX_JUDGED:
            return tuple(
                Target(self._endpoint(one), one.port, translated=True)
                for one in known
                if one.port is not None
            )
        port = ports.pop()
        if port is None or ports or any(self._is_near(pod, one) for one in known):
            return ()
        return (Target(PeerAddress(None), port, translated=True),)

    def _is_near(self, pod: PodInfo, backend: ServiceBackend) -> bool:
        """Whether it may be the pod itself or its own node, for which other rules hold."""
        endpoint = backend.endpoint
        if endpoint.pod is not None and endpoint.node not in {None, pod.node}:
            return False
        own = self._names.pod_at(endpoint.address)
        return own is None or own.uid == pod.uid

    def _endpoint(self, backend: ServiceBackend) -> Peer:
        endpoint = backend.endpoint
        peer = self._peer(endpoint.address)
        if isinstance(peer, PeerPod) or peer.node is None or endpoint.pod is None:
            return peer
        namespace = endpoint.pod.partition("/")[0]
        return PeerPod(namespace, None, endpoint.address, None, host_network=True, node=peer.node)

    def _peer(self, address: str, *, may_be_pod: bool | None = None) -> Peer:
        """Who has an address, if it is no service's."""
        names = self._names
        pod = names.pod_at(address)
        if pod is not None:
            return _peer_pod(pod, address)
        named = names.destination(address, None)
        if named is None or named.kind is Kind.SERVICE:
            return PeerAddress(address, may_be_pod)
        if named.kind is Kind.NODE:
            return PeerAddress(address, node=named.name)
        if named.ambiguous or Resource.ENDPOINT_SLICES not in names.current:
            return PeerAddress(address)
        return PeerPod(named.name.partition("/")[0], None, address)


def _source(pod: PodInfo, flow: Flow) -> PeerPod | None:
    """The pod as it makes the attempt; None where it does not with an address of its own.

    A process may enter another pod's namespace; further interfaces of a pod (Multus, the IPv4
    egress of IPv6 pods on EKS) are none that policies know.
    """
    address = flow.source.address
    own = [one for ip in pod.pod_ips if (one := canonical(ip)) is not None]
    if pod.host_network or address in own or not own:
        return _peer_pod(pod, address)
    source = parsed(address)
    if source is not None and not (source.is_unspecified or source.is_loopback):
        return None
    of_family = (one for one in own if (":" in one) == (flow.family == 6))
    return _peer_pod(pod, next(of_family, None))


def _peer_pod(pod: PodInfo, address: str | None) -> PeerPod:
    return PeerPod(pod.namespace, pod.labels, address, pod.named_ports, pod.host_network, pod.node)


def _may_be_pod(pod: PodInfo, flow: Flow, scope: Scope) -> bool | None:
    """Whether the destination may be a pod that nobody told of; None: nobody knows.

    Pods have no link-local addresses that the API would know: endpoints cannot. Nor have they
    public IPv4 addresses in a cluster where this pod has a private one. Of IPv6 nothing can be
    said: clusters give their pods public addresses.
    """
    if scope in {Scope.LOOPBACK, Scope.LINK_LOCAL}:
        return False
    if scope is not Scope.EXTERNAL or flow.family != 4:
        return None
    own = [one for ip in pod.pod_ips if (one := parsed(ip)) is not None and one.version == 4]
    return None if not own or any(one.is_global for one in own) else False


def _is_local(address: str) -> bool:
    """Whether what is sent there stays in its namespace, or on the link."""
    one = parsed(address)
    return one is not None and (one.is_loopback or one.is_link_local)


def _agreed(findings: Sequence[PolicyFinding]) -> PolicyFinding:
    """What holds whichever of the endpoints it is."""
    first = findings[0]
    if len(findings) == 1:
        return first
    together = f"the service's {len(findings)} endpoints"
    policies = tuple(dict.fromkeys(name for one in findings for name in one.policies))
    if any(one.verdict is not first.verdict for one in findings):
        reason = f"that depends on which of {together} it is sent to"
        return PolicyFinding(first.direction, PolicyVerdict.UNKNOWN, policies, reason)
    reason = f"{first.reason}, and likewise for all of {together}"
    return PolicyFinding(first.direction, first.verdict, policies, reason)


def _undecided(finding: PolicyFinding, open_question: str) -> PolicyFinding:
    """What a finding about nowhere in particular tells: whether any policy selects the pod."""
    if finding.verdict is PolicyVerdict.NOT_SELECTED:
        return finding
    reason = safe(f"{open_question} is not known")
    return replace(finding, verdict=PolicyVerdict.UNKNOWN, reason=reason)
