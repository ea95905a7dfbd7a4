"""What a one-shot check found: immutable values, None where something is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tracer.facts import Facts
from tracer.model import (
    Cause,
    Confidence,
    Destination,
    Endpoint,
    Flow,
    PodIdentity,
    Process,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One connection in SYN_SENT. `syns_sent` counts the first SYN too."""

    flow: Flow
    destination: Destination
    age_seconds: float | None = None
    syns_sent: int | None = None
    next_retry_seconds: float | None = None
    uid: int | None = None
    process: Process | None = None
    pod: PodIdentity | None = None


@dataclass(frozen=True, slots=True)
class Rung:
    """One way of collecting that was tried and did not work, and why."""

    method: str
    reason: str


RowKey = tuple[str | None, Endpoint]
"""What a row is of: a pod's label (None: of no known pod), and where to."""


@dataclass(frozen=True, slots=True)
class Clue:
    """One piece of what a verdict rests on, worded for people; see model.Evidence.

    `wall_ns` is when it was so, by the clock that a report's reader has too; None: not known.
    """

    kind: str
    summary: str
    wall_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """Why the connections of a row do not answer, as far as one look tells; see model.Verdict.

    `facts` are what it follows from: of a look just now alone, they are in no report.
    """

    pod: str | None
    destination: Endpoint
    cause: Cause
    confidence: Confidence
    summary: str
    evidence: tuple[Clue, ...] = ()
    facts: Facts | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> RowKey:
        return self.pod, self.destination

    @property
    def known(self) -> bool:
        return self.cause is not Cause.UNKNOWN


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The whole answer of a check.

    target    what was looked at, for people ("node node-1", "pod shop/cart-0")
    method    what collected the connections ("sock_diag", "ss", "file a.txt")
    tried     better ways that did not work
    notes     what could not be seen or read
    wall_ns   when it was collected, nanoseconds since the epoch
    verdicts  of the first rows, in their order; of none where nobody could look
    """

    target: str
    node: str
    method: str
    wall_ns: int
    findings: tuple[Finding, ...]
    tried: tuple[Rung, ...] = ()
    notes: tuple[str, ...] = ()
    verdicts: tuple[Judged, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to check next: why, and the commands that show it. Nothing here runs them."""

    title: str
    reason: str
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """The findings of one pod (or of what is none) to one destination."""

    pod: PodIdentity | None
    endpoint: Endpoint
    destination: Destination
    findings: tuple[Finding, ...]

    @property
    def key(self) -> RowKey:
        return self.pod.label if self.pod is not None else None, self.endpoint

    @property
    def count(self) -> int:
        return len(self.findings)

    @property
    def oldest_seconds(self) -> float | None:
        return max(
            (f.age_seconds for f in self.findings if f.age_seconds is not None), default=None
        )

    @property
    def most_syns(self) -> int | None:
        return max((f.syns_sent for f in self.findings if f.syns_sent is not None), default=None)

    @property
    def processes(self) -> tuple[Process, ...]:
        """Its processes, each once, in the order of their connections."""
        found = (f.process for f in self.findings if f.process is not None)
        return tuple({process.pid: process for process in found}.values())


def by_destination(findings: Sequence[Finding]) -> list[tuple[Endpoint, Destination, int]]:
    """Destinations and how many connections wait for each, most first, then by address."""
    counts: dict[Endpoint, int] = {}
    known: dict[Endpoint, Destination] = {}
    for finding in findings:
        endpoint = finding.flow.destination
        counts[endpoint] = counts.get(endpoint, 0) + 1
        known[endpoint] = finding.destination
    ranked = sorted(counts, key=lambda e: (-counts[e], e.address, e.port or 0))
    return [(endpoint, known[endpoint], counts[endpoint]) for endpoint in ranked]


def rows(findings: Sequence[Finding]) -> list[Row]:
    """One row per pod and destination, most connections first."""
    groups: dict[RowKey, list[Finding]] = {}
    for finding in findings:
        label = finding.pod.label if finding.pod is not None else None
        groups.setdefault((label, finding.flow.destination), []).append(finding)
    made = [
        Row(members[0].pod, endpoint, members[0].destination, tuple(members))
        for (_, endpoint), members in groups.items()
    ]
    return sorted(made, key=lambda row: (-row.count, row.endpoint.address, row.endpoint.port or 0))
