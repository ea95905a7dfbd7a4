"""TCP sockets of a namespace by what is asked for, over netlink sock_diag (sock_diag(7)).

Only what the other side of an attempt and its port range need; what is in SYN_SENT is swept by
tracer.sources.sock_diag. Exactly one socket is a look into a hash. A list walks the table of all
namespaces' sockets (2 ms here, 26 ms with 96,000 of them); what does not match is passed over in
the kernel.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from tracer.host.netlink import SOCK_DIAG, Netlink, attribute, attributes, pack_address, unpack
from tracer.model import Endpoint, TcpState

# <linux/sock_diag.h>, <linux/inet_diag.h>
_TCPDIAG_GETSOCK: Final = 18
"""The older request, which answers for both families in one walk."""
_SOCK_DIAG_BY_FAMILY: Final = 20
_INET_DIAG_REQ_BYTECODE: Final = 1
_INET_DIAG_SKV6ONLY: Final = 11
_INET_DIAG_BC_S_COND: Final = 7
_INET_DIAG_BC_D_COND: Final = 8
_NO_COOKIE: Final = b"\xff" * 8
_ANY_PORT: Final = -1

# struct inet_diag_sockid: sport, dport (network order), src, dst, interface, cookie
_SOCKID: Final = struct.Struct("!HH16s16s4s8s")
# struct inet_diag_req: family, src_len, dst_len, ext, id, states, dbs
_LIST_REQUEST: Final = struct.Struct("=BBBB48sII")
# struct inet_diag_req_v2: family, protocol, ext, pad, states, id
_EXACT_REQUEST: Final = struct.Struct("=BBBxI48s")
# struct inet_diag_msg: family, state, timer, retrans, id, expires, rqueue, wqueue, uid, inode
_MESSAGE: Final = struct.Struct("=BBBB48sIIIII")
_PORT: Final = struct.Struct("!xxxxH")
"""The local port in the struct before."""
# struct inet_diag_bc_op: code, yes, no; struct inet_diag_hostcond: family, prefix_len, port
_OPERATION: Final = struct.Struct("=BBH")
_HOST: Final = struct.Struct("=BBxxi")

_LISTENING: Final = 1 << TcpState.LISTEN.value
_WITH_PEER: Final = sum(
    1 << state.value for state in TcpState if state not in {TcpState.LISTEN, TcpState.CLOSE}
)
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class ListenSocket:
    """A listening socket: connections that wait to be accepted, and how many may."""

    queued: int
    backlog: int


class _Described(NamedTuple):
    """A socket as the kernel describes it; `address` in 16 bytes, an IPv4 one in the first four."""

    family: int
    state: int
    port: int
    address: bytes
    queued: int
    backlog: int
    only_v6: bool


class InetDiag(Netlink):
    """Questions about one namespace's TCP sockets. It keeps it alive until closed (`with`).

    Every method raises OSError where the kernel refuses.
    """

    def __init__(self, path: str) -> None:
        """Raises OSError where the namespace whose file is `path` cannot be entered."""
        super().__init__(path, SOCK_DIAG)

    def listener(self, local: Endpoint, remote: Endpoint | None = None) -> ListenSocket | None:
        """The socket to which a SYN for `local` goes; None: there is none.

        The kernel looks it up as for a packet: sockets bound to any address count, IPv6 ones that
        take IPv4 as well, and so do BPF programs for socket lookup. Of several that share a port
        (SO_REUSEPORT) it picks the one that a SYN from `remote` goes to, unless BPF picks it. Those
        bound to a device (SO_BINDTODEVICE) are found wherever they are.

        Raises ValueError where `local` has no port.
        """
        if local.port is None:
            raise ValueError(f"nothing can be looked for without a port: {local}")
        # With both ends the kernel finds a connection first, if there is one.
        for other in (remote, None) if remote is not None and remote.port else (None,):
            found = self._exact(local, other)
            if found is not None and found.state == TcpState.LISTEN.value:
                return ListenSocket(found.queued, found.backlog)
        return self._listed(local)

    def local_ports(self, remote: Endpoint, source: str | None = None) -> Iterator[int]:
        """The local port of every socket that has `remote` as its peer, in any state, TIME_WAIT
        too; those of the local address `source` alone, where it is given. A port may come twice.
        """
        to_remote = _condition(_INET_DIAG_BC_D_COND, remote.address, remote.port)
        from_source = b"" if source is None else _condition(_INET_DIAG_BC_S_COND, source, None)
        program = _conjunction(from_source, to_remote)
        request = _LIST_REQUEST.pack(0, 0, 0, 0, bytes(48), _WITH_PEER, 0)
        wanted = attribute(_INET_DIAG_REQ_BYTECODE, program)
        for message in self.dump(_TCPDIAG_GETSOCK, request + wanted):
            # Up to 64,000 of them: only what is asked for is unpacked.
            yield unpack(_PORT, message)[0]

    def _exact(self, local: Endpoint, remote: Endpoint | None) -> _Described | None:
        family, source = pack_address(local.address)
        destination = bytes(len(source)) if remote is None else pack_address(remote.address)[1]
        sockid = _SOCKID.pack(
            local.port,
            0 if remote is None else remote.port,
            source,
            destination,
            bytes(4),
            _NO_COOKIE,
        )
        request = _EXACT_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF, sockid)
        try:
            return _described(self.ask(_SOCK_DIAG_BY_FAMILY, request))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def _listed(self, local: Endpoint) -> ListenSocket | None:
        """From the list of those that listen on the port: the exact look passes over sockets that
        are bound to a device, and to say that nothing listens takes certainty.
        """
        family, address = pack_address(local.address)
        sockid = _SOCKID.pack(local.port, 0, bytes(16), bytes(16), bytes(4), bytes(8))
        request = _LIST_REQUEST.pack(0, 0, 0, 0, sockid, _LISTENING, 0)
        for message in self.dump(_TCPDIAG_GETSOCK, request):
            found = _described(message)
            if found.port == local.port and _takes(found, family, address):
                return ListenSocket(found.queued, found.backlog)
        return None


def _takes(bound: _Described, family: int, address: bytes) -> bool:
    """Whether a listening socket takes what comes for `address`."""
    if bound.family == family:
        return bound.address[: len(address)] in {address, bytes(len(address))}
    if family == socket.AF_INET6:
        return False
    return bound.address == _V4_MAPPED + address or (
        bound.address == bytes(16) and not bound.only_v6
    )


def _condition(code: int, address: str, port: int | None) -> bytes:
    """An operation of the kernel's filter without its jumps: one end of a socket is this one.

    An IPv4 address matches an IPv6 socket that speaks IPv4 (inet_diag_bc_run()).
    """
    family, packed = pack_address(address)
    host = _HOST.pack(family, len(packed) * 8, _ANY_PORT if port is None else port)
    return bytes([code]) + host + packed


def _conjunction(*conditions: bytes) -> bytes:
    """The program that takes what meets all of `conditions`: jumping beyond its end refuses."""
    program = b""
    for condition in reversed([one for one in conditions if one]):
        length = _OPERATION.size + len(condition) - 1
        refuse = length + len(program) + _OPERATION.size
        program = _OPERATION.pack(condition[0], length, refuse) + condition[1:] + program
    return program


def _described(message: memoryview) -> _Described:
    """Raises OSError where the message is damaged."""
    unpack(_MESSAGE, message)
    family, state, _timer, _retransmitted, sockid, _expires, queued, backlog, _uid, _inode = (
        _MESSAGE.unpack_from(message)
    )
    port, _port, address, _peer, _interface, _cookie = _SOCKID.unpack(sockid)
    # Told of listening IPv6 sockets alone.
    only_v6 = attributes(message[_MESSAGE.size :]).get(_INET_DIAG_SKV6ONLY)
    return _Described(family, state, port, address, queued, backlog, any(only_v6 or b""))
