"""The words that commands are made of: names filled in, placeholders where unknown.

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

from tracer.model import Endpoint, Scope

# More destinations than this share the advice of the first ones: nobody reads fifty times the same.
MAX_DESTINATIONS: Final = 5

OF_SUBNET: Final = "--filters Name=association.subnet-id,Values=<subnet-id>"

# RFC 1123 as Kubernetes takes it: a namespace is a label, a pod a name of them. A node may be no
# part of a cluster, where capital letters are allowed too.
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_ENI: Final = re.compile(r"eni-[0-9a-f]{8,17}")
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9_.-]{1,15})?")


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


def checked(one: Subject) -> Subject:
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


def groups_of_interface(eni_id: str | None, address: str | None, whose: str) -> str:
    """The command that lists the security groups of a network interface, by id or address."""
    query = "--query 'NetworkInterfaces[0].Groups'"
    if eni_id is not None:
        return f"aws ec2 describe-network-interfaces --network-interface-ids {eni_id} {query}"
    known = f"<{whose}-ip>" if address is None else address
    name = "ipv6-addresses.ipv6-address" if ":" in known else "addresses.private-ip-address"
    return f"aws ec2 describe-network-interfaces --filters Name={name},Values={known} {query}"


def on_nodes(wanted: Iterable[tuple[Subject, Sequence[str]]]) -> tuple[str, ...]:
    """Commands that only make sense on a node, each once, below a line that names the node."""
    by_node: dict[str, dict[str, None]] = {}
    for one, commands in wanted:
        where = "# on the node" if one.node is None else f"# on node {one.node}"
        by_node.setdefault(where, {}).update(dict.fromkeys(commands))
    return tuple(line for where, commands in by_node.items() for line in (where, *commands))


def entering(one: Subject) -> str:
    """What makes a command of the node run in the network namespace of the subject."""
    return "" if one.pid is None else f"nsenter --net=/proc/{one.pid}/ns/net "


def pod_argument(one: Subject) -> str:
    return f"{one.pod or '<pod>'} -n {one.namespace or '<namespace>'}"


def port(one: Subject) -> str:
    port = one.destination.port
    return "<port>" if port is None else str(port)


def some(subjects: Sequence[Subject]) -> Sequence[Subject]:
    return subjects[:MAX_DESTINATIONS]


def unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def quote(text: str) -> str:
    """Safe to paste into a shell, whatever a name or an address contains."""
    return shlex.quote(text)
