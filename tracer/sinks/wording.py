"""How values are worded for people. Everything from outside passes through `safe` here."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields
from math import isfinite

from tracer.model import (
    CROSSCHECK_FAILED,
    NANOSECONDS,
    Attempt,
    Cause,
    ChangeKind,
    CrossCheck,
    Destination,
    Endpoint,
    Health,
    Kind,
    KubeHealth,
    KubeState,
    Lifecycle,
    Losses,
    NameSource,
    Outcome,
    Report,
    SourceName,
    Verdict,
    errno_name,
)
from tracer.text import safe

MAX_MEMBERS = 100
"""Namespaces and pods that are told apart per destination, so that the summary stays small."""

_IMPLIED = {Outcome.REFUSED: errno.ECONNREFUSED, Outcome.TIMED_OUT: errno.ETIMEDOUT}
"""The error that the outcome's own word says already."""

_IMPLIED_CAUSES = {
    Outcome.REFUSED: Cause.REFUSED,
    Outcome.UNREACHABLE: Cause.UNREACHABLE,
    Outcome.ABORTED: Cause.APPLICATION_GAVE_UP,
    Outcome.ESTABLISHED: Cause.SLOW,
}
"""The verdict that the outcome's own word says already."""

_OTHERS_THERE = {
    Kind.NODE: " or a hostNetwork pod on it",
    Kind.SERVICE: " or another service with this address",
    Kind.POD: " or another pod, or a node's own address",
}


def known(value: object) -> str:
    return "?" if value is None else safe(str(value))


def endpoint(endpoint: Endpoint) -> str:
    address = safe(endpoint.address)
    return f"{f'[{address}]' if ':' in address else address}:{known(endpoint.port)}"


def tag(destination: Destination) -> str:
    """Scope and name: "VPC/internal, service shop/db:5432 0/3 ready"."""
    return ", ".join(part for part in (destination.scope.tag, name(destination)) if part)


def name(destination: Destination) -> str:
    """What a destination is called, empty where it has no name.

    Of the endpoints of a service it is told how many are ready, which may well be the reason. What
    is no longer kept up to date is told with its time, and not called out.
    """
    if destination.name is None:
        return ""
    called = safe(destination.name)
    if destination.kind is Kind.ADDRESS:
        return called
    as_of_ns, ready = destination.names_wall_ns, destination.endpoints
    told = f"{destination.kind} {called}"
    if ready is not None and ready.total:
        told += f" {ready.ready}/{ready.total} ready"
    elif ready is not None:
        told += " WITHOUT ENDPOINTS" if as_of_ns is None else " without endpoints"
    if destination.ambiguous:
        told += _OTHERS_THERE[destination.kind]
    return told if as_of_ns is None else f"{told} (as of {_recent_time(as_of_ns)})"


def _recent_time(wall_ns: int) -> str:
    """HH:MM:SS, with the date where it is not today's."""
    local = time.localtime(wall_ns // NANOSECONDS)
    today = local[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", local)


def route(asked: Endpoint, destination: Destination) -> str:
    """Where connection tracking sends what was meant for `asked`; empty where that is the same."""
    nat = destination.nat
    return "" if nat is None or nat.destination == asked else f" -> {endpoint(nat.destination)}"


def belongs_to(report: Report) -> str:
    """Whose attempt it is: a pod, a systemd unit of the node; empty where nobody knows.

    A name that the API server did not tell just now says who did.
    """
    pod, process = report.pod, report.process
    if pod is None:
        unit = process.unit if process else None
        return f"host {safe(unit)}" if unit else ""
    container = f"[{safe(pod.container)}]" if pod.container else ""
    if pod.name is None:
        return f"pod {short(pod.uid)}{container}"
    source = f" (by {pod.name_source})" if pod.name_source not in {None, NameSource.API} else ""
    return f"pod {safe(pod.label or '')}{container}{source}"


def because(verdict: Verdict | None) -> str:
    """Cause (confidence): the sentence."""
    if verdict is None:
        return "?"
    return f"{verdict.cause} ({verdict.confidence}): {safe(verdict.summary)}"


def ended_by(report: Report) -> str:
    """What the verdict adds to how an attempt ended; empty where that says it all, or nothing."""
    verdict = report.verdict
    if report.change.kind is not ChangeKind.END or verdict is None:
        return ""
    outcome = report.change.attempt.outcome
    implied = _IMPLIED_CAUSES.get(outcome) if outcome else None
    return (
        ""
        if verdict.cause in {implied, Cause.UNKNOWN}
        else f"{verdict.cause} ({verdict.confidence})"
    )


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


def names(kube: KubeHealth) -> str:
    """Where names come from, where they do not all come fresh from the API server, or what is short
    of perfect; else empty. Not for CONNECTING, while there is nothing to say.
    """
    if kube.state is KubeState.OFF:
        return ""
    if kube.state is KubeState.SYNCED:
        return f"names: {safe(kube.message)}" if kube.message else ""
    if kube.names_wall_ns is None:
        known_from = "pods are named by what this node knows"
    else:
        known_from = f"as of {date_and_time(kube.names_wall_ns)}"
    return f"names: {safe(kube.message or 'incomplete')}; {known_from}"


def totals(health: Health) -> str:
    """What happened since the start; losses and disagreements are calm only when there are none."""
    if not health.recorded:
        return (
            f"became stuck {health.became_stuck}, ended: {outcomes(health.outcomes)};"
            " the state of the trace is not recorded"
        )
    rates = health.rates
    connects = (
        f"connects {known(rates.started)} begun, {known(rates.established)} established at once"
    )
    return (
        f"became stuck {health.became_stuck}, ended: {outcomes(health.outcomes)};"
        f"{_not_shown(health)} {connects};"
        f"{_crosscheck(health)} losses: {losses(health.losses) or 'none'}"
    )


def _not_shown(health: Health) -> str:
    """Attempts that no line tells of; nothing where there are none."""
    withheld, own = "", ""
    if health.withheld:
        withheld = f" not shown, since their pod's name or labels are not known: {health.withheld};"
    if health.own_connects:
        own = f" its own connects to the API server: {health.own_connects};"
    return withheld + own


def crosscheck_failed(health: Health) -> bool:
    """Whether the cross-check has stopped: what it found before says nothing of the present."""
    return any(text.startswith(CROSSCHECK_FAILED) for text in health.lacking)


def _crosscheck(health: Health) -> str:
    """What polling found beside the stream; nothing where polling is all there is."""
    if health.backend is not SourceName.BPF:
        return ""
    if not health.crosscheck.sweeps:
        return " no cross-check;"
    found = disagreements(health.crosscheck)
    if crosscheck_failed(health):
        found = f"{found}, then failed" if found else "failed"
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
