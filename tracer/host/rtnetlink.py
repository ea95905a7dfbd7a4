"""Where a namespace would send an attempt's packets: route, next hop, way back; and its addresses.

See rtnetlink(7). The kernel looks a destination up as it would for a packet (RTM_GETROUTE, what `ip
route get` asks); no table is listed. A route that refuses is never shown as such, not even with
RTM_F_FIB_MATCH: the request itself fails with the errno that a connect() would get. Seen on 6.18,
for both families, on the way out and through:

    blackhole EINVAL · unreachable EHOSTUNREACH · prohibit EACCES · none, or throw alone ENETUNREACH

A rule (ip-rule(8)) of these types answers the same, but for "unreachable", which says ENETUNREACH.

Rules may look at a packet's mark (fwmark), which netfilter or BPF set and nobody else knows: what
the route would be with each of the marks that there are rules for can be asked (marks(), `mark`).
Not seen from here is what netfilter or BPF do on the way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import time
from dataclasses import replace
from typing import Final, NamedTuple

from tracer.facts import Direction, Neighbour, Route
from tracer.host.netlink import (
    ROUTE,
    Netlink,
    attribute,
    attributes,
    pack_address,
    unpack,
    unpack_address,
)
from tracer.model import Flow

# <linux/rtnetlink.h>, <linux/fib_rules.h>, <linux/neighbour.h>, <linux/if_addr.h>
_RTM_GETADDR: Final = 22
_RTM_GETROUTE: Final = 26
_RTM_GETNEIGH: Final = 30
_RTM_GETRULE: Final = 34
_RTM_F_FIB_MATCH: Final = 0x2000
"""Linux 4.13 (IPv4), 4.15 (IPv6): answer with the route as it is listed, all its hops with it."""
_RTA_DST: Final = 1
_RTA_SRC: Final = 2
_RTA_IIF: Final = 3
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_PREFSRC: Final = 7
_RTA_MULTIPATH: Final = 9
_RTA_MARK: Final = 16
_RTA_VIA: Final = 18
_RTA_IP_PROTO: Final = 27
_RTA_SPORT: Final = 28
_RTA_DPORT: Final = 29
_RTN_LOCAL: Final = 2
_FRA_FWMARK: Final = 10
_NDA_DST: Final = 1
_NDA_LLADDR: Final = 2
_NDA_IFINDEX: Final = 8
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
# <linux/sockios.h>, <linux/if.h>
_SIOCGIFNAME: Final = 0x8910
_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFHWADDR: Final = 0x8927
_SIOCGIFINDEX: Final = 0x8933
_IFF_NOARP: Final = 0x80
_IFNAMSIZ: Final = 16
_ARPHRD_ETHER: Final = 1

_KINDS: Final = (
    *("unspec", "unicast", "local", "broadcast", "anycast", "multicast"),
    *("blackhole", "unreachable", "prohibit", "throw", "nat"),
)
"""RTN_*, as ip-route(8) prints them."""

_REFUSALS: Final = {
    errno.EINVAL: "blackhole",
    errno.EHOSTUNREACH: "unreachable",
    errno.EACCES: "prohibit",
    errno.EAGAIN: "throw",
    errno.ENETUNREACH: "none",
}

_NEIGHBOUR_STATES: Final = {
    0x01: "INCOMPLETE",
    0x02: "REACHABLE",
    0x04: "STALE",
    0x08: "DELAY",
    0x10: "PROBE",
    0x20: "FAILED",
    0x40: "NOARP",
    0x80: "PERMANENT",
}
"""NUD_*, as ip-neighbour(8) prints them."""

# struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
# struct fib_rule_hdr: family, dst_len, src_len, tos, table, two reserved, action, flags
_RULE: Final = struct.Struct("=BBBBBBBBI")
# struct ndmsg: family, ifindex, state, flags, type
_NDMSG: Final = struct.Struct("=BxxxiHBB")
# struct ifaddrmsg: family, prefixlen, flags, scope, index
_IFADDRMSG: Final = struct.Struct("=BBBBI")
# struct rtnexthop: len, flags, hops, ifindex
_RTNEXTHOP: Final = struct.Struct("=HBBi")
# struct ifreq: name, and a number of the union
_IFREQ: Final = struct.Struct(f"={_IFNAMSIZ}si20x")
_IFREQ_FLAGS: Final = struct.Struct(f"={_IFNAMSIZ}sH22x")
# struct ifreq: name, sockaddr: family (ARPHRD_*), address
_IFREQ_ADDRESS: Final = struct.Struct(f"={_IFNAMSIZ}sH6s16x")
_U32: Final = struct.Struct("=I")
_BE16: Final = struct.Struct("!H")
_AF: Final = struct.Struct("=H")


class _Answer(NamedTuple):
    kind: int
    prefix_bits: int
    attributes: dict[int, memoryview]


class Rtnetlink(Netlink):
    """Questions about one namespace's routes. It keeps it alive until closed (`with`).

    Every method raises OSError where the kernel refuses, for other reasons than those it answers.
    """

    def __init__(self, path: str) -> None:
        """Raises OSError where the namespace whose file is `path` cannot be entered."""
        super().__init__(path, ROUTE)

    def route(self, flow: Flow, mark: int | None = None) -> Route:
        """The route of the SYN in this namespace: on its way out where the source address is one of
        its own, else on its way through, coming in where the route to the source goes out. With
        `mark`, of one that bears it.

        `source` is the flow's own, else the one that the kernel would choose; None on its way
        through. A namespace that does not forward what comes in there answers "unreachable", as it
        does to the packet itself.
        """
        source, incoming = self._origin(flow)
        ports = flow.source.port, flow.destination.port
        try:
            answer = self._ask_route(
                flow.destination.address, source=source, incoming=incoming, ports=ports, mark=mark
            )
        except OSError as error:
            if incoming is None or error.errno not in {errno.EINVAL, errno.EXDEV}:
                return self._refused(error)
            # Such a packet is refused for its source too (rp_filter): what of its destination?
            try:
                answer = self._ask_route(flow.destination.address, mark=mark)
            except OSError as plain:
                return self._refused(plain)
        found = self._route(answer)
        if incoming is not None:
            return replace(found, source=None)
        # Told which source it is, the kernel names the one it would choose for IPv6, none for IPv4.
        return replace(found, source=source or found.source)

    def marks(self, family: int) -> frozenset[int]:
        """The marks of packets that policy routing has rules for; 0 is one that wants some mark not
        to be there. `family` is 4 or 6.
        """
        header = _RULE.pack(socket.AF_INET if family == 4 else socket.AF_INET6, *[0] * 8)
        found = set()
        for message in self.dump(_RTM_GETRULE, header):
            mark = attributes(message[_RULE.size :]).get(_FRA_FWMARK)
            if mark is not None:
                found.add(unpack(_U32, mark)[0])
        return frozenset(found)

    def neighbour(self, address: str, device: str) -> Neighbour:
        """What is known of the next hop `address` behind `device`.

        State NOARP where the device resolves no addresses, None where there is no entry: nothing
        was sent there of late. Raises OSError with ENODEV where there is no such device.
        """
        index = self.index_of(device)
        resolved = not self._flags(device) & _IFF_NOARP
        state, lladdr = self._neighbour_entry(address, index) if resolved else ("NOARP", None)
        return Neighbour(address, device, state, time.monotonic_ns(), lladdr)

    def leads_through(self, flow: Flow, device: str, direction: Direction) -> bool | None:
        """Whether packets of `direction` that come in at `device` have their way back through it,
        as the kernel's strict reverse path filter wants it: any hop of the route will do.

        The way back of a reply is the SYN's. None where the kernel does not say: there is no route.
        """
        if direction is Direction.REPLY:
            destination, (source, incoming) = flow.destination.address, self._origin(flow)
        else:
            destination, source, incoming = flow.source.address, None, None
        try:
            answer = self._ask_route(
                destination, source=source, incoming=incoming, flags=_RTM_F_FIB_MATCH
            )
        except OSError as error:
            if error.errno in _REFUSALS or error.errno == errno.EXDEV:
                return None
            raise
        return self.index_of(device) in _devices(answer)

    def knows(self, address: str) -> bool:
        """Whether it has a route to an address that is more than its default route.

        The node's namespace has one to each pod whose packets it forwards; to a pod whose packets
        take another way (a device of its own, another namespace in between) it has none.
        """
        try:
            answer = self._ask_route(address, flags=_RTM_F_FIB_MATCH)
        except OSError as error:
            if error.errno in _REFUSALS:
                return False
            raise
        return _KINDS[answer.kind : answer.kind + 1] == ("unicast",) and answer.prefix_bits > 0

    def addresses(self) -> list[tuple[str, int]]:
        """Every address of the namespace, with its device's index."""
        found = []
        for message in self.dump(_RTM_GETADDR, _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            _family, _length, _flags, _scope, index = unpack(_IFADDRMSG, message)
            told = attributes(message[_IFADDRMSG.size :])
            # IFA_ADDRESS is the other end's on a point-to-point link.
            packed = told.get(_IFA_LOCAL, told.get(_IFA_ADDRESS))
            if packed is not None:
                found.append((unpack_address(packed), index))
        return found

    def lladdr_of(self, index: int) -> str | None:
        """The hardware address of a device; None where it has none, or is gone."""
        name = self._name_of(index)
        if name is None:
            return None
        try:
            answer = fcntl.ioctl(
                self.fileno(), _SIOCGIFHWADDR, _IFREQ_ADDRESS.pack(_name(name), 0, b"")
            )
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        _device, kind, packed = _IFREQ_ADDRESS.unpack(answer)
        return packed.hex(":") if kind == _ARPHRD_ETHER else None

    def index_of(self, device: str) -> int:
        """Raises OSError with ENODEV where there is no such device, or it cannot have that name."""
        answer = fcntl.ioctl(self.fileno(), _SIOCGIFINDEX, _IFREQ.pack(_name(device), 0))
        return int(_IFREQ.unpack(answer)[1])

    # Names and flags by ioctl, which takes no lock: RTM_GETLINK waits for the one that a CNI plugin
    # holds while it sets up a pod.

    def _name_of(self, index: int) -> str | None:
        try:
            answer = fcntl.ioctl(self.fileno(), _SIOCGIFNAME, _IFREQ.pack(b"", index))
        except OSError as error:
            if error.errno == errno.ENODEV:  # gone since the kernel spoke of it
                return None
            raise
        name: bytes = _IFREQ.unpack(answer)[0]
        return name.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")

    def _flags(self, device: str) -> int:
        answer = fcntl.ioctl(self.fileno(), _SIOCGIFFLAGS, _IFREQ_FLAGS.pack(_name(device), 0))
        return int(_IFREQ_FLAGS.unpack(answer)[1])

    def _origin(self, flow: Flow) -> tuple[str | None, int | None]:
        """What makes the kernel look as for the flow's SYN: its source, and the index of the device
        through which it comes in, None where it begins here.

        No source where it is not chosen yet, and where the kernel would not know whence it comes:
        asked to send from an address that is not its own, it answers ENETUNREACH, whatever the
        destination.
        """
        source = flow.source.address
        if _unspecified(source):
            return None, None
        try:
            answer = self._ask_route(source)
        except OSError as error:
            if error.errno in _REFUSALS:
                return None, None
            raise
        return source, None if answer.kind == _RTN_LOCAL else _number(answer, _RTA_OIF)

    def _ask_route(
        self,
        destination: str,
        *,
        source: str | None = None,
        ports: tuple[int | None, int | None] | None = None,
        incoming: int | None = None,
        mark: int | None = None,
        flags: int = 0,
    ) -> _Answer:
        """Kernels before 4.18 pass over what names ports: they have no rules about them either."""
        family, packed = pack_address(destination)
        wanted = attribute(_RTA_DST, packed)
        source_bits = 0
        if source is not None:
            _family, packed_source = pack_address(source)
            wanted += attribute(_RTA_SRC, packed_source)
            source_bits = len(packed_source) * 8
        if incoming is not None:
            wanted += attribute(_RTA_IIF, _U32.pack(incoming))
        if mark is not None:
            wanted += attribute(_RTA_MARK, _U32.pack(mark))
        if ports is not None:
            wanted += attribute(_RTA_IP_PROTO, bytes([socket.IPPROTO_TCP]))
            for kind, port in zip((_RTA_SPORT, _RTA_DPORT), ports, strict=True):
                if port:
                    wanted += attribute(kind, _BE16.pack(port))
        header = _RTMSG.pack(family, len(packed) * 8, source_bits, 0, 0, 0, 0, 0, flags)
        message = self.ask(_RTM_GETROUTE, header + wanted)
        told = unpack(_RTMSG, message)
        return _Answer(told[7], told[1], attributes(message[_RTMSG.size :]))

    def _route(self, answer: _Answer) -> Route:
        told, index = answer.attributes, _number(answer, _RTA_OIF)
        source = told.get(_RTA_PREFSRC)
        return Route(
            kind=_KINDS[answer.kind] if answer.kind < len(_KINDS) else f"type {answer.kind}",
            gateway=_gateway(told),
            device=None if index is None else self._name_of(index),
            source=None if source is None else unpack_address(source),
            at_ns=time.monotonic_ns(),
        )

    def _refused(self, error: OSError) -> Route:
        kind = _REFUSALS.get(error.errno or 0)
        if kind is None:
            raise error
        return Route(kind, None, None, None, time.monotonic_ns())

    def _neighbour_entry(self, address: str, index: int) -> tuple[str | None, str | None]:
        family, packed = pack_address(address)
        header = _NDMSG.pack(family, index, 0, 0, 0)
        try:
            message = self.ask(_RTM_GETNEIGH, header + attribute(_NDA_DST, packed))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None, None
            if error.errno == errno.EOPNOTSUPP:
                return self._listed_entry(family, packed, index)
            raise
        return _entry(message)

    def _listed_entry(
        self, family: int, packed: bytes, index: int
    ) -> tuple[str | None, str | None]:
        """The same from the list of a device's neighbours: before Linux 5.0 none is to be had alone
        (82cbb5c631a0).
        """
        header = _NDMSG.pack(family, index, 0, 0, 0)
        wanted = attribute(_NDA_IFINDEX, _U32.pack(index))
        found: tuple[str | None, str | None] = None, None
        for message in self.dump(_RTM_GETNEIGH, header + wanted):
            listed = attributes(message[_NDMSG.size :]).get(_NDA_DST, b"")
            if unpack(_NDMSG, message)[1] == index and bytes(listed) == packed:
                found = _entry(message)
        return found


def route(path: str, flow: Flow) -> Route:
    """Rtnetlink.route() in the namespace whose file is `path`."""
    with Rtnetlink(path) as kernel:
        return kernel.route(flow)


def neighbour(path: str, address: str, device: str) -> Neighbour:
    """Rtnetlink.neighbour() in the namespace whose file is `path`."""
    with Rtnetlink(path) as kernel:
        return kernel.neighbour(address, device)


def next_hop(found: Route, flow: Flow) -> str | None:
    """The address whose neighbour entry the flow's SYN needs; None where it needs none."""
    if found.kind != "unicast" or found.device is None:
        return None
    return found.gateway or flow.destination.address


# --- what goes out ---------------------------------------------------------------------------


def _name(device: str) -> bytes:
    """As the kernel keeps it. Raises OSError with ENODEV where no device can have this name."""
    name = device.encode("utf-8", "surrogateescape")
    if not 0 < len(name) < _IFNAMSIZ or b"\0" in name:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), device)
    return name


