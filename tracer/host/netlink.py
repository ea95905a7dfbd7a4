"""Questions to the kernel over netlink in one network namespace, for rtnetlink and sock_diag.

No pyroute2: see ctnetlink.py, which has a socket of its own since netfilter answers differently. A
question costs 10 to 20 µs here with all that Python does, opening the socket in another namespace
33 µs.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from tracer.host.netns import enter

# <linux/netlink.h>
ROUTE: Final = 0
SOCK_DIAG: Final = 4
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP: Final = 0x300
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLA_TYPE_MASK: Final = 0x3FFF

_NLMSGHDR: Final = struct.Struct("=IHHII")
_NLATTR: Final = struct.Struct("=HH")
_ERRNO: Final = struct.Struct("=i")

_RECEIVE_BYTES: Final = 32_768
"""The kernel puts no more of a dump into one piece (netlink_recvmsg())."""

_ANSWER_SECONDS: Final = 0.5
"""The kernel answers before the request's send() returns: what is not there then never comes."""


class Netlink:
    """An open netlink socket in one network namespace, closed by `with`. For one thread at a time.

    It keeps the namespace alive for as long as it is open.
    """

    def __init__(self, path: str, protocol: int) -> None:
        """Opens a socket in the namespace whose file is `path`; `protocol` is ROUTE or SOCK_DIAG.

        Raises OSError where the namespace cannot be entered or the kernel has no such protocol.
        """
        with enter(path):
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
            )
        self._socket.settimeout(_ANSWER_SECONDS)
        self._sequence = 0
        self._buffer = bytearray(_RECEIVE_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For ioctls, which the namespace of the socket answers."""
        return self._socket.fileno()

    def ask(self, kind: int, body: bytes) -> memoryview:
        """The content of the one message that answers; it is overwritten by the next question.

        Raises OSError with the kernel's errno where it refuses, with EBADMSG where the answer is
        damaged or is none, TimeoutError where none comes.
        """
        self._send(kind, _NLM_F_REQUEST, body)
        for answer in self._messages():
            return answer
        raise _damaged()

    def dump(self, kind: int, body: bytes) -> Iterator[memoryview]:
        """The content of each message of a list; each is overwritten once the next is taken.

        Raises OSError as ask() does, between two messages too.
        """
        self._send(kind, _NLM_F_REQUEST | _NLM_F_DUMP, body)
        yield from self._messages()

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        header = _NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, flags, self._sequence, 0)
        self._socket.send(header + body)

    def _messages(self) -> Iterator[memoryview]:
        """What answers the last request, until the kernel says that this was all."""
        view = memoryview(self._buffer)
        while True:
            size = self._socket.recv_into(self._buffer)
            position = 0
            while position < size:
                if size - position < _NLMSGHDR.size:
                    raise _damaged()
                length, kind, _flags, sequence, _port = _NLMSGHDR.unpack_from(view, position)
                if not _NLMSGHDR.size <= length <= size - position:
                    raise _damaged()
                body = view[position + _NLMSGHDR.size : position + length]
                position += length + 3 & ~3
                if sequence != self._sequence:
                    continue  # left over from a request that was given up
                if kind in {_NLMSG_ERROR, _NLMSG_DONE}:
                    # DONE carries how the dump went, ERROR 0 is an acknowledgement.
                    _raise_errno(body, required=kind == _NLMSG_ERROR)
                    return
                yield body


def attribute(kind: int, value: bytes) -> bytes:
    """A netlink attribute, padded."""
    return _NLATTR.pack(_NLATTR.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(body: memoryview) -> dict[int, memoryview]:
    """The attributes of a message (after its own header) or of one that nests others, by type.

    Raises OSError with EBADMSG where one reaches beyond the end.
    """
    found: dict[int, memoryview] = {}
    position = 0
    while position + _NLATTR.size <= len(body):
        length, kind = _NLATTR.unpack_from(body, position)
        if not _NLATTR.size <= length <= len(body) - position:
            raise _damaged()
        found[kind & _NLA_TYPE_MASK] = body[position + _NLATTR.size : position + length]
        position += length + 3 & ~3
    return found


def unpack(layout: struct.Struct, body: memoryview) -> tuple[int, ...]:
    """The numbers at the start of `body`. Raises OSError with EBADMSG where it is too short."""
    if len(body) < layout.size:
        raise _damaged()
    return layout.unpack_from(body)


def pack_address(address: str) -> tuple[int, bytes]:
    """AF_INET or AF_INET6, and the address as on the wire. Raises OSError where it is none."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


def unpack_address(packed: memoryview) -> str:
    """Raises OSError with EBADMSG where it has the length of no address."""
    if len(packed) not in {4, 16}:
        raise _damaged()
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _raise_errno(body: memoryview, *, required: bool) -> None:
    if len(body) < _ERRNO.size:
        if required:
            raise _damaged()
        return
    number = -_ERRNO.unpack_from(body)[0]
    if number > 0:
        raise OSError(number, os.strerror(number))


def _damaged() -> OSError:
    return OSError(errno.EBADMSG, "the kernel answered with a damaged message")
