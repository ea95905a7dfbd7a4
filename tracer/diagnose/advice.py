"""What to check next for stuck connects, as commands with everything known filled in.

Text to copy and run; nothing here runs it. What is not known stays a placeholder in angle brackets,
so that a command that cannot be run as it is looks that way.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tracer.finding import Step
from tracer.model import Endpoint, Scope

# More destinations than this share the advice of the first ones: nobody reads fifty times the same.
MAX_DESTINATIONS = 5

_OF_SUBNET = "--filters Name=association.subnet-id,Values=<subnet-id>"


@dataclass(frozen=True, slots=True)
class Subject:
    """Stuck connects of one pod, or of what is no pod, to one destination. None is unknown."""

    destination: Endpoint
    scope: Scope
    namespace: str | None = None
    pod: str | None = None
    node: str | None = None
    source_address: str | None = None
    eni_id: str | None = None
    pid: int | None = None


def advise(subjects: Sequence[Subject]) -> tuple[Step, ...]:
    """Steps for what was found, the quickest first; none where nothing was found.

    Steps that only make sense inside the VPC or for the outside appear only where such a
    destination was found.
    """
    if not subjects:
        return ()
    steps = [_reachability(subjects), _security_groups(subjects), *_network_policies(subjects)]
    inside = [one for one in subjects if one.scope is Scope.VPC]
    outside = [one for one in subjects if one.scope is Scope.EXTERNAL]
    node_local = [one for one in subjects if one.scope in {Scope.LOOPBACK, Scope.LINK_LOCAL}]
    if node_local:
        steps.append(_on_this_node(node_local))
    if inside:
        steps += [_destination_service(inside), _vpc_routing(inside), _peer_groups(inside)]
    if outside:
        steps += [_nat_gateway(outside), _egress_rules(outside)]
    return tuple(steps)


# --- every destination -------------------------------------------------------------------------


def _reachability(subjects: Sequence[Subject]) -> Step:
    commands: list[str] = []
    for one in _some(subjects):
        address, port = one.destination.address, one.destination.port
        probe = f"timeout 5 bash -c {_quote(f'</dev/tcp/{address}/{port}')}"
        if one.pod is not None:
            inside = f"kubectl exec {_pod(one)} --"
            commands += [
                f"{inside} ping -c 3 {_quote(address)}",
                f"{inside} telnet {_quote(address)} {port}",
            ]
        elif one.pid is not None:
            commands.append(f"nsenter --net=/proc/{one.pid}/ns/net {probe}")
        else:
            commands.append(probe)
    return Step(
        "Is the destination reachable from there?",
        "A ping that works while the port does not points at a port's rule or a dead service; "
        "neither working points at the path.",
        _unique(commands),
    )


def _security_groups(subjects: Sequence[Subject]) -> Step:
    commands: list[str] = []
    for one in _some(subjects):
        commands += [_groups_of_interface(one.eni_id, one.source_address, "pod")]
    commands.append(
        "aws ec2 describe-security-groups --group-ids <sg-id> "
        "--query 'SecurityGroups[0].IpPermissionsEgress'"
    )
    ports = ", ".join(_unique(str(one.destination.port) for one in subjects)[:MAX_DESTINATIONS])
    return Step(
        "Do the source's security groups let it out?",
        f"An egress rule must allow TCP to the destination on port {ports}; a security group "
        "drops in silence, which is what SYN_SENT looks like.",
        _unique(commands),
    )


def _network_policies(subjects: Sequence[Subject]) -> list[Step]:
    namespaces = _unique(one.namespace for one in subjects if one.namespace is not None)
    if not namespaces:
        return []
    commands: list[str] = []
    for namespace in namespaces[:MAX_DESTINATIONS]:
        option = _quote(namespace)
        commands += [
            f"kubectl get networkpolicies -n {option}",
            f"kubectl describe networkpolicies -n {option}",
        ]
    return [
        Step(
            "Does a NetworkPolicy block egress?",
            "Once any policy selects the pod for egress, whatever none of them allows is dropped.",
            tuple(commands),
        )
    ]


# --- on this node ------------------------------------------------------------------------------


def _on_this_node(subjects: Sequence[Subject]) -> Step:
    commands: list[str] = []
    for one in _some(subjects):
        inside = f"nsenter --net=/proc/{one.pid}/ns/net " if one.pid is not None else ""
        commands += [
            f"{inside}ss -Hltn 'sport = :{one.destination.port}'",
            f"{inside}iptables-save -c",
        ]
    return Step(
        "Does something on this node swallow it?",
        "A loopback or link-local destination never leaves the node: its listener's backlog is "
        "full, its agent is down, or a rule drops it.",
        _unique(commands),
    )


# --- inside the VPC ----------------------------------------------------------------------------


def _destination_service(subjects: Sequence[Subject]) -> Step:
    commands: list[str] = []
    for one in _some(subjects):
        address = one.destination.address
        commands += [
            f"kubectl get services -A -o wide | grep -wF {_quote(address)}",
            f"kubectl get pods -A -o wide --field-selector status.podIP={_quote(address)}",
        ]
    return Step(
        "Is the destination's service up?",
        "The address may be a service's or a pod's: a service without ready endpoints, or a pod "
        "that is gone, answers nothing.",
        _unique(commands),
    )


def _vpc_routing(subjects: Sequence[Subject]) -> Step:
    commands: list[str] = []
    for one in _some(subjects):
        inside = f"nsenter --net=/proc/{one.pid}/ns/net " if one.pid is not None else ""
        commands.append(f"{inside}ip route get {_quote(one.destination.address)}")
    commands += [
        "ip route show",
        f"aws ec2 describe-route-tables {_OF_SUBNET}",
        f"aws ec2 describe-network-acls {_OF_SUBNET}",
    ]
    return Step(
        "Does the VPC route it, and do the subnets' NACLs allow it?",
        "A NACL has no memory: the answer needs an inbound rule for the ephemeral ports too.",
        _unique(commands),
    )


def _peer_groups(subjects: Sequence[Subject]) -> Step:
    commands = [
        _groups_of_interface(None, one.destination.address, "destination")
        for one in _some(subjects)
    ]
    commands.append(
        "aws ec2 describe-security-groups --group-ids <sg-id> "
        "--query 'SecurityGroups[0].IpPermissions'"
    )
    return Step(
        "Do the destination's security groups let it in?",
        "An ingress rule there must name the source's address or one of its security groups.",
        _unique(commands),
    )


# --- outside -----------------------------------------------------------------------------------


def _nat_gateway(subjects: Sequence[Subject]) -> Step:
    del subjects  # the way out is the same for all of them
    return Step(
        "Is the way out up?",
        "From a private subnet the default route leads to a NAT gateway that is available, and "
        "from the gateway's subnet to an internet gateway that is attached to the VPC.",
        (
            (
                f"aws ec2 describe-route-tables {_OF_SUBNET} "
                "--query 'RouteTables[].Routes[?DestinationCidrBlock==`0.0.0.0/0`]'"
            ),
            (
                "aws ec2 describe-nat-gateways --filter Name=vpc-id,Values=<vpc-id> "
                "--query 'NatGateways[].[NatGatewayId,State,SubnetId]'"
            ),
            "aws ec2 describe-internet-gateways --filters Name=attachment.vpc-id,Values=<vpc-id>",
        ),
    )


def _egress_rules(subjects: Sequence[Subject]) -> Step:
    targets = _unique(f"{one.destination.address} port {one.destination.port}" for one in subjects)
    shown = ", ".join(targets[:MAX_DESTINATIONS])
    more = f" and {len(targets) - MAX_DESTINATIONS} more" if len(targets) > MAX_DESTINATIONS else ""
    return Step(
        "Is egress to the internet allowed?",
        f"Security groups and network policies must allow 0.0.0.0/0, or at least {shown}{more}.",
        (
            (
                "aws ec2 describe-security-groups --group-ids <sg-id> "
                "--query 'SecurityGroups[0].IpPermissionsEgress[].IpRanges[].CidrIp'"
            ),
        ),
    )


# --- wording -----------------------------------------------------------------------------------


def _groups_of_interface(eni_id: str | None, address: str | None, whose: str) -> str:
    """The command that lists the security groups of a network interface, by id or address."""
    query = "--query 'NetworkInterfaces[0].Groups'"
    if eni_id is not None:
        return (
            f"aws ec2 describe-network-interfaces --network-interface-ids {_quote(eni_id)} {query}"
        )
    known = f"<{whose}-ip>" if address is None else _quote(address)
    name = "ipv6-addresses.ipv6-address" if ":" in known else "addresses.private-ip-address"
    return f"aws ec2 describe-network-interfaces --filters Name={name},Values={known} {query}"


def _pod(one: Subject) -> str:
    pod = "<pod>" if one.pod is None else _quote(one.pod)
    namespace = "<namespace>" if one.namespace is None else _quote(one.namespace)
    return f"{pod} -n {namespace}"


def _some(subjects: Sequence[Subject]) -> Sequence[Subject]:
    return subjects[:MAX_DESTINATIONS]


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _quote(text: str) -> str:
    """Safe to paste into a shell, whatever a name or an address contains."""
    return shlex.quote(text)
