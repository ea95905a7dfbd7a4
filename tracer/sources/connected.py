"""What namespaces with stuck attempts connect to meanwhile: sockets that were not connected before.

A look into a namespace walks the socket table of the whole host, whatever is asked for. So where
one is due for what is stuck, connected and listening sockets are asked for in the same walk. What
is connected and was not at the look before was opened in between, by this side if nobody here
listens on its port.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from tracer.model import NANOSECONDS, Endpoint, Flow, Reached, TcpState

AGAIN_SECONDS: Final = 5.0
"""Between two looks: each connected socket is a message of the kernel's, 2 µs here."""

MAX_PER_NAMESPACE: Final = 4_096
"""Connected sockets; a namespace with more is left alone."""

LEFT_ALONE_SECONDS: Final = 300.0

MAX_KNOWN: Final = 32_768
"""Of all namespaces, at some 70 bytes; beyond it, no more namespaces are followed."""

_PORTS: Final = struct.Struct("!HH")
_COOKIE: Final = struct.Struct("=Q")
_SOCKID: Final = slice(4, 52)
"""struct inet_diag_sockid within struct inet_diag_msg: ports first, the cookie last."""
_COOKIE_OFFSET: Final = 44
_STATES: Final = (TcpState.ESTABLISHED, TcpState.LISTEN)

STATES: Final = sum(1 << state.value for state in _STATES)
"""What is asked for beside SYN_SENT, as sock_diag wants it."""


class Others:
    """The connected and listening sockets of one look."""

    def __init__(self, began_ns: int) -> None:
        self.began_ns = began_ns
        self.connected: dict[int, tuple[int, bytes]] = {}
        self.listening: set[int] = set()
        self.too_many = False

    def take(self, body: memoryview) -> bool:
        """Takes in a message of the kernel's; whether it was about such a socket."""
        family, state = body[0], body[1]
        if state == TcpState.LISTEN.value:
            self.listening.add(_PORTS.unpack_from(body, 4)[0])
        elif state == TcpState.ESTABLISHED.value:
            self.too_many = len(self.connected) >= MAX_PER_NAMESPACE
            if not self.too_many:
                cookie = _COOKIE.unpack_from(body, _COOKIE_OFFSET)[0]
                self.connected[cookie] = family, bytes(body[_SOCKID])
        else:
            return False
        return True

    def opened(self, but: Collection[int], flow_of: Callable[[int, bytes], Flow]) -> set[Endpoint]:
        """Where sockets lead that this side has opened, and that are none of `but`."""
        flows = (
            flow_of(family, sockid)
            for cookie, (family, sockid) in self.connected.items()
            if cookie not in but
        )
        return {flow.destination for flow in flows if flow.source.port not in self.listening}


class Connected:
    """What was connected at the last look into each namespace. For one thread."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._known: dict[int, _Look] = {}

    def due(self, netns: int) -> Others | None:
        """Takes what a look will find that begins now; None: none is due."""
        now, before = self._clock(), self._known.get(netns)
        if before is not None:
            seconds = AGAIN_SECONDS if before.cookies is not None else LEFT_ALONE_SECONDS
            if now - before.began_ns < seconds * NANOSECONDS:
                return None
        return Others(now)

    def note(
        self, netns: int, others: Others, flow_of: Callable[[int, bytes], Flow]
    ) -> list[Reached]:
        """What was reached since the look before began; nothing at the first."""
        before = self._known.pop(netns, None)
        kept = sum(len(look.cookies or ()) for look in self._known.values())
        if others.too_many or kept + len(others.connected) > MAX_KNOWN:
            self._known[netns] = _Look(others.began_ns, None)
            return []
        self._known[netns] = _Look(others.began_ns, frozenset(others.connected))
        if before is None or before.cookies is None:
            return []
        found = others.opened(before.cookies, flow_of)
        return [Reached(netns, one, before.began_ns) for one in found]

    def forget(self, netns: int) -> None:
        self._known.pop(netns, None)


class _Look(NamedTuple):
    """When it began, and what was connected; None: too much, the namespace is left alone."""

    began_ns: int
    cookies: frozenset[int] | None
