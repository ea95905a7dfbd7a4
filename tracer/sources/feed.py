"""Threads that watch, and the bounded queue through which they speak to the tracker."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracer.model import Sweep, Transition
from tracer.sources.overdue import Overdue

if TYPE_CHECKING:
    from tracer.sources.bpf import BpfSource
    from tracer.sources.poll import Poller

# The kernel wakes the reader as soon as it has something; this is how often it looks up otherwise,
# to see attempts that pass the threshold unretransmitted, and a request to stop.
_LONGEST_WAIT_SECONDS: Final = 0.25
_SHORTEST_WAIT_SECONDS: Final = 0.02
# A round of polling may use this share of a CPU at most; then rounds come further apart.
_POLLING_SHARE: Final = 0.2
# The same for looking through the kernel's table of attempts.
_LOOKING_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Batch:
    """What a source has to say at once. Its transitions happened before its sweep was finished."""

    transitions: tuple[Transition, ...] = ()
    sweep: Sweep | None = None
    undecodable: int = 0


class Inbox:
    """The bounded queue between sources and tracker. What it has no room for is counted."""

    def __init__(self, size: int) -> None:
        self._queue: queue.Queue[Batch] = queue.Queue(size)
        self._lock = threading.Lock()
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Transitions that found the queue full."""
        return self._dropped

    def put(self, batch: Batch) -> None:
        """Never waits: a source that waits loses more in the kernel than is lost here."""
        try:
            self._queue.put_nowait(batch)
        except queue.Full:
            with self._lock:
                self._dropped += len(batch.transitions) + batch.undecodable

    def get(self, timeout_seconds: float) -> list[Batch]:
        """Everything that waits, after at most `timeout_seconds`."""
        batches: list[Batch] = []
        try:
            batches.append(self._queue.get(timeout=timeout_seconds))
            while True:
                batches.append(self._queue.get_nowait())
        except queue.Empty:
            return batches


class Feed(ABC):
    """One thread that runs a source until it is stopped. `failure` is what it has died of."""

    def __init__(self, name: str, inbox: Inbox) -> None:
        self._inbox = inbox
        self.failure: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Asks the thread to end and waits for it."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  handed to the thread that can report it
            self.failure = error

    @abstractmethod
    def _run(self) -> None:
        """Runs until `_stopping` is set."""


class StreamFeed(Feed):
    """Reads BPF. Sweeps are handed through it, so that none overtakes the kernel's records.

    `verify` asks for a sweep of some namespaces: an attempt is never called stuck for its age
    alone unless a sweep confirms that it is still in SYN_SENT. `forward_sweeps` is whether sweeps
    go on to the tracker, as a cross-check.
    """

    def __init__(
        self,
        source: BpfSource,
        inbox: Inbox,
        threshold_seconds: float,
        verify: Callable[[frozenset[int]], None],
        *,
        forward_sweeps: bool,
    ) -> None:
        super().__init__("bpf", inbox)
        self._source = source
        self._verify = verify
        self._forward_sweeps = forward_sweeps
        self._wait = min(_LONGEST_WAIT_SECONDS, max(_SHORTEST_WAIT_SECONDS, threshold_seconds / 4))
        self._sweep: Sweep | None = None
        self._overdue = Overdue()
        self.counters = source.counters()

    def take_sweep(self, sweep: Sweep) -> None:
        """Hands over a finished sweep; a newer one replaces one that still waits."""
        self._sweep = sweep

    def _run(self) -> None:
        next_look = time.monotonic() + self._wait
        while not self._stopping.is_set():
            self._forward(*self._source.read(self._wait))
            if self._sweep is not None:
                sweep, self._sweep = self._sweep, None
                self._compare(sweep)
            if time.monotonic() >= next_look:
                began = time.thread_time()
                self._look_at_table()
                used = time.thread_time() - began
                next_look = time.monotonic() + max(self._wait, used / _LOOKING_SHARE)
        self.counters = self._source.counters()
        self._forward(*self._source.read(0))

    def _compare(self, sweep: Sweep) -> None:
        # All that the kernel reported before this sweep ended is in the ring by now.
        transitions, undecodable = self._source.read(0)
        confirmed, ended = self._overdue.settle(sweep)
        for key, start_ns in ended:
            self._source.forget(key, start_ns)
        batch = Batch(
            (*transitions, *confirmed), sweep if self._forward_sweeps else None, undecodable
        )
        self._inbox.put(batch)

    def _look_at_table(self) -> None:
        """Looks for attempts that are late, if any is there whose SYN was not sent again."""
        self.counters = counters = self._source.counters()
        in_table = counters["added"] - counters["removed"]
        reported = counters["retransmitted"] - counters["retransmitted_removed"]
        found = self._source.overdue() if in_table > reported else {}
        namespaces = self._overdue.note(found)
        if namespaces:
            self._verify(namespaces)

    def _forward(self, transitions: list[Transition], undecodable: int) -> None:
        if transitions or undecodable:
            self._inbox.put(Batch(tuple(transitions), undecodable=undecodable))


class SweepFeed(Feed):
    """Sweeps at an interval, and when asked; each sweep goes to `deliver`.

    `watched` are the namespaces of attempts that are believed to be stuck: they are always read.
    `unseen` says what the last sweep could not see.
    """

    def __init__(
        self,
        poller: Poller,
        inbox: Inbox,
        interval_seconds: float,
        deliver: Callable[[Sweep], None] | None = None,
    ) -> None:
        """An interval of 0 sweeps only when asked."""
        super().__init__("poll", inbox)
        self._poller = poller
        self._interval = interval_seconds
        self.deliver = deliver or (lambda sweep: inbox.put(Batch(sweep=sweep)))
        self._lock = threading.Lock()
        self._asked_for: set[int] = set()
        self._asked = threading.Event()
        self.unseen = ""
        self.watched: frozenset[int] = frozenset()

    def ask(self, namespaces: frozenset[int]) -> None:
        """Asks for a sweep soon, that reads these namespaces whatever their counters say."""
        with self._lock:
            self._asked_for |= namespaces
        self._asked.set()

    def stop(self) -> None:
        self._stopping.set()
        self._asked.set()
        super().stop()

    def _run(self) -> None:
        next_regular = time.monotonic() if self._interval else float("inf")
        try:
            while not self._stopping.is_set():
                pause = next_regular - time.monotonic()
                if pause > 0 and not self._asked.wait(min(pause, threading.TIMEOUT_MAX)):
                    continue
                if self._stopping.is_set():
                    return
                began = time.thread_time()
                self.deliver(self._poller.sweep(self._take_asked()))
                self.unseen = self._describe_unseen()
                used = time.thread_time() - began
                if time.monotonic() >= next_regular:
                    next_regular = time.monotonic() + self._interval
                self._stopping.wait(used / _POLLING_SHARE)
        finally:
            self._poller.close()

    def _take_asked(self) -> frozenset[int]:
        with self._lock:
            self._asked.clear()
            asked, self._asked_for = frozenset(self._asked_for), set()
        return asked | self.watched

    def _describe_unseen(self) -> str:
        """What the last sweep could not see; empty where it saw everything."""
        parts: list[str] = []
        if self._poller.unreadable:
            parts.append(f"{self._poller.unreadable} that could not be looked into")
        if self._poller.denied:
            parts.append(f"that of {self._poller.denied} process(es) which may not be read")
        return f"network namespaces: {' and '.join(parts)}" if parts else ""
