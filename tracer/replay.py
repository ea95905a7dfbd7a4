"""Plays a recording back as if it happened now: the same outputs, by a clock of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from tracer.model import (
    NANOSECONDS,
    Change,
    ChangeKind,
    Health,
    Lifecycle,
    LifecycleKind,
    Outcome,
    Rates,
    Report,
    SourceName,
)
from tracer.recording import MOST_LIVE, Event, Recording
from tracer.sinks import Sink
from tracer.sinks.recorder import RECORDING_ENDS

_STEP_SECONDS: Final = 0.05
_PULSE_SECONDS: Final = 1.0
_MOST_AT_ONCE: Final = 1_000

UNKNOWN: Final = Health(
    backend=SourceName.BPF, hooks=(), lacking=(), stuck_now=0, tracked_now=0, recorded=False
)
"""Before the recording says anything of its tracer."""


class Clock:
    """The recording's time, which goes `speed` times as fast as ours, and not beyond its end."""

    def __init__(
        self, began_ns: int, speed: float, own: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._began_ns, self._speed, self._own = began_ns, speed, own
        self._since_ns: int | None = None
        self._end_ns: int | None = None

    def start(self) -> None:
        self._since_ns = self._own()

    def jump(self, to_ns: int) -> None:
        """Goes on from there, once it is started."""
        self._began_ns = to_ns

    def stop(self, at_ns: int) -> None:
        """Time does not go on after that."""
        self._end_ns = at_ns

    def now(self) -> int:
        """Nanoseconds since the epoch, in the recording."""
        gone = 0 if self._since_ns is None else self._own() - self._since_ns
        now = self._began_ns + int(gone * self._speed)
        return now if self._end_ns is None else min(now, self._end_ns)

    def seconds_until(self, at_ns: int) -> float:
        """Of our own time."""
        return (at_ns - self.now()) / self._speed / NANOSECONDS


class Replay:
    """What Session is to a live trace. `stop` may be called from anywhere.

    at_ns   what was before is shown at once
    notify  gets a sentence for people at the end of the recording
    stay    it is over when it is stopped, not at the end of the recording: somebody looks at it
    """

    def __init__(
        self,
        recording: Recording,
        sinks: Sequence[Sink],
        clock: Clock,
        *,
        first: Event,
        rest: Iterator[Event],
        at_ns: int | None = None,
        pulse: Callable[[Health, float], None] | None = None,
        notify: Callable[[str], None] | None = None,
        stay: bool = False,
    ) -> None:
        self._recording, self._sinks, self._clock = recording, sinks, clock
        self._events = rest
        self._first = first
        self._at_ns = at_ns
        self._pulse, self._notify, self._stay = pulse, notify, stay
        self._over = False
        self._stopping = False
        self._health = UNKNOWN
        self._live: dict[str, Report] = {}
        self._outcomes: dict[Outcome, int] = {}
        self._became_stuck = 0
        self._unheld = 0
        self._began_ns = self._last_ns = first.wall_ns
        self._pulsed_ns = 0
        self._stopped = False
        self._uptime: tuple[float, int] = (0.0, first.wall_ns)

    @property
    def over(self) -> bool:
        """Whether the end of the recording was reached."""
        return self._over

    @property
    def stopping(self) -> bool:
        """Whether it was stopped before its end, or by whoever looked at that."""
        return self._stopping

    @property
    def skipped(self) -> int:
        """Lines that are no event, so far."""
        return self._recording.skipped

    def stop(self) -> None:
        self._stopping = True

    def run(self) -> None:
        """Plays until its end, or `stop`. Raises InputError for what is no recording."""
        self._put([self._first])
        batch: list[Event] = []
        if self._at_ns is None:
            self._clock.start()
        for event in self._events:
            if self._stopping:
                break
            if self._at_ns is not None and event.wall_ns >= self._at_ns:
                self._put(batch)
                batch = []
                self._clock.jump(self._at_ns)
                self._clock.start()
                self._at_ns = None
                self._beat()
            if self._at_ns is None and event.wall_ns > self._clock.now():
                self._put(batch)
                batch = []
                self._wait(event.wall_ns)
            batch.append(event)
            if len(batch) >= _MOST_AT_ONCE:
                self._put(batch)
                batch = []
        self._put(batch)
        self._skip_to(self._last_ns)
        self._clock.stop(max(self._last_ns, self._began_ns))
        self._beat()
        self._over = not self._stopping
        said = self._said()
        if self._over and self._notify is not None:
            self._notify("; ".join(["the recording is over", *said]))
        while self._stay and not self._stopping and not self._nobody():
            time.sleep(_STEP_SECONDS)
        self._tell(
            Lifecycle(
                LifecycleKind.STOP, self._last_ns, self._now(), self._up(), "; ".join(said) or None
            )
        )

    def _wait(self, until_ns: int) -> None:
        while not self._stopping and (left := self._clock.seconds_until(until_ns)) > 0:
            time.sleep(min(_STEP_SECONDS, left))
            self._beat()
            if self._nobody():
                self._stopping = True

    def _nobody(self) -> bool:
        return all(sink.finished for sink in self._sinks)

    def _beat(self) -> None:
        now = time.monotonic_ns()
        if self._pulse is not None and now - self._pulsed_ns >= _PULSE_SECONDS * NANOSECONDS:
            self._pulsed_ns = now
            self._pulse(self._now(), self._up())

    def _up(self) -> float:
        seconds, at_ns = self._uptime
        return seconds + max(0, self._clock.now() - at_ns) / NANOSECONDS

    def _now(self) -> Health:
        """What the recording said last of its tracer, with what has happened since."""
        said = self._health
        stuck = len(self._live)
        return replace(
            said,
            stuck_now=stuck,
            rates=Rates(),  # what is known of them is as old as the last news
            tracked_now=max(stuck, said.tracked_now),
            became_stuck=max(said.became_stuck, self._became_stuck),
            outcomes={
                how: max(said.outcomes.get(how, 0), self._outcomes.get(how, 0)) for how in Outcome
            },
        )

    def _put(self, events: Sequence[Event]) -> None:
        reports: list[Report] = []
        for event in events:
            self._last_ns = max(self._last_ns, event.wall_ns)
            if isinstance(event, Report):
                self._stopped = False
                reports.append(self._counted(event))
                continue
            if event.kind is LifecycleKind.START:
                reports += self._vanished(event.wall_ns)
            self._flush(reports)
            reports = []
            self._skip_to(event.wall_ns)
            self._health = event.health
            self._uptime = (event.uptime_seconds, event.wall_ns)
            if event.kind is LifecycleKind.STOP:
                self._stopped = True
            else:
                self._stopped = event.message == RECORDING_ENDS
                self._tell(event)
        self._flush(reports)
        self._skip_to(self._last_ns)
        if self._pulse is not None and events:
            self._pulse(self._now(), self._up())

    def _skip_to(self, wall_ns: int) -> None:
        """Before the time that is wanted the clock goes by the events: what is told is of then."""
        if self._at_ns is not None and wall_ns > self._clock.now():
            self._clock.jump(wall_ns)

    def _vanished(self, wall_ns: int) -> list[Report]:
        """Ends of what another trace left behind, which the one that begins knows nothing of."""
        left = list(self._live.values())
        self._live.clear()
        return [
            replace(
                report,
                change=Change(
                    ChangeKind.END,
                    replace(
                        report.change.attempt,
                        outcome=Outcome.VANISHED,
                        ended_ns=wall_ns,
                        next_retry_ns=None,
                    ),
                    wall_ns,
                ),
                wall_ns=wall_ns,
            )
            for report in left
        ]

    def _flush(self, reports: Sequence[Report]) -> None:
        if reports:
            for sink in self._sinks:
                sink.write(reports)

    def _tell(self, event: Lifecycle) -> None:
        for sink in self._sinks:
            sink.lifecycle(event)

    def _counted(self, report: Report) -> Report:
        """The report with when its attempt became stuck, which only its first one tells."""
        change = report.change
        attempt, kind = change.attempt, change.kind
        before = self._live.get(attempt.id)
        if kind is ChangeKind.END:
            self._live.pop(attempt.id, None)
            if attempt.outcome is not None:
                self._outcomes[attempt.outcome] = self._outcomes.get(attempt.outcome, 0) + 1
        elif attempt.outcome is None and before is None:
            if len(self._live) >= MOST_LIVE:
                self._unheld += 1
                return report
            self._live[attempt.id] = report
            self._became_stuck += kind is ChangeKind.STUCK
        if before is None or not attempt.stuck:
            return report
        stuck_ns = before.change.attempt.stuck_ns
        return replace(report, change=replace(change, attempt=replace(attempt, stuck_ns=stuck_ns)))

    def _said(self) -> list[str]:
        """What could not be played, and whether that was all."""
        skipped = self._recording.skipped
        said = []
        if skipped:
            said.append(f"{skipped} lines could not be read ({self._recording.first_skipped})")
        if self._unheld:
            said.append(f"{self._unheld} events are of attempts that found no room to be counted")
        if self._over and not self._stopped:
            said.append("the recording has no end: it was cut off, or another one goes on")
        return said
