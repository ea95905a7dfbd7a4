"""Keys and values of the maps in bpf/drops.bpf.c as user space reads and writes them: the mirror of
bpf/drops.h.

`mirror_macros()` hands every size and offset of this mirror to the compiler, which compares them
with the header: the two cannot drift apart unnoticed.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Final, NamedTuple

from tracer.facts import Direction
from tracer.model import Endpoint, Flow
from tracer.sources.wire import V4_MAPPED, Members, layout_macros, layout_of

# (C member, struct format), in the header's order.
_LAYOUTS: Final[dict[str, Members]] = {
    "ends": (
        ("saddr", "16s"),
        ("daddr", "16s"),
        ("sport", "H"),
        ("dport", "H"),
    ),
    "watched": (
        ("socket", "36s"),
        ("translated", "36s"),
        ("watch", "I"),
    ),
    "drop_key": (
        ("location", "Q"),
        ("watch", "I"),
        ("reason", "I"),
        ("netns", "I"),
        ("ifindex", "I"),
        ("direction", "B"),
        ("flags", "B"),
        ("pad", "6s"),
    ),
    "drop": (
        ("packets", "Q"),
        ("first_ns", "Q"),
        ("last_ns", "Q"),
        ("device", "16s"),
    ),
    "handed_key": (
        ("watch", "I"),
        ("netns", "I"),
        ("ifindex", "I"),
    ),
    "handed": (
        ("packets", "Q"),
        ("last_ns", "Q"),
        ("device", "16s"),
    ),
    "drop_counters": (
        ("no_room", "Q"),
        ("mismatched", "Q"),
    ),
}

DIRECTIONS: Final = {1: Direction.SYN, 2: Direction.REPLY}

ISN: Final = struct.Struct("@I")
WATCH: Final = struct.Struct("@I")
TIME_NS: Final = struct.Struct("@Q")
ENDS: Final = layout_of(_LAYOUTS["ends"])
WATCHED: Final = layout_of(_LAYOUTS["watched"])
DROP_KEY: Final = layout_of(_LAYOUTS["drop_key"])
DROP: Final = layout_of(_LAYOUTS["drop"])
HANDED_KEY: Final = layout_of(_LAYOUTS["handed_key"])
HANDED: Final = layout_of(_LAYOUTS["handed"])
COUNTERS_PER_CPU: Final = layout_of(_LAYOUTS["drop_counters"])


class RawDropKey(NamedTuple):
    """`struct drop_key`, member for member; 0 means unknown."""

    location: int
    watch: int
    reason: int
    netns: int
    ifindex: int
    direction: int
    flags: int
    pad: bytes


class RawDrop(NamedTuple):
    """`struct drop`, member for member."""

    packets: int
    first_ns: int
    last_ns: int
    device: bytes


class RawHandedKey(NamedTuple):
    """`struct handed_key`, member for member."""

    watch: int
    netns: int
    ifindex: int


class RawHanded(NamedTuple):
    """`struct handed`, member for member."""

    packets: int
    last_ns: int
    device: bytes


class Counters(NamedTuple):
    """`struct drop_counters`, summed over all CPUs."""

    no_room: int
    mismatched: int


def mirror_macros() -> dict[str, int]:
    """Name and value of each -D macro by which the compiler checks this mirror."""
    macros: dict[str, int] = {}
    for name, members in _LAYOUTS.items():
        macros |= layout_macros(name, members)
    return macros


def pack_watched(flow: Flow, watch: int) -> bytes:
    """A value of the map `watched`. Raises ValueError where an address is none."""
    source, destination = flow.source, flow.destination
    ends = _packed(source), _packed(destination), source.port or 0, destination.port or 0
    return WATCHED.pack(ENDS.pack(*ends), bytes(ENDS.size), watch)


def _packed(endpoint: Endpoint) -> bytes:
    address = ip_address(endpoint.address)
    return V4_MAPPED + address.packed if address.version == 4 else address.packed


def device_name(raw: bytes) -> str | None:
    """A device's name; None where the packet had no device."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace") or None


def sum_counters(per_cpu: bytes | memoryview) -> Counters:
    """Totals over all CPUs."""
    return Counters(*map(sum, zip(*COUNTERS_PER_CPU.iter_unpack(per_cpu), strict=True)))
