"""Rows of the main table: what is known, grouped, filtered, and in an order that stays.

Only rows of which something has changed are made anew; the rest are the same objects as before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from tracer.board import who
from tracer.model import (
    NANOSECONDS,
    Cause,
    Confidence,
    Endpoint,
    Outcome,
    Report,
    Scope,
    Verdict,
)
from tracer.screen.view import Group, Scopes, Sort, View
from tracer.snapshot import Held, Pair, PairKey, Snapshot

TREND_SECONDS: Final = 60

RowKey = Hashable


@dataclass(frozen=True, slots=True)
class Row:
    """A row. `report` is one of those it stands for, the latest.

    oldest_ns      when the oldest attempt that is stuck began
    next_ns        when the next SYN goes out
    ended_ns       when nothing was stuck any more; None while something is
    whos, wheres   how many different ones it adds up
    changed        when a column's value was another, by column
    """

    key: RowKey
    report: Report
    stuck: int
    oldest_ns: int | None
    syns: int | None
    next_ns: int | None
    ended: Mapping[Outcome, int]
    verdict: Verdict | None
    causes: int
    whos: int
    wheres: int
    ended_ns: int | None
    members: tuple[Held, ...]
    pairs: tuple[Pair, ...]
    changed: Mapping[str, int]

    @property
    def destination(self) -> Endpoint:
        return self.report.change.attempt.flow.destination

    def trend(self, now_ns: int) -> int:
        """How many more are stuck than TREND_SECONDS ago."""
        then = now_ns - TREND_SECONDS * NANOSECONDS
        before = 0
        for held in self.members:
            attempt = held.attempt
            if attempt.stuck_ns is not None and attempt.stuck_ns <= then:
                before += attempt.ended_ns is None or attempt.ended_ns > then
        return self.stuck - before


class Rows:
    """Keeps the rows up to date with the snapshots it is given."""

    def __init__(self, view: View | None = None) -> None:
        self.view = view or View()
        self._attempts: dict[str, tuple[Held, RowKey | None]] = {}
        self._pairs: dict[PairKey, tuple[Pair, RowKey | None]] = {}
        self._members: dict[RowKey, dict[str, Held]] = {}
        self._pairs_of: dict[RowKey, dict[PairKey, Pair]] = {}
        self._rows: dict[RowKey, Row] = {}
        self._order: list[RowKey] = []
        self._shown: tuple[Row, ...] = ()
        self.unsorted = 0
        """Rows that came since the order was made."""

    @property
    def rows(self) -> tuple[Row, ...]:
        return self._shown

    def change(self, view: View, snapshot: Snapshot) -> None:
        """Shows it in another way: grouped and filtered anew, and in order."""
        self.view = view
        for kept in (self._attempts, self._pairs, self._members, self._pairs_of, self._rows):
            kept.clear()
        self._order = []
        self.update(snapshot)
        self.sort()

    def sort(self) -> None:
        """Puts the rows in order, once."""
        self._order = self._sorted(self._order)
        self.unsorted = 0
        self._show()

    def update(self, snapshot: Snapshot) -> None:
        """Takes a newer snapshot."""
        now = snapshot.now_ns
        dirty: set[RowKey] = set()
        self._take_attempts(snapshot, dirty)
        self._take_pairs(snapshot, dirty)
        new: list[RowKey] = []
        for key in dirty:
            row = self._made(key, now)
            if row is None:
                self._rows.pop(key, None)
            else:
                if key not in self._rows:
                    new.append(key)
                self._rows[key] = row
        if new:
            self.unsorted += len(new) if self._order else 0
            self._order += self._sorted(new)
        if dirty:
            self._order = [key for key in self._order if key in self._rows]
            self._show()

    def _show(self) -> None:
        self._shown = tuple(self._rows[key] for key in self._order)

    def _take_attempts(self, snapshot: Snapshot, dirty: set[RowKey]) -> None:
        known, by_age, now = self._attempts, self.view.query.by_age, snapshot.now_ns
        for name, held in snapshot.attempts.items():
            before = known.get(name)
            if before is not None and before[0] is held and not by_age:
                continue
            key = self._row_of_attempt(name, held, now)
            if before is not None:
                if before[0] is held and before[1] == key:
                    continue
                self._leave(before[1], name, key, dirty)
            known[name] = (held, key)
            if key is not None:
                self._members.setdefault(key, {})[name] = held
                dirty.add(key)
        if len(known) > len(snapshot.attempts):
            for name in [name for name in known if name not in snapshot.attempts]:
                self._leave(known.pop(name)[1], name, None, dirty)

    def _leave(self, key: RowKey | None, name: str, to: RowKey | None, dirty: set[RowKey]) -> None:
        if key is None or key == to:
            return
        dirty.add(key)
        members = self._members[key]
        del members[name]
        if not members:
            del self._members[key]

    def _take_pairs(self, snapshot: Snapshot, dirty: set[RowKey]) -> None:
        if self.view.group is Group.ATTEMPT or self.view.query.by_age:
            return  # what has no attempt any more has no age, and no row
        known = self._pairs
        for name, pair in snapshot.pairs.items():
            before = known.get(name)
            if before is not None and before[0] is pair:
                continue
            key = self._row_of_pair(pair)
            if before is not None and before[1] is not None and before[1] != key:
                self._leave_pair(before[1], name, dirty)
            known[name] = (pair, key)
            if key is not None:
                self._pairs_of.setdefault(key, {})[name] = pair
                dirty.add(key)
        if len(known) > len(snapshot.pairs):
            for name in [name for name in known if name not in snapshot.pairs]:
                key = known.pop(name)[1]
                if key is not None:
                    self._leave_pair(key, name, dirty)

    def _leave_pair(self, key: RowKey, name: PairKey, dirty: set[RowKey]) -> None:
        dirty.add(key)
        pairs = self._pairs_of[key]
        del pairs[name]
        if not pairs:
            del self._pairs_of[key]

    def _row_of_attempt(self, name: str, held: Held, now: int) -> RowKey | None:
        report = held.report
        query = self.view.query
        if not self._in_scope(report) or not query.matches(report, report.verdict):
            return None
        if query.by_age and not (held.live and query.age_matches(report, now)):
            return None
        if self.view.group is Group.ATTEMPT:
            return name
        return self._row_of(report, held.key)

    def _row_of_pair(self, pair: Pair) -> RowKey | None:
        if not self._in_scope(pair.report):
            return None
        if not self.view.query.matches(pair.report, pair.verdict):
            return None
        return self._row_of(pair.report, pair.key)

    def _in_scope(self, report: Report) -> bool:
        scopes, scope = self.view.scopes, report.destination.scope
        if scopes is Scopes.ALL:
            return True
        return scope is (Scope.VPC if scopes is Scopes.VPC else Scope.EXTERNAL)

    def _row_of(self, report: Report, key: PairKey) -> RowKey:
        group = self.view.group
        if group is Group.PAIR:
            return key
        if group is Group.DESTINATION:
            return key[1]
        workload = report.pod.workload if report.pod is not None else None
        if group is Group.WORKLOAD and workload is not None and report.pod is not None:
            return (workload.kind, report.pod.namespace, workload.name)
        return key[0]

    def _made(self, key: RowKey, now: int) -> Row | None:
        members = tuple(self._members.get(key, {}).values())
        pairs = tuple(self._pairs_of.get(key, {}).values())
        live = [held for held in members if held.live]
        if not live:
            pairs = tuple(pair for pair in pairs if not pair.live)
            if not pairs and not (members and self.view.group is Group.ATTEMPT):
                return None
        attempts = [held.attempt for held in live]
        latest = _latest(live or members, pairs)
        verdict, causes = _verdict(live, members, pairs)
        row = Row(
            key=key,
            report=latest,
            stuck=len(live),
            oldest_ns=min(
                (a.started_ns for a in attempts if a.started_ns is not None), default=None
            ),
            syns=max(
                (a.syns_sent for a in attempts if a.syns_sent is not None),
                default=None if live else latest.change.attempt.syns_sent,
            ),
            next_ns=min(
                (a.next_retry_ns for a in attempts if a.next_retry_ns is not None), default=None
            ),
            ended=_ended(members, pairs, self.view.group),
            verdict=verdict,
            causes=causes,
            whos=len({held.key[0] for held in members} | {pair.key[0] for pair in pairs}),
            wheres=len({held.key[1] for held in members} | {pair.key[1] for pair in pairs}),
            ended_ns=None if live else _ended_ns(members, pairs),
            members=members,
            pairs=pairs,
            changed={},
        )
        return _with_changes(row, self._rows.get(key), now)

    def _sorted(self, keys: Iterable[RowKey]) -> list[RowKey]:
        view = self.view
        rows = [self._rows[key] for key in keys]
        rows.sort(key=_named)
        if view.sort is Sort.WHO:
            rows.sort(key=_named, reverse=view.reverse)
        elif view.sort is Sort.WHERE:
            rows.sort(key=_where, reverse=view.reverse)
        elif view.sort is Sort.CAUSE:
            rows.sort(
                key=lambda row: "~" if row.verdict is None else row.verdict.cause.value,
                reverse=view.reverse,
            )
        else:
            rows.sort(key=lambda row: _number(row, view.sort), reverse=not view.reverse)
        return [row.key for row in rows]


def _number(row: Row, sort: Sort) -> tuple[int, int]:
    """The largest come first, and of equal ones those that wait the longest."""
    began = -(row.oldest_ns if row.oldest_ns is not None else 1 << 62)
    if sort is Sort.STUCK:
        return row.stuck, began
    if sort is Sort.SYNS:
        return (row.syns or 0) if row.stuck else 0, began
    if sort is Sort.ENDED:
        return sum(row.ended.values()), began
    return began, row.stuck


def _named(row: Row) -> tuple[str, str]:
    report = row.report
    label = report.pod.label if report.pod is not None else None
    return label or f"~{report.change.attempt.owner.comm}", str(_where(row))


def _where(row: Row) -> tuple[str, int]:
    return row.destination.address, row.destination.port or 0


def _latest(members: Iterable[Held], pairs: tuple[Pair, ...]) -> Report:
    """The latest report of a member, else of a pair."""
    best: Report | None = None
    for held in members:
        if best is None or held.report.change.time_ns > best.change.time_ns:
            best = held.report
    if best is None:
        best = max(pairs, key=lambda pair: pair.last_ns).report
    return best


_WEIGHT: Final = {Confidence.HIGH: 3, Confidence.MEDIUM: 2, Confidence.LOW: 1}


def _verdict(
    live: list[Held], members: tuple[Held, ...], pairs: tuple[Pair, ...]
) -> tuple[Verdict | None, int]:
    """The verdict of most as told last, an unknown cause last; and how many causes there are."""
    found: Counter[tuple[Cause, Confidence]] = Counter()
    latest: dict[tuple[Cause, Confidence], tuple[int, Verdict]] = {}
    said = [(held.report.change.time_ns, held.report.verdict) for held in live or members]
    if not live and not any(verdict for _, verdict in said):
        said = [(pair.last_ns, pair.verdict) for pair in pairs]
    for at_ns, verdict in said:
        if verdict is not None:
            name = (verdict.cause, verdict.confidence)
            found[name] += 1
            if name not in latest or at_ns >= latest[name][0]:
                latest[name] = (at_ns, verdict)
    if not found:
        return None, 0
    best = max(
        found, key=lambda name: (name[0] is not Cause.UNKNOWN, found[name], _WEIGHT[name[1]])
    )
    causes = {cause for cause, _ in found if cause is not Cause.UNKNOWN}
    return latest[best][1], max(1, len(causes))


def _ended(
    members: tuple[Held, ...], pairs: tuple[Pair, ...], group: Group
) -> Mapping[Outcome, int]:
    counts: Counter[Outcome] = Counter()
    if group is Group.ATTEMPT:
        counts.update(held.attempt.outcome for held in members if held.attempt.outcome is not None)
    else:
        for pair in pairs:
            counts.update(pair.ended)
    return counts


def _ended_ns(members: tuple[Held, ...], pairs: tuple[Pair, ...]) -> int | None:
    ends = [held.attempt.ended_ns for held in members if held.attempt.ended_ns is not None]
    ends += [pair.last_ns for pair in pairs]
    return max(ends, default=None)


def _with_changes(row: Row, before: Row | None, now: int) -> Row:
    """The row with when its values changed. `now` is when somebody saw it."""
    if before is None:
        return replace(row, changed={"stuck": now})
    changed = dict(before.changed)
    for column, is_same in (
        ("stuck", row.stuck == before.stuck),
        ("syns", row.syns == before.syns),
        ("ended", row.ended == before.ended),
        ("verdict", _gist(row.verdict) == _gist(before.verdict)),
    ):
        if not is_same:
            changed[column] = now
    return replace(row, changed=changed)


def _gist(verdict: Verdict | None) -> tuple[Cause, Confidence] | None:
    return None if verdict is None else (verdict.cause, verdict.confidence)


def others_to(row: Row, snapshot: Snapshot) -> list[Pair]:
    """Other pods that go where the row goes, most stuck first."""
    mine = {held.key[0] for held in row.members} | {who(row.report)}
    found = [
        pair
        for pair in snapshot.pairs.values()
        if pair.key[1] == row.destination and pair.key[0] not in mine
    ]
    return sorted(found, key=lambda pair: -pair.live)
