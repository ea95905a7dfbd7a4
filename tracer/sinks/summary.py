"""What a trace came to, by destination: the last thing that is written."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass, field

from tracer.model import ChangeKind, Destination, Endpoint, Outcome, Report
from tracer.sinks.wording import MAX_MEMBERS, endpoint, members, outcomes, tag

MAX_DESTINATIONS = 1_000
"""Destinations that are counted one by one for the summary; the rest is one sum."""

SHOWN_DESTINATIONS = 10


@dataclass(slots=True)
class _Tally:
    """What happened at one destination, by what was known of it last."""

    known: Destination | None = None
    stuck: int = 0
    ended: Counter[Outcome] = field(default_factory=Counter)
    netns: set[int] = field(default_factory=set)
    pods: set[str] = field(default_factory=set)


class Summary:
    """Counts per destination, for the end of the trace."""

    def __init__(self) -> None:
        self._tallies: dict[Endpoint, _Tally] = {}
        self._other = _Tally()

    def count(self, report: Report) -> None:
        """Takes what happened to an attempt."""
        attempt, kind = report.change.attempt, report.change.kind
        self.add(
            attempt.flow.destination,
            report.destination,
            became_stuck=kind is ChangeKind.STUCK,
            outcome=attempt.outcome if kind is ChangeKind.END else None,
            netns=attempt.flow.netns,
            pod=report.pod.uid if report.pod else None,
        )

    def add(
        self,
        destination: Endpoint,
        known: Destination,
        *,
        became_stuck: bool,
        outcome: Outcome | None,
        netns: int | None,
        pod: str | None,
    ) -> None:
        """The same from its parts; `outcome` is None while it goes on, `pod` a uid."""
        tally = self._tallies.get(destination)
        if tally is None:
            if len(self._tallies) < MAX_DESTINATIONS:
                tally = self._tallies[destination] = _Tally()
            else:
                tally = self._other
        tally.known = known
        if became_stuck:
            tally.stuck += 1
        elif outcome is not None:
            tally.ended[outcome] += 1
        if netns is not None and len(tally.netns) < MAX_MEMBERS:
            tally.netns.add(netns)
        if pod is not None and len(tally.pods) < MAX_MEMBERS:
            tally.pods.add(pod)

    def table(self, color: bool) -> list[str]:
        """The destinations with the most stuck attempts, as lines."""
        if not self._tallies:
            return []
        # Late, for the start-up time of a trace.
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        ranked = sorted(
            self._tallies.items(),
            key=lambda item: (item[1].stuck, item[1].ended.total()),
            reverse=True,
        )
        rows = [
            (f"{endpoint(destination)}{f' ({tag(tally.known)})' if tally.known else ''}", tally)
            for destination, tally in ranked[:SHOWN_DESTINATIONS]
        ]
        if self._other.stuck or self._other.ended:
            rows.append((f"other (beyond the first {MAX_DESTINATIONS} destinations)", self._other))
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("top destinations", no_wrap=True)
        for name in ("netns", "pods", "became stuck"):
            table.add_column(name, no_wrap=True, justify="right")
        table.add_column("ended", no_wrap=True)
        for name, tally in rows:
            cells = (
                name,
                members(tally.netns),
                members(tally.pods),
                str(tally.stuck),
                outcomes(tally.ended),
            )
            # Text, not str: "[2001:db8::1]" would be taken for markup.
            table.add_row(*(Text(cell) for cell in cells))
        rendered = io.StringIO()
        Console(
            file=rendered,
            width=1_000,  # as wide as it wants to be: a cut address is of no use
            color_system="standard" if color else None,
            legacy_windows=False,
        ).print(table)
        lines = rendered.getvalue().splitlines()
        if len(ranked) > SHOWN_DESTINATIONS:
            lines.append(f"and {len(ranked) - SHOWN_DESTINATIONS} more destinations")
        return lines
