"""How much is known of one resource, and since when: written by its watcher, read by anyone."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from tracer.kube.names import Resource
from tracer.kube.trouble import Problem, Remedy


@dataclass(frozen=True, slots=True)
class View:
    """One moment of a feed.

    listed         the server has answered with all of it, once at least
    current        every change is heard of
    true_wall_ns   when what is known was last known to be true; None: nothing is known
    problem        why it is not current; None where that is not known yet, or it is
    """

    listed: bool = False
    current: bool = False
    true_wall_ns: int | None = None
    problem: Problem | None = None

    @property
    def stale_wall_ns(self) -> int | None:
        """Since when what is known may be wrong; None where it is right, or nothing is known."""
        return None if self.current else self.true_wall_ns

    @property
    def denied(self) -> bool:
        """It is not there for this user, and was not since the start."""
        return not self.listed and self.problem is not None and self.problem.remedy is Remedy.ASK


class Feed:
    """Its view is replaced as a whole, so that readers need no lock."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.view = View()

    def cached(self, saved_wall_ns: int) -> None:
        """It was filled from the disk."""
        self.view = replace(self.view, true_wall_ns=saved_wall_ns)

    def listed(self) -> None:
        """All of it was answered."""
        self.view = replace(self.view, listed=True, true_wall_ns=time.time_ns())

    def current(self) -> None:
        """Changes are heard of from now on."""
        self.view = View(listed=True, current=True, true_wall_ns=time.time_ns())

    def heard(self) -> None:
        """Something came: what is known was true a moment ago."""
        self.view = replace(self.view, true_wall_ns=time.time_ns())

    def troubled(self, problem: Problem) -> None:
        """Changes are not heard of."""
        self.view = replace(self.view, current=False, problem=problem)
