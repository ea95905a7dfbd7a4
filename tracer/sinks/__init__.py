"""Outputs. Each gets immutable values and keeps its own losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tracer.model import Health, Lifecycle, Report

Pulse = Callable[[Health, float], None]
"""Takes the tracer's state as it is and its uptime in seconds, about once a second."""


class Sink(Protocol):
    """An output of the trace.

    No method raises for a full disk, a closed pipe or a slow reader: what could not be written is
    counted in `dropped`, and said once. `keeps_record` is whether it is a record of events, or a
    view of them.
    """

    keeps_record: bool

    @property
    def dropped(self) -> int:
        """Events that could not be written so far."""

    @property
    def finished(self) -> bool:
        """Whether nobody reads this output any more, for good."""

    def write(self, reports: Sequence[Report]) -> None:
        """Takes the changes of one batch, in the order in which they happened."""

    def lifecycle(self, event: Lifecycle) -> None:
        """Takes news of the tracer itself."""

    def close(self) -> None:
        """Writes out what is still held. Nothing may be written afterwards."""
