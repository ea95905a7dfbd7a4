"""The answer of a one-shot check as text, JSON, JSON lines or Markdown."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import Final

from tracer.event import timestamp
from tracer.finding import CheckResult, Judged, Row, Step, by_destination, rows
from tracer.model import Process
from tracer.report_record import document, finding_record
from tracer.sinks.wording import duration, endpoint, known, tag
from tracer.text import safe

MOST_SHOWN: Final = 1_000
"""Destinations in the headline, and rows of the table: nobody reads more, and rich takes half a
millisecond for a row. JSON has all of them."""
_SHOWN_PROCESSES: Final = 3
_SHOWN_EVIDENCE: Final = 4
"""Pieces of evidence a verdict: what decides it comes first. JSON has all of it."""

_WHY: Final = "Why (as far as one look tells)"


def headline(result: CheckResult) -> list[str]:
    """The report's first lines, which other tools look for to the letter."""
    found = len(result.findings)
    if not found:
        return ["[OK] No connections in SYN_SENT state"]
    ranked = by_destination(result.findings)
    shown = [f"{endpoint(where)} ({what.scope.tag})" for where, what, _ in ranked[:MOST_SHOWN]]
    if len(ranked) > MOST_SHOWN:
        shown.append(f"and {len(ranked) - MOST_SHOWN} more")
    return [
        (
            f"[ISSUE] Found {found} connection(s) in SYN_SENT state "
            "(pod sending SYN but waiting for ACK - potential connectivity issue)"
        ),
        f"[INFO] Destinations: {', '.join(shown)}",
    ]


def text(result: CheckResult, steps: Sequence[Step], *, color: bool = False) -> str:
    """For people: headline, table, why, how it was collected, what to do next."""
    parts = ["\n".join(headline(result))]
    if result.findings:
        found = rows(result.findings)
        parts.append("\n".join((_table(found[:MOST_SHOWN], color=color), *_unshown(found))))
    if result.verdicts:
        parts.append("\n".join(_why(result.verdicts)))
    parts.append("\n".join(_provenance(result)))
    if steps:
        parts.append("\n".join(_advice(steps)))
    return "\n\n".join(parts) + "\n"


def _table(found: Sequence[Row], *, color: bool) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in ("pod", "destination", "tag"):
        table.add_column(name, no_wrap=True)
    for name in ("count", "oldest", "SYNs"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("process", no_wrap=True)
    for row in found:
        # Text, not str: "[2001:db8::1]" would be taken for markup.
        table.add_row(*(Text(cell) for cell in _cells(row)))
    rendered = io.StringIO()
    Console(
        file=rendered,
        width=1_000,  # as wide as it wants to be: a cut address is of no use
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
    ).print(table)
    return "\n".join(line.rstrip() for line in rendered.getvalue().splitlines() if line.strip())


def _unshown(found: Sequence[Row]) -> list[str]:
    more = len(found) - MOST_SHOWN
    return [f"and {more} more rows; report.json and --format json have all"] if more > 0 else []


def _cells(row: Row) -> tuple[str, ...]:
    return (
        known(row.pod.label if row.pod else None),
        endpoint(row.endpoint),
        tag(row.destination),
        str(row.count),
        duration(row.oldest_seconds),
        known(row.most_syns),
        _processes(row.processes),
    )


def _processes(found: Sequence[Process]) -> str:
    if not found:
        return "?"
    shown = ", ".join(f"{known(one.name)}[{one.pid}]" for one in found[:_SHOWN_PROCESSES])
    more = len(found) - _SHOWN_PROCESSES
    return f"{shown} and {more} more" if more > 0 else shown


def _why(verdicts: Sequence[Judged]) -> list[str]:
    """Verdicts with what decides them; those that say nothing in one line."""
    lines = [f"{_WHY}:"] if any(one.known for one in verdicts) else []
    for one in verdicts:
        if one.known:
            lines.append(f"  {_about(one)}: {_because(one)}")
            lines += [f"    {safe(clue.summary)}" for clue in one.evidence[:_SHOWN_EVIDENCE]]
    return [*lines, *_not_known(verdicts)]


def _about(one: Judged) -> str:
    return f"{known(one.pod)} -> {endpoint(one.destination)}"


def _because(one: Judged) -> str:
    return f"{one.cause} ({one.confidence}): {safe(one.summary)}"


def _not_known(verdicts: Sequence[Judged]) -> list[str]:
    count = sum(not one.known for one in verdicts)
    if not count:
        return []
    who = "1 of them does" if count == 1 else f"{count} of them do"
    return [
        f"Why {who} not answer is not known from one look: run synsent-trace --node to watch them."
    ]


def _provenance(result: CheckResult) -> list[str]:
    lines = [f"Looked at {safe(result.target)} through {safe(result.method)}."]
    lines += [f"Not through {safe(rung.method)}: {safe(rung.reason)}." for rung in result.tried]
    lines += [f"Not seen: {safe(note)}." for note in result.notes]
    return lines


def _advice(steps: Sequence[Step]) -> list[str]:
    lines = ["What to check next (nothing of this has been run):"]
    for number, step in enumerate(steps, start=1):
        lines += ["", f"{number}. {step.title}", f"   {step.reason}"]
        lines += [f"     {safe(command)}" for command in step.commands]
    return lines


# --- for programs ------------------------------------------------------------------------------


def as_json(result: CheckResult, steps: Sequence[Step]) -> Iterator[str]:
    """One object, in pieces."""
    return document(result, steps)


def as_jsonl(result: CheckResult) -> Iterator[str]:
    """One line a connection; nothing where none was found."""
    common = {"time": timestamp(result.wall_ns), "method": result.method}
    for finding in result.findings:
        yield f"{json.dumps(common | finding_record(finding))}\n"


# --- Markdown ----------------------------------------------------------------------------------


def as_markdown(result: CheckResult, steps: Sequence[Step]) -> str:
    """For a ticket: the same content as the text."""
    lines = [
        "# Connections in SYN_SENT",
        "",
        f"{timestamp(result.wall_ns)}, {_md(result.target)}, through {_md(result.method)}.",
        "",
        *(f"    {line}" for line in headline(result)),
        "",
    ]
    if result.findings:
        found = rows(result.findings)
        lines += [
            "| pod | destination | tag | count | oldest | SYNs | process |",
            "|---|---|---|---:|---:|---:|---|",
            *(f"| {' | '.join(map(_md, _cells(row)))} |" for row in found[:MOST_SHOWN]),
            "",
            *_unshown(found),
        ]
    for rung in result.tried:
        lines.append(f"- Not through {_md(rung.method)}: {_md(rung.reason)}.")
    lines += [f"- Not seen: {_md(note)}." for note in result.notes]
    lines += _why_md(result.verdicts)
    if steps:
        lines += ["", "## What to check next", ""]
    for number, step in enumerate(steps, start=1):
        lines += [f"{number}. **{step.title}** {step.reason}", "", "   ```sh"]
        lines += [f"   {safe(command)}" for command in step.commands]
        lines += ["   ```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _why_md(verdicts: Sequence[Judged]) -> list[str]:
    lines = ["", f"## {_WHY}", ""] if verdicts else []
    for one in verdicts:
        if one.known:
            lines.append(f"- **{_md(_about(one))}**: {_md(_because(one))}")
            lines += [f"  - {_md(clue.summary)}" for clue in one.evidence[:_SHOWN_EVIDENCE]]
    return [*lines, *(f"- {line}" for line in _not_known(verdicts))]


def _md(value: str) -> str:
    """Text from outside, harmless in Markdown: what would be markup is escaped."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]<>#|!~" else char for char in safe(value))
