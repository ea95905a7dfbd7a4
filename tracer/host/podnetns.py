"""Which pod a network namespace belongs to, told by the processes that live in it.

Reading every process takes milliseconds, and attempts come by the thousand. So one pass notes who
lives where (a link read for each process), only the namespaces that are asked for are looked into
(the cgroups of a few processes), and an answer stands for as long as the process that proved it is
still there. Inode numbers of namespaces are given out anew at once, the lowest first
(proc_alloc_inum() in fs/proc/generic.c): an answer outlives its proof only for attempts that had
begun while that was there, since a socket keeps its namespace; and it is no answer for attempts
that are older than the proof, which may have been the last pod's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tracer.host.cgroup import read_cgroup
from tracer.host.netns import inode_of_process, pids_in
from tracer.host.pods import host_netns
from tracer.host.process import start_of
from tracer.model import NANOSECONDS

_PASS_NS: Final = NANOSECONDS // 4
"""At the least between two passes."""
_REST: Final = 20
"""A pass is followed by this many times its own length without one: 5 % of a processor."""
_BELIEVED_NS: Final = 5 * NANOSECONDS
"""A process may enter the namespace of a pod that is not its own, and be all that was there at
first (a node's network agent): after this the question is put anew."""
_KEPT_NS: Final = 5 * NANOSECONDS
"""Attempts of a pod that is gone still end: the last answer is kept for them this long."""
_LATEST_RETRY_NS: Final = 2 * NANOSECONDS
"""A namespace in which no pod was found is looked into again, at growing intervals up to this."""
_VOTERS: Final = 4
"""Processes of a namespace that are asked, those with the lowest numbers: the sandbox comes
first."""
_MAX_NAMESPACES: Final = 16_384


@dataclass(frozen=True, slots=True)
class PodProcesses:
    """What the processes of a namespace show: their pod, and ids of containers and sandbox."""

    uid: str
    containers: tuple[str, ...]


@dataclass(slots=True)
class _Answer:
    """`proof` is a process that was in the namespace at `proven_ns`.

    `since_ns` is when it started, 0 where that is not known: the namespace is at least as old, as a
    runtime makes it before its first process.
    """

    pod: PodProcesses
    proof: int
    since_ns: int
    elected_ns: int
    proven_ns: int


@dataclass(slots=True)
class _Votes:
    pids: list[int] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)


