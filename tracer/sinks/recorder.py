"""A recording that is started and stopped while the trace runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracer.errors import SynsentError
from tracer.model import Lifecycle, Report
from tracer.sinks.jsonl import JsonlSink


class Recorder:
    """A sink that writes JSON lines between start() and stop(), which any thread may call.

    before  what a recording begins with: the attempts that are stuck by then
    notify  gets a sentence for people

    The file is opened, written and closed by the session's thread, at its next event or pulse.
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

    def start(self, path: str) -> None:
        self._wanted = path

    def stop(self) -> None:
        self._wanted = None

    def tick(self) -> None:
        """Opens and closes, on the session's thread."""
        wanted = self._wanted
        if wanted == self._path:
            return
        self._end()
        if wanted is None:
            return
        try:
            sink = JsonlSink(wanted, node=self._node, notify=self._notify)
        except SynsentError as error:
            self._wanted = None
            self._notify(f"{error}{f'; {error.hint}' if error.hint else ''}")
            return
        self._path, self._sink = wanted, sink
        sink.write(self._before())

    def write(self, reports: Sequence[Report]) -> None:
        if self._sink is not None:
            self._sink.write(reports)

    def lifecycle(self, event: Lifecycle) -> None:
        self.tick()
        if self._sink is not None:
            self._sink.lifecycle(event)

    def close(self) -> None:
        self._wanted = None
        self._end()

    def _end(self) -> None:
        sink, self._sink, self._path = self._sink, None, None
        if sink is not None:
            sink.close()
            self._dropped += sink.dropped
