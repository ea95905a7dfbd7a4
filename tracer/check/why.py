"""Why the connections that a check of this node found do not answer, as far as one look tells.

What is true of a destination's place (routes, next hops, listener, tables) can be looked up at any
time. Packets cannot: nobody watched them, and what dropped a SYN a second ago left no trace. Much
stays unknown here that the live trace finds out.

A row stands for connections that may differ: it gets a verdict only where every namespace that they
come from gives the same cause, by the oldest connection of each.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Final

from tracer.diagnose.rules import judge
from tracer.diagnose.wording import endpoint
from tracer.evidence.place import PlaceFacts
from tracer.evidence.places import Places
from tracer.facts import Facts
from tracer.finding import CheckResult, Clue, Finding, Judged, Row, rows
from tracer.host.ctnetlink import Conntrack, Entry
from tracer.host.netns import host_path
from tracer.host.pods import host_netns
from tracer.model import Cause, Confidence, Endpoint, Evidence, Flow, Nat, Scope, Verdict
from tracer.sinks.bundle import is_stuck

MOST_ROWS: Final = 50
"""Rows that are looked into, those of most connections first: a few milliseconds each."""

_MOST_NAMESPACES: Final = 8
"""Of one row. Only what is known to be no pod's is gathered from several."""


def explained(result: CheckResult) -> CheckResult:
    """The result with verdicts of its first rows, and notes of what could not be looked at."""
    found = rows(result.findings)
    if not found:
        return result
    look = _Look()
    verdicts = tuple(look.judged(row) for row in found[:MOST_ROWS])
    notes = list(look.notes)
    if len(found) > MOST_ROWS:
        notes.append(
            f"why the {len(found) - MOST_ROWS} rows beyond the first {MOST_ROWS} do not answer"
        )
    return replace(result, notes=(*result.notes, *notes), verdicts=verdicts)


class _Look:
    """One look at this node, from which every verdict of a check is made."""

    def __init__(self) -> None:
        self._host_netns = host_netns()
        self._host_path = host_path()
        self._places = Places(self._host_netns, self._host_path)
        self._tables: OSError | None = None
        """Why a connection tracking table could not be asked."""

    @property
    def notes(self) -> Iterator[str]:
        """What was not looked at, and why."""
        if self._places.refused:
            yield f"routes, next hops and counters of namespaces: {self._places.refused}"
        if self._tables is not None:
            yield f"what connection tracking knows of them: {self._tables.strerror or 'no answer'}"

    def judged(self, row: Row) -> Judged:
        """Why the connections of a row do not answer."""
        samples = _samples(filter(is_stuck, row.findings))
        where = f"its connections come from {len(samples)} network namespaces"
        if len(samples) > _MOST_NAMESPACES:
            return _not_known(row, f"{where}, which are too many to look into")
        if not samples:
            # Connects that will be answered in a moment look just like this.
            return _not_known(row, "it has only just been asked")
        found = [self._judge(one) for one in samples]
        if len({verdict.cause for verdict, _ in found}) > 1:
            return _not_known(row, f"{where}, and not all for the same reason")
        order = list(Confidence)
        verdict, facts = max(found, key=lambda pair: order.index(pair[0].confidence))
        if verdict.cause is Cause.UNKNOWN:
            return _not_known(row, "nothing that can be looked up decides it", verdict.evidence)
        return _judged(row, verdict, facts)

    def _judge(self, finding: Finding) -> tuple[Verdict, Facts]:
        nat = self._nat(finding)
        place = self._places.look(
            finding.flow,
            finding.destination.scope,
            _backend(nat, finding.flow),
            # Where the node translates it to then is not known, so that its route says nothing.
            translated=nat is None and isinstance(self._tables, PermissionError),
        )
        facts = self._facts(finding, place, nat)
        return judge(facts), facts

    def _facts(self, finding: Finding, place: PlaceFacts, nat: Nat | None) -> Facts:
        """What is known of an attempt whose packets nobody watched."""
        flow = finding.flow
        return Facts(
            destination=replace(finding.destination, nat=nat),
            asked=flow.destination,
            netns=flow.netns,
            now_ns=time.monotonic_ns(),
            age_seconds=finding.age_seconds,
            syns_sent=finding.syns_sent,
            neighbour=place.neighbour,
            route=place.route,
            conntrack=place.conntrack,
            listener=place.listener,
            reverse_paths=place.reverse_paths,
            host_netns=self._host_netns,
            source=flow.source,
            host_route=place.host_route,
            host_neighbour=place.host_neighbour,
            by_mark=place.by_mark,
        )

    # --- connection tracking ---------------------------------------------------------------------

    def _nat(self, finding: Finding) -> Nat | None:
        """Where connection tracking sends an attempt: the node's, else its own namespace's.

        An entry of its own namespace that translates nothing and saw no answer says no more than
        that the SYN got out of there: rules take an entry for a sign that it left the node.
        """
        flow = finding.flow
        if flow.netns != self._host_netns and not _stays_inside(finding):
            entry = self._entry(self._host_path, flow)
            if entry is not None:
                return _nat_of(entry)
        own = None if flow.netns is None else self._places.path_of(flow.netns)
        entry = None if own is None else self._entry(own, flow)
        if entry is None:
            return None
        telling = entry.replied or entry.reply_source != flow.destination
        return _nat_of(entry) if telling or flow.netns == self._host_netns else None

    def _entry(self, path: str, flow: Flow) -> Entry | None:
        """The entry of an attempt in one namespace; None where it has none, or cannot be asked."""
        if None in {flow.source.port, flow.destination.port}:
            return None
        try:
            with closing(Conntrack(path)) as table:
                return table.get(flow)
        except FileNotFoundError:  # the namespace is gone
            return None
        except OSError as error:
            self._tables = self._tables or error
            return None


