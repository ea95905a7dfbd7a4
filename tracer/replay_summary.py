"""Sums a recording up from the JSON alone: to make values of the model takes most of the time."""

from __future__ import annotations

from tracer.errors import InputError
from tracer.model import Destination, Endpoint, Outcome
from tracer.recording import (
    MOST_LIVE,
    NO_EVENT,
    Fields,
    Recording,
    destination_of,
    endpoint_of,
    integer,
    text,
)
from tracer.sinks.summary import Summary
from tracer.text import safe

_MOST_KNOWN = 4_096


def summarised(recording: Recording) -> list[str]:
    """Lines for people. Raises InputError for what is no recording."""
    tally = _Tally()
    first = last = None
    kinds: dict[str, int] = {}
    for record in recording.records(in_brief=True):
        event = record["event"]
        if "time" in record:
            first = first or record["time"]
            last = record["time"]
        kinds[event] = kinds.get(event, 0) + 1
        try:
            tally.count(record, event)
        except NO_EVENT:
            recording.skipped += 1
    if first is None or last is None:
        raise InputError("the recording holds no event")
    span = f"{safe(str(first))} to {safe(str(last))}"
    skipped = f"{recording.skipped:,} lines could not be read ({safe(recording.first_skipped)})"
    return [
        f"-- {recording.lines:,} lines of node {safe(recording.node or '?')}, {span}",
        f"-- {', '.join(f'{count:,} {kind}' for kind, count in sorted(kinds.items()))}",
        f"-- still stuck {len(tally.live):,} (peak {tally.peak:,})",
        *([f"-- {skipped}"] if recording.skipped else []),
        *(f"-- {line}".rstrip() for line in tally.summary.table(False)),
    ]


class _Tally:
    """Counts events; `live` are the ids of the attempts that are stuck."""

    def __init__(self) -> None:
        self.summary = Summary()
        self.live: set[str] = set()
        self.peak = 0
        self._known: dict[Endpoint, tuple[Fields, Fields, Destination]] = {}

    def count(self, record: Fields, event: str) -> None:
        """Raises one of NO_EVENT where it is no event."""
        if not event.startswith("attempt."):
            if event == "tracer.start":  # another trace: what became of them it does not know
                self.live.clear()
            return
        told = record["attempt"]
        outcome = told["outcome"]
        if event == "attempt.end":
            self.live.discard(told["id"])
        elif outcome is None and (len(self.live) < MOST_LIVE or told["id"] in self.live):
            self.live.add(told["id"])
            self.peak = max(self.peak, len(self.live))
        if event in {"attempt.stuck", "attempt.end"}:
            asked = endpoint_of(record["destination"])
            self.summary.add(
                asked,
                self._destination(asked, record),
                became_stuck=event == "attempt.stuck",
                outcome=None if outcome is None else Outcome(outcome),
                netns=integer(record["netns"]),
                pod=text(record["k8s"]["pod"]["uid"]),
            )

    def _destination(self, asked: Endpoint, record: Fields) -> Destination:
        """The same as for the event before, in nearly every case."""
        told, nat = record["destination"], record["nat"]
        before = self._known.get(asked)
        if before is not None and before[0] == told and before[1] == nat:
            return before[2]
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        known = destination_of(record)
        self._known[asked] = (told, nat, known)
        return known
