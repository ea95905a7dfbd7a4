"""ICMP errors about TCP that reach a network namespace, heard while they come.

An error carries the start of the packet that it is about (RFC 792, RFC 4443): its addresses, ports
and sequence number, which for a SYN is the attempt's initial sequence number. Anybody can send one:
what is about an attempt names its four ends, and its sequence number where that is known.

Heard on raw sockets, which wants CAP_NET_RAW over the namespace; nothing is ever sent. The kernel
passes on only the types below, only where they are about TCP, and drops what does not fit into the
buffer, which lost() tells. "Fragmentation needed" is no error of a connect, and so is not taken.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from tracer.facts import IcmpError
from tracer.host.netns import enter
from tracer.model import Endpoint

# <linux/icmp.h>, <linux/icmpv6.h>, <linux/filter.h>, <asm-generic/socket.h>
_SOL_RAW: Final = 255
_ICMP_FILTER: Final = 1
_ICMPV6_FILTER: Final = 1
_SO_ATTACH_FILTER: Final = 26
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO_DROPS: Final = 8

_UNREACHABLE, _TIME_EXCEEDED, _PARAMETER_PROBLEM = 3, 11, 12
_UNREACHABLE_V6, _TIME_EXCEEDED_V6, _PARAMETER_PROBLEM_V6 = 1, 3, 4
_KINDS: Final = frozenset({_UNREACHABLE, _TIME_EXCEEDED, _PARAMETER_PROBLEM})
_KINDS_V6: Final = frozenset({_UNREACHABLE_V6, _TIME_EXCEEDED_V6, _PARAMETER_PROBLEM_V6})
_FRAGMENTATION_NEEDED: Final = 4

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _OPTIONS = 0, 43, 44, 51, 60
_EXTENSIONS: Final = (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _OPTIONS)
_MOST_EXTENSIONS: Final = 8

_ICMP_HEADER: Final = 8
_V4_HEADER: Final = 20
_V6_HEADER: Final = 40
_PORTS_AND_SEQUENCE: Final = struct.Struct("!HHI")
_BE16: Final = struct.Struct("!H")

_BUFFER_BYTES: Final = 1 << 20
"""Some two thousand errors, as the kernel accounts for them; it takes memory for what is there."""

_RECEIVE_BYTES: Final = 2_048
"""An error of IPv4 takes 576 at most (RFC 1812), one of IPv6 1,280."""

_MOST_PER_READ: Final = 4_096
"""More than the buffer holds, unless they go on coming meanwhile."""

_INSTRUCTION: Final = struct.Struct("=HBBI")
_LOAD_BYTE, _LOAD_BYTE_X, _LOAD_HALF_X = 0x30, 0x50, 0x48
_LOAD_HEADER_LENGTH, _JUMP_IF_EQUAL, _RETURN = 0xB1, 0x15, 0x06
"""Classic BPF: ldb [k], ldb [x+k], ldh [x+k], ldxb 4*([k]&0xf), jeq #k, ret #k."""


class NoRawSocket(PermissionError):
    """Raw sockets are not permitted, wherever (CAP_NET_RAW)."""


@dataclass(frozen=True, slots=True)
class AboutPacket:
    """An ICMP error, and the TCP packet that it is about, as this namespace sent it."""

    family: int
    source: Endpoint
    destination: Endpoint
    sequence: int
    error: IcmpError


class IcmpListener:
    """Hears the ICMP errors that reach one network namespace. For one thread at a time.

    It keeps the namespace alive until closed.
    """

    def __init__(self, path: str) -> None:
        """Listens in the namespace whose file is `path`, from now on.

        Raises OSError where it cannot be entered, PermissionError where that is not permitted, and
        NoRawSocket where raw sockets are not. Where there is no IPv6, IPv4 alone is heard.
        """
        self._packet = bytearray(_RECEIVE_BYTES)
        self._sockets: list[tuple[int, socket.socket]] = []
        with ExitStack() as stack, enter(path):
            self._sockets.append((4, stack.enter_context(_open_v4())))
            try:
                self._sockets.append((6, stack.enter_context(_open_v6())))
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise
            self._opened = stack.pop_all()

    def close(self) -> None:
        self._opened.close()

    def read(self) -> list[AboutPacket]:
        """What came since the last time, oldest first for each family; never waits.

        At most some thousands of each, the rest is for the next time. `last_ns` of an error is when
        it was read. Raises OSError where a socket fails.
        """
        found = []
        for family, heard in self._sockets:
            parse = parse_v4 if family == 4 else parse_v6
            for _ in range(_MOST_PER_READ):
                try:
                    size, sender = heard.recvfrom_into(self._packet)
                except BlockingIOError:
                    break
                about = parse(memoryview(self._packet)[:size], sender[0], time.monotonic_ns())
                if about is not None:
                    found.append(about)
        return found

    def lost(self) -> int | None:
        """Errors that came and found the buffer full, since the start; None where the kernel does
        not tell (before Linux 4.12). Raises OSError where a socket fails.
        """
        total = 0
        for _family, heard in self._sockets:
            try:
                told = heard.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_MEMINFO_DROPS + 1))
            except OSError as error:
                if error.errno == errno.ENOPROTOOPT:
                    return None
                raise
            total += struct.unpack_from("=I", told, 4 * _MEMINFO_DROPS)[0]
        return total


