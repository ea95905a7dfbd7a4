"""What a namespace's counters stood at over time: each attempt counts from when it was watched."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from tracer.host.counters import ConntrackDrops, TcpCounters
from tracer.model import NANOSECONDS

_Counters = TypeVar("_Counters")

READ_SECONDS: Final = 1.0
"""How far readings are apart."""

BEFORE_SECONDS: Final = 3.0
"""How long before an attempt a reading may have been taken to be where it began."""

MAX_READINGS: Final = 64
"""Of one namespace; older ones lie farther apart."""


class Reading(NamedTuple):
    """Counters at a time of CLOCK_MONOTONIC; None where they could not be read."""

    at_ns: int
    tcp: TcpCounters | None
    conntrack: ConntrackDrops | None


class Growth(NamedTuple):
    """What counters grew by; 0 where that is not known."""

    overflows: int = 0
    drops: int = 0
    syn_queue_drops: int = 0
    syn_cookies: int = 0
    refused: int = 0
    reverse_path: int = 0


class Ledger:
    """Readings of one namespace. One thread notes, others may ask."""

    def __init__(self) -> None:
        self._readings: tuple[Reading, ...] = ()
        self._growths: dict[tuple[int, int], Growth] = {}
        """By the times of the first and the last reading."""

    def is_due(self, now_ns: int) -> bool:
        return not self._readings or now_ns - self._readings[-1].at_ns >= READ_SECONDS * NANOSECONDS

    def note(self, reading: Reading) -> None:
        kept = self._readings
        if len(kept) >= MAX_READINGS:
            half = len(kept) // 2
            kept = (*kept[:half:2], *kept[half:])
        self._readings = (*kept, reading)
        self._growths = {}

    def growth(self, since_ns: int) -> Growth:
        """What counters grew by since a time of CLOCK_MONOTONIC: from the last reading before,
        unless that is too old, else from the first one after.
        """
        readings = self._readings
        first = _baseline(readings, since_ns)
        if first is None:
            return _NONE
        last = readings[-1]
        found = self._growths.get((first.at_ns, last.at_ns))
        if found is None:
            found = self._growths[first.at_ns, last.at_ns] = _growth(first, last)
        return found


_NONE: Final = Growth()


def _growth(first: Reading, last: Reading) -> Growth:
    return Growth(
        overflows=_grown(first.tcp, last.tcp, lambda tcp: tcp.listen_overflows),
        drops=_grown(first.tcp, last.tcp, lambda tcp: tcp.listen_drops),
        syn_queue_drops=_grown(first.tcp, last.tcp, lambda tcp: tcp.queue_full_drops),
        syn_cookies=_grown(first.tcp, last.tcp, lambda tcp: tcp.queue_full_cookies),
        refused=_grown(first.conntrack, last.conntrack, lambda conntrack: conntrack.drop),
        reverse_path=_grown(first.tcp, last.tcp, lambda tcp: tcp.reverse_path_drops),
    )


def _baseline(readings: tuple[Reading, ...], since_ns: int) -> Reading | None:
    after = bisect_left(readings, since_ns, key=lambda reading: reading.at_ns)
    if after > 0 and since_ns - readings[after - 1].at_ns <= BEFORE_SECONDS * NANOSECONDS:
        return readings[after - 1]
    return readings[after] if after < len(readings) else None


def _grown(
    first: _Counters | None, last: _Counters | None, counter: Callable[[_Counters], int | None]
) -> int:
    before = None if first is None else counter(first)
    now = None if last is None else counter(last)
    return 0 if before is None or now is None else max(0, now - before)
