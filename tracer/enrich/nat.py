"""Where connection tracking sends stuck attempts, looked up by a thread beside the trace.

The node's namespace is asked first: there kube-proxy picks the backend behind a service. Then the
attempt's own, for pods with rules of their own. Which backend it is differs from connection to
connection: what was not looked up stays unknown, and in an outage only a sample is looked up.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from tracer.host.ctnetlink import Conntrack, Entry
from tracer.host.netns import host_path, inode_of_process, list_namespaces
from tracer.model import Attempt, Endpoint, Flow, Nat

_STOP_SECONDS: Final = 1.0

# What will not go away by itself: no right to ask, or nothing in the kernel to ask.
_LASTING: Final = frozenset(
    {
        errno.EPERM,
        errno.EACCES,
        errno.EPROTONOSUPPORT,
        errno.EAFNOSUPPORT,
        errno.EOPNOTSUPP,
        errno.ENOSYS,
    }
)


@dataclass(frozen=True, slots=True)
class NatLimits:
    """What lookups may cost.

    requests_per_second  questions to the kernel, at most two a lookup; one takes 40 µs
    again_seconds        before an attempt is looked up again: whether anything came back changes
    per_destination      attempts of one namespace to one destination that are looked up
    attempts             attempts that are looked up until they are forgotten
    queue                attempts that wait for the thread
    open_sockets         namespaces whose sockets are open at a time
    idle_seconds         before a socket is closed: it keeps the namespace of a dead pod alive
    list_seconds         before the namespaces of the machine are listed again
    """

    requests_per_second: float = 200.0
    again_seconds: float = 3.0
    per_destination: int = 8
    attempts: int = 4_096
    queue: int = 1_024
    open_sockets: int = 4
    idle_seconds: float = 2.0
    list_seconds: float = 5.0


class NatLookups:
    """Asks connection tracking about attempts, on a thread of its own.

    `ask`, `nat_of` and `forget` are for one thread and never wait for the kernel. `lacking` says
    why nothing is looked up any more, None while it is. `dropped` counts what `ask` found no room
    for, `requests` the questions to the kernel.
    """

    def __init__(self, host_path: str | None = None, limits: NatLimits | None = None) -> None:
        """`host_path` is the file of the node's namespace, by default that of the first process."""
        self.lacking: str | None = None
        self.dropped = 0
        self.requests = 0
        self._limits = limits or NatLimits()
        self._host_path = host_path
        self._sample = Sample(self._limits)
        self._found: dict[str, Nat] = {}
        self._lock = threading.Lock()  # over sample and found; never held while the kernel is asked
        self._queue: queue.Queue[Attempt | None] = queue.Queue(self._limits.queue)
        self._paths = _Paths(self._limits.list_seconds)
        self._sockets = _Sockets(self._limits)
        self._next_request = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name="nat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, within a second; what was found can still be had."""
        self._stopping.set()
        with suppress(queue.Full):  # then it is not waiting, and sees the event
            self._queue.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def ask(self, attempt: Attempt) -> None:
        """Has an attempt looked up if it is its turn: to be called whenever it changes.

        Nothing is asked about one whose source port is not known yet.
        """
        if self.lacking is not None or None in _ports(attempt.flow):
            return
        now = time.monotonic()
        with self._lock:
            if not self._sample.wants(attempt, now):
                return
            if self._sample.full and attempt.id not in self._sample:
                self.dropped += 1
                return
            try:
                self._queue.put_nowait(attempt)
            except queue.Full:
                self.dropped += 1
                return
            self._sample.note(attempt, now)

    def nat_of(self, attempt_id: str) -> Nat | None:
        """What was found last; None where nothing was, or nobody looked.

        `destination` is the attempt's own where it is tracked and not translated.
        """
        return self._found.get(attempt_id)

    def forget(self, attempt_id: str) -> None:
        """Makes room: the attempt is over. What was found of it is gone."""
        with self._lock:
            self._sample.forget(attempt_id)
            self._found.pop(attempt_id, None)

    # --- the thread ----------------------------------------------------------------------------

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001  told to whoever reads `lacking`
            self.lacking = _sentence(error)
        finally:
            self._sockets.close()

    def _run(self) -> None:
        """Looks up what is asked for. Raises what makes further lookups pointless."""
        host = self._host()
        while not self._stopping.is_set():
            try:
                attempt = self._queue.get(timeout=self._sockets.idle_in(time.monotonic()))
            except queue.Empty:
                attempt = None
            if attempt is not None and attempt.id in self._sample:
                self._look_up(attempt, host)
            self._sockets.close_idle(time.monotonic())

    def _host(self) -> _Place:
        path = self._host_path or host_path()
        return _Place(Path(path).stat().st_ino, path)

    def _look_up(self, attempt: Attempt, host: _Place) -> None:
        try:
            entry = self._find(attempt, host)
        except _Refused:
            raise
        except OSError:
            return  # a namespace that is gone, or could not be asked now: nothing new is known
        with self._lock:
            # Where the entry is gone, what it said stays: a refusal removes it before it is read.
            if entry is not None and attempt.id in self._sample:
                self._found[attempt.id] = Nat(entry.reply_source, entry.state, entry.replied)

    def _find(self, attempt: Attempt, host: _Place) -> Entry | None:
        """The attempt's entry in the first namespace that has one; None: all say there is none.

        Raises OSError where one of them could not be asked.
        """
        for place in self._places(attempt, host):
            self._wait_for_turn()
            if self._stopping.is_set():
                raise InterruptedError(errno.EINTR, "the trace ends")
            self.requests += 1
            try:
                entry = self._sockets.to(place, time.monotonic()).get(attempt.flow)
            except OSError as error:
                self._sockets.drop(place.inode)
                if place is host and error.errno in _LASTING:
                    raise _Refused(*error.args) from error
                raise
            if entry is not None:
                return entry
        return None

    def _places(self, attempt: Attempt, host: _Place) -> Iterator[_Place]:
        """The namespaces to ask. Raises OSError where the attempt's own is not to be found."""
        own = attempt.flow.netns
        if own == host.inode or not _stays_inside(attempt.flow):
            yield host
        if own is not None and own != host.inode:
            yield self._paths.find(own, attempt.owner.pid)

    def _wait_for_turn(self) -> None:
        """Keeps questions to the kernel apart, or ends early for `stop`."""
        now = time.monotonic()
        if now < self._next_request:
            self._stopping.wait(self._next_request - now)
        self._next_request = max(now, self._next_request) + 1 / self._limits.requests_per_second


