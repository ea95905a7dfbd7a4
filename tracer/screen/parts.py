"""What the command line needs of the screen; loads neither rich nor Textual before it is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracer.board import Board
from tracer.model import Health, Lifecycle, LifecycleKind, Report
from tracer.settings import Settings
from tracer.sinks import Sink
from tracer.sinks.recorder import Recorder
from tracer.sinks.summary import Summary
from tracer.sinks.wording import date_and_time, span, totals
from tracer.text import safe

if TYPE_CHECKING:
    from tracer.screen.run import Tracing


@dataclass(frozen=True, slots=True)
class Past:
    """A trace that is played back: its clock (nanoseconds since the epoch), what is said of it."""

    now: Callable[[], int]
    note: Callable[[], str]


class ScreenParts:
    """The screen with what feeds it: a board, a recorder, and the sums for the end."""

    def __init__(
        self,
        settings: Settings,
        environment: Mapping[str, str],
        *,
        headless: bool = False,
        past: Past | None = None,
    ) -> None:
        """`headless` is without a terminal, for a picture alone."""
        self._headless = headless
        self._past = past
        self._settings, self._environment = settings, environment
        self._color = not headless and not environment.get("NO_COLOR")
        scoped = bool(settings.pods or settings.namespaces or settings.selector is not None)
        if past is None:
            self._board = Board(keep=settings.keep, scoped=scoped)
        else:
            self._board = Board(keep=settings.keep, scoped=scoped, clock=past.now, wall=past.now)
        self._notices: list[str] = []
        self._sums = _Sums()
        self._recorder = Recorder(node=settings.node_name, before=self._stuck, notify=self.notify)
        self.sinks: tuple[Sink, ...] = (self._board, self._recorder, self._sums)

    def log(self, sentence: str) -> None:
        """Says something among the events on the screen."""
        self._board.notice(sentence)

    def notify(self, sentence: str) -> None:
        """Says something on the screen, and again once it is gone."""
        self.log(sentence)
        if len(self._notices) < 100:
            self._notices.append(sentence)

    def pulse(self, health: Health, uptime_seconds: float) -> None:
        self._board.pulse(health, uptime_seconds)
        self._recorder.tick(health, uptime_seconds)

    def run(self, session: Tracing) -> None:
        """Traces below the screen. Raises what ended either of them."""
        from tracer.screen.run import run

        settings = self._settings
        run(
            session,
            self._board,
            self._recorder,
            node=settings.node_name,
            watched=watched(settings),
            recording=settings.jsonl,
            notice=self.notify,
            environment=self._environment,
            ascii_only=settings.ascii,
            headless=self._headless,
            note=None if self._past is None else self._past.note,
            screenshot=settings.screenshot,
        )

    def farewell(self, notify: Callable[[str], None]) -> None:
        """What is left to read where the screen was: how it ended, and what was said meanwhile."""
        try:
            for line in self._sums.lines(self._color):
                sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
        except (OSError, ValueError):
            pass
        for sentence in self._notices:
            notify(sentence)

    def _stuck(self) -> Sequence[Report]:
        held = self._board.snapshot().attempts.values()
        return [one.report for one in held if one.live]


class _Sums:
    """A sink that counts for the last lines."""

    keeps_record = False
    dropped = 0
    finished = True

    def __init__(self) -> None:
        self._summary = Summary()
        self._stop: Lifecycle | None = None

    def write(self, reports: Sequence[Report]) -> None:
        for report in reports:
            self._summary.count(report)

    def lifecycle(self, event: Lifecycle) -> None:
        if event.kind is LifecycleKind.STOP:
            self._stop = event

    def close(self) -> None:
        pass

    def lines(self, color: bool) -> Sequence[str]:
        stop = self._stop
        if stop is None:
            return ()
        health = stop.health
        return (
            f"-- stopped {date_and_time(stop.wall_ns)} after {span(stop.uptime_seconds)}",
            *(f"-- lacking: {safe(text)}" for text in health.lacking),
            *([f"-- {safe(stop.message)}"] if stop.message else []),
            f"-- still stuck {health.stuck_now}, {totals(health)}",
            *(f"-- {line}".rstrip() for line in self._summary.table(color)),
        )


def watched(settings: Settings) -> str:
    """What is traced, for people."""
    parts = [f"pod {namespace}/{name}" for namespace, name in settings.pods]
    if settings.namespaces:
        parts.append(f"pods of {', '.join(settings.namespaces)}")
    if settings.selector is not None:
        parts.append(f"pods with {settings.selector}")
    if settings.pid is not None:
        parts.append(f"process {settings.pid}")
    if settings.netns is not None:
        parts.append(f"network namespace {', '.join(map(str, sorted(settings.netns)))}")
    node = safe(settings.node_name)
    return ", ".join(map(safe, parts)) if parts else f"every pod and process of node {node}"
