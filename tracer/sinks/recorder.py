"""A recording that is started and stopped while the trace runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from tracer.errors import SynsentError
from tracer.model import Health, Lifecycle, LifecycleKind, Report
from tracer.sinks.jsonl import JsonlSink
from tracer.text import safe

RECORDING_ENDS: Final = "the recording was stopped here; the trace went on"
"""What the last event of a recording says that did not end with its trace."""

_BEGINS: Final = "the recording begins; what is stuck by now follows"
_AT_ONCE: Final = 256
"""Events encoded in one piece: with verdict and text one takes some 10 kB."""
_TICK_SECONDS: Final = 0.1
"""How long one tick may take for what was stuck before: the trace waits meanwhile."""


class Recorder:
    """A sink that writes JSON lines between start() and stop(), which any thread may call.

    before  what a recording begins with: the attempts that are stuck by then
    notify  gets a sentence for people

    The file is opened, written and closed by the session's thread, at its next event or tick. What
    was stuck before is written bit by bit: each attempt before anything that happens to it later.
    """

    keeps_record = True

    def __init__(
        self,
        *,
        node: str,
        before: Callable[[], Sequence[Report]],
        notify: Callable[[str], None],
    ) -> None:
        self._node, self._before, self._notify = node, before, notify
        self._wanted: str | None = None
        self._path: str | None = None
        self._sink: JsonlSink | None = None
        self._backlog: dict[str, Report] = {}
        self._state: tuple[Health, float] | None = None
        self._dropped = 0

    @property
    def dropped(self) -> int:
        return self._dropped + (0 if self._sink is None else self._sink.dropped)

    @property
    def finished(self) -> bool:
        """It is no reason for a trace to go on."""
        return True

    @property
    def path(self) -> str | None:
        """Of the recording that is under way, or asked for."""
        return self._wanted

    @property
    def under_way(self) -> bool:
        """Whether a file is open, which goes on after stop() until all that was stuck is in it."""
        return self._sink is not None

    def start(self, path: str) -> None:
        self._wanted = path

    def stop(self) -> None:
        self._wanted = None

    def tick(self, health: Health, uptime_seconds: float) -> None:
        """Opens, goes on and closes, on the session's thread; takes the tracer's state as it is."""
        self._state = health, uptime_seconds
        self._catch_up(time.monotonic() + _TICK_SECONDS)
        if self._wanted == self._path or self._backlog:
            return
        self._end(RECORDING_ENDS)
        wanted = self._wanted
        if wanted is None:
            return
        try:
            self._sink = JsonlSink(wanted, node=self._node, notify=self._notify)
        except SynsentError as error:
            self._wanted = None
            self._notify(f"{error}{f'; {error.hint}' if error.hint else ''}")
            return
        self._path = wanted
        self._tell_state(_BEGINS)
        self._backlog = {report.change.attempt.id: report for report in self._before()}
        self._catch_up(time.monotonic() + _TICK_SECONDS)

    def write(self, reports: Sequence[Report]) -> None:
        if self._sink is None or self._wanted != self._path:
            return
        if self._backlog:
            ids = dict.fromkeys(report.change.attempt.id for report in reports)
            self._put([self._backlog.pop(one) for one in ids if one in self._backlog])
        self._put(reports)
        self._part()

    def lifecycle(self, event: Lifecycle) -> None:
        self.tick(event.health, event.uptime_seconds)
        if self._sink is None:
            return
        if event.kind is LifecycleKind.STOP:
            self._catch_up(None)
        self._sink.lifecycle(event)

    def close(self) -> None:
        self._wanted = None
        self._catch_up(None)
        self._end(None)

    def _catch_up(self, until: float | None) -> None:
        """Writes what was stuck before, at least a part of it, until then or to the end."""
        while self._backlog:
            self._part()
            if until is not None and time.monotonic() >= until:
                return

    def _part(self) -> None:
        ids = list(islice(self._backlog, _AT_ONCE))
        self._put([self._backlog.pop(one) for one in ids])

    def _put(self, reports: Sequence[Report]) -> None:
        if self._sink is not None:
            for start in range(0, len(reports), _AT_ONCE):
                self._sink.write(reports[start : start + _AT_ONCE])

    def _tell_state(self, message: str) -> None:
        if self._sink is not None and self._state is not None:
            health, uptime = self._state
            self._sink.lifecycle(
                Lifecycle(LifecycleKind.HEALTH, time.time_ns(), health, uptime, message)
            )

    def _end(self, message: str | None) -> None:
        if self._sink is None:
            return
        if message is not None:
            self._tell_state(message)
        sink, path, self._sink, self._path = self._sink, self._path, None, None
        sink.close()
        self._dropped += sink.dropped
        self._notify(f"events were recorded to {safe(path or '?')}")
