"""What is stuck and what has failed, and what is said of it: where the session's thread and the
evidence's meet.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from tracer.evidence.case import Case, Seen
from tracer.evidence.gathering import Gathering
from tracer.evidence.judging import Judging
from tracer.evidence.known import PLACE_SECONDS
from tracer.evidence.place import PlaceKey
from tracer.model import NANOSECONDS, Cause, ChangeKind, Outcome, Report, Verdict

MAX_FAILED: Final = 256
MAX_NEWS: Final = 65_536
_MAX_PLACES: Final = 4_096

_AT_ONCE: Final = frozenset({Outcome.REFUSED, Outcome.UNREACHABLE, Outcome.LOCAL_ERROR})
"""Ends that come at once: what they are about can only be looked at afterwards."""

_UNANSWERED: Final = frozenset({Outcome.ABORTED, Outcome.TIMED_OUT})
"""Ends that are looked into afterwards where nothing was found out before."""


class Docket:
    """Cases by attempt. `note` and `news` are for the session's thread, which alone adds cases and
    takes them away; taking(), told() and again() for the evidence's.
    """

    def __init__(
        self,
        *,
        lock: threading.Lock,
        gathering: Gathering,
        judging: Judging,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lock` is the one over cases, what the cluster says and the comparison; it is never held
        while the kernel is asked.
        """
        self._lock = lock
        self._gathering = gathering
        self._judging = judging
        self._clock = clock
        self._cases: OrderedDict[str, Case] = OrderedDict()
        self._failed: deque[Case] = deque()
        self._asked_of: OrderedDict[PlaceKey, float] = OrderedDict()
        self._news: deque[tuple[Report, Verdict]] = deque()
        self.noted = 0
        """How often something was noted that bears on what is stuck."""
        self.no_room = 0
        """Failures that were to be looked into, and verdicts that were to be told."""

    @property
    def empty(self) -> bool:
        return not self._cases and not self._failed

    @property
    def waits(self) -> bool:
        """Whether a failure has not been looked into yet."""
        return bool(self._failed)

    # --- the session's side --------------------------------------------------------------------

    def note(self, reports: Sequence[Report]) -> list[Report]:
        """Takes in what happened; the same reports, with the verdict as far as there is one."""
        told: list[Report] = []
        with self._lock:
            for report in reports:
                self._judging.compared.note(report)
                told.append(self._with_verdict(report))
        if not self.empty:
            self.noted += 1
        return told

    def _with_verdict(self, report: Report) -> Report:
        change = report.change
        attempt = change.attempt
        if change.kind is ChangeKind.END:
            return self._ended(report, self._cases.pop(attempt.id, None))
        case = self._cases.get(attempt.id)
        if case is not None:
            case.take(report)
            return self._told_as(report, case.verdict)
        key = self._judging.place_of(report)
        if attempt.stuck and key is not None:
            self._cases[attempt.id] = Case(report, key, self._now_ns(), attempt.syns_sent)
        return report

    def _now_ns(self) -> int:
        return int(self._clock() * NANOSECONDS)

    def _told_as(self, report: Report, verdict: Verdict | None) -> Report:
        if verdict is None:
            return report
        return replace(report, verdict=self._judging.compared.beside(verdict, report))

    def news(self) -> list[tuple[Report, Verdict]]:
        """Attempts whose verdict is new since the last time, with their latest report. Of one that
        has ended meanwhile only what came to light after its end.
        """
        found = []
        while self._news:
            report, verdict = self._news.popleft()
            attempt = report.change.attempt
            if attempt.outcome is not None or attempt.id in self._cases:
                found.append((report, verdict))
        return found

    def _ended(self, report: Report, case: Case | None) -> Report:
        """With what is known at the end, without a look at anything but ICMP errors and a RST that
        came.
        """
        attempt = report.change.attempt
        key = self._judging.place_of(report)
        if key is None:
            return report
        place = self._gathering.known.during(key, attempt.started_ns)
        icmp = self._gathering.ears.errors_about(attempt, now=True)
        if case is None:
            began = attempt.started_ns
            since = (
                place
                if place is None or began is None
                else place.since(began, self._gathering.stopped)
            )
            verdict = self._judging.at_once(since, report, key, Seen(icmp=icmp))
        else:
            case.take(report)
            case.place = key
            resets = self._gathering.reset_of(attempt.id)
            case.seen = replace(case.seen, icmp=icmp, resets=resets)
            since = place and place.since(case.counts_from_ns, self._gathering.stopped)
            verdict = self._judging.verdict(since, case)
        report = self._told_as(report, verdict)
        if attempt.outcome in _AT_ONCE or (
            attempt.outcome in _UNANSWERED and (place is None or not _knew(case))
        ):
            self._ask_again(report, key, case)
        return report

    def _ask_again(self, report: Report, key: PlaceKey, case: Case | None) -> None:
        """Has a failure looked into, once per place in a while. What the probe saw of its `case`
        since its last look comes to light too.
        """
        now = self._clock()
        if now - self._asked_of.get(key, -PLACE_SECONDS) < PLACE_SECONDS:
            return
        self._asked_of.pop(key, None)
        self._asked_of[key] = now
        if len(self._asked_of) > _MAX_PLACES:
            self._asked_of.popitem(last=False)
        case = case or Case(report, key, report.change.attempt.started_ns or 0, None)
        case.report = report
        self._keep([case])

    # --- the evidence's side ---------------------------------------------------------------------

    def taking(self) -> tuple[list[Case], list[Case]]:
        """What is stuck, oldest first, and what has failed since the last time."""
        with self._lock:
            failed = list(self._failed)
            self._failed.clear()
            return list(self._cases.values()), failed

    def again(self, failed: Iterable[Case]) -> None:
        """Has failures kept for the next time."""
        with self._lock:
            self._keep(failed)

    def _keep(self, cases: Iterable[Case]) -> None:
        for case in cases:
            if len(self._failed) < MAX_FAILED:
                self._failed.append(case)
            else:
                self.no_room += 1

    def say(self, case: Case, verdict: Verdict) -> None:
        """Of what is stuck, where it is new. With the lock held."""
        if verdict.cause is Cause.UNKNOWN and self._gathering.loaded and not case.syns_seen:
            return  # no SYN was sent since somebody looks: that nothing was seen is no news
        news = _differ(case.verdict, verdict)
        case.verdict = verdict
        if news:
            self._tell(case.report, verdict)

    def count_on(self, case: Case, verdict: Verdict) -> None:
        """Keeps what is told of an attempt up to date where only counts and times went on. With the
        lock held.
        """
        if not _differ(case.verdict, verdict):
            case.verdict = verdict

    def say_after(self, case: Case, verdict: Verdict) -> None:
        """Of what has ended, where it is another than it ended with. With the lock held."""
        if _differ(case.report.verdict, verdict):
            self._tell(case.report, verdict)

    def _tell(self, report: Report, verdict: Verdict) -> None:
        if len(self._news) < MAX_NEWS:
            self._news.append((report, self._judging.compared.beside(verdict, report)))
        else:
            self.no_room += 1


def _knew(case: Case | None) -> bool:
    """Whether anything was found out while it was stuck."""
    return case is not None and case.verdict is not None and case.verdict.cause != Cause.UNKNOWN


def _differ(before: Verdict | None, after: Verdict) -> bool:
    """Whether a verdict is news: another sentence or more evidence alone is none."""
    return before is None or (before.cause, before.confidence) != (after.cause, after.confidence)
