"""What to check next for stuck connects, as commands with everything known filled in.

Text to copy and run; nothing here runs it. What is not known stays a placeholder in angle brackets,
so that a command that cannot be run as it is looks that way. So does what is not as Kubernetes and
AWS write it: a report or an annotation may be anybody's work, and a pod that is called
`--kubeconfig=x` would be an option.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final

from tracer.finding import Step
from tracer.model import Endpoint, Scope

# More destinations than this share the advice of the first ones: nobody reads fifty times the same.
MAX_DESTINATIONS = 5

# RFC 1123 as Kubernetes takes it: a namespace is a label, a pod a name of them. A node may be no
# part of a cluster, where capital letters are allowed too.
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_ENI: Final = re.compile(r"eni-[0-9a-f]{8,17}")
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9_.-]{1,15})?")

_OF_SUBNET = "--filters Name=association.subnet-id,Values=<subnet-id>"


@dataclass(frozen=True, slots=True)
class Subject:
    """Stuck connects of one pod, or of what is no pod, to one destination. None is unknown.

    `node` is where they are, `pid` a process there: only while it is sure to be the same one.
    """

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
    subjects = [_checked(one) for one in subjects]
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


def _checked(one: Subject) -> Subject:
    """The subject with nothing in it that could be taken for anything else in a command."""
    pod = None if one.pod is None else _matching(_NAME, one.pod) or "<pod>"
    address = _address(one.destination.address) or "<address>"
    return replace(
        one,
        destination=Endpoint(address, one.destination.port),
        namespace=_matching(_LABEL, one.namespace),
        pod=pod,
        node=_matching(_HOST, one.node),
        source_address=_address(one.source_address),
        eni_id=_matching(_ENI, one.eni_id),
    )


def _matching(pattern: re.Pattern[str], text: str | None) -> str | None:
    return text if text is not None and pattern.fullmatch(text) else None


def _address(text: str | None) -> str | None:
    if _matching(_ADDRESS, text) is None:
        return None
    try:
        return str(ip_address(text or ""))
    except ValueError:
        return None


# --- every destination -------------------------------------------------------------------------


def _reachability(subjects: Sequence[Subject]) -> Step:
    some = _some(subjects)
    commands: list[str] = []
    for one in some:
        if one.pod is not None:
            inside = f"kubectl exec {_pod(one)} --"
            address = one.destination.address
            commands += [
                f"{inside} ping -c 3 {address}",
                f"{inside} telnet {address} {_port(one)}",
            ]
    tools = _unique(
        f"kubectl debug -it {_pod(one)} --image=<image> --target=<container> -- sh"
        for one in some
        if one.pod is not None
    )
    if tools:
        commands += ["# without these tools in it: from a container beside it, which stays", *tools]
    commands += _on_nodes((one, (_probe(one),)) for one in some if one.pod is None)
    return Step(
        "Is the destination reachable from there?",
        "A ping that works while the port does not points at a port's rule or a dead service; "
        "neither working points at the path.",
        _unique(commands),
    )


def _probe(one: Subject) -> str:
    opened = shlex.quote(f"</dev/tcp/{one.destination.address}/{_port(one)}")
    return f"{_entering(one)}timeout 5 bash -c {opened}"


def _security_groups(subjects: Sequence[Subject]) -> Step:
    commands: list[str] = []
    for one in _some(subjects):
        commands += [_groups_of_interface(one.eni_id, one.source_address, "pod")]
    commands.append(
        "aws ec2 describe-security-groups --group-ids <sg-id> "
        "--query 'SecurityGroups[0].IpPermissionsEgress'"
    )
    ports = ", ".join(_unique(map(_port, subjects))[:MAX_DESTINATIONS])
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


# --- on this node ------------------------------------------------------------------------------


def _on_this_node(subjects: Sequence[Subject]) -> Step:
    commands = _on_nodes(
        (
            one,
            (
                f"{_entering(one)}ss -Hltn 'sport = :{_port(one)}'",
                f"{_entering(one)}iptables-save -c",
            ),
        )
        for one in _some(subjects)
    )
    return Step(
        "Does something on the node swallow it?",
        "A loopback or link-local destination never leaves the node: its listener's backlog is "
        "full, its agent is down, or a rule drops it.",
        commands,
    )


# --- inside the VPC ----------------------------------------------------------------------------


def _destination_service(subjects: Sequence[Subject]) -> Step:
    commands: list[str] = []
    for one in _some(subjects):
        address = one.destination.address
        commands += [
            f"kubectl get services -A -o wide | grep -wF {address}",
            f"kubectl get pods -A -o wide --field-selector status.podIP={address}",
        ]
    return Step(
        "Is the destination's service up?",
        "The address may be a service's or a pod's: a service without ready endpoints, or a pod "
        "that is gone, answers nothing.",
        _unique(commands),
    )


def _vpc_routing(subjects: Sequence[Subject]) -> Step:
    return Step(
        "Does the VPC route it, and do the subnets' NACLs allow it?",
        "A NACL has no memory: the answer needs an inbound rule for the ephemeral ports too.",
        (
            f"aws ec2 describe-route-tables {_OF_SUBNET}",
            f"aws ec2 describe-network-acls {_OF_SUBNET}",
            *_on_nodes(
                (
                    one,
                    (f"{_entering(one)}ip route get {one.destination.address}", "ip route show"),
                )
                for one in _some(subjects)
            ),
        ),
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
    targets = _unique(f"{one.destination.address} port {_port(one)}" for one in subjects)
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
        return f"aws ec2 describe-network-interfaces --network-interface-ids {eni_id} {query}"
    known = f"<{whose}-ip>" if address is None else address
    name = "ipv6-addresses.ipv6-address" if ":" in known else "addresses.private-ip-address"
    return f"aws ec2 describe-network-interfaces --filters Name={name},Values={known} {query}"


def _on_nodes(wanted: Iterable[tuple[Subject, Sequence[str]]]) -> tuple[str, ...]:
    """Commands that only make sense on a node, each once, below a line that names the node."""
    by_node: dict[str, dict[str, None]] = {}
    for one, commands in wanted:
        where = "# on the node" if one.node is None else f"# on node {one.node}"
        by_node.setdefault(where, {}).update(dict.fromkeys(commands))
    return tuple(line for where, commands in by_node.items() for line in (where, *commands))


def _entering(one: Subject) -> str:
    """What makes a command of the node run in the network namespace of the subject."""
    return "" if one.pid is None else f"nsenter --net=/proc/{one.pid}/ns/net "


def _pod(one: Subject) -> str:
    return f"{one.pod or '<pod>'} -n {one.namespace or '<namespace>'}"


def _port(one: Subject) -> str:
    port = one.destination.port
    return "<port>" if port is None else str(port)


def _some(subjects: Sequence[Subject]) -> Sequence[Subject]:
    return subjects[:MAX_DESTINATIONS]


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
