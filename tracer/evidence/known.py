"""What is known of places, how old it is, and whose turn it is to be looked up."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from tracer.evidence.budget import SHARE
from tracer.evidence.case import Case
from tracer.evidence.place import PlaceFacts, PlaceKey
from tracer.evidence.places import Places
from tracer.model import NANOSECONDS, Endpoint, Kind, Outcome

PLACE_SECONDS: Final = 3.0
"""How old what is known of a place may be while something there is stuck, unless there are so many
that looking them up so often costs more than half of the budget."""

ROUND_CPU_SECONDS: Final = 0.15
"""CPU time of look-ups in one round: what is known already is judged in between."""

MAX_PLACES: Final = 4_096


class Known(NamedTuple):
    """What is known of a place, since when (seconds), and the hash of its gist.

    `portless`: looked up without a source port, by which alone NAT tells where it leads a flow, so
    that neither routes of the node nor a listener were looked for. The kernel chooses the port
    after the attempt has begun: it is learnt later.
    """

    at: float
    facts: PlaceFacts
    gist: int
    portless: bool


class KnownPlaces:
    """Facts by place. `look` is for the evidence's thread, the rest for any."""

    def __init__(
        self,
        places: Places,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
        round_cpu_seconds: float = ROUND_CPU_SECONDS,
        most: int = MAX_PLACES,
    ) -> None:
        """`clock` is in seconds, of CLOCK_MONOTONIC; `cpu` the time that the thread has used."""
        self._places = places
        self._clock = clock
        self._cpu = cpu
        self._round_cpu = round_cpu_seconds
        self._most = most
        self._lock = threading.Lock()
        self._known: OrderedDict[PlaceKey, Known] = OrderedDict()
        self._cost = 0.0
        """CPU seconds of a look, of the latest the more."""
        self.waiting = 0
        """Places with something stuck that no look has reached yet."""
        self.looks = 0

    def of(self, key: PlaceKey) -> Known | None:
        """What is known of a place where something is stuck, however old: None is nothing yet."""
        with self._lock:
            return self._known.get(key)

    def during(self, key: PlaceKey, began_ns: int | None) -> PlaceFacts | None:
        """What was found out while an attempt lasted that began then and ends now, or shortly
        before: what is older may have changed since.
        """
        with self._lock:
            known = self._known.get(key)
        if known is None:
            return None
        recent = self._clock() - known.at < PLACE_SECONDS
        lasted = began_ns is not None and known.at * NANOSECONDS >= began_ns
        return known.facts if recent or lasted else None

    def look(self, cases: Sequence[Case], failed: Iterable[Case]) -> set[PlaceKey]:
        """Looks up places whose turn it is: those of failures, then those of which nothing is
        known, then those that were looked at longest ago. What was looked at is said.
        """
        translated = {case.place[:2] for case in cases if case.place.backend is not None}
        wanted: OrderedDict[PlaceKey, Case] = OrderedDict()
        ports = set()
        for case in failed:
            wanted[case.place] = case
            if case.report.change.attempt.outcome is Outcome.LOCAL_ERROR:
                ports.add(case.place)
        first = len(wanted)
        in_use: dict[PlaceKey, Case] = {}
        for case in cases:
            in_use.setdefault(case.place, case)
        now = self._clock()
        with self._lock:
            at = {key: self._known[key].at for key in in_use if key in self._known}
            portless = {key for key in at if self._known[key].portless}
        age = max(PLACE_SECONDS, len(in_use) * self._cost / (SHARE / 2))
        stale = (
            key
            for key, case in in_use.items()
            if now - at.get(key, -age) >= age or (key in portless and not _portless(case))
        )
        for key in sorted(stale, key=lambda key: at.get(key, 0.0)):
            wanted.setdefault(key, in_use[key])
        looked = self._look_up(wanted, first, ports, translated)
        self.waiting = sum(key not in at and key not in looked for key in in_use)
        return looked

    def _look_up(
        self,
        wanted: OrderedDict[PlaceKey, Case],
        first: int,
        ports: set[PlaceKey],
        translated: set[tuple[int, Endpoint]],
    ) -> set[PlaceKey]:
        looked: set[PlaceKey] = set()
        began = before = self._cpu()
        with self._places.batch():
            for number, (key, case) in enumerate(wanted.items()):
                if before - began > self._round_cpu:
                    break
                destination = case.report.destination
                found = self._places.look(
                    case.report.change.attempt.flow,
                    destination.scope,
                    key.backend,
                    ports=key in ports,
                    translated=destination.kind is Kind.SERVICE or key[:2] in translated,
                )
                self._keep(key, found, portless=_portless(case))
                looked.add(key)
                after = self._cpu()
                if number >= first:
                    self._cost += (after - before - self._cost) / min(16, self.looks + 1)
                self.looks += 1
                before = after
        return looked

    def _keep(self, key: PlaceKey, found: PlaceFacts, *, portless: bool) -> None:
        with self._lock:
            self._known.pop(key, None)
            self._known[key] = Known(self._clock(), found, hash(found.gist), portless)
            while len(self._known) > self._most:
                self._known.popitem(last=False)

    def forget(self) -> None:
        with self._lock:
            self._known.clear()
        self.waiting = 0
        self._places.forget(frozenset())


def _portless(case: Case) -> bool:
    return case.report.change.attempt.flow.source.port is None
