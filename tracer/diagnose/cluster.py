"""Rules about what the cluster says: services that lead nowhere, policies that deny."""

from __future__ import annotations

from tracer.diagnose import wording as say
from tracer.diagnose.drops import Role
from tracer.diagnose.sight import (
    Death,
    confidence_of_death,
    deaths,
    dies_here,
    left,
    neighbours,
    peer_answered,
    sent_while_watched,
    silent,
)
from tracer.facts import Backend, Direction, Facts, PolicyFinding, PolicyVerdict
from tracer.model import Cause, Confidence, Kind, Outcome, Verdict
from tracer.text import safe

HIGH, MEDIUM, LOW = Confidence.HIGH, Confidence.MEDIUM, Confidence.LOW


def service_without_endpoints(facts: Facts) -> Verdict | None:
    """The service has no ready endpoint: nobody is behind its address.

    kube-proxy then rejects with ICMP port unreachable or drops, both of which look like a firewall:
    what the cluster says of the service explains them. Where NAT leads to a backend all the same,
    an endpoint that is being stopped may still serve, and it is only likely; where that backend
    answered, it is not the cause.
    """
    known = facts.destination
    endpoints = known.endpoints
    if known.kind is not Kind.SERVICE or known.ambiguous or endpoints is None:
        return None
    if endpoints.ready > 0 or peer_answered(facts):
        return None
    backend = say.translated(facts)
    evidence = [found for found in (say.of_service(facts), say.of_nat(facts)) if found]
    name = safe(known.name or facts.asked.address)
    have = (
        f"none of its {say.plural(endpoints.total, 'endpoint')} is ready"
        if endpoints.total > 0
        else "it has no endpoints"
    )
    leads = "connection tracking still leads to"
    still = "" if backend is None else f"; {leads} {say.endpoint(backend)}"
    return Verdict(
        Cause.SERVICE_WITHOUT_ENDPOINTS,
        HIGH if backend is None else MEDIUM,
        f"Nobody is behind service {name} at {say.endpoint(facts.asked)}: {have}{still}.",
        tuple(evidence),
    )


def stale_nat(facts: Facts) -> Verdict | None:
    """NAT sends the attempt to an address that is no endpoint of the service any more.

    An entry of connection tracking outlives the endpoint it was made for, and so do rules of a
    kube-proxy that hangs. An endpoint that is there and not ready may well answer: that proves
    nothing. Whoever answers from a gone backend's address is somebody else.
    """
    backend = say.translated(facts)
    if backend is None or facts.backend is not Backend.GONE:
        return None
    if peer_answered(facts) and facts.outcome is not Outcome.REFUSED:
        return None
    hops = [
        say.of_neighbour(hop, say.namespace(netns, facts))
        for hop, netns in neighbours(facts)
        if hop.address == backend.address and hop.state in {"FAILED", "INCOMPLETE"}
    ]
    found = (say.of_backend(facts), say.of_nat(facts), *hops, say.of_service(facts))
    return Verdict(
        Cause.STALE_NAT,
        HIGH,
        f"Connection tracking sends {say.target(facts)} to {say.endpoint(backend)}, which is no"
        " endpoint of that service any more.",
        tuple(one for one in found if one),
    )


def network_policy(facts: Facts) -> Verdict | None:
    """NetworkPolicies deny the connection, and something that enforces policies drops its SYN.

    The policies alone say what should happen, not what does: a cluster's network plugin may enforce
    none. So it is sure only together with a drop in the node's own namespace, where plugins enforce
    them: inside a pod's it is rather a rule of the pod's own. Without a drop it is likely at best,
    and not at all where the SYN is known to have passed (egress), or died of something else.
    """
    denied = [one for one in facts.policies if one.verdict is PolicyVerdict.DENIED]
    if not denied or facts.outcome in {
        Outcome.REFUSED,
        Outcome.UNREACHABLE,
        Outcome.LOCAL_ERROR,
    }:
        return None
    for death in deaths(facts, Direction.SYN, Role.BARRIER):
        confidence = confidence_of_death(death, facts) if death.meaning.enforces else None
        if confidence is None or confidence is LOW:
            continue
        on_the_node = death.drop.netns is not None and death.drop.netns == facts.host_netns
        return _policy_verdict(facts, denied, confidence if on_the_node else MEDIUM, death)
    if dies_here(facts) or not silent(facts):
        return None
    likely = _undropped(facts, denied)
    return None if likely is None else _policy_verdict(facts, denied, likely)


def _undropped(facts: Facts, denied: list[PolicyFinding]) -> Confidence | None:
    """How likely a policy is where no drop of the SYN was seen."""
    watched = facts.drops is not None and sent_while_watched(facts) > 0
    if any(one.direction == "ingress" for one in denied) and facts.listener is None:
        # The peer's node drops it, which nobody sees from here.
        return MEDIUM
    if left(facts) is not None:
        return None
    return LOW if watched else MEDIUM


def _policy_verdict(
    facts: Facts,
    denied: list[PolicyFinding],
    confidence: Confidence,
    dropped: Death | None = None,
) -> Verdict:
    directions = " and ".join(dict.fromkeys(one.direction for one in denied))
    names = dict.fromkeys(name for one in denied for name in one.policies)
    by = f" ({say.listed(names)})" if names else ""
    if dropped is not None:
        summary = (
            f"NetworkPolicies deny {directions} to {say.target(facts)}{by}, and the SYN is dropped"
            f" on this node by what may enforce them: {dropped.meaning.what},"
            f" {say.place(dropped.drop, facts)}."
        )
    else:
        unseen = (
            "drops on this node could not be watched"
            if facts.drops is None
            else "no drop that explains it was seen on this node"
        )
        guess = "Likely" if confidence is MEDIUM else "Possibly"
        summary = (
            f"{guess} a NetworkPolicy: {directions} to {say.target(facts)} is denied{by}; {unseen}."
        )
    drops = () if dropped is None else (say.of_drop(dropped.drop, facts),)
    return Verdict(
        Cause.NETWORK_POLICY,
        confidence,
        summary,
        (*(say.of_policy(one) for one in denied), *drops),
    )
