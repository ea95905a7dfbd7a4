"""The probe for dropped and handed-over packets: loaded while something is stuck, tried again where
it could not be, and told whom to look for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from tracer.errors import NotPermitted, SynsentError
from tracer.evidence.case import Case
from tracer.facts import Drop, Handed, Reset
from tracer.model import NANOSECONDS, Attempt
from tracer.sources.drops import DropProbe

HANDED_SECONDS: Final = 8.0
"""How long the hand-over of SYNs is watched for a newly stuck attempt: every packet of the node is
looked at meanwhile. With the first retransmissions a second or two apart it sees three or four."""

AGAIN_SECONDS: Final = 30.0
"""Before a probe that could not be loaded is tried again; twice as long each time."""

LONGEST_AGAIN_SECONDS: Final = 900.0


class Probe(Protocol):
    """See tracer.sources.drops.DropProbe."""

    lacking: tuple[str, ...]

    @property
    def lost(self) -> int: ...
    def watch(self, attempts: Iterable[Attempt]) -> None: ...
    def watched_ns(self, attempt_id: str) -> int | None: ...
    def watch_handed(self, on: bool) -> None: ...
    def read(self) -> Mapping[str, tuple[tuple[Drop, ...], tuple[Handed, ...]]]: ...
    def reset_of(self, attempt_id: str) -> tuple[Reset, ...] | None: ...
    def close(self) -> None: ...


class Watching:
    """The probe, and what it is told. For the evidence's thread; `lacking`, `lost` and reset_of()
    for any.
    """

    def __init__(
        self,
        open_probe: Callable[[], Probe] = DropProbe,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_probe = open_probe
        self._clock = clock
        self._loaded_ns = 0
        """On a busy machine the compiler takes longer than hand-overs are watched."""
        self._lock = threading.Lock()
        """Whoever asks the probe for a RST has its answer before it is closed."""
        self._probe: Probe | None = None
        self._failure: str | None = None
        self._again_at: float | None = 0.0
        """None: never."""
        self._again_seconds = AGAIN_SECONDS
        self._lacks: tuple[str, ...] = ()
        self._lost_before = 0
        self._watched: frozenset[tuple[str, int, int | None]] = frozenset()
        self.handed_since_ns: int | None = None
        """Since when hand-overs are watched (CLOCK_MONOTONIC); None: they are not."""

    @property
    def loaded(self) -> bool:
        return self._probe is not None

    @property
    def lacking(self) -> tuple[str, ...]:
        return self._lacks if self._failure is None else (self._failure, *self._lacks)

    @property
    def lost(self) -> int:
        probe, before = self._probe, self._lost_before
        return before if probe is None else before + probe.lost

    def watch(self, cases: Sequence[Case], ended: Sequence[Case]) -> list[tuple[Case, int | None]]:
        """Has the probe look for the packets of exactly these attempts, loading it where it is not;
        for those that have `ended` while it looked, until it has been read once more. Tells those
        that are new to it, with since when they are looked for.
        """
        if not cases and not ended:
            self._let_go()
            return []
        probe = self._probe
        if probe is None:
            probe = self._load() if cases else None
            if probe is None:
                return []
        attempts = [case.report.change.attempt for case in (*cases, *ended)]
        wanted = frozenset(
            (one.id, one.isn, one.flow.source.port) for one in attempts if one.isn is not None
        )
        began = []
        if wanted != self._watched:
            probe.watch(attempts)
            self._watched = wanted
            began = [
                (case, probe.watched_ns(case.report.change.attempt.id))
                for case in cases
                if case.watched_ns is None
            ]
        self._watch_handed(probe, cases)
        return began

    def _let_go(self) -> None:
        """Looks for nothing, but stays."""
        if self._probe is not None and (self._watched or self.handed_since_ns is not None):
            self._probe.watch(())
            self._watched = frozenset()
            self._watch_handed(self._probe, ())

    def _load(self) -> Probe | None:
        if self._again_at is None or self._clock() < self._again_at:
            return None
        try:
            self._probe = self._open_probe()
        except SynsentError as error:
            self._failure = f"drops on this node: {error}"
            # Rights do not come back to a process that runs; what a compiler lacks for may.
            lasting = isinstance(error, NotPermitted)
            self._again_at = None if lasting else self._clock() + self._again_seconds
            self._again_seconds = min(LONGEST_AGAIN_SECONDS, 2 * self._again_seconds)
            return None
        self._loaded_ns = int(self._clock() * NANOSECONDS)
        self._failure = None
        self._again_seconds = AGAIN_SECONDS
        self._lacks = self._probe.lacking
        return self._probe

    def _watch_handed(self, probe: Probe, cases: Iterable[Case]) -> None:
        """For newly stuck attempts: it costs something for every packet that the node sends."""
        now = int(self._clock() * NANOSECONDS)
        recent = any(
            now - max(case.began_ns, self._loaded_ns) < HANDED_SECONDS * NANOSECONDS
            for case in cases
        )
        if recent == (self.handed_since_ns is not None):
            return
        try:
            probe.watch_handed(recent)
        except SynsentError:
            return
        self.handed_since_ns = now if recent else None

    def read(self) -> Mapping[str, tuple[tuple[Drop, ...], tuple[Handed, ...]]]:
        """What was counted, by attempt; empty where nothing is watched."""
        return {} if self._probe is None else self._probe.read()

    def reset_of(self, attempt_id: str) -> tuple[Reset, ...] | None:
        """The RST that ended an attempt; None where nobody looked."""
        with self._lock:
            return None if self._probe is None else self._probe.reset_of(attempt_id)

    def close(self) -> None:
        with self._lock:
            probe, self._probe = self._probe, None
        self._watched = frozenset()
        self.handed_since_ns = None
        if probe is not None:
            self._lost_before += probe.lost
            probe.close()
