"""Scopes, well-known names and --vpc-cidr."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.enrich.destination import CACHED_ADDRESSES, Destinations, parse_cidrs
from tracer.errors import UsageError
from tracer.model import Destination, Scope


def scope(address: str, *vpc_cidrs: str) -> Scope:
    return Destinations(parse_cidrs(vpc_cidrs)).classify(address).scope


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("126.255.255.255", Scope.EXTERNAL),
        ("127.0.0.0", Scope.LOOPBACK),
        ("127.255.255.255", Scope.LOOPBACK),
        ("128.0.0.0", Scope.EXTERNAL),
        ("::1", Scope.LOOPBACK),
        ("::2", Scope.EXTERNAL),
        ("169.253.255.255", Scope.EXTERNAL),
        ("169.254.0.0", Scope.LINK_LOCAL),
        ("169.254.255.255", Scope.LINK_LOCAL),
        ("169.255.0.0", Scope.EXTERNAL),
        ("fe7f::", Scope.EXTERNAL),
        ("fe80::", Scope.LINK_LOCAL),
        ("febf::ffff", Scope.LINK_LOCAL),
        ("fec0::", Scope.EXTERNAL),
        ("9.255.255.255", Scope.EXTERNAL),
        ("10.0.0.0", Scope.VPC),
        ("10.255.255.255", Scope.VPC),
        ("11.0.0.0", Scope.EXTERNAL),
        ("172.15.255.255", Scope.EXTERNAL),
        ("172.16.0.0", Scope.VPC),
        ("172.31.255.255", Scope.VPC),
        ("172.32.0.0", Scope.EXTERNAL),
        ("192.167.255.255", Scope.EXTERNAL),
        ("192.168.0.0", Scope.VPC),
        ("192.168.255.255", Scope.VPC),
        ("192.169.0.0", Scope.EXTERNAL),
        ("100.63.255.255", Scope.EXTERNAL),
        ("100.64.0.0", Scope.VPC),
        ("100.127.255.255", Scope.VPC),
        ("100.128.0.0", Scope.EXTERNAL),
        ("fbff::", Scope.EXTERNAL),
        ("fc00::", Scope.VPC),
        ("fdff::1", Scope.VPC),
        ("fe00::", Scope.EXTERNAL),
        ("52.94.10.112", Scope.EXTERNAL),
        ("2001:db8::1", Scope.EXTERNAL),
    ],
)
def test_scope_changes_exactly_at_the_edges_of_each_range(address: str, expected: Scope) -> None:
    assert scope(address) is expected


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "::ffff:0.0.0.0"])  # noqa: S104 - not bound
def test_unspecified_address_is_loopback_since_connect_goes_there(address: str) -> None:
    assert scope(address) is Scope.LOOPBACK


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("224.0.0.251", Scope.LINK_LOCAL),
        ("255.255.255.255", Scope.LINK_LOCAL),
        ("ff02::1", Scope.LINK_LOCAL),
        ("224.0.1.1", Scope.EXTERNAL),
        ("239.1.2.3", Scope.EXTERNAL),
        ("ff05::2", Scope.EXTERNAL),
        ("0.0.0.1", Scope.EXTERNAL),
    ],
)
def test_multicast_and_broadcast_are_link_local_only_where_they_stay_on_the_link(
    address: str, expected: Scope
) -> None:
    assert scope(address) is expected


@pytest.mark.parametrize("prefix", ["::ffff:", "64:ff9b::", "64:ff9b:1::", "64:ff9b:1:7:8:9:"])
@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("127.0.0.1", Scope.LOOPBACK),
        ("169.254.7.7", Scope.LINK_LOCAL),
        ("10.1.2.3", Scope.VPC),
        ("203.0.113.9", Scope.VPC),
        ("8.8.8.8", Scope.EXTERNAL),
    ],
)
def test_ipv4_inside_ipv6_is_judged_by_the_address_inside(
    prefix: str, inside: str, expected: Scope
) -> None:
    assert scope(prefix + inside, "203.0.113.0/24") is expected


def test_addresses_beside_the_nat64_prefixes_are_judged_as_they_are() -> None:
    assert scope("64:ff9b:0:0:0:1:a01:203") is Scope.EXTERNAL
    assert scope("64:ff9b:2::10.1.2.3") is Scope.EXTERNAL


def test_every_vpc_cidr_adds_to_the_private_ranges() -> None:
    cidrs = ("203.0.113.0/24", "2600:1f18::/32", "64:ff9b:1:fffe::/96")
    assert scope("203.0.113.9", *cidrs) is Scope.VPC
    assert scope("2600:1f18::7", *cidrs) is Scope.VPC
    assert scope("64:ff9b:1:fffe::8.8.8.8", *cidrs) is Scope.VPC
    assert scope("10.0.0.1", *cidrs) is Scope.VPC
    assert scope("203.0.114.9", *cidrs) is Scope.EXTERNAL


def test_vpc_cidr_over_everything_leaves_loopback_and_link_local_as_they_are() -> None:
    everything = ("0.0.0.0/0", "::/0")
    assert scope("127.0.0.1", *everything) is Scope.LOOPBACK
    assert scope("::1", *everything) is Scope.LOOPBACK
    assert scope("169.254.169.254", *everything) is Scope.LINK_LOCAL
    assert scope("fe80::1", *everything) is Scope.LINK_LOCAL
    assert scope("8.8.8.8", *everything) is Scope.VPC


def test_ipv6_vpc_cidr_says_nothing_of_ipv4_mapped_addresses() -> None:
    assert scope("::ffff:8.8.8.8", "::/0") is Scope.EXTERNAL


@pytest.mark.parametrize(
    ("address", "name", "expected"),
    [
        ("169.254.169.254", "instance metadata", Scope.LINK_LOCAL),
        ("::ffff:169.254.169.254", "instance metadata", Scope.LINK_LOCAL),
        ("fd00:ec2::254", "instance metadata", Scope.VPC),
        ("fd00:0ec2:0::0254", "instance metadata", Scope.VPC),
        ("169.254.170.2", "ECS task metadata", Scope.LINK_LOCAL),
        ("169.254.170.23", "Pod Identity", Scope.LINK_LOCAL),
        ("fd00:ec2::23", "Pod Identity", Scope.VPC),
        ("169.254.20.10", "node-local DNS", Scope.LINK_LOCAL),
        ("169.254.169.253", "VPC DNS resolver", Scope.LINK_LOCAL),
        ("fd00:ec2::253", "VPC DNS resolver", Scope.VPC),
        ("169.254.169.123", "Amazon Time Sync", Scope.LINK_LOCAL),
        ("fd00:ec2::123", "Amazon Time Sync", Scope.VPC),
    ],
)
def test_well_known_address_has_its_name(address: str, name: str, expected: Scope) -> None:
    assert Destinations(()).classify(address) == Destination(expected, name=name)


@pytest.mark.parametrize(
    "address", ["169.254.169.252", "10.0.0.1", "fd00:ec2::255", "64:ff9b::169.254.169.254"]
)
def test_address_that_is_not_certain_has_no_name(address: str) -> None:
    assert Destinations(()).classify(address).name is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("fe80::1%eth0", Scope.LINK_LOCAL),
        ("fd00:ec2::254%3", Scope.VPC),
        ("127.0.0.53%lo", Scope.LOOPBACK),
        ("2001:db8::1%", Scope.EXTERNAL),
    ],
)
def test_zone_of_an_address_is_ignored(address: str, expected: Scope) -> None:
    assert scope(address) is expected


def test_zone_does_not_hide_a_well_known_name() -> None:
    assert Destinations(()).classify("fd00:ec2::254%eth0").name == "instance metadata"


def test_port_scan_does_not_grow_the_cache_beyond_its_bound() -> None:
    destinations = Destinations(())
    for number in range(CACHED_ADDRESSES + 500):
        destinations.classify(f"198.18.{number >> 8}.{number & 255}")
    assert destinations._remembered.cache_info().currsize == CACHED_ADDRESSES


def test_text_too_long_for_an_address_is_not_kept() -> None:
    destinations = Destinations(())
    assert destinations.classify("10.0.0.1%" + "0" * 100_000) == Destination(Scope.EXTERNAL)
    assert destinations._remembered.cache_info().currsize == 0


def test_address_seen_before_is_not_judged_again() -> None:
    destinations = Destinations(())
    assert destinations.classify("10.0.0.1") is destinations.classify("10.0.0.1")
    assert destinations._remembered.cache_info().hits == 1


@given(st.text() | st.text("0123456789abcdef:.%/", max_size=50))
def test_any_text_is_classified_without_raising(text: str) -> None:
    assert isinstance(Destinations(()).classify(text), Destination)


@given(st.ip_addresses())
def test_any_address_is_classified_without_raising(address: object) -> None:
    assert isinstance(Destinations(()).classify(str(address)), Destination)


@given(st.ip_addresses(v=4))
def test_mapped_address_is_classified_as_the_address_inside(address: object) -> None:
    destinations = Destinations(())
    assert destinations.classify(f"::ffff:{address}") == destinations.classify(str(address))


@pytest.mark.parametrize(
    ("value", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/16", "10.1.0.0/16"),
        ("203.0.113.9", "203.0.113.9/32"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("2001:db8::1/48", "2001:db8::/48"),
        (" 10.0.0.0/8\n", "10.0.0.0/8"),
    ],
)
def test_cidr_is_read_as_people_type_it(value: str, network: str) -> None:
    assert parse_cidrs([value]) == (ip_network(network),)


def test_cidrs_keep_their_order() -> None:
    assert parse_cidrs(["2001:db8::/32", "192.0.2.0/24"]) == (
        IPv6Network("2001:db8::/32"),
        IPv4Network("192.0.2.0/24"),
    )
    assert parse_cidrs([]) == ()


@pytest.mark.parametrize(
    "value", ["", "vpc", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/8,172.16.0.0/12", "1::/129", "/8"]
)
def test_value_that_is_no_cidr_is_a_usage_error_that_names_it(value: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_cidrs(["10.0.0.0/8", value])
    assert repr(value) in str(raised.value)
    assert raised.value.hint


def test_value_with_control_characters_is_named_harmlessly() -> None:
    with pytest.raises(UsageError) as raised:
        parse_cidrs(["\x1b[2Jevil"])
    assert str(raised.value).isprintable()
