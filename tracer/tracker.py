"""The state machine: transitions and sweeps in, changes out.

Pure: it reads no clock and no file, so that a recording or a test drives it exactly as the kernel
does. It owns the state of every stuck attempt. Two kinds of news come in: a stream reports what
happens to a socket (BPF), a sweep reports everything that is in SYN_SENT in some namespaces. Where
both run, each is checked against the other.
"""

from __future__ import annotations

import errno
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from tracer.model import (
    NANOSECONDS,
    Attempt,
    Change,
    ChangeKind,
    CrossCheck,
    Flow,
    Outcome,
    Owner,
    SourceName,
    Sweep,
    SweptSocket,
    TcpState,
    Transition,
    TransitionKind,
)
from tracer.settings import Limits

# A start derived from a retransmission timer is not exact: timers are due on clock ticks, and the
# kernel's timer wheel lets one be late by up to an eighth of its time.
_START_SLACK_NS: Final = NANOSECONDS // 5
_START_SLACK_SHARE: Final = 7
# How much later than the stream a sweep may call an attempt stuck by its age alone.
_SWEEP_GRACE_NS: Final = NANOSECONDS
# A stream's attempt is given up after so many sweeps without it: one dump may miss a socket.
_SWEEPS_TO_VANISH: Final = 2

_OUTCOME_OF_ERRNO: Final = {
    errno.ECONNREFUSED: Outcome.REFUSED,
    errno.ETIMEDOUT: Outcome.TIMED_OUT,
    errno.EADDRNOTAVAIL: Outcome.LOCAL_ERROR,
}

_Tuple = tuple[int | None, str, int | None, str, int | None]


def _tuple_of(flow: Flow, *, with_port: bool = True) -> _Tuple:
    source, destination = flow.source, flow.destination
    port = source.port if with_port else None
    return flow.netns, source.address, port, destination.address, destination.port


def outcome_of(end: Transition) -> Outcome:
    """How an attempt left SYN_SENT, from the state entered and the socket's error.

    Without an error the socket was closed by its own side: by the application, or by the kernel
    before any SYN was sent. Every other error is the answer of a router or of this host's own
    routing, whatever its number (see icmp_err_convert[] and tcp_v6_err() in the Linux tree).
    """
    if end.new_state is not TcpState.CLOSE:
        return Outcome.ESTABLISHED
    if end.no_syn_sent:
        return Outcome.LOCAL_ERROR
    if end.errno == 0:
        return Outcome.ABORTED
    return _OUTCOME_OF_ERRNO.get(end.errno, Outcome.UNREACHABLE)


def _covers(sweep: Sweep, netns: int | None) -> bool:
    """Whether a socket of this namespace would be in the sweep if it were in SYN_SENT."""
    return netns in sweep.looked or netns in sweep.gone


def _merged_owner(known: Owner, told: Owner) -> Owner:
    """What is known stays, what was unknown is learnt: each source sees another part of it."""
    return Owner(
        pid=told.pid if known.pid is None else known.pid,
        uid=told.uid if known.uid is None else known.uid,
        comm=told.comm if known.comm is None else known.comm,
        cgroup_id=told.cgroup_id if known.cgroup_id is None else known.cgroup_id,
        inode=told.inode if known.inode is None else known.inode,
    )


@dataclass(slots=True)
class _Live:
    """An attempt that is stuck now, with what it is found by. The only mutable state here."""

    attempt: Attempt
    key: int | None = None
    cookie: int | None = None
    confirmed_ns: int = 0
    absences: int = 0


@dataclass(frozen=True, slots=True)
class _Ended:
    """What is remembered of an attempt that is over, so that late news of it is recognised."""

    ended_ns: int
    started_ns: int | None
    cookie: int | None


