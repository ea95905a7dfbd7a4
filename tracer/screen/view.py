"""How somebody wants to see the picture: grouped, ordered and filtered."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tracer.screen.query import Query


class Group(StrEnum):
    """What one row stands for."""

    PAIR = "pod + destination"
    DESTINATION = "destination"
    POD = "pod"
    WORKLOAD = "workload"
    ATTEMPT = "attempt"


class Sort(StrEnum):
    """By what rows are ordered when they are."""

    STUCK = "stuck"
    AGE = "oldest"
    SYNS = "SYNs"
    ENDED = "ended"
    CAUSE = "verdict"
    WHO = "pod"
    WHERE = "destination"


class Scopes(StrEnum):
    """Which destinations are shown."""

    ALL = "all"
    VPC = "VPC/internal"
    EXTERNAL = "external"


@dataclass(frozen=True, slots=True)
class View:
    """How somebody wants to see it."""

    group: Group = Group.PAIR
    sort: Sort = Sort.STUCK
    reverse: bool = False
    scopes: Scopes = Scopes.ALL
    query: Query = field(default_factory=Query)
