"""Listens for ICMP errors in the namespaces where something fails, and knows whose they are."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from tracer.facts import IcmpError
from tracer.host.icmp import AboutPacket, IcmpListener
from tracer.model import Attempt, Endpoint

MAX_NAMESPACES: Final = 64
"""Two sockets each; more namespaces than that have something stuck only when all have."""

MAX_HEARD: Final = 16_384

_Ends = tuple[int, Endpoint, Endpoint]
"""Namespace, source and destination of the packet that an error is about."""


@dataclass(slots=True)
class _Ear:
    """An open listener: since when (CLOCK_MONOTONIC), and when it was last asked for."""

    listener: IcmpListener
    opened_ns: int
    asked: float


class Ears:
    """Errors by attempt. `lacking` says why nothing is heard, None where something is."""

    def __init__(self) -> None:
        self.lacking: str | None = None
        self._lock = threading.Lock()
        """Over all below. A question to the kernel under it takes microseconds."""
        self._open: OrderedDict[int, _Ear] = OrderedDict()
        self._heard: OrderedDict[_Ends, dict[tuple[int, int, str], tuple[int, IcmpError]]] = (
            OrderedDict()
        )

    @property
    def open_now(self) -> bool:
        return bool(self._open)

    def listen(self, netns: int, path: str) -> None:
        """Listens there from now on, until quiet() finds that nobody asked for it for long."""
        if self.lacking is not None:
            return
        with self._lock:
            ear = self._open.pop(netns, None) or self._opened(path)
            if ear is None:
                return
            ear.asked = time.monotonic()
            while len(self._open) >= MAX_NAMESPACES:
                self._shut(next(iter(self._open)))
            self._open[netns] = ear

    def _opened(self, path: str) -> _Ear | None:
        try:
            return _Ear(IcmpListener(path), time.monotonic_ns(), 0.0)
        except PermissionError:
            self.lacking = "ICMP errors (CAP_NET_RAW): who refused or could not forward is unknown"
        except OSError:  # the namespace is gone
            pass
        return None

    def quiet(self, after_seconds: float) -> None:
        """Closes listeners that nobody asked for lately: an open one keeps its namespace alive."""
        with self._lock:
            for netns, ear in list(self._open.items()):
                if time.monotonic() - ear.asked >= after_seconds:
                    self._shut(netns)

    def hear(self) -> None:
        """Takes in what came."""
        with self._lock:
            for netns in list(self._open):
                self._hear(netns)

    def errors_about(self, attempt: Attempt, *, now: bool = False) -> tuple[IcmpError, ...] | None:
        """What was heard about an attempt; None where nobody can say that nothing came: nobody
        listens in its namespace, or only since its last SYN. With `now`, what came until now.

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
            heard = self._heard.get((flow.netns, flow.source, flow.destination), {})
            about = tuple(
                error
                for sequence, error in heard.values()
                if attempt.isn is None or sequence == attempt.isn
            )
            sent_ns = attempt.last_syn_ns or attempt.started_ns
            deaf = sent_ns is None or sent_ns < ear.opened_ns
            return None if deaf and not about else about

    def close(self) -> None:
        with self._lock:
            for netns in list(self._open):
                self._shut(netns)
            self._heard.clear()

    def _shut(self, netns: int) -> None:
        self._open.pop(netns).listener.close()

    def _hear(self, netns: int) -> None:
        try:
            found = self._open[netns].listener.read()
        except OSError:
            self._shut(netns)
            return
        for about in found:
            self._note(netns, about)

    def _note(self, netns: int, about: AboutPacket) -> None:
        ends = (netns, about.source, about.destination)
        errors = self._heard.pop(ends, {})
        self._heard[ends] = errors
        while len(self._heard) > MAX_HEARD:
            self._heard.popitem(last=False)
        kind = (about.error.kind, about.error.code, about.error.sender)
        before = errors.get(kind)
        count = about.error.count
        if before is not None and before[0] == about.sequence:
            count += before[1].count
        if before is None and len(errors) >= 8:
            return
        errors[kind] = (about.sequence, replace(about.error, count=count))
