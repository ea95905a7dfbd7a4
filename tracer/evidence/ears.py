"""Listens for ICMP errors in the namespaces where something fails, and knows whose they are."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from tracer.facts import IcmpError
from tracer.host.icmp import AboutPacket, IcmpListener, NoRawSocket
from tracer.model import NANOSECONDS, Attempt, Endpoint

MAX_NAMESPACES: Final = 128
"""Two descriptors each. A node has some hundred pods, and few of them are in trouble at a time."""

MAX_HEARD: Final = 16_384
"""Pairs of ends that errors are kept for."""

MAX_KINDS: Final = 8
"""Of errors about one pair of ends: anybody can send some."""

REFUSED_SECONDS: Final = 30.0
"""Before a namespace that may not be listened to is tried again."""

_Ends = tuple[int, Endpoint, Endpoint]
"""Namespace, source and destination of the packet that an error is about."""

_Kind = tuple[int, int, int, str]
"""Sequence number of that packet; type, code and sender of the error."""


class Listener(Protocol):
    """See tracer.host.icmp.IcmpListener."""

    def read(self) -> list[AboutPacket]: ...
    def lost(self) -> int | None: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class _Ear:
    """An open listener, and since when (CLOCK_MONOTONIC) nothing has escaped it that it should have
    heard. `lost` is what it had lost then.
    """

    listener: Listener
    whole_ns: int
    asked: float
    lost: int = 0
    tells_loss: bool = True


@dataclass(slots=True)
class _Heard:
    """Errors about one pair of ends; `full` where there were more kinds than are kept."""

    errors: dict[_Kind, IcmpError]
    full: bool = False


class Ears:
    """Errors by attempt, in namespaces where somebody listens.

    Where nobody can say that nothing came, None is said of an attempt about which nothing is known:
    the buffer ran over, there was no room for more, nobody listened in time.
    """

    def __init__(
        self,
        open_listener: Callable[[str], Listener] = IcmpListener,
        *,
        max_namespaces: int = MAX_NAMESPACES,
        max_heard: int = MAX_HEARD,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is in seconds, of CLOCK_MONOTONIC."""
        self._open_listener = open_listener
        self._max_namespaces = max_namespaces
        self._max_heard = max_heard
        self._clock = clock
        self._unable: str | None = None
        self._lock = threading.Lock()
        """Over all below. A question to the kernel under it takes microseconds."""
        self._open: OrderedDict[int, _Ear] = OrderedDict()
        self._refused: dict[int, float] = {}
        """Namespaces that may not be listened to, and until when they are not tried again."""
        self._deaf: dict[int, float] = {}
        """Those for which there was no room, and when they were last asked for."""
        self._heard: OrderedDict[_Ends, _Heard] = OrderedDict()
        self._lost = 0

    @property
    def open_now(self) -> bool:
        return bool(self._open)

    @property
    def lost(self) -> int:
        """Errors that found no room, in the kernel or here, since the start."""
        return self._lost

    @property
    def lacking(self) -> tuple[str, ...]:
        """Where nothing is heard, and why."""
        if self._unable is not None:
            return (self._unable,)
        with self._lock:
            refused, deaf = len(self._refused), len(self._deaf)
        found = []
        if refused:
            found.append(f"ICMP errors in {_namespaces(refused)} that may not be entered")
        if deaf:
            found.append(
                f"ICMP errors in {_namespaces(deaf)} beyond the {self._max_namespaces} that are"
                " listened to at a time"
            )
        return tuple(found)

    def listen(self, netns: int, path: str) -> None:
        """Listens there from now on, until quiet() finds that nobody asked for it for long. Beyond
        the bound nobody listens in the namespaces that come last.
        """
        if self._unable is not None:
            return
        now = self._clock()
        with self._lock:
            ear = self._open.get(netns) or self._opened(netns, path, now)
            if ear is not None:
                ear.asked = now
                self._open[netns] = ear
                self._deaf.pop(netns, None)

    def _opened(self, netns: int, path: str, now: float) -> _Ear | None:
        if now < self._refused.get(netns, now):
            return None
        if len(self._open) >= self._max_namespaces:
            self._deaf[netns] = now
            return None
        try:
            ear = _Ear(self._open_listener(path), self._now_ns(), now)
        except NoRawSocket:
            self._unable = "ICMP errors (CAP_NET_RAW): who refused or could not forward is unknown"
            return None
        except PermissionError:  # one pod's alone, for all that is known
            self._refused[netns] = now + REFUSED_SECONDS
            return None
        except OSError:  # the namespace is gone
            return None
        self._refused.pop(netns, None)
        return ear

    def quiet(self, after_seconds: float) -> None:
        """Closes listeners that nobody asked for lately: an open one keeps its namespace alive."""
        now = self._clock()
        with self._lock:
            for netns, ear in list(self._open.items()):
                if now - ear.asked >= after_seconds:
                    self._hear(netns)
                    self._shut(netns)
            self._deaf = {n: at for n, at in self._deaf.items() if now - at < after_seconds}
            self._refused = {
                n: until
                for n, until in self._refused.items()
                if now < until + after_seconds  # tried again, if anybody still asks
            }

    def hear(self) -> None:
        """Takes in what came."""
        with self._lock:
            for netns in list(self._open):
                self._hear(netns)

    def errors_about(self, attempt: Attempt, *, now: bool = False) -> tuple[IcmpError, ...] | None:
        """What was heard about an attempt; None where nobody can say that nothing came about its
        last SYN. With `now`, what came until now.

        All four ends must be the attempt's, and the sequence number too where it is known: anybody
        can send an ICMP error.
        """
        flow = attempt.flow
        if flow.netns is None:
            return None
        with self._lock:
            if now and flow.netns in self._open:
                self._hear(flow.netns)
            ear = self._open.get(flow.netns)
            if ear is None:
                return None
            heard = self._heard.get((flow.netns, flow.source, flow.destination))
            about = () if heard is None else _about(heard, attempt.isn)
            if about:
                return about
            sent_ns = attempt.last_syn_ns or attempt.started_ns
            escaped = sent_ns is None or sent_ns < ear.whole_ns or not ear.tells_loss
            return None if escaped or (heard is not None and heard.full) else ()

    def close(self) -> None:
        with self._lock:
            for netns in list(self._open):
                self._shut(netns)
            self._heard.clear()
            self._deaf.clear()
            self._refused.clear()

    def _now_ns(self) -> int:
        return int(self._clock() * NANOSECONDS)

    def _shut(self, netns: int) -> None:
        self._open.pop(netns).listener.close()

    def _hear(self, netns: int) -> None:
        ear = self._open[netns]
        try:
            found = ear.listener.read()
            lost = ear.listener.lost()
        except OSError:
            self._shut(netns)
            return
        for about in found:
            self._note(netns, about)
        if lost is None:
            ear.tells_loss = False
        elif lost > ear.lost:
            self._lost += lost - ear.lost
            ear.lost, ear.whole_ns = lost, self._now_ns()

    def _note(self, netns: int, about: AboutPacket) -> None:
        ends = (netns, about.source, about.destination)
        heard = self._heard.pop(ends, None) or _Heard({})
        self._heard[ends] = heard
        while len(self._heard) > self._max_heard:
            (other, _, _), _ = self._heard.popitem(last=False)
            self._lost += 1
            if other in self._open:
                self._open[other].whole_ns = self._now_ns()
        error = about.error
        kind = (about.sequence, error.kind, error.code, error.sender)
        before = heard.errors.get(kind)
        if before is not None:
            heard.errors[kind] = replace(error, count=before.count + error.count)
        elif len(heard.errors) < MAX_KINDS:
            heard.errors[kind] = error
        else:
            heard.full = True
            self._lost += 1


def _about(heard: _Heard, isn: int | None) -> tuple[IcmpError, ...]:
    """Those that are about a SYN of that number; all, unproven, where it is not known."""
    if isn is None:
        return tuple(replace(error, proven=False) for error in heard.errors.values())
    return tuple(error for kind, error in heard.errors.items() if kind[0] == isn)


def _namespaces(count: int) -> str:
    return "1 network namespace" if count == 1 else f"{count} network namespaces"
