"""Lists of ports as sysctls have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.host.ports import parse_ports


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("", set()),
        ("8080", {8080}),
        ("8080,9148", {8080, 9148}),
        ("1-3,2-4,65535", {1, 2, 3, 4, 65_535}),
    ],
)
def test_ports_and_ranges_are_taken_together(text: str, ports: set[int]) -> None:
    assert parse_ports(text) == ports


@pytest.mark.parametrize("text", ["many", "1-2-3", "1 2", "-", "0-99999999", "-5"])
def test_what_is_no_list_of_ports_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_ports(text)


@given(st.sets(st.integers(0, 65_535), max_size=50))
def test_a_list_of_single_ports_is_read_back(ports: set[int]) -> None:
    assert parse_ports(",".join(map(str, sorted(ports)))) == ports
