"""ICMP errors as bytes from anybody: what is about TCP is told, all else is passed over."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.facts import IcmpError
from tracer.host.icmp import AboutPacket, parse_v4, parse_v6
from tracer.model import Endpoint

SENDER = "192.0.2.1"
NOW = 77
TCP, UDP = 6, 17
PORTS = struct.pack("!HHI", 40_000, 443, 0xDEADBEEF)
DONT_FRAGMENT, MORE_FRAGMENTS = 0x4000, 0x2000


def v4_header(protocol: int, fragment: int = DONT_FRAGMENT, options: bytes = b"") -> bytes:
    ends = socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2")
    first = 0x40 | (20 + len(options)) // 4
    return struct.pack("!BBHHHBBH", first, 0, 60, 1, fragment, 64, protocol, 0) + ends + options


def v4_error(kind: int, code: int, original: bytes | None = None, *, options: bytes = b"") -> bytes:
    inner = v4_header(TCP) + PORTS if original is None else original
    return v4_header(1, options=options) + bytes([kind, code]) + bytes(6) + inner


def v6_error(kind: int, code: int, following: int = TCP, rest: bytes = PORTS) -> bytes:
    ends = socket.inet_pton(socket.AF_INET6, "fd00::1") + socket.inet_pton(
        socket.AF_INET6, "fd00::2"
    )
    header = struct.pack("!IHBB", 6 << 28, len(rest), following, 64) + ends
    return bytes([kind, code]) + bytes(6) + header + rest


def parsed_v4(packet: bytes) -> AboutPacket | None:
    return parse_v4(memoryview(packet), SENDER, NOW)


def parsed_v6(packet: bytes) -> AboutPacket | None:
    return parse_v6(memoryview(packet), SENDER, NOW)


@pytest.mark.parametrize(("kind", "code"), [(3, 0), (3, 1), (3, 3), (3, 13), (11, 0), (12, 1)])
def test_an_error_names_the_four_ends_and_the_sequence_number(kind: int, code: int) -> None:
    assert parsed_v4(v4_error(kind, code)) == AboutPacket(
        family=4,
        source=Endpoint("10.0.0.1", 40_000),
        destination=Endpoint("10.0.0.2", 443),
        sequence=0xDEADBEEF,
        error=IcmpError(4, kind, code, SENDER, 1, NOW),
    )


@pytest.mark.parametrize(("kind", "code"), [(1, 0), (1, 1), (1, 3), (1, 4), (3, 0), (4, 1)])
def test_an_error_of_ipv6_does_so_too(kind: int, code: int) -> None:
    assert parsed_v6(v6_error(kind, code)) == AboutPacket(
        family=6,
        source=Endpoint("fd00::1", 40_000),
        destination=Endpoint("fd00::2", 443),
        sequence=0xDEADBEEF,
        error=IcmpError(6, kind, code, SENDER, 1, NOW),
    )


@pytest.mark.parametrize(("kind", "code"), [(0, 0), (3, 4), (4, 0), (5, 1), (8, 0)])
def test_what_is_no_error_of_a_connect_is_passed_over(kind: int, code: int) -> None:
    assert parsed_v4(v4_error(kind, code)) is None


@pytest.mark.parametrize("kind", [0, 2, 5, 128, 135])
def test_what_is_no_error_of_a_connect_is_passed_over_in_ipv6(kind: int) -> None:
    assert parsed_v6(v6_error(kind, 0)) is None


@pytest.mark.parametrize(
    "original",
    [
        v4_header(UDP) + PORTS,
        v4_header(TCP, fragment=MORE_FRAGMENTS | 1) + PORTS,
        v4_header(TCP) + PORTS[:7],
        v4_header(TCP)[:19],
        b"\x60" + v4_header(TCP)[1:] + PORTS,
        b"\x44" + v4_header(TCP)[1:] + PORTS,
        b"\x4f" + v4_header(TCP)[1:] + PORTS,
        b"",
    ],
    ids=[
        "udp",
        "later-fragment",
        "short-tcp",
        "short-ip",
        "version",
        "length-4",
        "length-15",
        "empty",
    ],
)
def test_an_original_that_shows_no_tcp_header_is_passed_over(original: bytes) -> None:
    assert parsed_v4(v4_error(3, 1, original)) is None


def test_options_are_passed_over_in_either_header() -> None:
    inner = v4_header(TCP, options=bytes(8)) + PORTS
    plain = parsed_v4(v4_error(3, 1))
    assert plain is not None
    assert parsed_v4(v4_error(3, 1, inner, options=bytes(40))) == plain


def test_the_first_fragment_has_the_ports() -> None:
    assert parsed_v4(v4_error(3, 1, v4_header(TCP, fragment=MORE_FRAGMENTS) + PORTS)) is not None


OPTIONS = bytes([TCP, 1]) + bytes(14)
HOP_BY_HOP = bytes([60, 0]) + bytes(6)
FIRST_FRAGMENT = bytes([TCP, 0, 0, 1]) + bytes(4)
LATER_FRAGMENT = bytes([TCP, 0, 0, 8]) + bytes(4)
AUTHENTICATION = bytes([TCP, 4]) + bytes(22)


@pytest.mark.parametrize(
    ("following", "extensions"),
    [(60, OPTIONS), (0, HOP_BY_HOP + OPTIONS), (44, FIRST_FRAGMENT), (51, AUTHENTICATION)],
)
def test_extension_headers_are_passed_over(following: int, extensions: bytes) -> None:
    assert parsed_v6(v6_error(1, 0, following, extensions + PORTS)) == parsed_v6(v6_error(1, 0))


@pytest.mark.parametrize(
    ("following", "rest"),
    [
        (UDP, PORTS),
        (50, PORTS),
        (44, LATER_FRAGMENT + PORTS),
        (60, OPTIONS[:7]),
        (60, OPTIONS + PORTS[:7]),
        (60, bytes([TCP, 255]) + bytes(100)),
        (60, (bytes([60, 0]) + bytes(6)) * 100),
        (0, b""),
    ],
    ids=[
        "udp",
        "encrypted",
        "later-fragment",
        "short-option",
        "short-tcp",
        "beyond-end",
        "chain",
        "empty",
    ],
)
def test_an_original_of_ipv6_that_shows_no_tcp_header_is_passed_over(
    following: int, rest: bytes
) -> None:
    assert parsed_v6(v6_error(1, 0, following, rest)) is None


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parsers_fail(packet: bytes) -> None:
    parsed_v4(packet)
    parsed_v6(packet)


@given(st.integers(0, 120), st.integers(0, 119), st.integers(0, 255))
def test_no_cut_and_no_changed_byte_makes_them_fail(cut: int, at: int, value: int) -> None:
    for make, parse in ((v4_error(3, 1), parsed_v4), (v6_error(1, 0, 60, OPTIONS), parsed_v6)):
        damaged = bytearray(make)
        damaged[at % len(damaged)] = value
        parse(bytes(damaged[:cut]))
