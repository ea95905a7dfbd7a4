"""What is said of an attempt beside others: put to its verdict whenever that is told.

A verdict is made when something about its attempt is new; what others meet changes all the time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from tracer.diagnose.comparison import NETNS_PREFIX, Comparison, seen, sender
from tracer.facts import Peers
from tracer.model import COMPARISON, Endpoint, Evidence, Reached, Report, Scope, Verdict

AGAIN_SECONDS: Final = 1.0
"""How old a sentence may be: attempts are told by the thousand."""

_MAX_KEPT: Final = 4_096

_Whose = tuple[str, Endpoint, Scope]


class Compared:
    """The comparison with other attempts. For one thread at a time."""

    def __init__(self) -> None:
        self._comparison = Comparison()
        self._senders: dict[int, str | None] = {}
        """Whose attempts come from a namespace; None: those of several pods."""
        self._sentences: dict[_Whose, tuple[float, Evidence | None]] = {}

    def note(self, report: Report) -> None:
        """Takes in what happened."""
        event = seen(report)
        if event is None:
            return
        self._comparison.note(event)
        netns = report.change.attempt.flow.netns
        if netns is not None:
            if len(self._senders) >= _MAX_KEPT:
                self._senders.clear()
            self._senders[netns] = _sole(self._senders.get(netns, event.who), event.who)

    def reached(self, found: Iterable[tuple[Reached, Scope]], wall_offset_ns: int) -> None:
        """Takes in what namespaces have connected to. `wall_offset_ns` is what must be added to
        CLOCK_MONOTONIC for the time of day.
        """
        for one, scope in found:
            who = self._senders.get(one.netns)
            if who is not None:
                wall_ns = one.after_ns + wall_offset_ns
                self._comparison.reached(who, one.destination, scope, wall_ns)

    def peers(self, report: Report) -> Peers | None:
        return self._comparison.peers(*_whose(report))

    def beside(self, verdict: Verdict, report: Report) -> Verdict:
        """A verdict with what others met at the same destination, where that says anything."""
        told = self._sentence(_whose(report))
        return verdict if told is None else replace(verdict, evidence=(*verdict.evidence, told))

    def _sentence(self, whose: _Whose) -> Evidence | None:
        now = time.monotonic()
        at, told = self._sentences.get(whose, (None, None))
        if at is not None and now - at < AGAIN_SECONDS:
            return told
        sentence = self._comparison.sentence(*whose)
        told = None if sentence is None else Evidence(COMPARISON, sentence)
        if len(self._sentences) >= _MAX_KEPT:
            self._sentences.clear()
        self._sentences[whose] = now, told
        return told


def _sole(known: str | None, who: str) -> str | None:
    """Whose a namespace is: a pod's name comes after its first attempts."""
    if known is None or who.startswith(NETNS_PREFIX):
        return known
    return who if known == who or known.startswith(NETNS_PREFIX) else None


def _whose(report: Report) -> _Whose:
    return sender(report), report.change.attempt.flow.destination, report.destination.scope
