"""What connection tracking knows of one connection, asked of netfilter by its original tuple.

One IPCTNL_MSG_CT_GET over NETLINK_NETFILTER per question, never a dump: a node's table holds
hundreds of thousands of entries, and finding one is a look into the kernel's hash (40 µs here, with
all that Python does). The kernel wants CAP_NET_ADMIN for it, over the namespace's user namespace
(nfnetlink_rcv()).

There is no entry where no rule of the namespace tracks connections. There is none where the SYN was
dropped on its way through the same namespace: it enters the hash when the packet leaves
(nf_conntrack_confirm()). There is none after a refusal: a RST to a SYN removes it
(nf_conntrack_tcp_packet()). Only the default zone is asked; Open vSwitch and rules with "CT --zone"
keep others.

Why not pyroute2's NFCTSocket, tried at 0.9.7: it opens its socket at the first request, and one per
thread, so that one made inside `enter` asks about another namespace and says "no such entry"; told
the namespace, it forks this process, threads and all, for every socket. A request takes 480 to 790
µs, and what it fails with is no OSError. Importing it takes 0.2 s and 15 MB or more.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tracer.host.netns import enter
from tracer.model import Endpoint, Flow

# <linux/netlink.h>, <linux/netfilter/nfnetlink.h>, <linux/netfilter/nfnetlink_conntrack.h>
_NETLINK_NETFILTER: Final = 12
_NLM_F_REQUEST: Final = 0x1
_NLMSG_ERROR: Final = 2
_NLA_F_NESTED: Final = 0x8000
_NLA_TYPE_MASK: Final = 0x3FFF
_NFNL_SUBSYS_CTNETLINK: Final = 1
_CT_NEW: Final = _NFNL_SUBSYS_CTNETLINK << 8
_CT_GET: Final = _NFNL_SUBSYS_CTNETLINK << 8 | 1
_CTA_TUPLE_ORIG: Final = 1
_CTA_TUPLE_REPLY: Final = 2
_CTA_STATUS: Final = 3
_CTA_PROTOINFO: Final = 4
_CTA_TIMEOUT: Final = 7
_CTA_TUPLE_IP: Final = 1
_CTA_TUPLE_PROTO: Final = 2
_CTA_PROTO_NUM: Final = 1
_CTA_PROTO_SRC_PORT: Final = 2
_CTA_PROTO_DST_PORT: Final = 3
_CTA_PROTOINFO_TCP: Final = 1
_CTA_PROTOINFO_TCP_STATE: Final = 1
# <linux/netfilter/nf_conntrack_common.h>
_IPS_SEEN_REPLY: Final = 1 << 1
_IPS_ASSURED: Final = 1 << 2
# enum tcp_conntrack of <linux/netfilter/nf_conntrack_tcp.h>, as conntrack(8) prints it
_TCP_STATES: Final = (
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
)

_NLMSGHDR: Final = struct.Struct("=IHHII")
_NFGENMSG: Final = struct.Struct("=BBH")
_NLATTR: Final = struct.Struct("=HH")
_ERRNO: Final = struct.Struct("=i")
_BE16: Final = struct.Struct("!H")
_BE32: Final = struct.Struct("!I")

_RECEIVE_BYTES: Final = 16_384
"""An entry takes a few hundred, with labels and a security context."""

_ANSWER_SECONDS: Final = 0.5
"""The kernel answers before the request's send() returns: what is not there then never comes."""

_SYSCTL: Final = "/proc/sys/net/netfilter"


