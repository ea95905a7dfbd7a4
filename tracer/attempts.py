"""The attempts that are stuck now, found by socket, tuple or cookie, and the memory of ended ones.

The only mutable state of the tracker.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from tracer.model import NANOSECONDS, Attempt, Change, ChangeKind, Flow, Outcome, Transition
from tracer.settings import Limits

# Late news of an ended attempt comes within one sweep, and a sweep takes seconds at the worst.
_REMEMBERED_NS: Final = 60 * NANOSECONDS

Tuple = tuple[int | None, str, int | None, str, int | None]


def tuple_of(flow: Flow) -> Tuple:
    """What tells one connection of this machine from all others at the same time."""
    source, destination = flow.source, flow.destination
    return flow.netns, source.address, source.port, destination.address, destination.port


@dataclass(slots=True)
class Live:
    """An attempt that is stuck now, with what it is found by.

    `key` is the stream's name of its socket, `cookie` a sweep's. `confirmed_ns` is when it was
    last known to be there, `absences` how many sweeps in a row did not show it.
    """

    attempt: Attempt
    key: int | None = None
    cookie: int | None = None
    confirmed_ns: int = 0
    absences: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """What is remembered of an attempt that is over, so that late news of it is recognised."""

    ended_ns: int
    started_ns: int | None
    cookie: int | None


class Attempts:
    """Bounded table of stuck attempts; what finds no room is counted in `table_full`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._live: dict[str, Live] = {}
        self._by_key: dict[int, Live] = {}
        self._by_cookie: dict[int, Live] = {}
        self._by_tuple: dict[Tuple, Live] = {}
        self._ended: OrderedDict[Tuple | int, Ended] = OrderedDict()
        self.outcomes: Counter[Outcome] = Counter()
        self.became_stuck = 0
        self.table_full = 0

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Live]:
        """All of them, as they are now: closing some meanwhile is allowed."""
        return iter(list(self._live.values()))

    def with_key(self, key: int) -> Live | None:
        return self._by_key.get(key)

    def with_cookie(self, cookie: int) -> Live | None:
        return self._by_cookie.get(cookie)

    def with_tuple(self, flow: Flow) -> Live | None:
        return self._by_tuple.get(tuple_of(flow))

    def ended_with_key(self, key: int) -> Ended | None:
        return self._ended.get(key)

    def ended_with_tuple(self, flow: Flow) -> Ended | None:
        return self._ended.get(tuple_of(flow))

    def has_room(self) -> bool:
        """Whether another attempt may be added; a refusal is counted."""
        if len(self._live) < self._limits.max_attempts:
            return True
        self.table_full += 1
        return False

    def add(self, entry: Live) -> None:
        attempt = entry.attempt
        self._live[attempt.id] = entry
        self._by_tuple[tuple_of(attempt.flow)] = entry
        if entry.key is not None:
            self._by_key[entry.key] = entry
        if entry.cookie is not None:
            self._by_cookie[entry.cookie] = entry
        self.became_stuck += 1

    def give_key(self, entry: Live, key: int) -> None:
        entry.key = key
        self._by_key[key] = entry

    def give_cookie(self, entry: Live, cookie: int) -> None:
        entry.cookie = cookie
        self._by_cookie[cookie] = entry

    def update(self, entry: Live, attempt: Attempt) -> None:
        """Replaces an attempt's state.

        Another tuple means that a sweep had taken one socket for another of the same route: then
        its cookie is another's too.
        """
        before, after = tuple_of(entry.attempt.flow), tuple_of(attempt.flow)
        entry.attempt = attempt
        if before == after:
            return
        self._drop_tuple(before, entry)
        self._by_tuple[after] = entry
        if entry.cookie is not None:
            self._drop_cookie(entry.cookie, entry)
            entry.cookie = None

    def close(
        self, entry: Live, outcome: Outcome, ended_ns: int, end: Transition | None = None
    ) -> Change:
        """Ends an attempt; `end` is the record that says so, if one does."""
        attempt = entry.attempt
        del self._live[attempt.id]
        self._drop_tuple(tuple_of(attempt.flow), entry)
        names: list[Tuple | int] = [tuple_of(attempt.flow)]
        if entry.key is not None:
            if self._by_key.get(entry.key) is entry:
                del self._by_key[entry.key]
            names.append(entry.key)
        if entry.cookie is not None:
            self._drop_cookie(entry.cookie, entry)
        self._remember(names, Ended(ended_ns, attempt.started_ns, entry.cookie))
        return self.ended(attempt, outcome, ended_ns, end)

    def ended(
        self, attempt: Attempt, outcome: Outcome, ended_ns: int, end: Transition | None
    ) -> Change:
        """The end of an attempt, which need not have been stuck."""
        self.outcomes[outcome] += 1
        over = replace(
            attempt,
            outcome=outcome,
            ended_ns=ended_ns,
            next_retry_ns=None,
            errno=(end.errno or None) if end else None,
            soft_errno=(end.soft_errno or None) if end else None,
        )
        return Change(ChangeKind.END, over, ended_ns)

    def forget_ended_before(self, now_ns: int) -> None:
        """Lets go of ends that are too old for late news."""
        while self._ended:
            oldest = next(iter(self._ended.values()))
            if now_ns - oldest.ended_ns < _REMEMBERED_NS:
                return
            self._ended.popitem(last=False)

    def _remember(self, names: list[Tuple | int], ended: Ended) -> None:
        for name in names:
            self._ended[name] = ended
            self._ended.move_to_end(name)
        while len(self._ended) > 2 * self._limits.max_attempts:
            self._ended.popitem(last=False)

    def _drop_tuple(self, key: Tuple, entry: Live) -> None:
        if self._by_tuple.get(key) is entry:
            del self._by_tuple[key]

    def _drop_cookie(self, cookie: int, entry: Live) -> None:
        if self._by_cookie.get(cookie) is entry:
            del self._by_cookie[cookie]
