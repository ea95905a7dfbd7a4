"""What to check next for stuck connects, as commands with everything known filled in.

Text to copy and run; nothing here runs it. `advise` is for when nobody knows why, `steps_for_cause`
for when a verdict says it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracer.diagnose.by_cause import STEPS
from tracer.diagnose.commands import MAX_DESTINATIONS, Subject, checked
from tracer.diagnose.sections import (
    destination_service,
    egress_rules,
    nat_gateway,
    network_policies,
    on_this_node,
    peer_groups,
    reachability,
    security_groups,
    vpc_routing,
)
from tracer.facts import Facts
from tracer.finding import Step
from tracer.model import Cause, Scope

__all__ = ["MAX_DESTINATIONS", "Subject", "advise", "steps_for_cause"]


def advise(subjects: Sequence[Subject]) -> tuple[Step, ...]:
    """Steps for what was found, the quickest first; none where nothing was found.

    Steps that only make sense inside the VPC or for the outside appear only where such a
    destination was found.
    """
    if not subjects:
        return ()
    subjects = [checked(one) for one in subjects]
    steps = [reachability(subjects), security_groups(subjects), *network_policies(subjects)]
    inside = [one for one in subjects if one.scope is Scope.VPC]
    outside = [one for one in subjects if one.scope is Scope.EXTERNAL]
    node_local = [one for one in subjects if one.scope in {Scope.LOOPBACK, Scope.LINK_LOCAL}]
    if node_local:
        steps.append(on_this_node(node_local))
    if inside:
        steps += [destination_service(inside), vpc_routing(inside), peer_groups(inside)]
    if outside:
        steps += [nat_gateway(outside), egress_rules(outside)]
    return tuple(steps)


def steps_for_cause(cause: Cause, subject: Subject, facts: Facts | None = None) -> tuple[Step, ...]:
    """The two or three next steps for an attempt that died of `cause`, the quickest first.

    `facts` fill in devices, rules, routers and services where they are known; without them the
    commands look at all of them. For an unknown cause they are those of `advise`.
    """
    make = STEPS.get(cause)
    return advise([subject]) if make is None else make(checked(subject), facts)