def _unspecified(address: str) -> bool:
    return address in {"0.0.0.0", "::"}  # noqa: S104 - nothing is bound


# --- what comes back -------------------------------------------------------------------------


def _number(answer: _Answer, kind: int) -> int | None:
    value = answer.attributes.get(kind)
    return None if value is None else unpack(_U32, value)[0]


def _gateway(told: dict[int, memoryview]) -> str | None:
    """The next hop, which may be of the other family (RFC 5549, Linux 5.2)."""
    if _RTA_GATEWAY in told:
        return unpack_address(told[_RTA_GATEWAY])
    if _RTA_VIA in told:
        return unpack_address(told[_RTA_VIA][_AF.size :])
    return None


def _devices(answer: _Answer) -> set[int]:
    """The indices of the devices of all next hops."""
    found = set()
    index = _number(answer, _RTA_OIF)
    if index is not None:
        found.add(index)
    hops = answer.attributes.get(_RTA_MULTIPATH, memoryview(b""))
    while hops:
        length, _flags, _weight, index = unpack(_RTNEXTHOP, hops)
        found.add(index)
        hops = hops[max(_RTNEXTHOP.size, length + 3 & ~3) :]
    return found


def _entry(message: memoryview) -> tuple[str | None, str | None]:
    """State and hardware address of a neighbour. No state for NUD_NONE: it holds nothing yet."""
    number = unpack(_NDMSG, message)[2]
    state = _NEIGHBOUR_STATES.get(number, f"state {number:#x}") if number else None
    lladdr = attributes(message[_NDMSG.size :]).get(_NDA_LLADDR)
    return state, None if lladdr is None else bytes(lladdr).hex(":")
