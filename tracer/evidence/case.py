"""One attempt under investigation, and the facts about it as they stand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tracer.diagnose.sight import ENOUGH, SLACK_NS
from tracer.evidence.cluster import Told
from tracer.evidence.place import PlaceFacts, PlaceKey
from tracer.facts import (
    Direction,
    Drop,
    Facts,
    Handed,
    IcmpError,
    Peers,
    Reset,
)
from tracer.model import NANOSECONDS, Nat, Report, Verdict

SYN_INTERVAL_NS: Final = NANOSECONDS
"""SYNs are at least so far apart (TCP_TIMEOUT_INIT), but where this host itself has no room."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the probes saw of one attempt; see facts.Facts."""

    drops: tuple[Drop, ...] | None = None
    handed: tuple[Handed, ...] | None = None
    icmp: tuple[IcmpError, ...] | None = None
    resets: tuple[Reset, ...] | None = None

    @property
    def gist(self) -> object:
        """What a verdict may turn on; counts are left out, which only grow."""
        return (
            self.drops is None,
            frozenset(
                (one.direction, one.reason, one.symbol, one.netns, one.device)
                for one in self.drops or ()
            ),
            self.handed is None,
            frozenset((one.device, one.netns) for one in self.handed or ()),
            self.icmp is None,
            frozenset((one.kind, one.code, one.sender) for one in self.icmp or ()),
        )


@dataclass(slots=True)
class Case:
    """An attempt, what is known of it, and what it was last judged to be."""

    report: Report
    place: PlaceKey
    began_ns: int
    syns_before: int | None
    watched_ns: int | None = None
    handed_since_ns: int | None = None
    handed_from: int | None = None
    handed_before: int = 0
    handed_to: int | None = None
    seen: Seen = Seen()
    gist: int | None = None
    told_syns: int | None = None
    verdict: Verdict | None = None

    @property
    def counts_from_ns(self) -> int:
        """Since when what counters grew by counts, to the second: attempts that come by the
        thousand share it.
        """
        return self.began_ns - self.began_ns % NANOSECONDS

    @property
    def syns_seen(self) -> int:
        """SYNs sent since its packets are watched."""
        sent = self.report.change.attempt.syns_sent
        if self.watched_ns is None or sent is None or self.syns_before is None:
            return 0
        return max(0, sent - self.syns_before)

    def take(self, report: Report) -> None:
        """The attempt's next report. What it tells of SYNs may be older than the watching."""
        before, attempt = self.report.change.attempt, report.change.attempt
        self.report = report
        if self.watched_ns is None or attempt.last_syn_ns is None or attempt.syns_sent is None:
            return
        if attempt.last_syn_ns <= self.watched_ns:
            self.syns_before = attempt.syns_sent
        elif (before.last_syn_ns or 0) <= self.watched_ns:
            since = attempt.syns_sent - _most_since(self.watched_ns, attempt.last_syn_ns)
            self.syns_before = max(self.syns_before or 0, since)

    def watch(self, since_ns: int | None) -> None:
        """Its packets are watched since then; None: they are not."""
        self.watched_ns = since_ns
        self.syns_before = None if since_ns is None else self.report.change.attempt.syns_sent

    @property
    def pace(self) -> object:
        """Whether what is dropped keeps pace with what is sent: a verdict turns on that, while
        counts only grow.
        """
        sent, last_ns = self.syns_seen, self.report.change.attempt.last_syn_ns or 0
        found: list[bool] = [sent > 0]
        for direction in Direction:
            drops = [one for one in self.seen.drops or () if one.direction is direction]
            count = sum(one.count for one in drops)
            latest = any(one.last_ns >= last_ns - SLACK_NS for one in drops)
            found += [count >= sent, count >= sent - 1, latest, count >= ENOUGH]
        return (*found, *self._leaving)

    @property
    def _leaving(self) -> tuple[object, ...]:
        """The same of hand-overs to devices that lead out; where SYNs are dropped too, how many of
        each there are.
        """
        out = [one.count for one in self.seen.handed or () if one.leaves is not False]
        if not out:
            return ()
        most, sent = max(out), self.syns_handed or 0
        pace = (most >= ENOUGH, most >= sent, most >= sent - 1)
        dropped = sum(one.count for one in self.seen.drops or () if one.direction is Direction.SYN)
        return (*pace, most, dropped) if dropped else pace

    def handed(
        self,
        handed: Sequence[Handed],
        *,
        since_ns: int | None,
        leads_out: Callable[[str, int | None], bool | None],
    ) -> tuple[Handed, ...] | None:
        """What devices it was handed to, with where they lead. None where that says nothing: no
        hand-over of its last SYN was watched. `since_ns` is since when they are, None: not now.
        """
        attempt = self.report.change.attempt
        last_ns = attempt.last_syn_ns or 0
        watched = since_ns is not None and last_ns > since_ns
        if since_ns is not None:
            sent = attempt.syns_sent or 0
            if self.handed_since_ns != since_ns:
                self.handed_before = self.syns_handed or 0
                self.handed_since_ns = since_ns
                self.handed_from = self.handed_to = 0
            if not watched:
                self.handed_from = sent
            elif self.handed_from == self.handed_to:  # the first since then
                self.handed_from = max(self.handed_from or 0, sent - _most_since(since_ns, last_ns))
            self.handed_to = sent
        if not handed:
            return () if watched else None
        return tuple(replace(one, leaves=leads_out(one.device, one.netns)) for one in handed)

    @property
    def syns_handed(self) -> int | None:
        """SYNs sent while hand-overs were watched, whenever that was; None where they never were.

        Of SYNs that were sent after the watching was last looked at nothing is known.
        """
        if self.handed_from is None or self.handed_to is None:
            return None
        return self.handed_before + max(0, self.handed_to - self.handed_from)


