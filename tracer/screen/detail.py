"""One row in full: why, its attempts over time, whose they are, what to do, who else is hit."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final

from rich.text import Text

from tracer.model import (
    COMPARISON,
    NANOSECONDS,
    Endpoint,
    NameSource,
    Nat,
    Report,
    errno_name,
)
from tracer.screen.glyphs import Glyphs
from tracer.screen.next_steps import steps_of
from tracer.screen.page import Page
from tracer.screen.rows import Row, others_to
from tracer.screen.timeline import axis, length, time_line
from tracer.screen.words import (
    TAG_STYLES,
    age,
    ago,
    because,
    called,
    ends,
    since,
    until,
    whose,
    workload,
)
from tracer.sinks.wording import endpoint, process_name
from tracer.snapshot import Held, Point, Snapshot

MOST_ATTEMPTS: Final = 4
MOST_OTHERS: Final = 12
_MOST_COMMAND: Final = 400
_CLOCK_CELLS: Final = 9


def detail(row: Row, snapshot: Snapshot, *, node: str, width: int, glyphs: Glyphs) -> list[Text]:
    """All lines, none wider than `width`."""
    page = Page(width, glyphs)
    now = snapshot.now_ns
    report = row.report
    flow, known = report.change.attempt.flow, report.destination
    page.add(f"{whose(report)} {glyphs.arrow} {endpoint(flow.destination)}", "bold")
    page.add(
        f"{known.scope.tag}{_and(called(known))}{_and(_more_than_one(row))}",
        TAG_STYLES[known.scope],
    )
    sums = f"{row.stuck} stuck" if row.stuck else "nothing is stuck any more"
    if row.stuck:
        sums += f", oldest {age(since(row.oldest_ns, now))}, next SYN {_coming(row.next_ns, now)}"
    ended = ends(row.ended, short_words=False)
    page.add(f"{sums}; ended: {ended or 'none'}", "bold red" if row.stuck else "")

    page.section("why")
    _why(page, row)
    shown = _worth_most(row.members)[:MOST_ATTEMPTS]
    _attempts(page, row, shown, now, width)
    page.section("next steps")
    for number, step in enumerate(steps_of(row, node), start=1):
        page.add(f"{number}. {step.title} {step.reason}")
        for command in step.commands:
            page.add(command, "cyan", indent=4)
    if row.verdict is not None and row.verdict.evidence:
        page.section("evidence (when it was so last)")
        offset = snapshot.wall_ns - now
        for piece in row.verdict.evidence:
            if piece.kind == COMPARISON:
                continue
            if piece.at_ns is None:
                page.add(piece.summary, indent=_CLOCK_CELLS, hang=0)
            else:
                page.add(f"{clock(piece.at_ns + offset)} {piece.summary}", hang=_CLOCK_CELLS)
    page.section("who")
    for name, value in _facts(report):
        page.add(f"{name:<10} {value}", hang=11)

    others = others_to(row, snapshot)
    page.section(f"others to {endpoint(flow.destination)}")
    if not others:
        page.add("nobody else has trouble with it", "dim")
    for pair in others[:MOST_OTHERS]:
        counts = ends(pair.ended, short_words=False) or "none"
        page.add(f"{whose(pair.report)}: {pair.live} stuck, ended: {counts}")
    if len(others) > MOST_OTHERS:
        page.add(f"and {len(others) - MOST_OTHERS} more", "dim")
    if shown:
        page.section("course of the first attempt")
        for point in shown[0].points:
            page.add(_point(point, shown[0]), hang=18)
    return page.lines


def _why(page: Page, row: Row) -> None:
    """The verdict's sentence, and what others met."""
    verdict = row.verdict
    if verdict is None:
        page.add("it is being looked into" if row.stuck else "not known", "dim")
        return
    page.add(f"{because(verdict)}: {verdict.summary}", "bold")
    for piece in verdict.evidence:
        if piece.kind == COMPARISON:
            page.add(piece.summary)


def _attempts(page: Page, row: Row, shown: Sequence[Held], now: int, width: int) -> None:
    """Time lines to one scale."""
    page.section("attempts over time (S SYN, D drop, I ICMP, R RST, E established, X end, > next)")
    if not shown:
        page.add("none is kept: they have ended", "dim")
        return
    glyphs = page.glyphs
    longest = max(length(held, now) for held in shown)
    page.line(axis(longest, width - 2, glyphs))
    for held in shown:
        page.add(_attempt(held, now), indent=1)
        page.line(time_line(held, now, longest, width - 2, glyphs))
    if len(row.members) > len(shown):
        page.add(f"and {len(row.members) - len(shown)} more: g groups by attempt", "dim", indent=1)


