"""An attempt's course as one line of marks, to a scale that several share."""

from __future__ import annotations

import math
from typing import Final

from rich.text import Text

from tracer.model import NANOSECONDS, Outcome
from tracer.screen.glyphs import Glyphs
from tracer.snapshot import Held, PointKind


def length(held: Held, now: int) -> float:
    """Seconds from its begin to its end, or to its next SYN."""
    began = held.attempt.started_ns or held.attempt.first_seen_ns
    end = held.attempt.ended_ns or max(now, held.attempt.next_retry_ns or 0)
    return max(0.5, (end - began) / NANOSECONDS)


def _place(seconds: float, longest: float, width: int) -> int:
    """SYNs go out at doubled intervals: on a scale of logarithms they stand side by side."""
    share = math.log2(1 + max(0.0, seconds)) / math.log2(1 + longest)
    return min(width - 1, max(0, round(share * (width - 1))))


def axis(longest: float, width: int, glyphs: Glyphs) -> Text:
    """Where the seconds 0, 1, 3, 7, 15 ... are."""
    cells = [" "] * (width + 1)
    second, free = 0, 0
    while second <= longest:
        at = _place(second, longest, width)
        label = f"{second}s"
        if at >= free and at + len(label) <= width:
            cells[at : at + len(label)] = label
            free = at + len(label) + 1
        second = second * 2 + 1
    return Text(glyphs.fit(" " + "".join(cells).rstrip(), width + 1), "dim", no_wrap=True, end="")


_MARKS: Final = {
    PointKind.SYN: ("S", "bold", 0),
    PointKind.ICMP: ("I", "bold yellow", 1),
    PointKind.DROP: ("D", "bold red", 2),
    PointKind.RST: ("R", "bold red", 3),
    PointKind.END: ("X", "bold red", 4),
}


def time_line(held: Held, now: int, longest: float, width: int, glyphs: Glyphs) -> Text:
    """An attempt from its begin to its end, or to now and its next SYN."""
    attempt = held.attempt
    began = attempt.started_ns or attempt.first_seen_ns
    end = attempt.ended_ns or now

    def place(at_ns: int) -> int:
        return _place((at_ns - began) / NANOSECONDS, longest, width)

    cells: list[tuple[str, str, int]] = [(" ", "", -2)] * width
    for at in range(place(end) + 1):
        cells[at] = (glyphs.line, "dim", -1)
    if held.live and attempt.next_retry_ns is not None:
        cells[place(max(attempt.next_retry_ns, now))] = (">", "bold green", 0)
    for point in held.points:
        mark, style, weight = _MARKS[point.kind]
        if point.kind is PointKind.END and attempt.outcome is Outcome.ESTABLISHED:
            mark, style = "E", "bold green"
        elif point.kind is PointKind.END and attempt.outcome is Outcome.REFUSED:
            mark = "R"
        at = place(point.at_ns)
        if weight > cells[at][2]:
            cells[at] = (mark, style, weight)
    line = Text(" ", no_wrap=True, end="")
    for mark, style, _ in cells:
        line.append(mark, style)
    return line