@dataclass(frozen=True, slots=True)
class Table:
    """How full a namespace's table is: entries, and how many there may be."""

    count: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A tracked connection.

    reply_source       where replies come from: the backend behind a translated destination, else
                       the destination itself
    reply_destination  where replies go to: the source as it is seen outside (SNAT, masquerade)
    state              netfilter's state of the TCP connection; None where it does not say
    replied            any packet was seen in the other direction
    assured            the entry is not thrown out early where the table is full
    timeout_seconds    after which the entry goes, if no packet comes
    """

    reply_source: Endpoint
    reply_destination: Endpoint
    state: str | None
    replied: bool
    assured: bool
    timeout_seconds: int | None


class Conntrack:
    """An open netlink socket in one network namespace. For one thread at a time.

    It keeps the namespace alive for as long as it is open.
    """

    def __init__(self, path: str) -> None:
        """Opens a socket in the namespace whose file is `path`.

        Raises OSError where the namespace cannot be entered, and with EPROTONOSUPPORT where the
        kernel tracks no connections: opening the socket or asking would make it load modules.
        """
        if not Path(_SYSCTL, "nf_conntrack_count").exists():
            raise OSError(errno.EPROTONOSUPPORT, "nf_conntrack is not loaded")
        with enter(path):
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
            )
        self._socket.settimeout(_ANSWER_SECONDS)
        self._sequence = 0
        self._buffer = bytearray(_RECEIVE_BYTES)

    def close(self) -> None:
        self._socket.close()

    def get(self, flow: Flow) -> Entry | None:
        """The entry whose original direction is `flow`; None: there is none.

        Raises ValueError where a port of `flow` is not known. Raises OSError where the kernel
        refuses: PermissionError without CAP_NET_ADMIN, EPROTONOSUPPORT where it has nothing that
        answers (nf_conntrack_netlink), TimeoutError where it does not answer.
        """
        asked = _encode_tuple(flow)
        self._send(_nfgen_family(flow), _attribute(_CTA_TUPLE_ORIG | _NLA_F_NESTED, asked))
        body = self._answer()
        if body is None:
            return None
        try:
            attributes = _attributes(body[_NFGENMSG.size :])
            # The hash holds both directions of a connection: it may be found by its replies.
            if _decode_tuple(attributes[_CTA_TUPLE_ORIG]) != _decode_tuple(memoryview(asked)):
                return None
            return _entry(attributes)
        except (LookupError, ValueError, struct.error) as error:
            raise _damaged() from error

    def _send(self, family: int, attributes: bytes) -> None:
        self._sequence += 1
        body = _NFGENMSG.pack(family, 0, 0) + attributes
        header = _NLMSGHDR.pack(
            _NLMSGHDR.size + len(body), _CT_GET, _NLM_F_REQUEST, self._sequence, 0
        )
        self._socket.send(header + body)

    def _answer(self) -> memoryview | None:
        """The message that answers the last request; None where there is no such entry."""
        while True:
            size = self._socket.recv_into(self._buffer)
            view = memoryview(self._buffer)[:size]
            if size < _NLMSGHDR.size:
                raise _damaged()
            length, kind, _flags, sequence, _port = _NLMSGHDR.unpack_from(view)
            if not _NLMSGHDR.size <= length <= size:
                raise _damaged()
            if sequence != self._sequence:
                continue  # left over from a request that was given up
            body = view[_NLMSGHDR.size : length]
            if kind == _CT_NEW:
                return body
            if kind != _NLMSG_ERROR or len(body) < _ERRNO.size:
                raise _damaged()
            number = -_ERRNO.unpack_from(body)[0]
            if number == errno.ENOENT:
                return None
            raise _refusal(number)


def table(path: str) -> Table:
    """How full the table of the namespace whose file is `path` is.

    Raises OSError where the namespace cannot be entered, FileNotFoundError where nf_conntrack is
    not loaded, or hides its sysctls from the namespace's user namespace.
    """
    with enter(path):
        count, maximum = (
            int(Path(_SYSCTL, name).read_text("ascii"))
            for name in ("nf_conntrack_count", "nf_conntrack_max")
        )
    return Table(count, maximum)


# --- what goes out ---------------------------------------------------------------------------


def _nfgen_family(flow: Flow) -> int:
    return socket.AF_INET if flow.family == 4 else socket.AF_INET6


def _encode_tuple(flow: Flow) -> bytes:
    """The content of CTA_TUPLE_ORIG. Raises ValueError without ports, OSError for bad addresses."""
    source, destination = flow.source, flow.destination
    if source.port is None or destination.port is None:
        raise ValueError(f"a connection is found by both its ports: {flow}")
    # CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST are 1 to 4.
    family, first = _nfgen_family(flow), 1 if flow.family == 4 else 3
    addresses = _attribute(first, socket.inet_pton(family, source.address)) + _attribute(
        first + 1, socket.inet_pton(family, destination.address)
    )
    protocol = (
        _attribute(_CTA_PROTO_NUM, bytes([socket.IPPROTO_TCP]))
        + _attribute(_CTA_PROTO_SRC_PORT, _BE16.pack(source.port))
        + _attribute(_CTA_PROTO_DST_PORT, _BE16.pack(destination.port))
    )
    return _attribute(_CTA_TUPLE_IP | _NLA_F_NESTED, addresses) + _attribute(
        _CTA_TUPLE_PROTO | _NLA_F_NESTED, protocol
    )


def _attribute(kind: int, value: bytes) -> bytes:
    return _NLATTR.pack(_NLATTR.size + len(value), kind) + value + bytes(-len(value) % 4)


# --- what comes back -------------------------------------------------------------------------


def _entry(attributes: dict[int, memoryview]) -> Entry:
    source, destination = _decode_tuple(attributes[_CTA_TUPLE_REPLY])
    status = _number(attributes, _CTA_STATUS) or 0
    return Entry(
        reply_source=source,
        reply_destination=destination,
        state=_tcp_state(attributes),
        replied=bool(status & _IPS_SEEN_REPLY),
        assured=bool(status & _IPS_ASSURED),
        timeout_seconds=_number(attributes, _CTA_TIMEOUT),
    )


def _attributes(body: memoryview) -> dict[int, memoryview]:
    """The attributes of a message or of one that nests others, by type."""
    found: dict[int, memoryview] = {}
    position = 0
    while position + _NLATTR.size <= len(body):
        length, kind = _NLATTR.unpack_from(body, position)
        if not _NLATTR.size <= length <= len(body) - position:
            raise _damaged()
        found[kind & _NLA_TYPE_MASK] = body[position + _NLATTR.size : position + length]
        position += length + 3 & ~3
    return found


def _decode_tuple(body: memoryview) -> tuple[Endpoint, Endpoint]:
    """Source and destination of one direction."""
    parts = _attributes(body)
    addresses, protocol = _attributes(parts[_CTA_TUPLE_IP]), _attributes(parts[_CTA_TUPLE_PROTO])
    first = 1 if 1 in addresses else 3
    source, destination = (
        Endpoint(_address(addresses[first + index]), _BE16.unpack(protocol[port])[0])
        for index, port in enumerate((_CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT))
    )
    return source, destination


def _address(packed: memoryview) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _tcp_state(attributes: dict[int, memoryview]) -> str | None:
    body = attributes.get(_CTA_PROTOINFO)
    for kind in (_CTA_PROTOINFO_TCP, _CTA_PROTOINFO_TCP_STATE):
        if body is None:
            return None
        body = _attributes(body).get(kind)
    if body is None or body[0] >= len(_TCP_STATES):
        return None
    return _TCP_STATES[body[0]]


def _number(attributes: dict[int, memoryview], kind: int) -> int | None:
    value = attributes.get(kind)
    return None if value is None else int(_BE32.unpack(value)[0])


def _refusal(number: int) -> OSError:
    if number == errno.EPERM:
        return PermissionError(number, f"{os.strerror(number)} without CAP_NET_ADMIN")
    if number == errno.EINVAL:  # nfnetlink_rcv_msg(), where nothing has registered for it
        return OSError(errno.EPROTONOSUPPORT, "nf_conntrack_netlink is not loaded")
    return OSError(number, os.strerror(number))


def _damaged() -> OSError:
    return OSError(errno.EBADMSG, "netfilter answered with a damaged message")
