"""Attempts that the kernel's table shows as late, until a sweep tells whether they really are.

The kernel may skip a probe, of this program or any other, where it would have to run inside another
on the same CPU. An end that was missed so leaves an entry behind that looks like an attempt without
an answer. So an entry is called stuck for its age alone only when the kernel's own socket table
shows the socket in SYN_SENT; that also tells its source port.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from tracer.model import NANOSECONDS, Flow, Sweep, SweptSocket, Transition, TransitionKind
from tracer.sources import wire

# Between the start that the kernel recorded and the one that a sweep derives from the timer, which
# is exact to a few clock ticks while the timer has hardly run out yet.
_SLACK_NS: Final = NANOSECONDS // 10

_Route = tuple[int | None, str, str, int | None]


def _route(flow: Flow) -> _Route:
    return flow.netns, flow.source.address, flow.destination.address, flow.destination.port


class _Told(NamedTuple):
    """An entry that was confirmed, and the socket that it is: no other entry can be that one."""

    started_ns: int
    route: _Route
    port: int | None


class Overdue:
    """Entries that wait for a sweep, and those that one has confirmed. For one thread."""

    def __init__(self) -> None:
        self._waiting: dict[int, Transition] = {}
        self._absent: set[int] = set()
        self._told: dict[int, _Told] = {}

    def note(self, found: Mapping[int, wire.RawAttempt]) -> frozenset[int]:
        """Takes all entries that are late now; returns the namespaces that must be looked into.

        What is no longer among them has ended, or its timer has run out, which is reported.
        """
        self._told = {
            key: told
            for key, told in self._told.items()
            if key in found and found[key].start_ns == told.started_ns
        }
        now = time.monotonic_ns()
        waiting: dict[int, Transition] = {}
        for key, raw in found.items():
            if key in self._told:
                continue
            known = self._waiting.get(key)
            if known is None or known.started_ns != raw.start_ns:
                known = wire.transition_of(raw, TransitionKind.OVERDUE, key, now)
            waiting[key] = known
        self._waiting = waiting
        self._absent &= waiting.keys()
        return frozenset(
            known.flow.netns for known in waiting.values() if known.flow.netns is not None
        )

    def settle(self, sweep: Sweep) -> tuple[list[Transition], list[tuple[int, int]]]:
        """Entries that the sweep confirms, and key and start of those that it shows to be over.

        A sweep says nothing of entries that were noted after it began, nor of namespaces that it
        did not look into.
        """
        settled: dict[_Route, list[tuple[int, Transition]]] = {}
        for key, known in self._waiting.items():
            netns = known.flow.netns
            if known.time_ns < sweep.started_ns and (netns in sweep.looked or netns in sweep.gone):
                settled.setdefault(_route(known.flow), []).append((key, known))
        taken = {(told.route, told.port) for told in self._told.values()}
        swept_by_route: dict[_Route, list[SweptSocket]] = {route: [] for route in settled}
        for swept in sweep.sockets:
            route = _route(swept.flow)
            if route in swept_by_route and (route, swept.flow.source.port) not in taken:
                swept_by_route[route].append(swept)
        confirmed: list[Transition] = []
        ended: list[tuple[int, int]] = []
        for route, entries in settled.items():
            for key, known, match in _pair(entries, swept_by_route[route]):
                if match is None and key not in self._absent:
                    self._absent.add(key)  # a dump may miss a socket: ask once more
                    continue
                del self._waiting[key]
                self._absent.discard(key)
                if match is None:
                    ended.append((key, known.started_ns or 0))
                    continue
                self._told[key] = _Told(known.started_ns or 0, route, match.flow.source.port)
                # Without a timer no SYN is under way: TCP Fast Open waits for the first write.
                if match.next_retry_ns is not None:
                    confirmed.append(replace(known, flow=match.flow))
        return confirmed, ended


def _pair(
    entries: list[tuple[int, Transition]], sockets: list[SweptSocket]
) -> Iterator[tuple[int, Transition, SweptSocket | None]]:
    """Each entry with the socket that it is: the one with its port, else with its start.

    All have the same namespace, addresses and destination port. Both sides in the order of their
    starts, each socket taken once.
    """
    by_port = {swept.flow.source.port: swept for swept in sockets}
    without_port: list[tuple[int, Transition]] = []
    for key, known in entries:
        if known.flow.source.port is None:
            without_port.append((key, known))
        else:
            yield key, known, by_port.pop(known.flow.source.port, None)
    # A socket without a timer has no start to go by: it is what is left over.
    timerless = [swept for swept in by_port.values() if swept.started_ns is None]
    free = sorted(
        (swept for swept in by_port.values() if swept.started_ns is not None),
        key=lambda swept: swept.started_ns or 0,
    )
    position = 0
    for key, known in sorted(without_port, key=lambda entry: entry[1].started_ns or 0):
        start = known.started_ns or 0
        while position < len(free) and (free[position].started_ns or start) < start - _SLACK_NS:
            position += 1
        match: SweptSocket | None = None
        if position < len(free) and (free[position].started_ns or start) <= start + _SLACK_NS:
            match = free[position]
            position += 1
        elif timerless:
            match = timerless.pop()
        yield key, known, match