class PodNamespaces:
    """Pods by network namespace. For one thread."""

    def __init__(
        self, proc: str = "/proc", clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._proc = proc
        self._clock_ns = clock_ns
        self._pids_of: dict[int, list[int]] = {}
        self._passed_ns: int | None = None
        self._next_pass_ns = 0
        self._answers: dict[int, _Answer] = {}
        # Namespaces without a known pod: when to look again, and how long to wait after that.
        self._unknown: dict[int, tuple[int, int]] = {}
        self.host_netns = host_netns(proc)

    def pod_in(self, netns: int, begun_ns: int | None = None) -> PodProcesses | None:
        """The pod whose own network namespace this is; None for the node's, and where no process
        of a pod lives or may be read.

        `begun_ns` is when the attempt that is asked about began (CLOCK_MONOTONIC), None: unknown,
        or about now. Of a pod that is gone, the answer stays for some seconds for attempts that
        began before it was last seen; none is given for those older than its first process. Never
        raises. 1 µs for those, 5 µs to see that a pod is still there, 0.1 ms to look into a
        namespace, 35 ms for a pass over 5,000 processes.
        """
        if netns == self.host_netns:
            return None
        now_ns = self._clock_ns()
        answer = self._answers.get(netns)
        if answer is not None and self._holds(netns, answer, begun_ns, now_ns):
            return _given(answer, begun_ns)
        found = self._search(netns, now_ns)
        if found is not None:
            if answer is not None and answer.pod.uid == found.pod.uid:
                found.since_ns = min(found.since_ns, answer.since_ns)
            self._answers[netns] = found
            return _given(found, begun_ns)
        if answer is None:
            return None
        if now_ns - answer.proven_ns >= _KEPT_NS:
            self._answers.pop(netns, None)  # the pass may have dropped it
            return None
        return _given(answer, begun_ns) if _covers(answer, begun_ns) else None

    def namespace_of(self, uid: str) -> int | None:
        """A pod's own network namespace, where pod_in() met it and it is still there."""
        for netns, answer in self._answers.items():
            if answer.pod.uid == uid and self._lives_in(answer.proof, netns):
                return netns
        return None

    def _holds(self, netns: int, answer: _Answer, begun_ns: int | None, now_ns: int) -> bool:
        if now_ns - answer.elected_ns >= _BELIEVED_NS:
            return False
        if _covers(answer, begun_ns):
            return True
        if not self._lives_in(answer.proof, netns):
            return False
        answer.proven_ns = now_ns
        return True

    def _search(self, netns: int, now_ns: int) -> _Answer | None:
        """Looks into a namespace, with a new pass where the last one does not help."""
        again_ns, delay_ns = self._unknown.get(netns, (now_ns, _PASS_NS))
        if now_ns < again_ns:
            return None
        found = None
        if self._passed_ns is not None and now_ns - self._passed_ns < _BELIEVED_NS:
            found = self._elect(netns, now_ns)
        passed = found is None and self._pass(now_ns)
        if found is None:
            found = self._elect(netns, now_ns)
        if found is not None:
            self._unknown.pop(netns, None)
        elif passed:
            later_ns = now_ns + delay_ns
            self._not_before(netns, later_ns, min(2 * delay_ns, _LATEST_RETRY_NS))
        else:
            self._not_before(netns, self._next_pass_ns, delay_ns)
        return found

    def _not_before(self, netns: int, again_ns: int, delay_ns: int) -> None:
        if netns not in self._unknown and len(self._unknown) >= _MAX_NAMESPACES:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[netns] = again_ns, delay_ns

    def _pass(self, now_ns: int) -> bool:
        """Notes who lives where, and forgets what is gone; False where it is not time yet."""
        if now_ns < self._next_pass_ns:
            return False
        pids_of: dict[int, list[int]] = {}
        try:
            pids = pids_in(self._proc)
        except OSError:
            pids = []
        for pid in pids:
            try:
                netns = inode_of_process(pid, self._proc)
            except OSError:  # gone, a zombie, or denied
                continue
            if netns == self.host_netns:
                continue
            living = pids_of.get(netns)
            if living is None:
                if len(pids_of) < _MAX_NAMESPACES:
                    pids_of[netns] = [pid]
            elif len(living) < _VOTERS:
                living.append(pid)
        self._pids_of = pids_of
        self._answers = {
            netns: answer
            for netns, answer in self._answers.items()
            if netns in pids_of or now_ns - answer.proven_ns < _KEPT_NS
        }
        done_ns = self._clock_ns()
        self._passed_ns = now_ns
        self._next_pass_ns = done_ns + max(_PASS_NS, _REST * (done_ns - now_ns))
        return True

    def _elect(self, netns: int, now_ns: int) -> _Answer | None:
        """The pod that most of a namespace's first processes belong to.

        Containers' processes come before others: the virtual machine of a sandboxed pod (Kata) has
        no container's cgroup, but nor have a runtime's helpers.
        """
        votes: dict[tuple[bool, str], _Votes] = {}
        for pid in self._pids_of.get(netns, ()):
            try:
                cgroup = read_cgroup(pid, self._proc)
            except OSError:  # gone, or hidden
                continue
            if cgroup.pod_uid is None or not self._lives_in(pid, netns):
                continue
            key = cgroup.container_id is not None, cgroup.pod_uid
            cast = votes.setdefault(key, _Votes())
            cast.pids.append(pid)
            if cgroup.container_id is not None:
                cast.containers.append(cgroup.container_id)
        if not votes:
            return None
        # Of equals the first, which has the lowest process number.
        (_, uid), cast = max(votes.items(), key=lambda one: (one[0][0], len(one[1].pids)))
        containers = tuple(dict.fromkeys(cast.containers))
        proof = cast.pids[0]
        started_ns = start_of(proof, self._proc)
        since_ns = 0 if started_ns is None else started_ns
        return _Answer(PodProcesses(uid, containers), proof, since_ns, now_ns, now_ns)

    def _lives_in(self, pid: int, netns: int) -> bool:
        try:
            return inode_of_process(pid, self._proc) == netns
        except OSError:
            return False


def _covers(answer: _Answer, begun_ns: int | None) -> bool:
    """Whether an attempt had begun when the proof was last seen."""
    return begun_ns is not None and begun_ns <= answer.proven_ns


def _given(answer: _Answer, begun_ns: int | None) -> PodProcesses | None:
    """The pod, unless the attempt may be of an earlier namespace with the same number."""
    return None if begun_ns is not None and begun_ns < answer.since_ns else answer.pod
