"""What is known now, kept for whoever looks: the picture behind the live screen.

The session's thread puts reports in, the screen asks for a Snapshot a few times a second. Neither
waits for the other longer than a dictionary takes to copy: half a millisecond for 10,000 attempts.
Everything has a bound; what found no room is counted.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from tracer.model import (
    NANOSECONDS,
    ChangeKind,
    Evidence,
    Health,
    Lifecycle,
    Outcome,
    Report,
)
from tracer.snapshot import (
    FADE_SECONDS,
    HISTORY_STEPS,
    STEP_SECONDS,
    Held,
    Notice,
    Pair,
    PairKey,
    Point,
    PointKind,
    Snapshot,
    Totals,
    Who,
)

_MINUTE: Final = 60
_MAX_POINTS: Final = 64
_FAILURES: Final = frozenset(Outcome) - {Outcome.ESTABLISHED, Outcome.VANISHED}


@dataclass(frozen=True, slots=True)
class BoardLimits:
    """attempts stuck now, attempts that have ended, pairs of somebody and a destination, events."""

    attempts: int = 65_536
    ended: int = 8_192
    pairs: int = 20_000
    log: int = 2_000


class Board:
    """A sink that keeps the picture. `snapshot`, `notice` and `hang_up` are for any thread.

    keep    nothing that has ended leaves the picture before its bounds are reached
    scoped  some pods are told of alone, while the kernel counts connects of the whole node: no
            share of success can be made of the two
    clock   CLOCK_MONOTONIC nanoseconds
    """

    keeps_record = False

    def __init__(
        self,
        *,
        keep: bool = False,
        scoped: bool = False,
        limits: BoardLimits = BoardLimits(),
        clock: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._keep, self._scoped = keep, scoped
        self._limits = limits
        self._clock, self._wall = clock, wall
        self._lock = threading.Lock()
        self._version = 0
        self._live: dict[str, Held] = {}
        self._ended: OrderedDict[str, Held] = OrderedDict()
        self._pairs: dict[PairKey, Pair] = {}
        self._idle_pairs: OrderedDict[PairKey, None] = OrderedDict()
        self._log: deque[Report | Lifecycle | Notice] = deque(maxlen=limits.log)
        self._health: Health | None = None
        self._uptime = 0.0
        self._began_ns = clock()
        self._stuck_now = self._peak = self._became_stuck = 0
        self._unheld = 0
        self._outcomes: Counter[Outcome] = Counter()
        self._new: deque[tuple[int, int]] = deque()
        self._connects: deque[tuple[int, int, int]] = deque()
        self._history: dict[int, tuple[int, int]] = {}  # by step: the most, and the last
        self._before_history: int | None = None
        self._gone = False

    # --- a sink --------------------------------------------------------------------------------

    @property
    def dropped(self) -> int:
        """Attempts that the picture had no room for."""
        return self._unheld

    @property
    def finished(self) -> bool:
        """Whether nobody looks any more."""
        return self._gone

    def write(self, reports: Sequence[Report]) -> None:
        """Takes changes of attempts, in the order in which they happened."""
        with self._lock:
            for report in reports:
                self._take(report)
            self._version += 1

    def lifecycle(self, event: Lifecycle) -> None:
        """Takes news of the tracer itself."""
        self.pulse(event.health, event.uptime_seconds)
        with self._lock:
            self._log.append(event)

    def pulse(self, health: Health, uptime_seconds: float) -> None:
        """Takes the tracer's state, as it is about every second; lets go of what is long over."""
        now = self._clock()
        with self._lock:
            self._health, self._uptime = health, uptime_seconds
            self._stuck_now = health.stuck_now
            self._became_stuck = max(self._became_stuck, health.became_stuck)
            self._note_stuck(now)
            rates = health.rates
            if rates.established is not None and not self._scoped:
                failed = sum(count for how, count in health.outcomes.items() if how in _FAILURES)
                well = rates.established + health.outcomes.get(Outcome.ESTABLISHED, 0)
                self._connects.append((now, well, failed))
            self._forget(now)
            self._version += 1

    def close(self) -> None:
        """Nothing is held back."""

    # --- for those who look --------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The picture as it is now."""
        now = self._clock()
        with self._lock:
            live, ended, pairs = self._live.copy(), self._ended.copy(), self._pairs.copy()
            totals = self._totals(now)
            log = tuple(self._log)
            version, health, uptime = self._version, self._health, self._uptime
        live.update(ended)
        return Snapshot(
            version=version,
            now_ns=now,
            wall_ns=self._wall(),
            attempts=MappingProxyType(live),
            pairs=MappingProxyType(pairs),
            totals=totals,
            health=health,
            uptime_seconds=uptime,
            log=log,
        )

    @property
    def version(self) -> int:
        """Of what snapshot() would give: the same number, the same picture."""
        return self._version

    def notice(self, text: str) -> None:
        """Takes a sentence for the log of events."""
        with self._lock:
            self._log.append(Notice(self._wall(), text))
            self._version += 1

    def hang_up(self) -> None:
        """Nobody will look any more."""
        self._gone = True

    # --- inside --------------------------------------------------------------------------------

    def _take(self, report: Report) -> None:
        change = report.change
        attempt = change.attempt
        self._log.append(report)
        if change.kind is ChangeKind.END:
            self._end(report)
            return
        if attempt.outcome is not None:  # evidence that came after the end
            before = self._ended.get(attempt.id)
            if before is not None:
                self._ended[attempt.id] = Held(before.key, report, _points(before.points, report))
                self._touch(before.key, report, 0)
            return
        held = self._live.get(attempt.id)
        if held is None:
            self._begin(report)
            return
        key = _key(report)
        if key != held.key:  # whose it is came to light
            if not self._room_for(key):
                key = held.key
            else:
                self._touch(held.key, held.report, -1)
                self._touch(key, report, 1)
        else:
            self._touch(key, report, 0)
        self._live[attempt.id] = Held(key, report, _points(held.points, report))

    def _begin(self, report: Report) -> None:
        """An attempt that nothing was heard of before."""
        now = report.change.time_ns
        if report.change.kind is ChangeKind.STUCK:
            self._became_stuck += 1
            second = now // NANOSECONDS
            if self._new and self._new[-1][0] == second:
                self._new[-1] = (second, self._new[-1][1] + 1)
            else:
                self._new.append((second, 1))
            self._stuck_now += 1
            self._note_stuck(now)
        key = _key(report)
        if len(self._live) >= self._limits.attempts or not self._room_for(key):
            if report.change.kind is ChangeKind.STUCK:
                self._unheld += 1
            return
        self._live[report.change.attempt.id] = Held(key, report, _points((), report))
        self._touch(key, report, 1)

    def _end(self, report: Report) -> None:
        attempt = report.change.attempt
        held = self._live.pop(attempt.id, None)
        if attempt.stuck:
            self._stuck_now = max(0, self._stuck_now - 1)
            self._note_stuck(report.change.time_ns)
        if attempt.outcome is not None:
            self._outcomes[attempt.outcome] += 1
        key = _key(report) if held is None else held.key
        if not self._room_for(key):
            if not attempt.stuck:  # else its beginning was counted, which found no room either
                self._unheld += 1
            return
        self._touch(key, report, 0 if held is None else -1)
        self._ended[attempt.id] = Held(key, report, _points(held.points if held else (), report))
        while len(self._ended) > self._limits.ended:
            self._ended.popitem(last=False)

    def _room_for(self, key: PairKey) -> bool:
        """Whether there is a pair, or may be one; the one that is idle the longest makes room."""
        if key in self._pairs or len(self._pairs) < self._limits.pairs:
            return True
        if not self._idle_pairs:
            return False
        oldest, _ = self._idle_pairs.popitem(last=False)
        del self._pairs[oldest]
        return True

    def _touch(self, key: PairKey, report: Report, more: int) -> None:
        """Notes a report in its pair, which has `more` attempts now."""
        before = self._pairs.get(key)
        outcome = report.change.attempt.outcome
        ended: Mapping[Outcome, int] = {} if before is None else before.ended
        if outcome is not None and report.change.kind is ChangeKind.END:
            ended = {**ended, outcome: ended.get(outcome, 0) + 1}
        live = max(0, (0 if before is None else before.live) + more)
        if not live and not ended:
            self._pairs.pop(key, None)
            self._idle_pairs.pop(key, None)
            return
        verdict = report.verdict or (None if before is None else before.verdict)
        change = report.change
        late = outcome is not None and change.kind is not ChangeKind.END
        if late and before is not None:  # it says why, not that something happened just now
            self._pairs[key] = replace(before, report=report, verdict=verdict)
            return
        self._pairs[key] = Pair(key, report, live, ended, change.time_ns, verdict)
        self._idle_pairs.pop(key, None)
        if not live:
            self._idle_pairs[key] = None

    def _forget(self, now: int) -> None:
        second = now // NANOSECONDS
        while self._new and self._new[0][0] <= second - _MINUTE:
            self._new.popleft()
        while len(self._connects) > 1 and self._connects[1][0] <= now - _MINUTE * NANOSECONDS:
            self._connects.popleft()
        oldest_step = second // STEP_SECONDS - HISTORY_STEPS
        for step in sorted(step for step in self._history if step <= oldest_step):
            _, self._before_history = self._history.pop(step)
        if self._keep:
            return
        over = now - FADE_SECONDS * NANOSECONDS
        while self._ended:
            first = next(iter(self._ended.values()))
            if (first.attempt.ended_ns or 0) > over:
                break
            self._ended.popitem(last=False)
        while self._idle_pairs:
            key = next(iter(self._idle_pairs))
            if self._pairs[key].last_ns > over:
                break
            del self._idle_pairs[key], self._pairs[key]

    def _note_stuck(self, now: int) -> None:
        self._peak = max(self._peak, self._stuck_now)
        step = now // NANOSECONDS // STEP_SECONDS
        most, _ = self._history.get(step, (0, 0))
        self._history[step] = max(most, self._stuck_now), self._stuck_now

    def _totals(self, now: int) -> Totals:
        second = now // NANOSECONDS
        health = self._health
        return Totals(
            stuck_now=self._stuck_now,
            peak=self._peak,
            became_stuck=self._became_stuck,
            new_per_minute=sum(count for at, count in self._new if at > second - _MINUTE),
            success=self._success(),
            outcomes=dict(self._outcomes if health is None else _most(self._outcomes, health)),
            history=self._steps(second // STEP_SECONDS),
            unheld=self._unheld,
            scoped=self._scoped,
        )

    def _steps(self, last: int) -> tuple[int | None, ...]:
        """A step in which nothing was noted is as the one before it was at its end."""
        first = self._began_ns // NANOSECONDS // STEP_SECONDS
        goes_on = self._before_history
        steps: list[int | None] = []
        for step in range(last - HISTORY_STEPS + 1, last + 1):
            most, goes_on = self._history.get(step, (goes_on, goes_on))
            steps.append(most if step >= first else None)
        return tuple(steps)

    def _success(self) -> float | None:
        if not self._connects:
            return None
        _, well_before, failed_before = self._connects[0]
        _, well, failed = self._connects[-1]
        if len(self._connects) == 1:
            well_before = failed_before = 0
        ended = well - well_before + failed - failed_before
        return (well - well_before) / ended if ended > 0 else None


def _most(counted: Counter[Outcome], health: Health) -> dict[Outcome, int]:
    """Reports come before the tracer's own count is told: the larger one is the newer one."""
    return {how: max(counted[how], health.outcomes.get(how, 0)) for how in Outcome}


def _key(report: Report) -> PairKey:
    """Who connects, as well as it is known, and where to."""
    return who(report), report.change.attempt.flow.destination


def who(report: Report) -> Who:
    pod, process, attempt = report.pod, report.process, report.change.attempt
    if pod is not None and (pod.uid or pod.label):
        return ("pod", pod.uid or pod.label)
    if process is not None and process.unit is not None:
        return ("unit", process.unit)
    name = attempt.owner.comm or (process.name if process is not None else None)
    return ("process", attempt.flow.netns, name)


_KINDS: Final = {"drop": PointKind.DROP, "icmp": PointKind.ICMP, "rst": PointKind.RST}


def _points(before: tuple[Point, ...], report: Report) -> tuple[Point, ...]:
    """The time line with what a report adds to it, in the order of time."""
    found = list(before)
    attempt = report.change.attempt
    known = {(point.kind, point.at_ns) for point in before}
    syns = attempt.syns_sent

    def add(kind: PointKind, at_ns: int | None, text: str) -> None:
        if at_ns is not None and (kind, at_ns) not in known:
            known.add((kind, at_ns))
            found.append(Point(kind, at_ns, text))

    if not before:
        add(PointKind.SYN, attempt.started_ns, "SYN 1")
    if syns is not None and syns > 1:
        add(PointKind.SYN, attempt.last_syn_ns, f"SYN {syns}")
    if report.verdict is not None:
        for piece in report.verdict.evidence:
            kind = _KINDS.get(piece.kind)
            if kind is not None:
                add(kind, _at(piece, report), piece.summary)
    if report.change.kind is ChangeKind.END:
        add(PointKind.END, attempt.ended_ns, str(attempt.outcome))
    if len(found) == len(before):
        return before
    found.sort(key=lambda point: point.at_ns)
    if len(found) > _MAX_POINTS:  # the beginning tells most, and the end
        half = _MAX_POINTS // 2
        found = [*found[:half], *found[-half:]]
    return tuple(found)


def _at(piece: Evidence, report: Report) -> int | None:
    """A RST has no time of its own: it came with the end."""
    if piece.at_ns is None and piece.kind == "rst":
        return report.change.attempt.ended_ns
    return piece.at_ns
