"""Changes as lines for people: one line a change, aligned, and fit for grep.

    13:02:11.402 STUCK 10.4.7.21:41822 -> 10.96.0.10:5432 (VPC/internal, service shop/db:5432 0/1
        ready -> 10.4.100.50:5432)   1.0s 2 SYNs  next 1.0s  psql[4123]  netns 4026532201
        pod shop/web-0[php] (by cache)
    13:02:14.402 END   10.4.7.21:41830 -> 52.94.10.112:443 (external)   4.0s 5 SYNs  aborted ...

When, what, from where to where (the destination's scope, its name, and where it is sent), age, SYNs
sent, what comes next or how it ended, process, network namespace, and whose it is: a pod with its
container and who told the name, or a systemd unit of the node; "?" is unknown. What is longer than
its column pushes the rest to the right; nothing is ever cut, nor broken as above. Times are local.
Lines of the tracer itself begin with "--", so that `grep -v '^--'` leaves the changes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from tracer import __version__
from tracer.model import (
    NANOSECONDS,
    ChangeKind,
    Health,
    KubeState,
    Lifecycle,
    LifecycleKind,
    Outcome,
    Report,
)
from tracer.sinks.summary import Summary
from tracer.sinks.told import Told
from tracer.sinks.wording import (
    because,
    belongs_to,
    date_and_time,
    disagreements,
    duration,
    ended_by,
    endpoint,
    errors,
    known,
    losses,
    message,
    names,
    process_name,
    route,
    span,
    tag,
    totals,
)
from tracer.sinks.writer import Writer
from tracer.text import safe

CLOSE_SECONDS = 2.0
"""How long close() waits for the terminal to take what is queued."""

_WORDS = {
    ChangeKind.STUCK: "STUCK",
    ChangeKind.RETRANSMIT: "RETRY",
    ChangeKind.EVIDENCE: "WHY",
    ChangeKind.END: "END",
}

_TOLD_SECONDS = 60.0
"""Before the verdict of a pod on a destination is told again: 1,000 attempts may share it."""

_MAX_TOLD = 4_096
_NUMBER = re.compile(r"\d+")

SUM_SECONDS = 10.0
"""Of the trace, between two lines that sum up what has happened."""

Paint = Callable[[str, str], str]
"""(text, name of a rich style) -> the text in that style."""


class LinesSink:
    """Writes lines to `stream` from a thread of its own, so that no terminal holds up the trace.

    stream  a terminal, pipe or file; its file descriptor is written to directly, if it has one
    node    name of this node, for the banner
    color   colours in ANSI's 16, which every terminal has; without, no control sequence is written
    notify  gets a sentence about a stream that cannot be written, once; called from the thread
    wall    nanoseconds since the epoch: of a recording, that of its own time
    waits   whether a slow reader is waited for, as a recording can, rather than lines dropped

    Lines for which the queue has no room are counted in `dropped`, and the gap is marked where it
    is in the output. No method raises for what happens to the stream.
    """

    keeps_record = False

    def __init__(
        self,
        stream: TextIO,
        *,
        node: str,
        color: bool,
        notify: Callable[[str], None] = lambda _sentence: None,
        wall: Callable[[], int] = time.time_ns,
        waits: Callable[[], bool] = lambda: False,
    ) -> None:
        self._node = safe(node)
        self._wall = wall
        self._color = color
        self._paint = _painter() if color else _unpainted
        self._clock = _Clock()
        self._summary = Summary()
        self._stuck_now = 0
        self._peak = 0
        self._told_lacking: set[str] = set()
        self._told_names = ""
        self._told = Told(_TOLD_SECONDS, _MAX_TOLD)
        self._summed_at = 0.0
        self._writer = Writer(stream, notify, waits)

    @property
    def dropped(self) -> int:
        """Lines that could not be written so far."""
        return self._writer.dropped

    @property
    def finished(self) -> bool:
        """Whether the reader of the stream is gone; noticed without writing."""
        return self._writer.reader_gone()

    def write(self, reports: Sequence[Report]) -> None:
        """Queues one line for each change."""
        lines: list[str] = []
        for report in reports:
            self._count(report)
            lines.extend(self._clock.new_day(report.wall_ns))
            if report.change.kind is not ChangeKind.EVIDENCE:
                lines.append(self._line(report))
            elif self._told.is_news(report):
                lines.append(self._why(report))
        self._writer.put(lines)

    def lifecycle(self, event: Lifecycle) -> None:
        """Queues the banner, the health line or the final summary."""
        self._stuck_now = event.health.stuck_now
        self._peak = max(self._peak, self._stuck_now)
        if event.kind is LifecycleKind.HEALTH:
            self._writer.put([*self._clock.new_day(event.wall_ns), *self._health(event)])
        elif event.kind is LifecycleKind.START:
            self._clock.new_day(event.wall_ns)  # the banner has the date
            self._writer.put(self._banner(event), whatever_the_queue=True)
        else:
            self._writer.put(self._farewell(event), whatever_the_queue=True)

    def pulse(self, health: Health, uptime_seconds: float) -> None:
        """Takes the tracer's state, about once a second; sums it up every SUM_SECONDS."""
        self._stuck_now = health.stuck_now
        self._peak = max(self._peak, self._stuck_now)
        # Less than before: another trace begins in the same recording.
        self._summed_at = min(self._summed_at, uptime_seconds)
        if uptime_seconds - self._summed_at >= SUM_SECONDS:
            self._summed_at = uptime_seconds
            wall_ns = self._wall()
            self._writer.put([*self._clock.new_day(wall_ns), self._sums(health, wall_ns)])

    def close(self) -> None:
        """Waits up to CLOSE_SECONDS for the stream to take what is queued, or while `waits`."""
        self._writer.close(CLOSE_SECONDS)

    def _count(self, report: Report) -> None:
        change = report.change
        if change.kind is ChangeKind.STUCK:
            self._stuck_now += 1
            self._peak = max(self._peak, self._stuck_now)
        elif change.kind is ChangeKind.END and change.attempt.stuck:
            self._stuck_now = max(0, self._stuck_now - 1)
        self._summary.count(report)

    def _line(self, report: Report) -> str:
        attempt, flow = report.change.attempt, report.change.attempt.flow
        word = self._paint(f"{_WORDS[report.change.kind]:<5}", _style(report))
        asked, known_as = flow.destination, report.destination
        destination = f"{endpoint(asked)} ({tag(known_as)}{route(asked, known_as)})"
        syns = f"{known(attempt.syns_sent)} {'SYN' if attempt.syns_sent == 1 else 'SYNs'}"
        if report.change.kind is ChangeKind.END:
            what_next = f"{attempt.outcome or '?'}{errors(attempt)}"
        else:
            what_next = f"next {duration(report.next_retry_seconds)}"
        whose = belongs_to(report)
        cause = ended_by(report)
        return (
            f"{self._clock.precise(report.wall_ns)} {word}"
            f" {endpoint(flow.source):<21} -> {destination:<36}"
            f" {duration(report.age_seconds):>6} {syns:<7} {what_next:<11}"
            f" {process_name(report):<18} netns {known(flow.netns)}"
            f"{f' {whose}' if whose else ''}{f' why {cause}' if cause else ''}"
        )

    def _why(self, report: Report) -> str:
        flow, verdict = report.change.attempt.flow, report.verdict
        word = self._paint(f"{'WHY':<5}", "bold cyan")
        destination = f"{endpoint(flow.destination)} ({tag(report.destination)})"
        whose = belongs_to(report)
        return (
            f"{self._clock.precise(report.wall_ns)} {word}"
            f" {endpoint(flow.source):<21} -> {destination:<36}"
            f" {because(verdict)}{f' [{whose}]' if whose else ''}"
        )

    def _banner(self, event: Lifecycle) -> list[str]:
        health = event.health
        hooks = f" ({', '.join(map(safe, health.hooks))})" if health.hooks else ""
        stuck = f"{health.stuck_now} stuck already" if health.stuck_now else "nothing is stuck"
        started = date_and_time(event.wall_ns)
        return [
            self._paint(f"-- synsent-trace {__version__} on {self._node}", "bold"),
            f"-- started {started}; observing through {health.backend}{hooks}",
            *self._lacking(health),
            *message(event),
            f"-- watching; {stuck}",
        ]

    def _lacking(self, health: Health) -> list[str]:
        """What is lacking and was not told yet; some of it is found after the start."""
        lines: list[str] = []
        for text in health.lacking:
            gist = _NUMBER.sub("", text)  # a count that moves is no news
            if gist not in self._told_lacking:
                self._told_lacking.add(gist)
                lines.append(self._paint(f"-- lacking: {safe(text)}", "yellow"))
        return lines

    def _names(self, health: Health) -> list[str]:
        """Where names come from, when that is news."""
        told = names(health.kube)
        # A remark on names that are up to date may count, and a count that moves is no news.
        gist = _NUMBER.sub("", told) if health.kube.state is KubeState.SYNCED else told
        if gist == self._told_names or health.kube.state is KubeState.CONNECTING:
            return []
        self._told_names = gist
        if not told:
            return ["-- names: from the API server, up to date"]
        return [self._paint(f"-- {told}", "yellow")]

    def _sums(self, health: Health, wall_ns: int) -> str:
        alarming = losses(health.losses) or disagreements(health.crosscheck)
        line = (
            f"-- {self._clock.coarse(wall_ns)} stuck {health.stuck_now}"
            f" (peak {self._peak}), {totals(health)}"
        )
        return self._paint(line, "bold yellow" if alarming else "none")

    def _health(self, event: Lifecycle) -> list[str]:
        self._summed_at = event.uptime_seconds
        return [
            *self._lacking(event.health),
            *self._names(event.health),
            self._sums(event.health, event.wall_ns),
            *message(event),
        ]

    def _farewell(self, event: Lifecycle) -> list[str]:
        health = event.health
        return [
            f"-- stopped {date_and_time(event.wall_ns)} after {span(event.uptime_seconds)}",
            *self._lacking(health),
            *message(event),
            f"-- still stuck {health.stuck_now} (peak {self._peak}), {totals(health)}",
            *(f"-- {line}".rstrip() for line in self._summary.table(self._color)),
        ]