class Tracker:
    """Attempts by socket, by tuple and by cookie, and totals since the start.

    `streaming` says whether a stream is among the sources; then sweeps only check it. `began_ns` is
    when the sources began to watch.
    """

    def __init__(
        self,
        *,
        run_id: str,
        limits: Limits,
        threshold_seconds: float,
        streaming: bool,
        began_ns: int,
    ) -> None:
        self._run_id = run_id
        self._limits = limits
        self._threshold_ns = int(threshold_seconds * NANOSECONDS)
        self._streaming = streaming
        self._began_ns = began_ns
        self._serial = 0
        self._live: dict[str, _Live] = {}
        self._by_key: dict[int, _Live] = {}
        self._by_cookie: dict[int, _Live] = {}
        self._by_tuple: dict[_Tuple, _Live] = {}
        self._ended: OrderedDict[_Tuple | int, _Ended] = OrderedDict()
        self.outcomes: Counter[Outcome] = Counter()
        self.became_stuck = 0
        self.peak_stuck = 0
        self.table_full = 0
        self.crosscheck = CrossCheck()

    @property
    def stuck_now(self) -> int:
        return len(self._live)

    def live(self) -> Iterator[Attempt]:
        """Every attempt that is stuck now."""
        return (entry.attempt for entry in self._live.values())

    # --- the stream ----------------------------------------------------------------------------

    def apply(self, transitions: Iterable[Transition], wall_offset_ns: int) -> list[Change]:
        """Changes that follow from a batch of kernel records.

        `wall_offset_ns` is what must be added to CLOCK_MONOTONIC for the time of day now. An
        attempt keeps the start it was first given: a later step of the clock does not move it.
        """
        changes: list[Change] = []
        for transition in transitions:
            if transition.kind is TransitionKind.END:
                changes += self._end(transition, wall_offset_ns)
            else:
                changes += self._progress(transition, wall_offset_ns)
        return changes

    def _progress(self, transition: Transition, wall_offset_ns: int) -> list[Change]:
        if self._is_late(transition):
            return []
        entry, changes = self._find(transition)
        if entry is None:
            return changes + self._begin(transition, wall_offset_ns)
        if transition.kind is TransitionKind.OVERDUE:
            return changes
        attempt = entry.attempt
        more = (transition.syns_sent or 0) > (attempt.syns_sent or 0)
        self._update(entry, self._merged(attempt, transition))
        entry.confirmed_ns = max(entry.confirmed_ns, transition.time_ns)
        if more:
            changes.append(Change(ChangeKind.RETRANSMIT, entry.attempt, transition.time_ns))
        return changes

    def _end(self, transition: Transition, wall_offset_ns: int) -> list[Change]:
        if self._is_late(transition):
            return []
        outcome = outcome_of(transition)
        entry, changes = self._find(transition)
        if entry is not None:
            self._update(entry, self._merged(entry.attempt, transition))
        elif self._was_stuck(transition):
            # It became stuck and ended between two looks, or its first record was lost.
            changes += self._begin(transition, wall_offset_ns)
            entry = self._by_key.get(transition.key)
        if entry is None:
            if outcome is Outcome.ESTABLISHED:
                return changes
            attempt = self._fresh(transition, wall_offset_ns, stuck_ns=None)
            return [*changes, self._ended_change(attempt, outcome, transition.time_ns, transition)]
        return [*changes, self._close(entry, outcome, transition.time_ns, transition)]

    def _was_stuck(self, transition: Transition) -> bool:
        if transition.last_syn_ns is not None or (transition.syns_sent or 0) > 1:
            return True
        started = transition.started_ns
        return started is not None and transition.time_ns - started >= self._threshold_ns

    def _find(self, transition: Transition) -> tuple[_Live | None, list[Change]]:
        """The attempt a record belongs to, and the end of another whose socket it took over."""
        entry = self._by_key.get(transition.key)
        if entry is not None:
            began = transition.started_ns
            if began is None or began <= entry.confirmed_ns:
                return entry, []
            # The kernel gave the same address to a new socket: the old one's end was not seen.
            return None, [self._close(entry, Outcome.VANISHED, began, None)]
        entry = self._by_tuple.get(_tuple_of(transition.flow))
        if entry is not None and entry.key is None:
            entry.key = transition.key
            self._by_key[transition.key] = entry
            return entry, []
        return None, []

    def _begin(self, transition: Transition, wall_offset_ns: int) -> list[Change]:
        if self._no_room():
            return []
        stuck_ns = transition.time_ns
        if transition.kind is TransitionKind.OVERDUE and transition.started_ns is not None:
            stuck_ns = transition.started_ns + self._threshold_ns
        elif transition.kind is TransitionKind.END and transition.last_syn_ns is not None:
            stuck_ns = transition.last_syn_ns
        elif transition.kind is TransitionKind.END and transition.started_ns is not None:
            stuck_ns = transition.started_ns + self._threshold_ns
        attempt = self._fresh(transition, wall_offset_ns, stuck_ns=stuck_ns)
        self._add(_Live(attempt, key=transition.key, confirmed_ns=transition.time_ns))
        return [Change(ChangeKind.STUCK, attempt, stuck_ns)]

    def _fresh(
        self, transition: Transition, wall_offset_ns: int, *, stuck_ns: int | None
    ) -> Attempt:
        started = transition.started_ns
        return Attempt(
            id=self._next_id(),
            flow=transition.flow,
            owner=transition.owner,
            detected_by=SourceName.BPF,
            first_seen_ns=transition.time_ns,
            started_ns=started,
            started_wall_ns=None if started is None else started + wall_offset_ns,
            stuck_ns=stuck_ns,
            syns_sent=transition.syns_sent,
            last_syn_ns=transition.last_syn_ns,
            next_retry_ns=transition.next_retry_ns,
        )

    @staticmethod
    def _merged(attempt: Attempt, transition: Transition) -> Attempt:
        """What both know: a port learnt later, never fewer SYNs, a process if one was unknown."""
        flow = attempt.flow
        if flow.source.port is None and transition.flow.source.port is not None:
            flow = transition.flow
        return replace(
            attempt,
            flow=flow,
            owner=_merged_owner(attempt.owner, transition.owner),
            syns_sent=max(attempt.syns_sent or 0, transition.syns_sent or 0) or None,
            last_syn_ns=transition.last_syn_ns or attempt.last_syn_ns,
            next_retry_ns=transition.next_retry_ns,
        )

    # --- sweeps --------------------------------------------------------------------------------

    def apply_sweep(self, sweep: Sweep, wall_offset_ns: int) -> list[Change]:
        """Changes that follow from one sweep.

        All records that the stream made before the sweep was finished must have been applied.
        """
        changes: list[Change] = []
        seen: set[str] = set()
        agreed = before_start = missed = 0
        for swept in sweep.sockets:
            entry, taken_over = self._find_swept(swept)
            changes += [
                self._close(old, Outcome.VANISHED, sweep.finished_ns, None) for old in taken_over
            ]
            if entry is not None:
                seen.add(entry.attempt.id)
                agreed += 1
                changes += self._confirm(entry, swept, sweep, wall_offset_ns)
            elif self._stuck_in(swept, sweep) and not self._ended_since(swept, sweep):
                adopted = self._adopt(swept, sweep, wall_offset_ns)
                if adopted is None:
                    continue
                seen.add(adopted.attempt.id)
                began_before = self._began_before_us(swept)
                before_start += began_before
                missed += not began_before
                time_ns = adopted.attempt.stuck_ns or sweep.finished_ns
                changes.append(Change(ChangeKind.STUCK, adopted.attempt, time_ns))
        changes += self._close_absent(sweep, seen)
        check = self.crosscheck
        self.crosscheck = replace(
            check,
            sweeps=check.sweeps + 1,
            agreed=check.agreed + agreed,
            before_start=check.before_start + before_start,
            missed=check.missed + (missed if self._streaming else 0),
        )
        return changes

    def _find_swept(self, swept: SweptSocket) -> tuple[_Live | None, list[_Live]]:
        """The attempt that a swept socket is, and one whose tuple it has taken over."""
        entry = self._by_cookie.get(swept.cookie)
        if entry is not None:
            return entry, []
        entry = self._by_tuple.get(_tuple_of(swept.flow))
        if entry is None:
            entry = self._known_in_part(swept)
            if entry is None:
                return None, []
        if entry.cookie is not None:
            return None, [entry]
        entry.cookie = swept.cookie
        self._by_cookie[swept.cookie] = entry
        return entry, []

    def _known_in_part(self, swept: SweptSocket) -> _Live | None:
        """The stream's attempt of which the source port or the namespace is not known yet."""
        netns, source, port, destination, destination_port = _tuple_of(swept.flow)
        for known_netns, known_port in ((netns, None), (None, port), (None, None)):
            entry = self._by_tuple.get(
                (known_netns, source, known_port, destination, destination_port)
            )
            if entry is not None and self._same_start(entry.attempt, swept):
                return entry
        return None

    @staticmethod
    def _same_start(attempt: Attempt, swept: SweptSocket) -> bool:
        if attempt.started_ns is None or swept.started_ns is None:
            return True
        age = max(0, attempt.first_seen_ns - attempt.started_ns)
        slack = _START_SLACK_NS + age // _START_SLACK_SHARE
        return abs(attempt.started_ns - swept.started_ns) <= slack

    def _stuck_in(self, swept: SweptSocket, sweep: Sweep) -> bool:
        if swept.retransmissions:
            return True
        if swept.started_ns is None:
            return False
        grace = _SWEEP_GRACE_NS if self._streaming else 0
        return sweep.finished_ns - swept.started_ns >= self._threshold_ns + grace

    def _ended_since(self, swept: SweptSocket, sweep: Sweep) -> bool:
        """Whether the stream reported this socket's end after the sweep began to read."""
        ended = self._ended.get(_tuple_of(swept.flow))
        if ended is None or ended.ended_ns < sweep.started_ns:
            return False
        return ended.cookie is None or ended.cookie == swept.cookie

    def _began_before_us(self, swept: SweptSocket) -> bool:
        return swept.started_ns is not None and swept.started_ns < self._began_ns + _START_SLACK_NS

    def _adopt(self, swept: SweptSocket, sweep: Sweep, wall_offset_ns: int) -> _Live | None:
        if self._no_room():
            return None
        started = swept.started_ns
        stuck_ns = sweep.finished_ns
        if swept.retransmissions == 1 and swept.last_syn_ns is not None:
            stuck_ns = swept.last_syn_ns
        elif not swept.retransmissions and started is not None:
            stuck_ns = started + self._threshold_ns
        attempt = Attempt(
            id=self._next_id(),
            flow=swept.flow,
            owner=swept.owner,
            detected_by=sweep.source,
            first_seen_ns=sweep.finished_ns,
            started_ns=started,
            started_wall_ns=None if started is None else started + wall_offset_ns,
            stuck_ns=stuck_ns,
            syns_sent=swept.retransmissions + 1,
            last_syn_ns=swept.last_syn_ns,
            next_retry_ns=swept.next_retry_ns,
        )
        entry = _Live(attempt, cookie=swept.cookie, confirmed_ns=sweep.started_ns)
        self._add(entry)
        return entry

    def _confirm(
        self, entry: _Live, swept: SweptSocket, sweep: Sweep, wall_offset_ns: int
    ) -> list[Change]:
        """Takes what the sweep knows better. Beside a stream, its retransmissions are old news."""
        attempt = entry.attempt
        started, started_wall = attempt.started_ns, attempt.started_wall_ns
        if started is None and swept.started_ns is not None:
            started, started_wall = swept.started_ns, swept.started_ns + wall_offset_ns
        sent = swept.retransmissions + 1
        more = sent > (attempt.syns_sent or 0)
        self._update(
            entry,
            replace(
                attempt,
                flow=swept.flow if None in _tuple_of(attempt.flow) else attempt.flow,
                owner=_merged_owner(attempt.owner, swept.owner),
                started_ns=started,
                started_wall_ns=started_wall,
                syns_sent=max(sent, attempt.syns_sent or 0),
                last_syn_ns=max(swept.last_syn_ns or 0, attempt.last_syn_ns or 0) or None
                if more
                else attempt.last_syn_ns,
                next_retry_ns=swept.next_retry_ns or attempt.next_retry_ns,
            ),
        )
        entry.absences = 0
        entry.confirmed_ns = max(entry.confirmed_ns, sweep.started_ns)
        if more:
            time_ns = swept.last_syn_ns or sweep.finished_ns
            return [Change(ChangeKind.RETRANSMIT, entry.attempt, time_ns)]
        return []

    def _close_absent(self, sweep: Sweep, seen: set[str]) -> list[Change]:
        """Ends what the sweep would have shown if it were still in SYN_SENT."""
        changes: list[Change] = []
        unended = 0
        for entry in list(self._live.values()):
            attempt = entry.attempt
            if attempt.id in seen or entry.confirmed_ns >= sweep.started_ns:
                continue
            if not _covers(sweep, attempt.flow.netns):
                continue
            outcome = Outcome.VANISHED
            if entry.cookie is not None and entry.cookie in sweep.established:
                outcome = Outcome.ESTABLISHED
            entry.absences += 1
            if self._streaming and entry.absences < _SWEEPS_TO_VANISH:
                continue
            unended += 1
            changes.append(self._close(entry, outcome, sweep.finished_ns, None))
        if self._streaming:
            self.crosscheck = replace(self.crosscheck, unended=self.crosscheck.unended + unended)
        return changes

    # --- bookkeeping ---------------------------------------------------------------------------

    def _next_id(self) -> str:
        self._serial += 1
        return f"{self._run_id}-{self._serial}"

    def _no_room(self) -> bool:
        if len(self._live) < self._limits.max_attempts:
            return False
        self.table_full += 1
        return True

    def _add(self, entry: _Live) -> None:
        attempt = entry.attempt
        self._live[attempt.id] = entry
        self._by_tuple[_tuple_of(attempt.flow)] = entry
        if entry.key is not None:
            self._by_key[entry.key] = entry
        if entry.cookie is not None:
            self._by_cookie[entry.cookie] = entry
        self.became_stuck += 1
        self.peak_stuck = max(self.peak_stuck, len(self._live))

    def _update(self, entry: _Live, attempt: Attempt) -> None:
        """Replaces an attempt's state; a source port that has become known is a new tuple."""
        before, after = _tuple_of(entry.attempt.flow), _tuple_of(attempt.flow)
        entry.attempt = attempt
        if before != after:
            self._drop_tuple(before, entry)
            self._by_tuple[after] = entry

    def _drop_tuple(self, key: _Tuple, entry: _Live) -> None:
        if self._by_tuple.get(key) is entry:
            del self._by_tuple[key]

    def _close(
        self, entry: _Live, outcome: Outcome, time_ns: int, transition: Transition | None
    ) -> Change:
        attempt = entry.attempt
        del self._live[attempt.id]
        self._drop_tuple(_tuple_of(attempt.flow), entry)
        names: list[_Tuple | int] = [_tuple_of(attempt.flow)]
        if entry.key is not None:
            del self._by_key[entry.key]
            names.append(entry.key)
        if entry.cookie is not None:
            del self._by_cookie[entry.cookie]
        self._remember(names, _Ended(time_ns, attempt.started_ns, entry.cookie))
        return self._ended_change(attempt, outcome, time_ns, transition)

    def _ended_change(
        self, attempt: Attempt, outcome: Outcome, time_ns: int, transition: Transition | None
    ) -> Change:
        self.outcomes[outcome] += 1
        ended = replace(
            attempt,
            outcome=outcome,
            ended_ns=time_ns,
            next_retry_ns=None,
            errno=(transition.errno or None) if transition else None,
            soft_errno=(transition.soft_errno or None) if transition else None,
        )
        return Change(ChangeKind.END, ended, time_ns)

    def _remember(self, names: Iterable[_Tuple | int], ended: _Ended) -> None:
        for name in names:
            self._ended[name] = ended
            self._ended.move_to_end(name)
        while len(self._ended) > self._limits.remembered_ends:
            self._ended.popitem(last=False)

    def _is_late(self, transition: Transition) -> bool:
        """Whether a record is about an attempt whose end has already been taken in.

        A later attempt on the same socket began after that end, or at least at another time.
        """
        ended = self._ended.get(transition.key)
        if ended is None:
            return False
        if transition.time_ns <= ended.ended_ns:
            return True
        return transition.started_ns is not None and transition.started_ns == ended.started_ns