def _most_since(since_ns: int, last_syn_ns: int) -> int:
    """How many SYNs may have been sent since then, the last one included: a report that comes late
    tells of several at once.
    """
    return 1 + (last_syn_ns - since_ns) // SYN_INTERVAL_NS


def facts_of(
    report: Report,
    *,
    host_netns: int | None,
    place: PlaceFacts = PlaceFacts(),  # noqa: B008 - immutable
    seen: Seen = Seen(),
    nat: Nat | None = None,
    peers: Peers | None = None,
    told: Told | None = None,
    watched_ns: int | None = None,
    syns_before: int | None = None,
    syns_handed: int | None = None,
) -> Facts:
    """All that is known of an attempt, as the rules take it."""
    attempt = report.change.attempt
    told = told or Told(report.destination)
    sent = attempt.syns_sent
    return Facts(
        destination=replace(told.destination, nat=nat or report.destination.nat),
        asked=attempt.flow.destination,
        netns=attempt.flow.netns,
        now_ns=time.monotonic_ns(),
        age_seconds=report.age_seconds,
        syns_sent=sent,
        outcome=attempt.outcome,
        errno=attempt.errno,
        soft_errno=attempt.soft_errno,
        drops=seen.drops,
        handed=seen.handed,
        icmp=seen.icmp,
        resets=seen.resets,
        neighbour=place.neighbour,
        route=place.route,
        conntrack=place.conntrack,
        listener=place.listener,
        ports=place.ports,
        reverse_paths=place.reverse_paths,
        policies=told.policies,
        peers=peers,
        host_netns=host_netns,
        source=attempt.flow.source,
        watched_ns=watched_ns,
        syns_watched=(
            None
            if watched_ns is None or sent is None or syns_before is None
            else max(0, sent - syns_before)
        ),
        syns_handed=syns_handed,
        last_syn_ns=attempt.last_syn_ns,
        host_route=place.host_route,
        host_neighbour=place.host_neighbour,
        by_mark=place.by_mark,
        backend=told.backend,
    )