class _Clock:
    """Local wall time as text. The events of a batch share a second: one is kept."""

    def __init__(self) -> None:
        self._second = -1
        self._time = ""
        self._date = ""
        self._day: str | None = None

    def coarse(self, wall_ns: int) -> str:
        """HH:MM:SS."""
        second = wall_ns // NANOSECONDS
        if second != self._second:
            local = time.localtime(second)
            self._second = second
            self._time = time.strftime("%H:%M:%S", local)
            self._date = time.strftime("%Y-%m-%d", local)
        return self._time

    def precise(self, wall_ns: int) -> str:
        """HH:MM:SS.mmm."""
        return f"{self.coarse(wall_ns)}.{wall_ns % NANOSECONDS // 1_000_000:03d}"

    def new_day(self, wall_ns: int) -> list[str]:
        """A line with the date when it is another one than at the last call, else none."""
        self.coarse(wall_ns)
        previous, self._day = self._day, self._date
        return [] if previous in (None, self._date) else [f"-- {self._date}"]


def _unpainted(text: str, _style: str) -> str:
    return text


def _painter() -> Paint:
    from rich.color import ColorSystem  # late: who wants no colour does not pay
    from rich.style import Style

    def paint(text: str, style: str) -> str:
        return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)

    return paint


def _style(report: Report) -> str:
    if report.change.kind is ChangeKind.STUCK:
        return "bold red"
    if report.change.kind is ChangeKind.RETRANSMIT:
        return "yellow"
    return "green" if report.change.attempt.outcome is Outcome.ESTABLISHED else "red"
