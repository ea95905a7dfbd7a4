"""Leaves out what this program connects itself: of an outage it would be the loudest finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from tracer.model import ChangeKind, Health, Outcome, Report, SourceName

MAX_LIVE: Final = 1_024
"""Of this program's own attempts at a time, of which it makes a handful."""


class OwnConnects:
    """Tells this program's attempts from others', and counts them apart. For one thread.

    What was told once, since its process was not known yet, is told to its end.
    """

    def __init__(self, pid: int, *, as_the_kernel_counts: bool) -> None:
        """`pid` is this process; where the kernel counts otherwise, BPF's are not comparable."""
        self._pid = pid
        self._as_the_kernel_counts = as_the_kernel_counts
        self._live: dict[str, None] = {}
        self._count = 0
        self._became_stuck = 0
        self._outcomes: Counter[Outcome] = Counter()

    def leave_out(self, reports: Iterable[Report]) -> list[Report]:
        """The reports that are of other processes, in their order."""
        return [report for report in reports if not self._takes(report)]

    def without(self, health: Health) -> Health:
        """A node's health without this program's own attempts, which are counted for themselves."""
        stuck = len(self._live)
        return replace(
            health,
            stuck_now=max(0, health.stuck_now - stuck),
            tracked_now=max(0, health.tracked_now - stuck),
            became_stuck=max(0, health.became_stuck - self._became_stuck),
            outcomes=dict(Counter(health.outcomes) - self._outcomes),
            own_connects=self._count,
        )

    def _takes(self, report: Report) -> bool:
        change = report.change
        attempt = change.attempt
        if attempt.id not in self._live:
            # The first that is told of an attempt: STUCK, or its END where it never was.
            first = change.kind is ChangeKind.STUCK or not attempt.stuck
            if not (first and self._is_own(report)):
                return False
            self._count += 1
            self._became_stuck += attempt.stuck
        if change.kind is ChangeKind.END:
            self._live.pop(attempt.id, None)
            if attempt.outcome is not None:
                self._outcomes[attempt.outcome] += 1
        elif attempt.id not in self._live:
            if len(self._live) >= MAX_LIVE:
                del self._live[next(iter(self._live))]
            self._live[attempt.id] = None
        return True

    def _is_own(self, report: Report) -> bool:
        attempt, process = report.change.attempt, report.process
        if attempt.detected_by is SourceName.BPF and not self._as_the_kernel_counts:
            return False
        pid = attempt.owner.pid
        if pid is None and process is not None:
            pid = process.pid
        return pid == self._pid
