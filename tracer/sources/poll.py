"""Looks for sockets in SYN_SENT in every network namespace, at the cost of a few counters.

One look into a namespace walks the socket table of the whole host. So a namespace is looked into
only when a counter in its /proc/PID/net/netstat moved, and for as long as it holds stuck attempts.
Nothing that is stuck escapes, for its retransmission timer has run out, and then a SYN is sent
again (TCPSynRetrans), or the first one is found still waiting on this host, as it does for a
neighbour that does not answer (TCPSpuriousRtxHostQueues), or none can be sent any more, for the
route is gone (TCPTimeouts). A namespace where all are zero never had a stuck attempt.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Final

from tracer.host.netns import Namespace, enter, list_namespaces
from tracer.host.sockets import owners_of
from tracer.model import NANOSECONDS, Reached, SourceName, Sweep, SweptSocket, TcpState
from tracer.sources import procfs
from tracer.sources.connected import Connected
from tracer.sources.sock_diag import Diagnosed, SockDiag, receive_buffer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_COUNTERS: Final = (b"TCPSynRetrans", b"TCPSpuriousRtxHostQueues", b"TCPTimeouts")
# A namespace that vanishes while it is looked at is no failure.
_GONE: Final = (errno.ENOENT, errno.ESRCH, errno.EINVAL)
# A namespace's end is said so often that a listener who wants to hear it twice does.
_SWEEPS_SAID_GONE: Final = 3
# A simultaneous open waits in SYN_RECV.
_STILL_TRYING: Final = (TcpState.SYN_SENT.value, TcpState.SYN_RECV.value)


class TimeoutCounter:
    """Reads how often the timer of a SYN can have run out in a network namespace."""

    def __init__(self) -> None:
        self._header = b""
        self._columns: list[int] = []

    def read(self, namespace: Namespace) -> int:
        """The counters' sum since the namespace was made.

        Raises OSError where it is gone or refused, ValueError where the kernel lacks one of them
        (all came by Linux 3.15).
        """
        if namespace.pids:
            return self._parse(f"/proc/{namespace.pids[0]}/net/netstat")
        with enter(namespace.path):
            return self._parse("/proc/thread-self/net/netstat")

    def _parse(self, path: str) -> int:
        with open(path, "rb", buffering=0) as file:
            names, values, _ = file.read(1 << 16).split(b"\n", 2)
        if names != self._header:
            columns = names.split()
            self._columns = [columns.index(name) for name in _COUNTERS]
            self._header = names
        numbers = values.split()
        return sum(int(numbers[column]) for column in self._columns)


class Poller:
    """Sweeps over all network namespaces, or the wanted ones. For one thread at a time.

    `source` is what reads the sockets: sock_diag, or /proc where netlink is refused; `lacking`
    says so. `unreadable` counts the namespaces that could not be looked into at the last sweep,
    `denied` the processes of which not even the namespace may be known.
    """

    def __init__(
        self,
        *,
        threshold_seconds: float,
        netns: frozenset[int] | None = None,
        pid: int | None = None,
    ) -> None:
        self.unreadable = 0
        self.denied = 0
        self.lacking: tuple[str, ...] = ()
        self._threshold_ns = int(threshold_seconds * NANOSECONDS)
        self._wanted = netns
        self._pid = pid
        self._counter = TimeoutCounter()
        self._counts: dict[int, int] = {}
        self._moved: set[int] = set()
        self._gone: dict[int, int] = {}
        self._sockets: dict[int, SockDiag] = {}
        self._buffer = receive_buffer()
        self._known: dict[int, dict[int, Diagnosed]] = {}
        self._known_inodes: dict[int, dict[int, SweptSocket]] = {}
        self._connected = Connected()
        self.source = self._choose_source()

    def _choose_source(self) -> SourceName:
        try:
            probe = SockDiag(0, "/proc/self/ns/net")
            try:
                probe.syn_sent()
            finally:
                probe.close()
        except OSError as error:
            self.lacking = (
                f"netlink sock_diag ({error.strerror}): sockets are read from /proc, a slower way",
            )
            return SourceName.PROCFS
        return SourceName.SOCK_DIAG

    def sweep(self, also: Collection[int] = ()) -> Sweep:
        """One round: every namespace in which something can be stuck is read, and those `also`."""
        started = time.monotonic_ns()
        self.unreadable = 0
        listing = list_namespaces()
        # A namespace that is missing beside more denied processes than before may be theirs.
        complete = listing.unreadable <= self.denied
        self.denied = listing.unreadable
        namespaces = self._wanted_of(listing)
        self._forget_gone(namespaces, complete=complete)
        looked: set[int] = set()
        sockets: list[SweptSocket] = []
        established: set[int] = set()
        reached: list[Reached] = []
        for namespace in namespaces.values():
            try:
                idle = self._nothing_can_be_stuck(namespace)
                if idle and namespace.inode not in also:
                    continue
                found, connected = self._look(namespace, reached)
            except OSError as error:
                self._close(namespace.inode)
                if error.errno not in _GONE:
                    self.unreadable += 1
                continue
            looked.add(namespace.inode)
            sockets += found
            established |= connected
        return Sweep(
            source=self.source,
            started_ns=started,
            finished_ns=time.monotonic_ns(),
            looked=frozenset(looked),
            sockets=tuple(self._of_wanted_process(sockets)),
            gone=frozenset(self._gone),
            established=frozenset(established),
            reached=tuple(reached),
        )

    def close(self) -> None:
        """Closes every netlink socket."""
        for inode in list(self._sockets):
            self._close(inode)

    # --- namespaces ----------------------------------------------------------------------------

    def _wanted_of(self, listing: Mapping[int, Namespace]) -> Mapping[int, Namespace]:
        if self._wanted is None:
            return listing
        return {inode: ns for inode, ns in listing.items() if inode in self._wanted}

    def _forget_gone(self, present: Mapping[int, Namespace], *, complete: bool) -> None:
        """Lets go of namespaces that have no process left: an open socket would keep them."""
        self._gone = {
            inode: sweeps - 1
            for inode, sweeps in self._gone.items()
            if sweeps > 1 and inode not in present
        }
        for inode in self._counts.keys() - present.keys():
            self._close(inode)
            del self._counts[inode]
            self._moved.discard(inode)
            self._known.pop(inode, None)
            self._known_inodes.pop(inode, None)
            self._connected.forget(inode)
            if complete:
                self._gone[inode] = _SWEEPS_SAID_GONE

    def _close(self, inode: int) -> None:
        open_socket = self._sockets.pop(inode, None)
        if open_socket is not None:
            open_socket.close()

    def _nothing_can_be_stuck(self, namespace: Namespace) -> bool:
        """Whether the counter stood still and nothing was stuck at the last look.

        A namespace whose counter moved is looked into twice: a dump may miss a socket whose
        neighbour in the table was removed meanwhile.
        """
        inode = namespace.inode
        self._counts.setdefault(inode, 0)
        try:
            count = self._counter.read(namespace)
        except ValueError:
            return False
        moved = count != self._counts[inode]
        moved_before = inode in self._moved
        self._counts[inode] = count
        if moved:
            self._moved.add(inode)
        else:
            self._moved.discard(inode)
        if moved or moved_before or self._known.get(inode) or self._known_inodes.get(inode):
            return False
        self._close(inode)
        return True

    # --- sockets -------------------------------------------------------------------------------

    def _look(
        self, namespace: Namespace, reached: list[Reached]
    ) -> tuple[list[SweptSocket], set[int]]:
        """Sockets in SYN_SENT, and cookies of those that were and are now connected. What else was
        reached goes to `reached`, once something was stuck there at the look before.
        """
        if self.source is SourceName.PROCFS:
            return self._look_in_proc(namespace)
        inode = namespace.inode
        asked = self._sockets.get(inode)
        if asked is None:
            asked = self._sockets[inode] = SockDiag(inode, namespace.path, self._buffer)
        others = self._connected.due(inode) if self._known.get(inode) else None
        found = {entry.swept.cookie: entry for entry in asked.syn_sent(others)}
        if others is not None:
            reached += self._connected.note(inode, others, asked.flow_of)
        connected: set[int] = set()
        for cookie, entry in self._known.get(inode, {}).items():
            if cookie in found:
                continue
            state = asked.state_of(entry)
            if state in _STILL_TRYING:
                found[cookie] = entry
            elif state is not None:
                connected.add(cookie)
        self._known[inode] = {
            cookie: entry for cookie, entry in found.items() if self._is_stuck(entry.swept)
        }
        if not self._known[inode]:
            self._connected.forget(inode)
        return [entry.swept for entry in found.values()], connected

    def _look_in_proc(self, namespace: Namespace) -> tuple[list[SweptSocket], set[int]]:
        if namespace.pids:
            found, states = procfs.read_namespace(f"/proc/{namespace.pids[0]}", namespace.inode)
        else:
            with enter(namespace.path):
                found, states = procfs.read_namespace("/proc/thread-self", namespace.inode)
        present = {swept.cookie for swept in found}
        known = self._known_inodes.get(namespace.inode, {})
        connected = {
            inode
            for inode in known.keys() - present
            if states.get(inode, TcpState.CLOSE.value) != TcpState.CLOSE.value
        }
        self._known_inodes[namespace.inode] = {
            swept.cookie: swept for swept in found if self._is_stuck(swept)
        }
        return found, connected

    def _is_stuck(self, swept: SweptSocket) -> bool:
        if swept.retransmissions:
            return True
        return (
            swept.started_ns is not None
            and time.monotonic_ns() - swept.started_ns >= self._threshold_ns
        )

    def _of_wanted_process(self, sockets: list[SweptSocket]) -> Iterable[SweptSocket]:
        if self._pid is None or not sockets:
            return sockets
        inodes = {swept.owner.inode for swept in sockets if swept.owner.inode is not None}
        owners = owners_of(inodes, [self._pid])
        return [swept for swept in sockets if swept.owner.inode in owners]
