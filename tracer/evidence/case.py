"""One attempt under investigation, and the facts about it as they stand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tracer.diagnose.sight import SLACK_NS
from tracer.evidence.devices import leads_out
from tracer.evidence.place import PlaceFacts, PlaceKey
from tracer.facts import (
    Backend,
    Direction,
    Drop,
    Facts,
    Handed,
    IcmpError,
    Peers,
    PolicyFinding,
)
from tracer.model import Nat, Report, Verdict


@dataclass(frozen=True, slots=True)
class Seen:
    """What the probes saw of one attempt; see facts.Facts."""

    drops: tuple[Drop, ...] | None = None
    handed: tuple[Handed, ...] | None = None
    icmp: tuple[IcmpError, ...] | None = None

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
    handed_from: int | None = None
    handed_to: int | None = None
    seen: Seen = Seen()
    gist: object = None
    verdict: Verdict | None = None

    @property
    def syns_seen(self) -> int:
        """SYNs sent since its packets are watched."""
        sent = self.report.change.attempt.syns_sent
        if self.watched_ns is None or sent is None or self.syns_before is None:
            return 0
        return max(0, sent - self.syns_before)

    def take(self, report: Report) -> None:
        """The attempt's next report. What it tells of SYNs may be older than the watching."""
        self.report = report
        attempt = report.change.attempt
        if self.watched_ns is None or attempt.last_syn_ns is None:
            return
        if attempt.last_syn_ns <= self.watched_ns:
            self.syns_before = attempt.syns_sent

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
            found += [count >= sent, count >= sent - 1, latest]
        return tuple(found)

    def handed(
        self, handed: Sequence[Handed], *, since_ns: int | None, host: int | None
    ) -> tuple[Handed, ...] | None:
        """What devices it was handed to, with where they lead. None where that says nothing: no
        hand-over of its last SYN was watched. `since_ns` is since when they are, None: not now.
        """
        attempt = self.report.change.attempt
        watched = since_ns is not None and (attempt.last_syn_ns or 0) > since_ns
        if since_ns is not None:
            sent = attempt.syns_sent or 0
            if self.handed_from is None:
                self.handed_from = sent - watched
            self.handed_to = sent
        if not handed:
            return () if watched else None
        return tuple(
            replace(one, leaves=leads_out(one.device)) if one.netns == host else one
            for one in handed
        )

    @property
    def syns_handed(self) -> int | None:
        """SYNs sent while hand-overs were watched; None where they never were."""
        if self.handed_from is None or self.handed_to is None:
            return None
        return max(0, self.handed_to - self.handed_from)


def facts_of(
    report: Report,
    *,
    host_netns: int | None,
    place: PlaceFacts = PlaceFacts(),  # noqa: B008 - immutable
    seen: Seen = Seen(),
    nat: Nat | None = None,
    peers: Peers | None = None,
    policies: tuple[PolicyFinding, ...] = (),
    backend: Backend | None = None,
    watched_ns: int | None = None,
    syns_before: int | None = None,
    syns_handed: int | None = None,
) -> Facts:
    """All that is known of an attempt, as the rules take it."""
    attempt = report.change.attempt
    destination = report.destination
    sent = attempt.syns_sent
    return Facts(
        destination=destination if nat is None else replace(destination, nat=nat),
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
        neighbour=place.neighbour,
        route=place.route,
        conntrack=place.conntrack,
        listener=place.listener,
        ports=place.ports,
        reverse_paths=place.reverse_paths,
        policies=policies,
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
        backend=backend,
    )
