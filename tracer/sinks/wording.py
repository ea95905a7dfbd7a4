"""How values are worded for people. Everything from outside passes through `safe` here."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields
from math import isfinite

from tracer.model import (
    NANOSECONDS,
    Attempt,
    CrossCheck,
    Destination,
    Endpoint,
    Health,
    Lifecycle,
    Losses,
    Outcome,
    Report,
    SourceName,
    errno_name,
)
from tracer.text import safe

MAX_MEMBERS = 100
"""Namespaces and pods that are told apart per destination, so that the summary stays small."""

_IMPLIED = {Outcome.REFUSED: errno.ECONNREFUSED, Outcome.TIMED_OUT: errno.ETIMEDOUT}
"""The error that the outcome's own word says already."""


def known(value: object) -> str:
    return "?" if value is None else safe(str(value))


def endpoint(endpoint: Endpoint) -> str:
    address = safe(endpoint.address)
    return f"{f'[{address}]' if ':' in address else address}:{known(endpoint.port)}"


def tag(destination: Destination) -> str:
    tag = destination.scope.tag
    return tag if destination.name is None else f"{tag}, {safe(destination.name)}"


def short(uid: str | None) -> str:
    """The first group of a pod's UID: enough to find it by; the whole is in the JSON lines."""
    return "?" if uid is None else f"{safe(uid[:8])}.."


def errors(attempt: Attempt) -> str:
    """What the kernel's errors add to the outcome, and an ICMP error that came before."""
    implied = _IMPLIED.get(attempt.outcome) if attempt.outcome else None
    error = None if attempt.errno == implied else errno_name(attempt.errno)
    soft = errno_name(attempt.soft_errno)
    return f"{f' {error}' if error else ''}{f' (soft error {soft})' if soft else ''}"


def process_name(report: Report) -> str:
    """name[pid], by the name that the process had when it connected."""
    owner, process = report.change.attempt.owner, report.process
    name = owner.comm or (process.name if process else None)
    return f"{known(name)}[{known(process.pid if process else owner.pid)}]"


def duration(seconds: float | None) -> str:
    """Milliseconds below a second: a refusal takes less than one, a retransmission more."""
    if seconds is None or not isfinite(seconds):
        return "?"
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f}ms"
    return f"{seconds:.1f}s"


def span(seconds: float) -> str:
    """1h02m03s, 2m03s, 3s."""
    if not isfinite(seconds):
        return "?"
    minutes, second = divmod(int(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minute:02d}m{second:02d}s"
    return f"{minute}m{second:02d}s" if minute else f"{second}s"


def date_and_time(wall_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(wall_ns // NANOSECONDS))


def message(event: Lifecycle) -> list[str]:
    return [f"-- {safe(event.message)}"] if event.message else []


def totals(health: Health) -> str:
    """What happened since the start; losses and disagreements are calm only when there are none."""
    rates = health.rates
    connects = (
        f"connects {known(rates.started)} begun, {known(rates.established)} established at once"
    )
    return (
        f"became stuck {health.became_stuck}, ended: {outcomes(health.outcomes)}; {connects};"
        f"{_crosscheck(health)} losses: {losses(health.losses) or 'none'}"
    )


def _crosscheck(health: Health) -> str:
    """What polling found beside the stream; nothing where polling is all there is."""
    if health.backend is not SourceName.BPF:
        return ""
    if not health.crosscheck.sweeps:
        return " no cross-check;"
    found = disagreements(health.crosscheck)
    return f" cross-check: {found};" if found else " cross-check agrees;"


def outcomes(counts: Mapping[Outcome, int]) -> str:
    return (
        ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts.get(outcome))
        or "none"
    )


def losses(losses: Losses) -> str:
    """Each loss that is not zero, or nothing."""
    counts = ((getattr(losses, loss.name), loss.name) for loss in fields(losses))
    return ", ".join(f"{count} {name}" for count, name in counts if count)


def disagreements(crosscheck: CrossCheck) -> str:
    """Each disagreement that is not zero, or nothing."""
    counts = ((crosscheck.missed, "missed"), (crosscheck.unended, "unended"))
    return ", ".join(f"{count} {name}" for count, name in counts if count)


def members(members: AbstractSet[object]) -> str:
    if not members:
        return "?"
    return f"{len(members)}{'+' if len(members) >= MAX_MEMBERS else ''}"
