"""A report of the picture: the directory that `check --report` makes, of what the screen knows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tracer.diagnose.steps import steps_for
from tracer.event import attempt_record
from tracer.facts import facts_behind
from tracer.finding import CheckResult, Clue, Finding, Judged, RowKey
from tracer.model import Report, Verdict
from tracer.redact import masked
from tracer.sinks.bundle import Bundle
from tracer.sinks.jsonl import encoded
from tracer.sinks.wording import losses
from tracer.snapshot import Held, Snapshot

MOST_JUDGED: Final = 50
"""Rows that are told why, those of most attempts first: as many as `check` does."""


def report_name(node: str, wall_ns: int, kind: str) -> str:
    """synsent-report-node-1-20261121-185553, of characters that need no quoting."""
    called = "".join(char if char.isalnum() or char in "-." else "-" for char in node)[:60]
    at = time.strftime("%Y%m%d-%H%M%S", time.localtime(wall_ns // 1_000_000_000))
    return f"synsent-{kind}-{called.strip('-.') or 'node'}-{at}"


def write(snapshot: Snapshot, *, node: str, watched: str, folder: Path, past: bool = False) -> Path:
    """Writes it into a new directory in `folder`. Raises SynsentError; then nothing is left.

    Command lines are masked as `check` masks them. `past` is a recording's picture, whose processes
    are gone.
    """
    path = folder / report_name(node, snapshot.wall_ns, "report")
    held = [_masked(one) for one in snapshot.attempts.values()]
    live = [one for one in held if one.live]
    result = CheckResult(
        target=watched,
        node=node,
        method="live trace",
        wall_ns=snapshot.wall_ns,
        findings=tuple(_finding(one.report, snapshot) for one in live),
        notes=tuple(_notes(snapshot)),
        verdicts=_judged(live, snapshot),
    )
    with Bundle(str(path)) as bundle:
        said = b"# not collected: this is a report of the live screen, see events.jsonl\n"
        bundle.connections(said)
        bundle.conntrack(said)
        bundle.finish(
            result,
            steps_for(result, here=not past),
            _environment(snapshot),
            told=(encoded(attempt_record(one.report, node)) for one in held),
        )
    return path


def _masked(held: Held) -> Held:
    process = held.report.process
    if process is None or process.command_line is None:
        return held
    quiet = replace(process, command_line=masked(process.command_line))
    return replace(held, report=replace(held.report, process=quiet))


def _finding(report: Report, snapshot: Snapshot) -> Finding:
    attempt = report.change.attempt
    retry_ns = attempt.next_retry_ns
    return Finding(
        flow=attempt.flow,
        destination=report.destination,
        age_seconds=attempt.age_seconds(snapshot.now_ns),
        syns_sent=attempt.syns_sent,
        next_retry_seconds=(
            None if retry_ns is None else max(0, retry_ns - snapshot.now_ns) / 1_000_000_000
        ),
        uid=attempt.owner.uid,
        process=report.process,
        pod=report.pod,
    )


def _judged(live: Sequence[Held], snapshot: Snapshot) -> tuple[Judged, ...]:
    """Of each pod and destination the verdict of most of its attempts."""
    found: dict[RowKey, list[Verdict]] = {}
    for held in live:
        report = held.report
        if report.verdict is not None:
            label = report.pod.label if report.pod is not None else None
            key = (label, report.change.attempt.flow.destination)
            found.setdefault(key, []).append(report.verdict)
    offset = snapshot.wall_ns - snapshot.now_ns
    ranked = sorted(found.items(), key=lambda item: -len(item[1]))
    return tuple(_of_most(key, verdicts, offset) for key, verdicts in ranked[:MOST_JUDGED])


def _of_most(key: RowKey, verdicts: Sequence[Verdict], offset_ns: int) -> Judged:
    causes = Counter((verdict.cause, verdict.confidence) for verdict in verdicts)
    best, _ = causes.most_common(1)[0]
    verdict = next(one for one in verdicts if (one.cause, one.confidence) == best)
    pod, destination = key
    return Judged(
        pod=pod,
        destination=destination,
        cause=verdict.cause,
        confidence=verdict.confidence,
        summary=verdict.summary,
        evidence=tuple(
            Clue(
                one.kind,
                one.summary,
                # As exactly as a report keeps times.
                None if one.at_ns is None else (one.at_ns + offset_ns) // 1_000 * 1_000,
            )
            for one in verdict.evidence
        ),
        facts=facts_behind(verdict),
    )


def _notes(snapshot: Snapshot) -> Iterable[str]:
    health, totals = snapshot.health, snapshot.totals
    if totals.unheld:
        yield f"{totals.unheld} attempts for which the screen had no room"
    if health is not None:
        yield from health.lacking
        lost = losses(health.losses)
        if lost:
            yield f"lost: {lost}"


def _environment(snapshot: Snapshot) -> Iterable[tuple[str, str]]:
    totals, health = snapshot.totals, snapshot.health
    yield "uptime_seconds", f"{snapshot.uptime_seconds:.0f}"
    yield "stuck_now", str(totals.stuck_now)
    yield "peak", str(totals.peak)
    yield "became_stuck", str(totals.became_stuck)
    for outcome, count in totals.outcomes.items():
        yield f"ended_{outcome}", str(count)
    if health is not None:
        yield "backend", str(health.backend)
        yield "hooks", ", ".join(health.hooks)
        yield "connects_begun", str(health.rates.started)
        yield "connects_established_at_once", str(health.rates.established)
