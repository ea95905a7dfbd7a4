"""What to check for a stuck connect, by where its destination lies: the sections of the report.

Text to copy and run; nothing here runs it. What is not known stays a placeholder in angle brackets,
so that a command that cannot be run as it is looks that way.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracer.diagnose.commands import (
    MAX_DESTINATIONS,
    OF_SUBNET,
    Subject,
    entering,
    groups_of_interface,
    on_nodes,
    pod_argument,
    port,
    quote,
    some,
    unique,
)
from tracer.finding import Step

# --- every destination --------------------------------------------------------------------------


def reachability(subjects: Sequence[Subject]) -> Step:
    first = some(subjects)
    commands: list[str] = []
    for one in first:
        if one.pod is not None:
            inside = f"kubectl exec {pod_argument(one)} --"
            address = one.destination.address
            commands += [
                f"{inside} ping -c 3 {address}",
                f"{inside} telnet {address} {port(one)}",
            ]
    tools = unique(
        f"kubectl debug -it {pod_argument(one)} --image=<image> --target=<container> -- sh"
        for one in first
        if one.pod is not None
    )
    if tools:
        commands += ["# without these tools in it: from a container beside it, which stays", *tools]
    commands += on_nodes((one, (_probe(one),)) for one in first if one.pod is None)
    return Step(
        "Is the destination reachable from there?",
        "A ping that works while the port does not points at a port's rule or a dead service; "
        "neither working points at the path.",
        unique(commands),
    )


def _probe(one: Subject) -> str:
    opened = quote(f"</dev/tcp/{one.destination.address}/{port(one)}")
    return f"{entering(one)}timeout 5 bash -c {opened}"


def security_groups(subjects: Sequence[Subject]) -> Step:
    commands: list[str] = []
    for one in some(subjects):
        commands += [groups_of_interface(one.eni_id, one.source_address, "pod")]
    commands.append(
        "aws ec2 describe-security-groups --group-ids <sg-id> "
        "--query 'SecurityGroups[0].IpPermissionsEgress'"
    )
    ports = ", ".join(unique(map(port, subjects))[:MAX_DESTINATIONS])
    return Step(
        "Do the source's security groups let it out?",
        f"An egress rule must allow TCP to the destination on port {ports}; a security group "
        "drops in silence, which is what SYN_SENT looks like.",
        unique(commands),
    )


def network_policies(subjects: Sequence[Subject]) -> list[Step]:
    namespaces = unique(one.namespace for one in subjects if one.namespace is not None)
    if not namespaces:
        return []
    commands: list[str] = []
    for namespace in namespaces[:MAX_DESTINATIONS]:
        commands += [
            f"kubectl get networkpolicies -n {namespace}",
            f"kubectl describe networkpolicies -n {namespace}",
        ]
    return [
        Step(
            "Does a NetworkPolicy block egress?",
            "Once any policy selects the pod for egress, whatever none of them allows is dropped.",
            tuple(commands),
        )
    ]


# --- on this node -------------------------------------------------------------------------------


def on_this_node(subjects: Sequence[Subject]) -> Step:
    commands = on_nodes(
        (
            one,
            (
                f"{entering(one)}ss -Hltn 'sport = :{port(one)}'",
                f"{entering(one)}iptables-save -c",
            ),
        )
        for one in some(subjects)
    )
    return Step(
        "Does something on the node swallow it?",
        "A loopback or link-local destination never leaves the node: its listener's backlog is "
        "full, its agent is down, or a rule drops it.",
        commands,
    )


# --- inside the VPC -----------------------------------------------------------------------------


def destination_service(subjects: Sequence[Subject]) -> Step:
    commands: list[str] = []
    for one in some(subjects):
        address = one.destination.address
        commands += [
            f"kubectl get services -A -o wide | grep -wF {address}",
            f"kubectl get pods -A -o wide --field-selector status.podIP={address}",
        ]
    return Step(
        "Is the destination's service up?",
        "The address may be a service's or a pod's: a service without ready endpoints, or a pod "
        "that is gone, answers nothing.",
        unique(commands),
    )


def vpc_routing(subjects: Sequence[Subject]) -> Step:
    return Step(
        "Does the VPC route it, and do the subnets' NACLs allow it?",
        "A NACL has no memory: the answer needs an inbound rule for the ephemeral ports too.",
        (
            f"aws ec2 describe-route-tables {OF_SUBNET}",
            f"aws ec2 describe-network-acls {OF_SUBNET}",
            *on_nodes(
                (
                    one,
                    (f"{entering(one)}ip route get {one.destination.address}", "ip route show"),
                )
                for one in some(subjects)
            ),
        ),
    )


def peer_groups(subjects: Sequence[Subject]) -> Step:
    commands = [
        groups_of_interface(None, one.destination.address, "destination") for one in some(subjects)
    ]
    commands.append(
        "aws ec2 describe-security-groups --group-ids <sg-id> "
        "--query 'SecurityGroups[0].IpPermissions'"
    )
    return Step(
        "Do the destination's security groups let it in?",
        "An ingress rule there must name the source's address or one of its security groups.",
        unique(commands),
    )


# --- outside ------------------------------------------------------------------------------------


def nat_gateway(subjects: Sequence[Subject]) -> Step:
    del subjects  # the way out is the same for all of them
    return Step(
        "Is the way out up?",
        "From a private subnet the default route leads to a NAT gateway that is available, and "
        "from the gateway's subnet to an internet gateway that is attached to the VPC.",
        (
            (
                f"aws ec2 describe-route-tables {OF_SUBNET} "
                "--query 'RouteTables[].Routes[?DestinationCidrBlock==`0.0.0.0/0`]'"
            ),
            (
                "aws ec2 describe-nat-gateways --filter Name=vpc-id,Values=<vpc-id> "
                "--query 'NatGateways[].[NatGatewayId,State,SubnetId]'"
            ),
            "aws ec2 describe-internet-gateways --filters Name=attachment.vpc-id,Values=<vpc-id>",
        ),
    )


def egress_rules(subjects: Sequence[Subject]) -> Step:
    targets = unique(f"{one.destination.address} port {port(one)}" for one in subjects)
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
