"""What other attempts of this node met: one destination from all pods, all destinations of one pod.

Only what was seen is claimed. Attempts that connect at once are counted in the kernel without their
destination and never get here, so that

- "fails from N pods" counts pods whose attempts are stuck or failed: how many others reach the same
  destination is not known, and "all pods" is not said, unless the source reports every connect to a
  failing destination (`sees_every_success`);
- "reached" rests on attempts that were stuck and then connected, and on what `reached()` was told;
- that nobody is known to have reached something is said in these words, and is no failure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Final, TypeVar

from tracer.diagnose.wording import endpoint, plural
from tracer.facts import Peers
from tracer.model import NANOSECONDS, ChangeKind, Endpoint, Outcome, Report, Scope
from tracer.text import safe

MAX_DESTINATIONS: Final = 4_096
MAX_ATTEMPTS: Final = 65_536
MAX_PODS: Final = 256
"""Pods kept apart per destination: more than run on one node."""

FRESH_NS: Final = 300 * NANOSECONDS
"""A failure older than this, with nothing after it, is no failing any more."""

_LATE_NS: Final = 60 * NANOSECONDS
"""So much later than it happened it may be told that somebody reached something."""

_A_DAY_NS: Final = 20 * 3600 * NANOSECONDS

_FAILED: Final = frozenset({Outcome.REFUSED, Outcome.UNREACHABLE, Outcome.TIMED_OUT})
"""Ends that say something of the destination; `aborted` does where the attempt had been stuck.
`vanished` says nothing, and `local_error` is about this host."""

NETNS_PREFIX: Final = "netns "
"""Begins the name of a sender whose pod is not known."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that happened to an attempt: it became stuck (`outcome` None), or ended."""

    attempt: str
    who: str
    destination: Endpoint
    scope: Scope
    wall_ns: int
    outcome: Outcome | None = None
    was_stuck: bool = True


def seen(report: Report) -> Seen | None:
    """What a report tells the comparison; None for what is no change of standing."""
    change = report.change
    if change.kind is ChangeKind.RETRANSMIT:
        return None
    attempt = change.attempt
    if change.kind is ChangeKind.END and attempt.outcome is None:
        return None
    return Seen(
        attempt=attempt.id,
        who=sender(report),
        destination=attempt.flow.destination,
        scope=report.destination.scope,
        wall_ns=report.wall_ns,
        outcome=attempt.outcome if change.kind is ChangeKind.END else None,
        was_stuck=attempt.stuck,
    )


def sender(report: Report) -> str:
    """Whose attempt it is: a pod by its label, else its network namespace."""
    label = report.pod.label if report.pod is not None else None
    netns = report.change.attempt.flow.netns
    return label or f"{NETNS_PREFIX}{'?' if netns is None else netns}"


_K = TypeVar("_K")

_Key = tuple[Endpoint, str | None]
"""A destination; a loopback address is another one in every namespace, hence its sender with it."""


@dataclass(slots=True)
class _Place:
    """What is known of one destination. The dicts are by sender, the oldest entry first."""

    scope: Scope
    waiting: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    reached: dict[str, int] = field(default_factory=dict)
    established: int = 0
    established_ns: int | None = None
    since_established: int | None = None

    def failing(self, now_ns: int) -> set[str]:
        recent = {who for who, at in self.failed.items() if now_ns - at <= FRESH_NS}
        return recent | self.waiting.keys()