def clock(wall_ns: int) -> str:
    """HH:MM:SS, local, as in logs."""
    return time.strftime("%H:%M:%S", time.localtime(wall_ns // NANOSECONDS))


def _coming(at_ns: int | None, now: int) -> str:
    left = until(at_ns, now)
    return left if left in {"due", "?"} else f"in {left}"


def _and(text: str) -> str:
    return f", {text}" if text else ""


def _more_than_one(row: Row) -> str:
    parts = []
    if row.whos > 1:
        parts.append(f"{row.whos} pods or processes")
    if row.wheres > 1:
        parts.append(f"{row.wheres} destinations: this is the latest")
    return ", ".join(parts)


def _worth_most(members: Iterable[Held]) -> list[Held]:
    """Those that are stuck first, the oldest of them first; then what ended last."""
    return sorted(
        members,
        key=lambda held: (
            not held.live,
            held.attempt.started_ns or 0 if held.live else -(held.attempt.ended_ns or 0),
        ),
    )


def _attempt(held: Held, now: int) -> str:
    attempt = held.attempt
    flow = attempt.flow
    port = "?" if flow.source.port is None else flow.source.port
    syns = "? SYNs" if attempt.syns_sent is None else f"{attempt.syns_sent} SYN"
    if attempt.syns_sent is not None and attempt.syns_sent != 1:
        syns += "s"
    where = f"{flow.source.address}:{port} {endpoint(flow.destination)}"
    old = age(attempt.age_seconds(now))
    if held.live:
        then = f"next SYN {_coming(attempt.next_retry_ns, now)}"
    else:
        error = errno_name(attempt.errno)
        then = (
            f"{attempt.outcome}{f' {error}' if error else ''} {ago(since(attempt.ended_ns, now))}"
        )
    soft = f", soft error {errno_name(attempt.soft_errno)}" if attempt.soft_errno else ""
    return f"{where} {process_name(held.report)} {old}, {syns}, {then}{soft}"


def _point(point: Point, held: Held) -> str:
    began = held.attempt.started_ns or held.points[0].at_ns
    return f"+{(point.at_ns - began) / NANOSECONDS:7.3f} s  {point.kind:<4}  {point.text}"


# --- facts ---------------------------------------------------------------------------------------


def _facts(report: Report) -> Sequence[tuple[str, str]]:
    pod, process, attempt = report.pod, report.process, report.change.attempt
    facts: list[tuple[str, str]] = []
    if pod is not None:
        said = f" (by {pod.name_source})" if pod.name_source not in {None, NameSource.API} else ""
        facts.append(("pod", f"{pod.label or '?'}{said}"))
        if pod.container:
            facts.append(("container", pod.container))
        if pod.workload is not None:
            facts.append(("workload", workload(report)))
        for name, value in (("node", pod.node), ("uid", pod.uid), ("ENI", pod.eni_id)):
            if value:
                facts.append((name, value))
    elif process is not None and process.unit:
        facts.append(("unit", process.unit))
    facts.append(("process", process_name(report)))
    if process is not None and process.executable:
        facts.append(("program", process.executable))
    if process is not None and process.command_line:
        words = " ".join(process.command_line)
        facts.append(("command", words[:_MOST_COMMAND]))
    if attempt.owner.uid is not None:
        facts.append(("user", str(attempt.owner.uid)))
    facts.append(("netns", "?" if attempt.flow.netns is None else str(attempt.flow.netns)))
    facts.append(("seen by", str(attempt.detected_by)))
    facts.append(("NAT", _nat(report.destination.nat, attempt.flow.destination)))
    return facts


def _nat(nat: Nat | None, asked: Endpoint) -> str:
    """The path that connection tracking gives an attempt."""
    if nat is None:
        return "not known"
    there = (
        "the address stays as it is"
        if nat.destination == asked
        else f"{endpoint(asked)} -> {endpoint(nat.destination)}"
    )
    came = "a reply came" if nat.replied else "no reply"
    return f"{there}; conntrack {nat.state or '?'}, {came}"
