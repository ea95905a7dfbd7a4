"""A node and what lies beyond it: the router of a pod_pair() taken for the node that is traced.

    client pod ── node ── a pod with an address that no other topology has   (deep.address)
                   └───── uplink: whatever the test says lies beyond          (Beyond)

The tracer runs in the router's network namespace, as it would in a node's. Other topologies have
the same pods' addresses, which makes them nobody's: a destination of its own is known to be here.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.support.netns import SERVER_V4, SERVER_V6, Namespace, PodPair, pod_pair
from tests.support.sockets import path_of
from tracer.host.netns import enter

UPLINK: Final = "uplink"

# <linux/if_tun.h>
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_IFREQ: Final = struct.Struct("=16sH22x")

SYN, RST, ACK = 0x02, 0x04, 0x10

# Hides the first process, so that the node's namespace is the tracer's own, and lets sysfs show
# what there is in it: "NAME" leads nowhere out of the node, "+NAME" has hardware behind it.
_AS_NODE: Final = """
mount -t tmpfs none /proc/1/ns
mount -t tmpfs none /sys/class/net
for name in $1; do
    mkdir -p "/sys/class/net/${name#+}"
    case $name in +*) mkdir "/sys/class/net/${name#+}/device" ;; esac
done
shift
exec "$@"
"""


@dataclass(frozen=True)
class Deep:
    """A node's namespace between two pods; `address` and `address6` are the server's alone."""

    pods: PodPair
    address: str
    address6: str

    @property
    def client(self) -> Namespace:
        return self.pods.client

    @property
    def node(self) -> Namespace:
        return self.pods.router

    @property
    def server(self) -> Namespace:
        return self.pods.server

    def to(self, family: int) -> str:
        return self.address if family == 4 else self.address6


@contextmanager
def deep_pair() -> Iterator[Deep]:
    """pod_pair(), with addresses of the server that no other topology has."""
    with pod_pair() as pods:
        address, address6 = own_address(4), own_address(6)
        for family, own, hop in ((4, address, SERVER_V4), (6, address6, SERVER_V6)):
            # Else an IPv6 address cannot be bound to until the kernel has come round to it.
            at_once = ["nodad"] if family == 6 else []
            pods.server.run(["ip", f"-{family}", "address", "add", own, "dev", "lo", *at_once])
            pods.router.run(["ip", f"-{family}", "route", "add", own, "via", hop])
        yield Deep(pods, address, address6)


def own_address(family: int) -> str:
    """An address within a VPC that nobody else has."""
    number = secrets.randbits(16)
    if family == 6:
        return f"fd78:{secrets.randbits(16):x}::{number:x}"
    return f"10.{200 + secrets.randbelow(50)}.{number >> 8}.{number & 0xFF}"


def as_node(node: Namespace, *devices: str) -> list[str]:
    """What a program is started with to run on a node whose network namespace is `node`'s.

    `devices` are those that sysfs shows; "+NAME" has hardware behind it.
    """
    return [
        *("nsenter", f"--net={path_of(node)}", "--"),
        *("unshare", "--mount", "--propagation", "private", "--"),
        *("sh", "-ec", _AS_NODE, "sh", " ".join(devices)),
    ]


# --- beyond the node -----------------------------------------------------------------------------

Answer = Callable[[bytes], bytes | None]
"""What comes back for a packet that left the node; None: nothing."""


def swallow(_packet: bytes) -> bytes | None:
    """As a security group does: without a word."""
    return None


@contextmanager
def beyond(node: Namespace, *addresses: str, answer: Answer = swallow) -> Iterator[None]:
    """A device UPLINK of the node through which `addresses` are reached.

    What is sent there has left: no kernel sees it again, only `answer`.
    """
    with enter(path_of(node)):
        wire = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(wire, _TUNSETIFF, _IFREQ.pack(UPLINK.encode(), _IFF_TUN | _IFF_NO_PI))
        node.run(["ip", "link", "set", UPLINK, "up"])
        for address in addresses:
            family = "-6" if ":" in address else "-4"
            node.run(["ip", family, "route", "add", address, "dev", UPLINK])
        with _answering(wire, answer):
            yield
    finally:
        os.close(wire)


@contextmanager
def _answering(wire: int, answer: Answer) -> Iterator[None]:
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            if not select.select([wire], [], [], 0.1)[0]:
                continue
            back = answer(os.read(wire, 65_536))
            if back is not None:
                os.write(wire, back)

    thread = threading.Thread(target=serve, name="beyond")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def resets(packet: bytes) -> bytes | None:
    """A host on which nothing listens: RST to every SYN."""
    at = _tcp_at(packet)
    if at is None or not packet[at + 13] & SYN:
        return None
    source, destination, sequence = struct.unpack_from("!HHI", packet, at)
    tcp = struct.pack(
        "!HHIIBBHHH", destination, source, 0, sequence + 1 & 0xFFFFFFFF, 5 << 4, RST | ACK, 0, 0, 0
    )
    here, there = _ends(packet)
    return _packet(there, here, socket.IPPROTO_TCP, tcp, checksum_at=16)


def resets_once(there: threading.Event) -> Answer:
    """The same for a host that is silent until then."""

    def answer(packet: bytes) -> bytes | None:
        return resets(packet) if there.is_set() else None

    return answer


def answers_late(address: str, lost: int) -> Answer:
    """A host at `address` that is short of everything: the first `lost` SYNs of each connection go
    down with it, then it accepts. What is sent elsewhere is swallowed.
    """
    seen: Counter[bytes] = Counter()

    def answer(packet: bytes) -> bytes | None:
        at = _tcp_at(packet)
        here, there = _ends(packet)
        if at is None or there != socket.inet_pton(socket.AF_INET, address):
            return None
        if not packet[at + 13] & SYN:
            return None
        seen[packet[at : at + 8]] += 1
        if seen[packet[at : at + 8]] <= lost:
            return None
        source, destination, sequence = struct.unpack_from("!HHI", packet, at)
        tcp = struct.pack(
            *("!HHIIBBHHH", destination, source, 1, sequence + 1 & 0xFFFFFFFF),
            *(5 << 4, SYN | ACK, 65_535, 0, 0),
        )
        return _packet(there, here, socket.IPPROTO_TCP, tcp, checksum_at=16)

    return answer


def icmp_errors(sender: str, kind: int, code: int) -> Answer:
    """A router at `sender` that refuses every SYN with that ICMP error."""
    family = socket.AF_INET6 if ":" in sender else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if ":" in sender else socket.IPPROTO_ICMP

    def answer(packet: bytes) -> bytes | None:
        if _tcp_at(packet) is None:
            return None
        here, _there = _ends(packet)
        error = struct.pack("!BBHI", kind, code, 0, 0) + packet[:1_232]
        return _packet(socket.inet_pton(family, sender), here, protocol, error, checksum_at=2)

    return answer


def _tcp_at(packet: bytes) -> int | None:
    """Where TCP begins; None: it is something else, such as neighbour discovery."""
    if packet[0] >> 4 == 4:
        return (packet[0] & 0xF) * 4 if packet[9] == socket.IPPROTO_TCP else None
    return 40 if packet[6] == socket.IPPROTO_TCP else None


def _ends(packet: bytes) -> tuple[bytes, bytes]:
    if packet[0] >> 4 == 4:
        return packet[12:16], packet[16:20]
    return packet[8:24], packet[24:40]


def _packet(
    source: bytes, destination: bytes, protocol: int, payload: bytes, *, checksum_at: int
) -> bytes:
    """An IP packet, with the checksums that its receiver wants."""
    pseudo = source + destination + struct.pack("!II", len(payload), protocol)
    covered = payload if protocol == socket.IPPROTO_ICMP else pseudo + payload
    payload = (
        payload[:checksum_at] + struct.pack("!H", _checksum(covered)) + payload[checksum_at + 2 :]
    )
    if len(source) == 16:
        return (
            struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
            + source
            + destination
            + payload
        )
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    header += source + destination
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + payload


def _checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
