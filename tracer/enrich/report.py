"""Adds to a change what is known beyond the socket: process, pod, destination."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from tracer.enrich.nat import NatLookups
from tracer.enrich.pod import Pods
from tracer.enrich.service import NamedDestinations
from tracer.host.netns import list_namespaces
from tracer.host.process import ProcessTable
from tracer.host.sockets import owners_of
from tracer.model import (
    NANOSECONDS,
    Attempt,
    Change,
    ChangeKind,
    Destination,
    Owner,
    Process,
    Report,
    Verdict,
)

# Finding a socket's process reads the descriptors of every process of its namespace: not more often
# than this, however many sockets ask.
_SEARCH_SECONDS: Final = 0.5


class Reporter:
    """Turns changes into reports. What it has found for an attempt is kept until its end."""

    def __init__(
        self,
        destinations: NamedDestinations,
        processes: ProcessTable,
        pods: Pods,
        nat: NatLookups | None = None,
    ) -> None:
        self._destinations = destinations
        self._processes = processes
        self._pods = pods
        self._nat = nat
        self._process_of: dict[str, Process] = {}
        self._pid_of: dict[int, int] = {}
        self._searched_ns = 0

    def reports(self, changes: Sequence[Change], wall_offset_ns: int) -> list[Report]:
        """One report a change, in their order.

        `wall_offset_ns` is what must be added to CLOCK_MONOTONIC for the time of day.
        """
        self._find_owners(change.attempt for change in changes)
        return [self._report(change, wall_offset_ns) for change in changes]

    def _report(self, change: Change, wall_offset_ns: int) -> Report:
        attempt, time_ns = change.attempt, change.time_ns
        retry_ns = attempt.next_retry_ns
        process = self._process(change)
        return Report(
            change=change,
            destination=self._destination(change),
            process=process,
            wall_ns=time_ns + wall_offset_ns,
            age_seconds=attempt.age_seconds(time_ns),
            next_retry_seconds=(
                None if retry_ns is None else max(0, retry_ns - time_ns) / NANOSECONDS
            ),
            pod=self._pods.identify(
                process,
                attempt.flow,
                attempt.first_seen_ns if attempt.started_ns is None else attempt.started_ns,
            ),
        )

    def again(self, report: Report, verdict: Verdict, now_ns: int, wall_offset_ns: int) -> Report:
        """A report of an attempt's verdict, as things are now."""
        attempt = report.change.attempt
        retry_ns = attempt.next_retry_ns
        return replace(
            report,
            change=Change(ChangeKind.EVIDENCE, attempt, now_ns),
            wall_ns=now_ns + wall_offset_ns,
            age_seconds=attempt.age_seconds(now_ns),
            next_retry_seconds=(
                None
                if retry_ns is None or attempt.outcome is not None
                else max(0, retry_ns - now_ns) / NANOSECONDS
            ),
            pod=self._pods.identify(report.process, attempt.flow) or report.pod,
            destination=self._destination_now(report),
            verdict=verdict,
        )

    def _destination_now(self, report: Report) -> Destination:
        """What the verdict was judged by may have changed since the attempt's last report."""
        attempt = report.change.attempt
        described = self._destinations.describe(attempt.flow.destination)
        nat = None if self._nat is None else self._nat.nat_of(attempt.id)
        return replace(described, nat=nat or report.destination.nat)

    def _destination(self, change: Change) -> Destination:
        """With where connection tracking sends it, once that was looked up."""
        attempt = change.attempt
        described = self._destinations.describe(attempt.flow.destination)
        if self._nat is None:
            return described
        nat = self._nat.nat_of(attempt.id)
        if change.kind is ChangeKind.END:
            self._nat.forget(attempt.id)
        else:
            self._nat.ask(attempt)
        return described if nat is None else replace(described, nat=nat)

    def _process(self, change: Change) -> Process | None:
        attempt = change.attempt
        ended = change.kind is ChangeKind.END
        known = (
            self._process_of.pop(attempt.id, None) if ended else self._process_of.get(attempt.id)
        )
        if known is None:
            known = self._describe(attempt)
            if known is not None and not ended:
                self._process_of[attempt.id] = known
        if ended and attempt.owner.inode is not None:
            self._pid_of.pop(attempt.owner.inode, None)
        return known

    def _describe(self, attempt: Attempt) -> Process | None:
        owner = attempt.owner
        if owner.pid is None and owner.inode is not None:
            pid = self._pid_of.get(owner.inode)
            if pid is None:
                return None
            # Found by a descriptor it holds now, so it cannot be another with the same number.
            return self._processes.describe(Owner(pid=pid, uid=owner.uid))
        return self._processes.describe(owner, not_after_ns=attempt.started_ns)

    def _find_owners(self, attempts: Iterable[Attempt]) -> None:
        """Looks up the processes of a poller's sockets, all of a batch in one pass."""
        wanted: dict[int, set[int]] = {}
        for attempt in attempts:
            owner, netns = attempt.owner, attempt.flow.netns
            if owner.pid is not None or owner.inode is None or netns is None:
                continue
            if attempt.outcome is None and owner.inode not in self._pid_of:
                wanted.setdefault(netns, set()).add(owner.inode)
        now = time.monotonic_ns()
        if not wanted or now - self._searched_ns < _SEARCH_SECONDS * NANOSECONDS:
            return
        self._searched_ns = now
        namespaces = list_namespaces()
        for netns, inodes in wanted.items():
            if netns in namespaces:
                self._pid_of.update(owners_of(inodes, namespaces[netns].pids))
