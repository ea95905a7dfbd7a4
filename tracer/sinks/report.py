"""The answer of a one-shot check as text, JSON, JSON lines or Markdown."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence

from tracer import __version__
from tracer.finding import CheckResult, Finding, Row, Step, by_destination, rows
from tracer.model import Endpoint, Process
from tracer.schema import timestamp
from tracer.sinks.wording import duration, endpoint, known, tag
from tracer.text import safe

REPORT_VERSION = 1

_SHOWN_PROCESSES = 3


def headline(result: CheckResult) -> list[str]:
    """The report's first lines, which other tools look for to the letter."""
    found = len(result.findings)
    if not found:
        return ["[OK] No connections in SYN_SENT state"]
    destinations = ", ".join(
        f"{endpoint(where)} ({what.scope.tag})"
        for where, what, _ in by_destination(result.findings)
    )
    return [
        (
            f"[ISSUE] Found {found} connection(s) in SYN_SENT state "
            "(pod sending SYN but waiting for ACK - potential connectivity issue)"
        ),
        f"[INFO] Destinations: {destinations}",
    ]


def text(result: CheckResult, steps: Sequence[Step], *, color: bool = False) -> str:
    """For people: headline, table, how it was collected, what to do next."""
    parts = ["\n".join(headline(result))]
    if result.findings:
        parts.append(_table(rows(result.findings), color=color))
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


def document(result: CheckResult, steps: Sequence[Step]) -> dict[str, object]:
    """The whole answer as one JSON object; `finding_record` says what is in a finding."""
    return {
        "report_version": REPORT_VERSION,
        "tool": f"synsent-trace {__version__}",
        "time": timestamp(result.wall_ns),
        "target": result.target,
        "node": result.node,
        "method": result.method,
        "tried": [{"method": rung.method, "reason": rung.reason} for rung in result.tried],
        "notes": list(result.notes),
        "found": len(result.findings),
        "destinations": [
            {**_endpoint(where), "scope": what.scope.value, "tag": what.scope.tag, "count": count}
            for where, what, count in by_destination(result.findings)
        ],
        "connections": [finding_record(finding) for finding in result.findings],
        "advice": [
            {"title": step.title, "reason": step.reason, "commands": list(step.commands)}
            for step in steps
        ],
    }


def finding_record(finding: Finding) -> dict[str, object]:
    """One connection, keyed as the live trace's events are."""
    flow, pod, process = finding.flow, finding.pod, finding.process
    return {
        "k8s": {
            "node": {"name": pod.node if pod else None},
            "namespace": {"name": pod.namespace if pod else None},
            "pod": {"name": pod.name if pod else None, "uid": pod.uid if pod else None},
        },
        "eni_id": pod.eni_id if pod else None,
        "container": {"id": process.container_id if process else None},
        "process": None
        if process is None
        else {
            "pid": process.pid,
            "executable": {"name": process.name, "path": process.executable},
            "command_args": None if process.command_line is None else list(process.command_line),
        },
        "user": {"id": finding.uid},
        "netns": flow.netns,
        "network": {"type": f"ipv{flow.family}", "transport": "tcp"},
        "source": _endpoint(flow.source),
        "destination": {
            **_endpoint(flow.destination),
            "scope": finding.destination.scope.value,
            "tag": finding.destination.scope.tag,
            "name": finding.destination.name,
        },
        "attempt": {
            "age_seconds": _rounded(finding.age_seconds),
            "syns_sent": finding.syns_sent,
            "next_retry_seconds": _rounded(finding.next_retry_seconds),
            "mapped": flow.mapped,
        },
    }


def as_json(result: CheckResult, steps: Sequence[Step]) -> str:
    return json.dumps(document(result, steps), indent=2, ensure_ascii=True) + "\n"


def as_jsonl(result: CheckResult) -> str:
    """One line a connection; nothing where none was found."""
    lines: Iterable[str] = (
        json.dumps(
            {"time": timestamp(result.wall_ns), "method": result.method, **finding_record(finding)},
            ensure_ascii=True,
        )
        for finding in result.findings
    )
    return "".join(f"{line}\n" for line in lines)


def _endpoint(where: Endpoint) -> dict[str, object]:
    return {"address": where.address, "port": where.port}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


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
        lines += [
            "| pod | destination | tag | count | oldest | SYNs | process |",
            "|---|---|---|---:|---:|---:|---|",
            *(f"| {' | '.join(map(_md, _cells(row)))} |" for row in rows(result.findings)),
            "",
        ]
    for rung in result.tried:
        lines.append(f"- Not through {_md(rung.method)}: {_md(rung.reason)}.")
    lines += [f"- Not seen: {_md(note)}." for note in result.notes]
    if steps:
        lines += ["", "## What to check next", ""]
    for number, step in enumerate(steps, start=1):
        lines += [f"{number}. **{step.title}** {step.reason}", "", "   ```sh"]
        lines += [f"   {safe(command)}" for command in step.commands]
        lines += ["   ```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _md(value: str) -> str:
    """Text from outside, harmless in Markdown: what would be markup is escaped."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]<>#|!~" else char for char in safe(value))