def _samples(findings: Iterable[Finding]) -> list[Finding]:
    """The oldest connection of each namespace."""
    oldest: dict[int | None, Finding] = {}
    for one in findings:
        known = oldest.get(one.flow.netns)
        if known is None or _tried(one) > _tried(known):
            oldest[one.flow.netns] = one
    return list(oldest.values())


def _tried(finding: Finding) -> tuple[float, int]:
    return finding.age_seconds or 0.0, finding.syns_sent or 0


def _stays_inside(finding: Finding) -> bool:
    """Whether its packets do not leave their namespace: the node has connections of such addresses
    itself, which are others. IPv4's link-local addresses are reached through the node.
    """
    scope = finding.destination.scope
    return scope is Scope.LOOPBACK or (scope is Scope.LINK_LOCAL and finding.flow.family == 6)


def _nat_of(entry: Entry) -> Nat:
    return Nat(entry.reply_source, entry.state, entry.replied)


def _backend(nat: Nat | None, flow: Flow) -> Endpoint | None:
    return None if nat is None or nat.destination == flow.destination else nat.destination


def _not_known(row: Row, why: str, evidence: tuple[Evidence, ...] = ()) -> Judged:
    summary = f"Why {endpoint(row.endpoint)} does not answer is not known from one look: {why}."
    return _judged(row, Verdict(Cause.UNKNOWN, Confidence.LOW, summary, evidence), None)


def _judged(row: Row, verdict: Verdict, facts: Facts | None) -> Judged:
    pod, destination = row.key
    return Judged(
        pod=pod,
        destination=destination,
        cause=verdict.cause,
        confidence=verdict.confidence,
        summary=verdict.summary,
        evidence=_clues(verdict.evidence),
        facts=facts,
    )


def _clues(evidence: Sequence[Evidence]) -> tuple[Clue, ...]:
    """Evidence by the wall clock, to the microsecond that a report keeps."""
    offset = time.time_ns() - time.monotonic_ns()
    return tuple(
        Clue(
            one.kind, one.summary, None if one.at_ns is None else _microseconds(one.at_ns + offset)
        )
        for one in evidence
    )


def _microseconds(nanoseconds: int) -> int:
    return nanoseconds // 1_000 * 1_000
