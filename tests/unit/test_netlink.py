"""Netlink messages that are cut short or lie about their length."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import nullcontext, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.host.netlink import (
    ROUTE,
    Netlink,
    attribute,
    attributes,
    pack_address,
    unpack,
    unpack_address,
)

ERROR, DONE, ANSWER = 2, 3, 24
NEXT = 1
"""The number of the first question that a test asks."""


@pytest.fixture
def kernel() -> Iterator[socket.socket]:
    """The other end of what a test's Netlink takes for its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.settimeout(0.01)
        Fake.end = ours
        yield theirs


class Fake(Netlink):
    end: socket.socket

    def __init__(self) -> None:
        super().__init__("/proc/thread-self/ns/net", ROUTE)
        super().close()
        self._socket = self.end


@pytest.fixture
def asking(kernel: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Netlink:  # noqa: ARG001
    monkeypatch.setattr("tracer.host.netlink.enter", lambda _path: nullcontext())
    return Fake()


def message(kind: int, body: bytes, sequence: int = NEXT, length: int | None = None) -> bytes:
    size = 16 + len(body) if length is None else length
    return struct.pack("=IHHII", size, kind, 0, sequence, 0) + body + bytes(-len(body) % 4)


def test_the_content_of_an_answer_is_returned(kernel: socket.socket, asking: Netlink) -> None:
    kernel.send(message(ANSWER, b"told"))
    assert bytes(asking.ask(26, b"")) == b"told"


def test_answers_to_a_question_that_was_given_up_are_passed_over(
    kernel: socket.socket, asking: Netlink
) -> None:
    with pytest.raises(TimeoutError):
        asking.ask(26, b"")
    kernel.send(message(ANSWER, b"late", NEXT) + message(ANSWER, b"told", NEXT + 1))
    assert bytes(asking.ask(26, b"")) == b"told"


def test_a_list_goes_on_until_the_kernel_says_so(kernel: socket.socket, asking: Netlink) -> None:
    kernel.send(message(ANSWER, b"1") + message(ANSWER, b"22"))
    kernel.send(message(ANSWER, b"333") + message(DONE, struct.pack("=i", 0)))
    assert [bytes(one) for one in asking.dump(26, b"")] == [b"1", b"22", b"333"]


@pytest.mark.parametrize("kind", [ERROR, DONE])
def test_a_refusal_is_raised_with_its_number(
    kernel: socket.socket, asking: Netlink, kind: int
) -> None:
    kernel.send(message(kind, struct.pack("=i", -errno.EPERM)))
    with pytest.raises(PermissionError):
        list(asking.dump(26, b""))


@pytest.mark.parametrize(
    "answer",
    [
        b"short",
        message(ANSWER, b"", length=15),
        message(ANSWER, b"told", length=2_000),
        message(ERROR, b"\0"),
        message(ERROR, struct.pack("=i", 0)),
        message(ANSWER, b"told", 0) + b"\1",
    ],
    ids=["short", "length-15", "beyond-end", "short-error", "acknowledgement", "rest"],
)
def test_an_answer_that_is_none_is_an_error(
    kernel: socket.socket, asking: Netlink, answer: bytes
) -> None:
    kernel.send(answer)
    with pytest.raises(OSError, match="damaged") as raised:
        asking.ask(26, b"")
    assert raised.value.errno == errno.EBADMSG


def test_attributes_are_found_by_type_without_their_flags() -> None:
    body = attribute(3, b"abc") + attribute(0x8000 | 4, b"") + attribute(5, b"12345")
    found = attributes(memoryview(body))
    assert {kind: bytes(value) for kind, value in found.items()} == {3: b"abc", 4: b"", 5: b"12345"}


@given(st.binary(max_size=64))
def test_attributes_that_lie_about_their_length_are_an_error(body: bytes) -> None:
    found = None
    with suppress(OSError):
        found = attributes(memoryview(body))
    assert found is None or sum(map(len, found.values())) <= len(body)


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_addresses_are_read_back(address: str) -> None:
    assert unpack_address(memoryview(pack_address(address)[1])) == address


def test_what_is_too_short_is_damaged() -> None:
    for broken in (
        lambda: unpack_address(memoryview(b"12345")),
        lambda: unpack(struct.Struct("=I"), memoryview(b"123")),
    ):
        with pytest.raises(OSError, match="damaged"):
            broken()