class Sample:
    """Which attempts are looked up, and when again. Time is a parameter, in seconds."""

    def __init__(self, limits: NatLimits) -> None:
        self._limits = limits
        self._key_of: dict[str, _Key] = {}
        self._due: dict[str, float] = {}
        self._taken: Counter[_Key] = Counter()

    def __contains__(self, attempt_id: object) -> bool:
        return attempt_id in self._due

    @property
    def full(self) -> bool:
        return len(self._due) >= self._limits.attempts

    def wants(self, attempt: Attempt, now: float) -> bool:
        """Whether a look is due: it is none of too many to its destination, nor too soon again."""
        due = self._due.get(attempt.id)
        if due is not None:
            return now >= due
        return self._taken[_key(attempt.flow)] < self._limits.per_destination

    def note(self, attempt: Attempt, now: float) -> None:
        """An attempt is being looked up: it keeps its place until it is forgotten."""
        if attempt.id not in self._due:
            key = self._key_of[attempt.id] = _key(attempt.flow)
            self._taken[key] += 1
        self._due[attempt.id] = now + self._limits.again_seconds

    def forget(self, attempt_id: str) -> None:
        key = self._key_of.pop(attempt_id, None)
        if key is None:
            return
        del self._due[attempt_id]
        self._taken[key] -= 1
        if not self._taken[key]:
            del self._taken[key]


_Key = tuple[int | None, Endpoint]


class _Place(NamedTuple):
    """A network namespace and its file."""

    inode: int
    path: str


class _Refused(OSError):
    """The node's namespace cannot be asked, now or later."""


class _Paths:
    """Files by which namespaces can be entered."""

    def __init__(self, list_seconds: float) -> None:
        self._list_seconds = list_seconds
        self._listed: dict[int, str] = {}
        self._listed_at: float | None = None

    def find(self, inode: int, pid: int | None) -> _Place:
        """Through the process, where it still lives there, else in a list of all namespaces.

        Raises OSError where it is not found.
        """
        if pid is not None and _lives_in(pid, inode):
            return _Place(inode, f"/proc/{pid}/ns/net")
        now = time.monotonic()
        path = self._listed.get(inode)
        if (path is None or not _leads_to(path, inode)) and (
            self._listed_at is None or now - self._listed_at >= self._list_seconds
        ):
            self._listed = {found.inode: found.path for found in list_namespaces().values()}
            self._listed_at = now
            path = self._listed.get(inode)
        if path is None or not _leads_to(path, inode):
            raise FileNotFoundError(errno.ENOENT, f"nothing leads to network namespace {inode}")
        return _Place(inode, path)


class _Sockets:
    """A few open sockets, the one used longest ago first."""

    def __init__(self, limits: NatLimits) -> None:
        self._limits = limits
        self._open: OrderedDict[int, Conntrack] = OrderedDict()
        self._used: dict[int, float] = {}

    def to(self, place: _Place, now: float) -> Conntrack:
        """The socket in a namespace, opened where it is not. Raises OSError where it cannot be."""
        asked = self._open.get(place.inode)
        if asked is None:
            while len(self._open) >= self._limits.open_sockets:
                self.drop(next(iter(self._open)))
            asked = self._open[place.inode] = Conntrack(place.path)
        self._open.move_to_end(place.inode)
        self._used[place.inode] = now
        return asked

    def drop(self, inode: int) -> None:
        asked = self._open.pop(inode, None)
        if asked is not None:
            asked.close()
        self._used.pop(inode, None)

    def idle_in(self, now: float) -> float | None:
        """Seconds until a socket has been idle for long enough; None where none is open."""
        if not self._open:
            return None
        return max(0.0, self._used[next(iter(self._open))] + self._limits.idle_seconds - now)

    def close_idle(self, now: float) -> None:
        while self._open and self.idle_in(now) == 0.0:
            self.drop(next(iter(self._open)))

    def close(self) -> None:
        for inode in list(self._open):
            self.drop(inode)


def _lives_in(pid: int, inode: int) -> bool:
    try:
        return inode_of_process(pid) == inode
    except OSError:
        return False


def _leads_to(path: str, inode: int) -> bool:
    try:
        return Path(path).stat().st_ino == inode
    except OSError:
        return False


def _stays_inside(flow: Flow) -> bool:
    """Whether packets from this source do not leave their namespace.

    The node's table must not be asked about them: its own connections have such tuples too. IPv4's
    link-local addresses are given to pods by some CNI plugins, and leave.
    """
    try:
        source = ip_address(flow.source.address)
    except ValueError:
        return True
    return source.is_loopback or (source.version == 6 and source.is_link_local)


def _key(flow: Flow) -> _Key:
    return flow.netns, flow.destination


def _ports(flow: Flow) -> tuple[int | None, int | None]:
    return flow.source.port, flow.destination.port


def _sentence(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return (
        f"connection tracking ({reason or error}): which backend of a service an attempt is sent "
        "to is not known"
    )
