"""The picture at one time: immutable values, for whoever draws them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tracer.model import Attempt, Endpoint, Health, Lifecycle, Outcome, Report, Verdict

FADE_SECONDS: Final = 60
"""How long what has ended stays in the picture."""

HISTORY_STEPS: Final = 60
STEP_SECONDS: Final = 10
"""The last ten minutes, in steps of ten seconds."""

Who = tuple[Hashable, ...]
PairKey = tuple[Who, Endpoint]


class PointKind(StrEnum):
    """What a mark on an attempt's time line stands for."""

    SYN = "SYN"
    DROP = "drop"
    ICMP = "ICMP"
    RST = "RST"
    END = "end"


@dataclass(frozen=True, slots=True)
class Point:
    """Something that happened to an attempt; `at_ns` by CLOCK_MONOTONIC."""

    kind: PointKind
    at_ns: int
    text: str


@dataclass(frozen=True, slots=True)
class Held:
    """An attempt with the last that was reported of it, and its course."""

    key: PairKey
    report: Report
    points: tuple[Point, ...]

    @property
    def attempt(self) -> Attempt:
        return self.report.change.attempt

    @property
    def live(self) -> bool:
        return self.report.change.attempt.outcome is None


@dataclass(frozen=True, slots=True)
class Pair:
    """Somebody's attempts at one destination, added up: also of those that are no longer held.

    `last_ns` is when something happened last, `report` the latest report, `verdict` the latest.
    """

    key: PairKey
    report: Report
    live: int
    ended: Mapping[Outcome, int]
    last_ns: int
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums for the header.

    new_per_minute  attempts that became stuck within the last minute
    success         share that went well of the connects that ended within the last minute; None:
                    unknown. What is stuck has not ended
    history         most that were stuck at once, by ten seconds, oldest first; None: not running
    unheld          attempts the picture had no room for, since the start
    scoped          all of this is of some pods alone, while the kernel counts for the whole node
    """

    stuck_now: int = 0
    peak: int = 0
    became_stuck: int = 0
    new_per_minute: int = 0
    success: float | None = None
    outcomes: Mapping[Outcome, int] = field(default_factory=dict)
    history: tuple[int | None, ...] = (None,) * HISTORY_STEPS
    unheld: int = 0
    scoped: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one time. Nothing in it ever changes; `version` tells two apart."""

    version: int
    now_ns: int
    wall_ns: int
    attempts: Mapping[str, Held]
    pairs: Mapping[PairKey, Pair]
    totals: Totals
    health: Health | None
    uptime_seconds: float
    log: tuple[Report | Lifecycle | Notice, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence for people, of the program's own."""

    wall_ns: int
    text: str
