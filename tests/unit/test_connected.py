"""What a look into a namespace tells of connections that were opened since the one before."""

from __future__ import annotations

import socket
import struct

import pytest

from tracer.model import Endpoint, Flow, Reached, TcpState
from tracer.sources import connected
from tracer.sources.connected import AGAIN_SECONDS, LEFT_ALONE_SECONDS, Connected, Others
from tracer.sources.sock_diag import _flow

POD = 4_026_532_100
SECOND = 1_000_000_000
THERE, ELSEWHERE = Endpoint("10.4.9.1", 443), Endpoint("10.4.9.2", 443)


class Clock:
    def __init__(self) -> None:
        self.now = 100 * SECOND

    def __call__(self) -> int:
        return self.now

    def later(self, seconds: float = AGAIN_SECONDS) -> None:
        self.now += int(seconds * SECOND)


def message(
    cookie: int, port: int, peer: Endpoint, state: TcpState = TcpState.ESTABLISHED
) -> memoryview:
    """struct inet_diag_msg of a socket of 10.4.7.21."""
    source = socket.inet_aton("10.4.7.21").ljust(16, b"\0")
    there = socket.inet_aton(peer.address).ljust(16, b"\0")
    sockid = struct.pack("!HH", port, peer.port or 0) + source + there + bytes(4)
    body = struct.pack("=BBBB", socket.AF_INET, state.value, 0, 0) + sockid
    return memoryview(body + struct.pack("=Q", cookie) + bytes(20))


def flow_of(family: int, sockid: bytes) -> Flow:
    return _flow(POD, family, sockid)


def look(known: Connected, *messages: memoryview) -> list[Reached]:
    others = known.due(POD)
    assert others is not None
    for one in messages:
        assert others.take(one)
    return known.note(POD, others, flow_of)


def listening(port: int) -> memoryview:
    return message(99, port, Endpoint("0.0.0.0", 0), TcpState.LISTEN)  # noqa: S104


def test_what_was_connected_at_the_first_look_was_opened_nobody_knows_when() -> None:
    clock = Clock()
    known = Connected(clock)
    assert look(known, message(1, 40_000, THERE)) == []
    clock.later()
    assert look(known, message(1, 40_000, THERE)) == []


def test_what_is_new_was_opened_after_the_look_before_began() -> None:
    clock = Clock()
    known = Connected(clock)
    look(known, message(1, 40_000, THERE))
    began = clock.now
    clock.later()
    found = look(known, message(1, 40_000, THERE), message(2, 40_001, ELSEWHERE))
    assert found == [Reached(POD, ELSEWHERE, began)]


def test_the_same_tuple_with_another_socket_is_new() -> None:
    clock = Clock()
    known = Connected(clock)
    look(known, message(1, 40_000, THERE))
    clock.later()
    assert [one.destination for one in look(known, message(2, 40_000, THERE))] == [THERE]


def test_what_somebody_else_opened_is_not_reached() -> None:
    clock = Clock()
    known = Connected(clock)
    look(known)
    clock.later()
    assert look(known, message(1, 8_080, THERE), listening(8_080)) == []


def test_many_connections_to_one_destination_are_one_word() -> None:
    clock = Clock()
    known = Connected(clock)
    look(known)
    clock.later()
    assert len(look(known, *(message(one, 40_000 + one, THERE) for one in range(50)))) == 1


def test_a_look_is_due_once_in_a_while() -> None:
    clock = Clock()
    known = Connected(clock)
    look(known)
    assert known.due(POD) is None
    assert known.due(POD + 1) is not None
    clock.later()
    assert known.due(POD) is not None


def test_a_namespace_with_too_many_connections_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connected, "MAX_PER_NAMESPACE", 2)
    clock = Clock()
    known = Connected(clock)
    many = [message(one, 40_000 + one, THERE) for one in range(3)]
    assert look(known, *many) == []
    clock.later()
    assert known.due(POD) is None
    clock.later(LEFT_ALONE_SECONDS)
    assert look(known, *many[:2]) == [], "nothing is known of the time before"
    clock.later()
    assert look(known, *many[:1]) == []


def test_beyond_the_bound_no_more_namespaces_are_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connected, "MAX_KNOWN", 1)
    clock = Clock()
    known = Connected(clock)
    look(known, message(1, 40_000, THERE))
    others = known.due(POD + 1)
    assert others is not None
    others.take(message(2, 40_001, THERE))
    known.note(POD + 1, others, flow_of)
    clock.later()
    assert known.due(POD + 1) is None
    assert known.due(POD) is not None


def test_other_states_are_left_to_whoever_asked_for_them() -> None:
    assert not Others(0).take(message(1, 40_000, THERE, TcpState.SYN_SENT))