def parse_v4(packet: memoryview, sender: str, now_ns: int) -> AboutPacket | None:
    """An IPv4 packet that carries ICMP; None where it is no error about TCP, or too short for one.

    Never raises: what it holds is anybody's.
    """
    start = _v4_length(packet)
    if start is None or len(packet) < start + _ICMP_HEADER:
        return None
    kind, code = packet[start], packet[start + 1]
    if kind not in _KINDS or (kind, code) == (_UNREACHABLE, _FRAGMENTATION_NEEDED):
        return None
    original = packet[start + _ICMP_HEADER :]
    length = _v4_length(original)
    # A later fragment has no TCP header.
    if length is None or original[9] != socket.IPPROTO_TCP or _fragment_offset(original):
        return None
    return _about(
        4, original[12:20], original[length:], IcmpError(4, kind, code, sender, 1, now_ns)
    )


def parse_v6(message: memoryview, sender: str, now_ns: int) -> AboutPacket | None:
    """An ICMPv6 message, as a raw socket gives it, without its IPv6 header. As parse_v4()."""
    if len(message) < _ICMP_HEADER + _V6_HEADER or message[0] not in _KINDS_V6:
        return None
    original = message[_ICMP_HEADER:]
    if original[0] >> 4 != 6:
        return None
    rest = _tcp_of_v6(original[6], original[_V6_HEADER:])
    if rest is None:
        return None
    error = IcmpError(6, message[0], message[1], sender, 1, now_ns)
    return _about(6, original[8:40], rest, error)


def _about(
    family: int, addresses: memoryview, tcp: memoryview, error: IcmpError
) -> AboutPacket | None:
    if len(tcp) < _PORTS_AND_SEQUENCE.size:
        return None
    source_port, destination_port, sequence = _PORTS_AND_SEQUENCE.unpack_from(tcp)
    version, width = (socket.AF_INET, 4) if family == 4 else (socket.AF_INET6, 16)
    source, destination = (
        socket.inet_ntop(version, addresses[at : at + width]) for at in (0, width)
    )
    return AboutPacket(
        family,
        Endpoint(source, source_port),
        Endpoint(destination, destination_port),
        sequence,
        error,
    )


def _v4_length(packet: memoryview) -> int | None:
    """Length of an IPv4 header with its options; None where there is none."""
    if len(packet) < _V4_HEADER or packet[0] >> 4 != 4:
        return None
    length = (packet[0] & 0xF) * 4
    return length if _V4_HEADER <= length <= len(packet) else None


def _fragment_offset(header: memoryview) -> int:
    return int(_BE16.unpack_from(header, 6)[0]) & 0x1FFF


def _tcp_of_v6(following: int, rest: memoryview) -> memoryview | None:
    """What comes after an IPv6 header's extensions, if that is the start of TCP."""
    for _ in range(_MOST_EXTENSIONS):
        if following == socket.IPPROTO_TCP:
            return rest
        if following not in _EXTENSIONS or len(rest) < 8:
            return None
        if following == _FRAGMENT:
            if _BE16.unpack_from(rest, 2)[0] >> 3:
                return None
            length = 8
        elif following == _AUTHENTICATION:
            length = (rest[1] + 2) * 4
        else:
            length = (rest[1] + 1) * 8
        following, rest = rest[0], rest[length:]
    return None


# --- what the kernel passes on ---------------------------------------------------------------


def _open_v4() -> socket.socket:
    blocked = 0xFFFFFFFF & ~sum(1 << kind for kind in _KINDS)
    made = _open(socket.AF_INET, socket.IPPROTO_ICMP, _v4_program())
    made.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", blocked))
    return made


def _open_v6() -> socket.socket:
    blocked = 0xFFFFFFFF & ~sum(1 << kind for kind in _KINDS_V6)
    made = _open(socket.AF_INET6, socket.IPPROTO_ICMPV6, _v6_program())
    # struct icmp6_filter: a bit for each of the 256 types, those above 31 in seven more words.
    words = struct.pack("=8I", blocked, *[0xFFFFFFFF] * 7)
    made.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, words)
    return made


def _open(family: int, protocol: int, program: list[bytes]) -> socket.socket:
    """A raw socket; what comes before its filters are set is parsed like the rest."""
    try:
        made = socket.socket(
            family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol
        )
    except PermissionError as error:
        raise NoRawSocket(*error.args) from error
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except PermissionError:  # without CAP_NET_ADMIN net.core.rmem_max is the limit
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    code = ctypes.create_string_buffer(b"".join(program))
    # struct sock_fprog: how many instructions, and where they are.
    filter_ = struct.pack("@HP", len(program), ctypes.addressof(code))
    made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
    return made


def _v4_program() -> list[bytes]:
    """Takes what is about TCP and is not "fragmentation needed"; a load beyond the end refuses."""
    protocol = _ICMP_HEADER + 9
    return [
        _instruction(_LOAD_HEADER_LENGTH, 0),
        _instruction(_LOAD_BYTE_X, protocol),
        _instruction(_JUMP_IF_EQUAL, socket.IPPROTO_TCP, 0, 3),
        _instruction(_LOAD_HALF_X, 0),
        _instruction(_JUMP_IF_EQUAL, _UNREACHABLE << 8 | _FRAGMENTATION_NEEDED, 1, 0),
        _instruction(_RETURN, _RECEIVE_BYTES),
        _instruction(_RETURN, 0),
    ]


def _v6_program() -> list[bytes]:
    """Takes what may be about TCP: extensions are the parser's."""
    taken = (socket.IPPROTO_TCP, *_EXTENSIONS)
    return [
        _instruction(_LOAD_BYTE, _ICMP_HEADER + 6),
        *(
            _instruction(_JUMP_IF_EQUAL, following, len(taken) - index, 0)
            for index, following in enumerate(taken)
        ),
        _instruction(_RETURN, 0),
        _instruction(_RETURN, _RECEIVE_BYTES),
    ]


def _instruction(code: int, number: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, number)