class Comparison:
    """Aggregates what happened to attempts. Bounded; the destinations least heard of go first.

    For one thread. Time comes in with what is noted: `zone` only words it.
    """

    def __init__(
        self,
        *,
        destinations: int = MAX_DESTINATIONS,
        attempts: int = MAX_ATTEMPTS,
        sees_every_success: bool = False,
        zone: tzinfo | None = None,
    ) -> None:
        self._max_destinations = destinations
        self._max_attempts = attempts
        self._sees_every_success = sees_every_success
        self._zone = zone
        self._places: OrderedDict[_Key, _Place] = OrderedDict()
        self._waiting: OrderedDict[str, tuple[_Key, str]] = OrderedDict()
        self._stuck_of: dict[str, dict[_Key, int]] = {}
        # Who reached what and when, the one told last at the end.
        self._reached: OrderedDict[tuple[str, _Key], tuple[int, Scope]] = OrderedDict()
        self._now_ns = 0
        self.forgotten = 0
        """Destinations and stuck attempts dropped for lack of room."""

    # --- what happens --------------------------------------------------------------------------

    def note(self, event: Seen) -> None:
        """Takes in one event. The same attempt noted as stuck again moves to its new sender, whose
        name may be learnt later than the attempt.
        """
        self._now_ns = max(self._now_ns, event.wall_ns)
        key = _key(event.destination, event.scope, event.who)
        place = self._place(key, event.scope)
        known = self._release(event.attempt)
        if event.outcome is None:
            self._wait(event, key, place)
        elif event.outcome is Outcome.ESTABLISHED:
            self._reach(event.who, key, place, event.wall_ns)
        elif event.outcome in _FAILED or (
            event.outcome is Outcome.ABORTED and (known or event.was_stuck)
        ):
            _keep(place.failed, event.who, event.wall_ns)
            self._begin(event.who, place, event.wall_ns)

    def reached(self, who: str, destination: Endpoint, scope: Scope, wall_ns: int) -> None:
        """Somebody is known to have connected there at that time or later, whoever found out; told
        within a minute (_LATE_NS). A destination of which nothing else is known takes no room from
        those that fail.
        """
        self._now_ns = max(self._now_ns, wall_ns)
        key = _key(destination, scope, who)
        place = self._places.get(key)
        if place is not None:
            _keep(place.reached, who, max(wall_ns, place.reached.get(who, 0)))
            if wall_ns >= (place.since_established or wall_ns):
                place.since_established = None
            if who not in place.waiting and wall_ns >= place.failed.get(who, wall_ns):
                place.failed.pop(who, None)
                place.since.pop(who, None)
        self._remember(who, key, scope, wall_ns)

    def _wait(self, event: Seen, key: _Key, place: _Place) -> None:
        self._waiting[event.attempt] = (key, event.who)
        place.waiting[event.who] = place.waiting.get(event.who, 0) + 1
        of_sender = self._stuck_of.setdefault(event.who, {})
        of_sender[key] = of_sender.get(key, 0) + 1
        self._begin(event.who, place, event.wall_ns)
        while len(self._waiting) > self._max_attempts:
            self._release(next(iter(self._waiting)))
            self.forgotten += 1

    @staticmethod
    def _begin(who: str, place: _Place, wall_ns: int) -> None:
        if who not in place.since:
            _keep(place.since, who, wall_ns)
        if place.since_established is None:
            place.since_established = wall_ns

    def _reach(self, who: str, key: _Key, place: _Place, wall_ns: int) -> None:
        place.established += 1
        place.established_ns = max(wall_ns, place.established_ns or 0)
        place.since_established = None
        place.failed.pop(who, None)
        place.since.pop(who, None)
        _keep(place.reached, who, wall_ns)
        self._remember(who, key, place.scope, wall_ns)

    def _remember(self, who: str, key: _Key, scope: Scope, wall_ns: int) -> None:
        known, _ = self._reached.pop((who, key), (wall_ns, scope))
        self._reached[who, key] = max(known, wall_ns), scope
        while len(self._reached) > self._max_destinations:
            self._reached.popitem(last=False)

    def _release(self, attempt: str) -> bool:
        """Forgets that an attempt waits; whether it did."""
        waited = self._waiting.pop(attempt, None)
        if waited is None:
            return False
        key, who = waited
        place = self._places.get(key)
        if place is not None:
            _less(place.waiting, who)
            if who not in place.waiting and who not in place.failed:
                place.since.pop(who, None)
        of_sender = self._stuck_of.get(who)
        if of_sender is not None:
            _less(of_sender, key)
            if not of_sender:
                del self._stuck_of[who]
        return True

    def _place(self, key: _Key, scope: Scope) -> _Place:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _Place(scope)
            while len(self._places) > self._max_destinations:
                gone, dropped = self._places.popitem(last=False)
                self._forget(gone, dropped)
        self._places.move_to_end(key)
        return place

    def _forget(self, key: _Key, place: _Place) -> None:
        self.forgotten += 1
        for who in place.waiting:
            of_sender = self._stuck_of.get(who, {})
            of_sender.pop(key, None)
            if not of_sender:
                self._stuck_of.pop(who, None)

    # --- what follows --------------------------------------------------------------------------

    def peers(self, who: str, destination: Endpoint, scope: Scope) -> Peers | None:
        """What others met at that destination, seen from `who`; None where nothing is known."""
        key = _key(destination, scope, who)
        place = self._places.get(key)
        if place is None:
            return None
        since = place.since.get(who)
        return Peers(
            stuck_here=sum(place.waiting.values()),
            stuck_pods=len(place.waiting),
            known_pods=len({*place.waiting, *place.failed, *place.reached}),
            other_stuck=len(self._stuck_of.get(who, {}).keys() - {key}),
            established=place.established,
            established_wall_ns=place.established_ns,
            since_wall_ns=place.since_established,
            reached_pods=len(_reached_since(place, since, without=who)),
            other_reached=len(
                {found for other, found, _ in self._reached_after(since) if other == who} - {key}
            ),
        )

    def sentence(self, who: str, destination: Endpoint, scope: Scope) -> str | None:
        """The comparison in one sentence; None where there is nothing to compare with."""
        key = _key(destination, scope, who)
        place = self._places.get(key)
        if place is None:
            return None
        failing = place.failing(self._now_ns)
        if len(failing) > 1:
            return self._from_many(key, place, failing)
        if failing != {who}:
            return None
        since = place.since.get(who)
        others = _reached_since(place, since, without=who)
        if others:
            reach = plural(len(others), f"other {_noun(others, 1)}", f"other {_noun(others, 2)}")
            return (
                f"{endpoint(destination)} fails only from {safe(who)}{self._since(since)};"
                f" {reach} reached it since"
            )
        stuck = self._stuck_of.get(who, {})
        if len(stuck) > 1:
            return self._from_one(who, stuck)
        fine = self._fine(place.scope, since, key, who)
        if not fine:
            return None
        return (
            f"{endpoint(destination)} fails from {safe(who)}{self._since(since)}; it reached"
            f" {_others(fine, scope)} since"
        )

    def _from_many(self, key: _Key, place: _Place, failing: set[str]) -> str:
        starts = [at for who, at in place.since.items() if who in failing]
        since = min(starts, default=None)
        count = plural(len(failing), _noun(failing, 1), _noun(failing, 2))
        reached = _reached_since(place, since, without=None) - failing
        every = self._sees_every_success and not reached
        senders = f"all {count} that tried it" if every else f"{count} on this node"
        told = f"{endpoint(key[0])} fails from {senders}{self._since(since)}"
        if reached:
            told += f"; {len(reached)} {_noun(reached, len(reached))} reached it since"
        fine = self._fine(place.scope, since, key)
        if fine:
            told += f"; {_others(fine, place.scope)} {'was' if fine == 1 else 'were'} reached since"
        return told

    def _from_one(self, who: str, stuck: dict[_Key, int]) -> str:
        starts = [
            place.since[who]
            for key in stuck
            if (place := self._places.get(key)) is not None and who in place.since
        ]
        since = min(starts, default=None)
        own = {key for other, key, _ in self._reached_after(since) if other == who} - stuck.keys()
        after = (
            f"it reached {plural(len(own), 'other')} since"
            if own
            else "it is not known to have reached any other since"
        )
        return f"{safe(who)} fails to reach {len(stuck)} destinations{self._since(since)}; {after}"

    def _fine(self, scope: Scope, since: int | None, but: _Key, who: str | None = None) -> int:
        """Other destinations of that scope that were reached since, by `who` or by anybody, and
        fail from nobody.
        """
        found = set()
        for other, key, of_scope in self._reached_after(since):
            if key == but or of_scope is not scope or who not in {None, other}:
                continue
            place = self._places.get(key)
            if place is None or not place.failing(self._now_ns):
                found.add(key)
        return len(found)

    def _reached_after(self, since: int | None) -> Iterator[tuple[str, _Key, Scope]]:
        """Who reached what after `since`; nothing where there is no since."""
        if since is None:
            return
        for (who, key), (at, scope) in reversed(self._reached.items()):
            if at < since - _LATE_NS:
                return
            if at >= since:
                yield who, key, scope

    def _since(self, wall_ns: int | None) -> str:
        """As in "since 13:02:11"; with the date where that is not today's for sure."""
        if wall_ns is None:
            return ""
        when = datetime.fromtimestamp(wall_ns // NANOSECONDS, UTC).astimezone(self._zone)
        old = self._now_ns - wall_ns > _A_DAY_NS
        return f" since {when:%Y-%m-%d %H:%M:%S}" if old else f" since {when:%H:%M:%S}"


def _key(destination: Endpoint, scope: Scope, who: str) -> _Key:
    return destination, who if scope is Scope.LOOPBACK else None


def _reached_since(place: _Place, since: int | None, *, without: str | None) -> set[str]:
    if since is None:
        return set()
    return {who for who, at in place.reached.items() if at >= since and who != without}


def _others(count: int, scope: Scope) -> str:
    kind = "VPC" if scope is Scope.VPC else scope.value
    return plural(count, f"other {kind} destination")


def _noun(senders: set[str], count: int) -> str:
    """What they are called: pods, where each is known to be one."""
    named = not any(who.startswith(NETNS_PREFIX) for who in senders)
    word = "pod" if named else "network namespace"
    return word if count == 1 else f"{word}s"


def _keep(kept: dict[str, int], who: str, wall_ns: int) -> None:
    """Puts the sender last; the first goes where there are too many."""
    kept.pop(who, None)
    kept[who] = wall_ns
    if len(kept) > MAX_PODS:
        del kept[next(iter(kept))]


def _less(counts: dict[_K, int], key: _K) -> None:
    left = counts.get(key, 0) - 1
    if left > 0:
        counts[key] = left
    else:
        counts.pop(key, None)
