"""Where a destination lies, judged by its address, and what it is called if that is certain.

Ranges, most telling first:

    loopback     127.0.0.0/8 (RFC 1122 section 3.2.1.3), ::1 (RFC 4291 section 2.5.3), and the
                 unspecified addresses 0.0.0.0 and ::, which connect() on Linux takes as loopback
    link-local   169.254.0.0/16 (RFC 3927), fe80::/10 (RFC 4291 section 2.5.6), and what else never
                 leaves the link: 224.0.0.0/24 (RFC 5771 section 4), ff02::/16 (RFC 4291 section
                 2.7), 255.255.255.255 (RFC 919 section 7)
    vpc          RFC 1918, 100.64.0.0/10 (RFC 6598), fc00::/7 (RFC 4193), every --vpc-cidr
    external     everything else: other multicast too, which TCP cannot reach (RFC 9293, MUST-46)

Two kinds of IPv6 address carry an IPv4 address, which is the one that is judged:

- IPv4-mapped, ::ffff:0:0/96 (RFC 4291 section 2.5.5.2), is IPv4 on the wire.
- NAT64, 64:ff9b::/96 (RFC 6052) and 64:ff9b:1::/48 (RFC 8215), is IPv6 up to a translator. In the
  /48 operators may lay prefixes of any length that RFC 6052 section 2.2 allows, which an address
  does not show; it is read as a /96, the IPv4 address in the last 32 bits: the length of the
  well-known prefix, and of the only one whose addresses can be written as prefix::a.b.c.d. No name
  is given through NAT64: what answers as 169.254.169.254 behind a translator is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from tracer.errors import UsageError
from tracer.model import Destination, Scope

CACHED_ADDRESSES = 4_096
"""About 1 MB. More destinations than a node's pods have at a time, and a port scan ends there."""

MAX_ADDRESS_CHARACTERS = 64
"""INET6_ADDRSTRLEN is 46, a zone adds "%" and an interface name of at most 15 (IFNAMSIZ)."""

_LOOPBACK = tuple(map(ip_network, ("127.0.0.0/8", "::1/128", "0.0.0.0/32", "::/128")))
_LINK_LOCAL = tuple(
    map(
        ip_network,
        ("169.254.0.0/16", "fe80::/10", "224.0.0.0/24", "ff02::/16", "255.255.255.255/32"),
    )
)
_PRIVATE = tuple(
    map(
        ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
    )
)
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))

_INSTANCE_METADATA = "instance metadata"
_POD_IDENTITY = "Pod Identity"
_VPC_DNS = "VPC DNS resolver"
_TIME_SYNC = "Amazon Time Sync"
_NAMES: dict[IPv4Address | IPv6Address, str] = {
    # EC2, "Access instance metadata"; the IPv4 address is also that of GCE and Azure.
    IPv4Address("169.254.169.254"): _INSTANCE_METADATA,
    IPv6Address("fd00:ec2::254"): _INSTANCE_METADATA,
    # ECS, "Amazon ECS task metadata endpoint".
    IPv4Address("169.254.170.2"): "ECS task metadata",
    # EKS, "Learn how EKS Pod Identity grants pods access to AWS services".
    IPv4Address("169.254.170.23"): _POD_IDENTITY,
    IPv6Address("fd00:ec2::23"): _POD_IDENTITY,
    # Kubernetes, "Using NodeLocal DNSCache in Kubernetes Clusters": the address its manifest uses.
    IPv4Address("169.254.20.10"): "node-local DNS",
    # VPC, "DNS attributes for your VPC".
    IPv4Address("169.254.169.253"): _VPC_DNS,
    IPv6Address("fd00:ec2::253"): _VPC_DNS,
    # EC2, "Precision clock and time synchronization on your EC2 instance".
    IPv4Address("169.254.169.123"): _TIME_SYNC,
    IPv6Address("fd00:ec2::123"): _TIME_SYNC,
}

_UNPARSED = Destination(Scope.EXTERNAL)


class Destinations:
    """Classifies addresses, remembering the last CACHED_ADDRESSES of them."""

    def __init__(self, vpc_cidrs: Iterable[IPv4Network | IPv6Network] = ()) -> None:
        """`vpc_cidrs` add to the private ranges; they never override loopback or link-local."""
        self._vpc = (*_PRIVATE, *vpc_cidrs)
        self._remembered = lru_cache(maxsize=CACHED_ADDRESSES)(self._judge)

    def classify(self, address: str) -> Destination:
        """The scope of an address in text form, and its name where it is a well-known one.

        A zone ("fe80::1%eth0", and "127.0.0.53%lo" as ss prints it) is accepted and ignored. Text
        that is no address falls under the rest, EXTERNAL without a name. Never raises.
        """
        if len(address) > MAX_ADDRESS_CHARACTERS:
            return _UNPARSED
        return self._remembered(address)

    def _judge(self, text: str) -> Destination:
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return _UNPARSED
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return Destination(scope=self._scope(address), name=_NAMES.get(address))

    def _scope(self, address: IPv4Address | IPv6Address) -> Scope:
        judged = _behind_nat64(address)
        if _within(judged, _LOOPBACK):
            return Scope.LOOPBACK
        if _within(judged, _LINK_LOCAL):
            return Scope.LINK_LOCAL
        # A --vpc-cidr may name NAT64 addresses as they are on the wire, too.
        if _within(judged, self._vpc) or _within(address, self._vpc):
            return Scope.VPC
        return Scope.EXTERNAL


def parse_cidrs(
    values: Sequence[str], option: str = "--vpc-cidr"
) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks that --vpc-cidr names, in the order given; `option` is its name in errors.

    Host bits are cleared ("10.1.2.3/16" is 10.1.0.0/16, since that is how interfaces and consoles
    show it); an address alone is the network of that one address. Raises UsageError, naming the
    value, for anything else.
    """
    return tuple(_parse_cidr(value, option) for value in values)


def _parse_cidr(value: str, option: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(value.strip(), strict=False)
    except ValueError as error:
        raise UsageError(
            f"{option} {value!r} is not a network: {error}",
            hint="Give a range such as 10.20.0.0/16 or 2001:db8::/48.",
        ) from error


def _within(
    address: IPv4Address | IPv6Address, networks: Iterable[IPv4Network | IPv6Network]
) -> bool:
    return any(address in network for network in networks)


def _behind_nat64(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that a NAT64 address stands for; any other address as it is."""
    if _within(address, _NAT64):
        return IPv4Address(address.packed[-4:])
    return address
