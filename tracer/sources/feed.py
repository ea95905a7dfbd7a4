"""Threads that watch, and the bounded queue through which they speak to the tracker."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracer.model import Sweep, Transition

if TYPE_CHECKING:
    from tracer.sources.bpf import BpfSource
    from tracer.sources.poll import Poller

# The kernel wakes the reader as soon as it has something; this is how often it looks up otherwise,
# to see attempts that pass the threshold unretransmitted, and a request to stop.
_LONGEST_WAIT_SECONDS: Final = 0.25
_SHORTEST_WAIT_SECONDS: Final = 0.02
# A round of polling may use this share of a CPU at most; then rounds come further apart.
_POLLING_SHARE: Final = 0.2


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
        self._failure: BaseException | None = None

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

    def fail(self, error: BaseException) -> None:
        """Says that a source has died of `error`."""
        self._failure = error

    def get(self, timeout_seconds: float) -> list[Batch]:
        """Everything that waits, after at most `timeout_seconds`. Raises a source's error."""
        if self._failure is not None:
            raise self._failure
        batches: list[Batch] = []
        try:
            batches.append(self._queue.get(timeout=timeout_seconds))
            while True:
                batches.append(self._queue.get_nowait())
        except queue.Empty:
            return batches


class Feed:
    """One thread that runs a source until it is stopped."""

    def __init__(self, name: str, inbox: Inbox) -> None:
        self._inbox = inbox
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
            self._inbox.fail(error)

    def _run(self) -> None:
        raise NotImplementedError


class StreamFeed(Feed):
    """Reads BPF. Sweeps are handed through it, so that none overtakes the kernel's records."""

    def __init__(self, source: BpfSource, inbox: Inbox, threshold_seconds: float) -> None:
        super().__init__("bpf", inbox)
        self._source = source
        self._wait = min(_LONGEST_WAIT_SECONDS, max(_SHORTEST_WAIT_SECONDS, threshold_seconds / 4))
        self._sweep: Sweep | None = None
        self.counters = source.counters()

    def take_sweep(self, sweep: Sweep) -> None:
        """Hands over a finished sweep; a newer one replaces one that still waits."""
        self._sweep = sweep

    def _run(self) -> None:
        next_look = time.monotonic() + self._wait
        while not self._stopping.is_set():
            self._forward(*self._source.read(self._wait))
            if self._sweep is not None:
                # All that the kernel reported before this sweep ended is in the ring by now.
                sweep, self._sweep = self._sweep, None
                transitions, undecodable = self._source.read(0)
                self._inbox.put(Batch(tuple(transitions), sweep, undecodable))
            if time.monotonic() >= next_look:
                self._look_at_table()
                next_look = time.monotonic() + self._wait
        self._look_at_table()
        self._forward(*self._source.read(0))

    def _look_at_table(self) -> None:
        self.counters = counters = self._source.counters()
        if counters["added"] > counters["removed"]:
            self._forward(self._source.overdue(), 0)

    def _forward(self, transitions: list[Transition], undecodable: int) -> None:
        if transitions or undecodable:
            self._inbox.put(Batch(tuple(transitions), undecodable=undecodable))


class SweepFeed(Feed):
    """Sweeps at an interval; each sweep goes to `deliver`."""

    def __init__(
        self,
        poller: Poller,
        inbox: Inbox,
        interval_seconds: float,
        deliver: Callable[[Sweep], None] | None = None,
    ) -> None:
        super().__init__("poll", inbox)
        self._poller = poller
        self._interval = interval_seconds
        self._deliver = deliver or (lambda sweep: inbox.put(Batch(sweep=sweep)))
        self.unseen = ""

    def _run(self) -> None:
        wait = 0.0
        try:
            while not self._stopping.wait(wait):
                began = time.thread_time()
                self._deliver(self._poller.sweep())
                self.unseen = self._describe_unseen()
                used = time.thread_time() - began
                wait = max(self._interval, used / _POLLING_SHARE)
        finally:
            self._poller.close()

    def _describe_unseen(self) -> str:
        """What the last sweep could not see; empty where it saw everything."""
        parts: list[str] = []
        if self._poller.unreadable:
            parts.append(f"{self._poller.unreadable} that could not be looked into")
        if self._poller.denied:
            parts.append(f"that of {self._poller.denied} process(es) which may not be read")
        return f"network namespaces: {' and '.join(parts)}" if parts else ""
