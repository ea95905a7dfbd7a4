"""Has everything that can tell of stuck attempts look: probe, ears, and who looks places up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from tracer.diagnose.drops import by_netfilter
from tracer.evidence.case import Case, Seen
from tracer.evidence.ears import Ears
from tracer.evidence.known import KnownPlaces
from tracer.evidence.place import PlaceKey
from tracer.evidence.places import Places
from tracer.evidence.watching import Watching
from tracer.facts import Drop, Handed, IcmpError, Reset
from tracer.model import Attempt


class Gathering:
    """What is open, and what it tells. For the evidence's thread; `known`, `ears`, `lacking`,
    `lost`, `stopped` and reset_of() for any.
    """

    def __init__(
        self,
        *,
        host_netns: int | None,
        places: Places,
        ears: Ears,
        watching: Watching | None,
        lock: threading.Lock,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        """`watching` is None where no packet can be told to be an attempt's. `lock` is the one over
        cases.
        """
        self._host_netns = host_netns
        self._places = places
        self._lock = lock
        self.known = KnownPlaces(places, clock=clock, cpu=cpu)
        self.ears = ears
        self.watching = watching
        self.stopped: Mapping[int, int] | None = None
        """Packets of watched attempts that netfilter dropped, by namespace; None: not watched."""

    @property
    def attached(self) -> bool:
        return self.loaded or self.ears.open_now

    @property
    def loaded(self) -> bool:
        """Whether drops can be seen."""
        return self.watching is not None and self.watching.loaded

    @property
    def lacking(self) -> tuple[str, ...]:
        found = () if self.watching is None else self.watching.lacking
        found = (*found, *self.ears.lacking)
        if self._places.refused:
            found = (*found, f"routes, neighbours and counters of pods: {self._places.refused}")
        if self.known.waiting:
            waiting = f"{self.known.waiting} stuck destinations, which wait for their turn"
            found = (*found, f"routes, neighbours and tables towards {waiting}")
        return found

    @property
    def lost(self) -> int:
        """What found no room, since the start: attempts and drops in the probe, ICMP errors."""
        return self.ears.lost + (0 if self.watching is None else self.watching.lost)

    def gather(self, cases: Sequence[Case], failed: Sequence[Case]) -> set[PlaceKey]:
        """Looks for what concerns these, and gives each what was seen of it. Tells which places
        were looked up.
        """
        every = [*cases, *failed]
        self._listen(every)
        if self.watching is not None:
            ended = [case for case in failed if case.watched_ns is not None]
            began = self.watching.watch(cases, ended)
            with self._lock:
                for case, since_ns in began:
                    case.watch(since_ns)
        looked = self.known.look(cases, failed)
        self._read(every)
        return looked

    def reset_of(self, attempt_id: str) -> tuple[Reset, ...] | None:
        """The RST that ended an attempt; None where nobody looked."""
        return None if self.watching is None else self.watching.reset_of(attempt_id)

    def let_go(self) -> None:
        """Nothing is stuck: no packet is looked for, though all stays open."""
        if self.watching is not None:
            self.watching.watch((), ())

    def close(self) -> None:
        if self.watching is not None:
            self.watching.close()
        self.ears.close()
        self.known.forget()

    def quiet(self, after_seconds: float) -> None:
        """Leaves namespaces in which nothing was stuck for so long."""
        self.ears.quiet(after_seconds)

    def _listen(self, cases: Iterable[Case]) -> None:
        """Opens ears and notes counters where something is stuck or has failed."""
        for netns in dict.fromkeys(case.place.netns for case in cases):
            path = self._places.path_of(netns)
            if path is not None:
                self.ears.listen(netns, path)
                self._places.watch(netns)
        if self._host_netns is not None:
            self._places.watch(self._host_netns)
        self.ears.hear()

    def _read(self, cases: Iterable[Case]) -> None:
        """Gives each attempt what the probes saw of it."""
        watching = self.watching
        counted = {} if watching is None else watching.read()
        since_ns = None if watching is None else watching.handed_since_ns
        leads_out = self._places.devices.leads_out
        self.stopped = _stopped(counted) if self.loaded else None
        for case in cases:
            attempt = case.report.change.attempt
            drops, handed = counted.get(attempt.id, (None, ()))
            case.seen = Seen(
                drops=drops,
                handed=case.handed(handed, since_ns=since_ns, leads_out=leads_out),
                icmp=self._with_senders(attempt),
                resets=case.seen.resets,
            )

    def _with_senders(self, attempt: Attempt) -> tuple[IcmpError, ...] | None:
        """ICMP errors about an attempt, with whether this node sent them."""
        heard = self.ears.errors_about(attempt)
        if not heard:
            return heard
        is_here = self._places.is_here
        return tuple(replace(one, here=is_here(attempt.flow, one.sender)) for one in heard)


def _stopped(
    counted: Mapping[str, tuple[tuple[Drop, ...], tuple[Handed, ...]]],
) -> Mapping[int, int]:
    found: Counter[int] = Counter()
    for drops, _ in counted.values():
        for drop in drops:
            if drop.netns is not None and by_netfilter(drop):
                found[drop.netns] += drop.count
    return found
