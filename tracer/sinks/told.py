"""Remembers which verdicts were told, so that attempts which share one do not repeat it."""

from __future__ import annotations

from collections import OrderedDict

from tracer.model import NANOSECONDS, Report

_Key = tuple[object, ...]


class Told:
    """Verdicts by who, where to, cause and confidence. Bounded; the oldest go first."""

    def __init__(self, seconds: float, most: int) -> None:
        """`seconds` is how long a verdict counts as told."""
        self._nanoseconds = int(seconds * NANOSECONDS)
        self._most = most
        self._at: OrderedDict[_Key, int] = OrderedDict()

    def is_news(self, report: Report) -> bool:
        """Whether its verdict was not told lately; from now on it was."""
        verdict = report.verdict
        if verdict is None:
            return False
        flow = report.change.attempt.flow
        who = report.pod.label if report.pod is not None else flow.netns
        key = (who, flow.destination, verdict.cause, verdict.confidence)
        before = self._at.pop(key, None)
        if before is not None and report.wall_ns - before < self._nanoseconds:
            self._at[key] = before
            return False
        self._at[key] = report.wall_ns
        if len(self._at) > self._most:
            self._at.popitem(last=False)
        return True
