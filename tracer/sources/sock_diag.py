"""Sockets in SYN_SENT of one network namespace, asked of the kernel through netlink sock_diag.

See sock_diag(7). The dump uses the older request TCPDIAG_GETSOCK, which answers for IPv4 and IPv6
in one walk of the kernel's socket table; the newer one walks it once per family, and that walk is
what a look costs.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.host.netns import enter
from tracer.model import Endpoint, Flow, Owner, SweptSocket, TcpState
from tracer.sources.connected import STATES as CONNECTED_STATES
from tracer.sources.connected import Others
from tracer.sources.timeline import doublings_of, timeline

if TYPE_CHECKING:
    from collections.abc import Iterator

# <linux/netlink.h>, <linux/sock_diag.h>, <linux/inet_diag.h>
_NETLINK_SOCK_DIAG: Final = 4
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP: Final = 0x300
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_TCPDIAG_GETSOCK: Final = 18
_SOCK_DIAG_BY_FAMILY: Final = 20
_INET_DIAG_INFO: Final = 2
_INET_DIAG_CGROUP_ID: Final = 21
_TIMER_RETRANSMIT: Final = 1

_NLMSGHDR: Final = struct.Struct("=IHHII")
_NLATTR: Final = struct.Struct("=HH")
_ERRNO: Final = struct.Struct("=i")
_U64: Final = struct.Struct("=Q")
# struct inet_diag_req: family, src_len, dst_len, ext, id, states, dbs
_DUMP_REQUEST: Final = struct.Struct("=BBBB48sII")
# struct inet_diag_req_v2: family, protocol, ext, pad, states, id
_EXACT_REQUEST: Final = struct.Struct("=BBBxI48s")
# struct inet_diag_msg: family, state, timer, retrans, id, expires, rqueue, wqueue, uid, inode
_MESSAGE: Final = struct.Struct("=BBBB48sIIIII")
# struct inet_diag_sockid: sport, dport (network order), src, dst, interface, cookie
_SOCKID_PORTS: Final = struct.Struct("!HH")
_SOCKID_COOKIE: Final = struct.Struct("=Q")
_SOCKID_COOKIE_OFFSET: Final = 40
# struct tcp_info: backoff is the fifth byte, rto (µs) the u32 at 8, total_retrans the one at 100
_INFO_BACKOFF: Final = 4
_INFO_RTO: Final = struct.Struct("=I")
_INFO_RTO_OFFSET: Final = 8
_INFO_TOTAL_RETRANS_OFFSET: Final = 100
# tcpi_total_rto_time (ms since the first retransmission; Linux 6.7, 3868ab0f1925)
_INFO_RTO_TIME_OFFSET: Final = 244

_RECEIVE_BYTES: Final = 1 << 18
_ANSWER_SECONDS: Final = 5.0
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


def receive_buffer() -> bytearray:
    """Room for one answer of the kernel."""
    return bytearray(_RECEIVE_BYTES)


class Diagnosed(NamedTuple):
    """A socket as the kernel described it, with what asks for exactly this one again."""

    family: int
    sockid: bytes
    state: int
    swept: SweptSocket


class SockDiag:
    """An open netlink socket in one network namespace.

    It keeps the namespace alive for as long as it is open: close it when the namespace has no
    process left. Every method raises OSError where the kernel refuses.
    """

    def __init__(self, netns: int, path: str, buffer: bytearray | None = None) -> None:
        """Opens a socket in the namespace whose file is `path`; `netns` is its inode number.

        Several may share a `buffer` of receive_buffer(), if they are used one after the other.
        """
        self.netns = netns
        with enter(path):
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
            )
        self._socket.settimeout(_ANSWER_SECONDS)
        self._sequence = 0
        self._buffer = receive_buffer() if buffer is None else buffer

    def close(self) -> None:
        self._socket.close()

    def syn_sent(self, others: Others | None = None) -> list[Diagnosed]:
        """Every TCP socket of the namespace that is in SYN_SENT; what is connected or listens goes
        to `others`, in the same walk.
        """
        states = 1 << TcpState.SYN_SENT.value
        if others is not None:
            states |= CONNECTED_STATES
        request = _DUMP_REQUEST.pack(0, 0, 0, 1 << (_INET_DIAG_INFO - 1), bytes(48), states, 0)
        self._send(_TCPDIAG_GETSOCK, _NLM_F_REQUEST | _NLM_F_DUMP, request)
        return list(self._answers(dump=True, others=others))

    def flow_of(self, family: int, sockid: bytes) -> Flow:
        """The tuple of a socket of this namespace, from its struct inet_diag_sockid."""
        return _flow(self.netns, family, sockid)

    def state_of(self, known: Diagnosed) -> int | None:
        """The present TCP state of a socket seen before; None if it is gone.

        The cookie makes sure that it is the same socket, not another with the same tuple.
        """
        request = _EXACT_REQUEST.pack(known.family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF, known.sockid)
        self._send(_SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, request)
        try:
            for answer in self._answers(dump=False):
                return answer.state
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
        return None

    def _send(self, kind: int, flags: int, payload: bytes) -> None:
        self._sequence += 1
        header = _NLMSGHDR.pack(_NLMSGHDR.size + len(payload), kind, flags, self._sequence, 0)
        self._socket.send(header + payload)

    def _answers(self, *, dump: bool, others: Others | None = None) -> Iterator[Diagnosed]:
        """The messages that answer the last request. Raises OSError for the kernel's refusal."""
        view = memoryview(self._buffer)
        while True:
            size = self._socket.recv_into(self._buffer)
            now = time.monotonic_ns()
            position = 0
            while position + _NLMSGHDR.size <= size:
                length, kind, _flags, sequence, _port = _NLMSGHDR.unpack_from(view, position)
                if length < _NLMSGHDR.size or position + length > size:
                    raise OSError(errno.EBADMSG, "sock_diag answered with a damaged message")
                body = view[position + _NLMSGHDR.size : position + length]
                position += length + 3 & ~3
                if sequence != self._sequence:
                    continue  # left over from a request that was given up
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -_ERRNO.unpack_from(body)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return
                if others is None or not others.take(body):
                    yield self._diagnosed(body, now)
                if not dump:
                    return

    def _diagnosed(self, body: memoryview, now_ns: int) -> Diagnosed:
        family, state, timer, timeouts, sockid, expires, _rq, _wq, uid, inode = (
            _MESSAGE.unpack_from(body)
        )
        retransmissions = timeouts
        cgroup_id: int | None = None
        backoff = interval_ms = since_first_ms = 0
        for kind, value in _attributes(body, _MESSAGE.size):
            if kind == _INET_DIAG_INFO and len(value) > _INFO_RTO_OFFSET + _INFO_RTO.size:
                backoff = value[_INFO_BACKOFF]
                interval_ms = _INFO_RTO.unpack_from(value, _INFO_RTO_OFFSET)[0] // 1000
                if len(value) >= _INFO_TOTAL_RETRANS_OFFSET + _INFO_RTO.size:
                    # Fewer than the timer's expiries where a SYN could not be sent again.
                    retransmissions = _INFO_RTO.unpack_from(value, _INFO_TOTAL_RETRANS_OFFSET)[0]
                if len(value) >= _INFO_RTO_TIME_OFFSET + _INFO_RTO.size:
                    since_first_ms = _INFO_RTO.unpack_from(value, _INFO_RTO_TIME_OFFSET)[0]
            elif kind == _INET_DIAG_CGROUP_ID and len(value) == _U64.size:
                cgroup_id = _U64.unpack(value)[0]
        started = last_syn = next_retry = None
        if timer == _TIMER_RETRANSMIT and interval_ms:
            started, last_syn, next_retry = timeline(
                now_ns=now_ns,
                expires_ms=expires,
                interval_ms=interval_ms,
                doublings=doublings_of(interval_ms, backoff),
                timeouts=timeouts,
                since_first_timeout_ms=since_first_ms,
            )
        swept = SweptSocket(
            cookie=_SOCKID_COOKIE.unpack_from(sockid, _SOCKID_COOKIE_OFFSET)[0],
            flow=_flow(self.netns, family, sockid),
            # Id 1 is the root of the v2 hierarchy, where every process of a v1 host is.
            owner=Owner(
                uid=uid,
                inode=inode or None,
                cgroup_id=cgroup_id if cgroup_id is not None and cgroup_id > 1 else None,
            ),
            retransmissions=retransmissions,
            started_ns=started,
            last_syn_ns=last_syn if retransmissions else None,
            next_retry_ns=next_retry,
            backoff=backoff,
        )
        return Diagnosed(family, sockid, state, swept)


def _attributes(body: memoryview, position: int) -> Iterator[tuple[int, memoryview]]:
    while position + _NLATTR.size <= len(body):
        length, kind = _NLATTR.unpack_from(body, position)
        if length < _NLATTR.size:
            return
        yield kind, body[position + _NLATTR.size : position + length]
        position += length + 3 & ~3


def _flow(netns: int, family: int, sockid: bytes) -> Flow:
    source_port, destination_port = _SOCKID_PORTS.unpack_from(sockid)
    source, destination = sockid[4:20], sockid[20:36]
    mapped = family == socket.AF_INET6 and destination.startswith(_V4_MAPPED)
    if mapped:
        source, destination = source[12:], destination[12:]
    version = socket.AF_INET if mapped or family == socket.AF_INET else socket.AF_INET6
    width = 4 if version == socket.AF_INET else 16
    return Flow(
        netns=netns,
        family=4 if width == 4 else 6,
        source=Endpoint(socket.inet_ntop(version, source[:width]), source_port or None),
        destination=Endpoint(socket.inet_ntop(version, destination[:width]), destination_port),
        mapped=mapped,
    )
