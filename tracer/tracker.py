"""The state machine: transitions and sweeps in, changes out.

Pure: it reads no clock and no file, so that a recording or a test drives it exactly as the kernel
does. It owns the state of every stuck attempt. Two kinds of news come in: a stream reports what
happens to a socket (BPF), a sweep reports everything that is in SYN_SENT in some namespaces. Where
both run, each is checked against the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from tracer.attempts import Attempts, Live
from tracer.model import (
    NANOSECONDS,
    Attempt,
    Change,
    ChangeKind,
    CrossCheck,
    Outcome,
    Owner,
    SourceName,
    Sweep,
    SweptSocket,
    Transition,
    TransitionKind,
)
from tracer.outcome import outcome_of
from tracer.settings import Limits

# A start derived from a retransmission timer is not exact: timers are due on clock ticks.
_START_SLACK_NS: Final = NANOSECONDS // 5
# How much later than the stream a sweep may call an attempt stuck by its age alone.
_SWEEP_GRACE_NS: Final = NANOSECONDS
# A stream's attempt is given up after so many sweeps without it: one dump may miss a socket.
_SWEEPS_TO_VANISH: Final = 2


def _merged_owner(known: Owner, told: Owner) -> Owner:
    """What is known stays, what was unknown is learnt: each source sees another part of it."""
    return Owner(
        pid=told.pid if known.pid is None else known.pid,
        uid=told.uid if known.uid is None else known.uid,
        comm=told.comm if known.comm is None else known.comm,
        cgroup_id=told.cgroup_id if known.cgroup_id is None else known.cgroup_id,
        inode=told.inode if known.inode is None else known.inode,
    )


class Tracker:
    """Follows attempts through what the sources say of them.

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
        self._threshold_ns = int(threshold_seconds * NANOSECONDS)
        self._streaming = streaming
        self._began_ns = began_ns
        self._serial = 0
        self._attempts = Attempts(limits)
        self.crosscheck = CrossCheck()

    @property
    def stuck_now(self) -> int:
        return len(self._attempts)

    @property
    def became_stuck(self) -> int:
        return self._attempts.became_stuck

    @property
    def outcomes(self) -> Counter[Outcome]:
        return self._attempts.outcomes

    @property
    def table_full(self) -> int:
        return self._attempts.table_full

    def live(self) -> Iterator[Attempt]:
        """Every attempt that is stuck now."""
        return (entry.attempt for entry in self._attempts)

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
            if not self._was_stuck(transition):
                return changes
            return changes + self._begin(transition, wall_offset_ns)
        if transition.kind is TransitionKind.OVERDUE:
            return changes
        attempt = entry.attempt
        more = (transition.syns_sent or 0) > (attempt.syns_sent or 0)
        self._attempts.update(entry, self._merged(attempt, transition))
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
            self._attempts.update(entry, self._merged(entry.attempt, transition))
        elif self._was_stuck(transition):
            # It became stuck and ended between two looks, or its first record was lost.
            changes += self._begin(transition, wall_offset_ns)
            entry = self._attempts.with_key(transition.key)
        time_ns = transition.time_ns
        if entry is not None:
            return [*changes, self._attempts.close(entry, outcome, time_ns, transition)]
        if outcome is Outcome.ESTABLISHED:
            return changes
        attempt = self._fresh(transition, wall_offset_ns, stuck_ns=None)
        return [*changes, self._attempts.ended(attempt, outcome, time_ns, transition)]

    def _was_stuck(self, transition: Transition) -> bool:
        """Whether a SYN was sent again, or the attempt is older than the threshold."""
        if (transition.syns_sent or 0) > 1:
            return True
        started = transition.started_ns
        return started is not None and transition.time_ns - started >= self._threshold_ns

    def _find(self, transition: Transition) -> tuple[Live | None, list[Change]]:
        """The attempt a record belongs to, and the end of another whose socket it took over."""
        entry = self._attempts.with_key(transition.key)
        if entry is not None:
            began = transition.started_ns
            if began is None or began <= entry.confirmed_ns:
                return entry, []
            # The kernel gave the same address to a new socket: the old one's end was not seen.
            return None, [self._attempts.close(entry, Outcome.VANISHED, began)]
        entry = self._attempts.with_tuple(transition.flow)
        if entry is not None and entry.key is None:
            self._attempts.give_key(entry, transition.key)
            return entry, []
        return None, []

    def _begin(self, transition: Transition, wall_offset_ns: int) -> list[Change]:
        if not self._attempts.has_room():
            return []
        stuck_ns = self._stuck_since(transition)
        attempt = self._fresh(transition, wall_offset_ns, stuck_ns=stuck_ns)
        self._attempts.add(Live(attempt, key=transition.key, confirmed_ns=transition.time_ns))
        return [Change(ChangeKind.STUCK, attempt, stuck_ns)]

    def _stuck_since(self, transition: Transition) -> int:
        if transition.kind is TransitionKind.RETRANSMIT:
            return transition.time_ns
        if transition.kind is TransitionKind.END and transition.last_syn_ns is not None:
            return transition.last_syn_ns
        if transition.started_ns is not None:
            return min(transition.started_ns + self._threshold_ns, transition.time_ns)
        return transition.time_ns

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
            backoff=transition.backoff,
            isn=transition.isn,
        )

    @staticmethod
    def _merged(attempt: Attempt, transition: Transition) -> Attempt:
        """What both know: the stream's tuple, never fewer SYNs, a process if one was unknown."""
        known = transition.flow.source.port is not None
        return replace(
            attempt,
            flow=transition.flow if known else attempt.flow,
            owner=_merged_owner(attempt.owner, transition.owner),
            syns_sent=max(attempt.syns_sent or 0, transition.syns_sent or 0),
            last_syn_ns=transition.last_syn_ns or attempt.last_syn_ns,
            next_retry_ns=transition.next_retry_ns,
            backoff=transition.backoff,
            isn=attempt.isn if transition.isn is None else transition.isn,
        )

    def _is_late(self, transition: Transition) -> bool:
        """Whether a record is about an attempt whose end has already been taken in.

        A later attempt on the same socket began after that end, or at least at another time.
        """
        ended = self._attempts.ended_with_key(transition.key)
        if ended is None:
            return False
        if transition.time_ns <= ended.ended_ns:
            return True
        return transition.started_ns is not None and transition.started_ns == ended.started_ns

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
            if taken_over is not None:
                changes.append(
                    self._attempts.close(taken_over, Outcome.VANISHED, sweep.finished_ns)
                )
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
        ends, unended = self._close_absent(sweep, seen)
        self._attempts.forget_ended_before(sweep.started_ns)
        self._count(agreed, before_start, missed, unended)
        return changes + ends

    def _count(self, agreed: int, before_start: int, missed: int, unended: int) -> None:
        """Adds a sweep's comparison up; without a stream there is nothing to disagree with."""
        check = self.crosscheck
        self.crosscheck = CrossCheck(
            sweeps=check.sweeps + 1,
            agreed=check.agreed + agreed,
            before_start=check.before_start + before_start,
            missed=check.missed + (missed if self._streaming else 0),
            unended=check.unended + (unended if self._streaming else 0),
        )

    def _find_swept(self, swept: SweptSocket) -> tuple[Live | None, Live | None]:
        """The attempt that a swept socket is, and one whose tuple it has taken over."""
        entry = self._attempts.with_cookie(swept.cookie)
        if entry is not None:
            return entry, None
        entry = self._attempts.with_tuple(swept.flow)
        if entry is None:
            return None, None
        if entry.cookie is not None:
            return None, entry
        self._attempts.give_cookie(entry, swept.cookie)
        return entry, None

    def _stuck_in(self, swept: SweptSocket, sweep: Sweep) -> bool:
        if swept.retransmissions:
            return True
        if swept.started_ns is None:
            return False
        grace = _SWEEP_GRACE_NS if self._streaming else 0
        return sweep.finished_ns - swept.started_ns >= self._threshold_ns + grace

    def _ended_since(self, swept: SweptSocket, sweep: Sweep) -> bool:
        """Whether the stream reported this socket's end after the sweep began to read."""
        ended = self._attempts.ended_with_tuple(swept.flow)
        if ended is None or ended.ended_ns < sweep.started_ns:
            return False
        return ended.cookie is None or ended.cookie == swept.cookie

    def _began_before_us(self, swept: SweptSocket) -> bool:
        return swept.started_ns is not None and swept.started_ns < self._began_ns + _START_SLACK_NS

    def _adopt(self, swept: SweptSocket, sweep: Sweep, wall_offset_ns: int) -> Live | None:
        if not self._attempts.has_room():
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
            backoff=swept.backoff,
        )
        entry = Live(attempt, cookie=swept.cookie, confirmed_ns=sweep.started_ns)
        self._attempts.add(entry)
        return entry

    def _confirm(
        self, entry: Live, swept: SweptSocket, sweep: Sweep, wall_offset_ns: int
    ) -> list[Change]:
        """Takes what the sweep knows better. Beside a stream, its retransmissions are old news."""
        attempt = entry.attempt
        started, started_wall = attempt.started_ns, attempt.started_wall_ns
        if started is None and swept.started_ns is not None:
            started, started_wall = swept.started_ns, swept.started_ns + wall_offset_ns
        sent = swept.retransmissions + 1
        more = sent > (attempt.syns_sent or 0)
        self._attempts.update(
            entry,
            replace(
                attempt,
                owner=_merged_owner(attempt.owner, swept.owner),
                started_ns=started,
                started_wall_ns=started_wall,
                syns_sent=max(sent, attempt.syns_sent or 0),
                last_syn_ns=swept.last_syn_ns if more else attempt.last_syn_ns,
                next_retry_ns=swept.next_retry_ns or attempt.next_retry_ns,
                backoff=swept.backoff if swept.backoff is not None else attempt.backoff,
            ),
        )
        entry.absences = 0
        entry.confirmed_ns = max(entry.confirmed_ns, sweep.started_ns)
        if more:
            time_ns = swept.last_syn_ns or sweep.finished_ns
            return [Change(ChangeKind.RETRANSMIT, entry.attempt, time_ns)]
        return []

    def _close_absent(self, sweep: Sweep, seen: set[str]) -> tuple[list[Change], int]:
        """Ends what the sweep would have shown if it were still in SYN_SENT.

        Also says how many of them the stream knew, and should have ended.
        """
        changes: list[Change] = []
        unended = 0
        for entry in self._attempts:
            attempt = entry.attempt
            if attempt.id in seen or entry.confirmed_ns >= sweep.started_ns:
                continue
            netns = attempt.flow.netns
            if netns not in sweep.looked and netns not in sweep.gone:
                continue
            outcome = Outcome.VANISHED
            if entry.cookie is not None and entry.cookie in sweep.established:
                outcome = Outcome.ESTABLISHED
            entry.absences += 1
            if self._streaming and entry.absences < _SWEEPS_TO_VANISH:
                continue
            unended += entry.key is not None
            changes.append(self._attempts.close(entry, outcome, sweep.finished_ns))
        return changes, unended

    def _next_id(self) -> str:
        self._serial += 1
        return f"{self._run_id}-{self._serial}"
