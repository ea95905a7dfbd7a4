"""Who, where to and why, as the screen words it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tracer.model import (
    NANOSECONDS,
    Cause,
    Confidence,
    Destination,
    NameSource,
    Outcome,
    Report,
    Scope,
    Verdict,
)
from tracer.sinks.wording import name, short
from tracer.text import safe

SHORT_TAGS: Final = {
    Scope.VPC: "VPC",
    Scope.EXTERNAL: "ext",
    Scope.LINK_LOCAL: "link",
    Scope.LOOPBACK: "lo",
}
TAG_STYLES: Final = {
    Scope.VPC: "cyan",
    Scope.EXTERNAL: "magenta",
    Scope.LINK_LOCAL: "blue",
    Scope.LOOPBACK: "dim",
}
SHORT_CAUSES: Final = {
    Cause.DROPPED_HERE: "drop-here",
    Cause.REPLY_DROPPED_HERE: "reply-drop",
    Cause.REFUSED: "refused",
    Cause.REFUSED_BY_FIREWALL: "fw-refused",
    Cause.UNREACHABLE: "unreach",
    Cause.NO_NEIGHBOUR: "no-neigh",
    Cause.NO_REPLY: "no-reply",
    Cause.LISTENER_OVERLOADED: "backlog",
    Cause.SERVICE_WITHOUT_ENDPOINTS: "no-endpts",
    Cause.STALE_NAT: "stale-nat",
    Cause.PORT_EXHAUSTION: "no-ports",
    Cause.CONNTRACK_FULL: "ct-full",
    Cause.NETWORK_POLICY: "policy",
    Cause.APPLICATION_GAVE_UP: "gave-up",
    Cause.SLOW: "slow",
    Cause.UNKNOWN: "unknown",
}
SHORT_OUTCOMES: Final = {
    Outcome.ESTABLISHED: "est",
    Outcome.REFUSED: "ref",
    Outcome.UNREACHABLE: "unr",
    Outcome.TIMED_OUT: "t/o",
    Outcome.ABORTED: "abt",
    Outcome.LOCAL_ERROR: "loc",
    Outcome.VANISHED: "van",
}
CONFIDENCE_MARKS: Final = {Confidence.HIGH: "", Confidence.MEDIUM: "?", Confidence.LOW: "??"}


def whose(report: Report) -> str:
    """The pod, else the unit of the node, else the process and its network namespace."""
    pod, process = report.pod, report.process
    if pod is not None and pod.label is not None:
        if pod.name is None:
            return f"pod {short(pod.uid)}"
        stale = f" (by {pod.name_source})" if pod.name_source is NameSource.CACHE else ""
        return f"{safe(pod.label)}{stale}"
    if process is not None and process.unit is not None:
        return f"host {safe(process.unit)}"
    called = report.change.attempt.owner.comm or (process.name if process else None)
    return f"{safe(called or '?')} in netns {report.change.attempt.flow.netns or '?'}"


def workload(report: Report) -> str:
    """Deployment shop/web; where nobody knows of one, whose it is."""
    pod = report.pod
    if pod is None or pod.workload is None:
        return whose(report)
    space = f"{safe(pod.namespace)}/" if pod.namespace else ""
    return f"{safe(pod.workload.kind)} {space}{safe(pod.workload.name)}"


def called(destination: Destination) -> str:
    return name(destination)


def age(seconds: float | None) -> str:
    """Five cells at most: 0.4s, 59s, 3m02s, 2h05m, 3d04h."""
    if seconds is None:
        return "?"
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f}s"
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    minutes, second = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{second:02d}s"
    hours, minute = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minute:02d}m"
    return f"{hours // 24}d{hours % 24:02d}h"


def ago(seconds: float | None) -> str:
    """Seven cells at most: 4s ago, 3m ago."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if whole >= size:
            return f"{whole // size}{unit} ago"
    return f"{whole}s ago"


def since(began_ns: int | None, now_ns: int) -> float | None:
    return None if began_ns is None else max(0, now_ns - began_ns) / NANOSECONDS


def until(at_ns: int | None, now_ns: int) -> str:
    """Time to the next SYN: "due" once it should have gone out."""
    if at_ns is None:
        return "?"
    left = (at_ns - now_ns) / NANOSECONDS
    return "due" if left <= 0 else age(left)


def because(verdict: Verdict | None) -> str:
    return "?" if verdict is None else f"{verdict.cause} ({verdict.confidence})"


def in_short(verdict: Verdict | None) -> str:
    """The cause in ten cells, and "?" or "??" where it is not sure."""
    if verdict is None:
        return "?"
    if verdict.cause is Cause.UNKNOWN:
        return "unknown"
    return SHORT_CAUSES[verdict.cause] + CONFIDENCE_MARKS[verdict.confidence]


def ends(counts: Mapping[Outcome, int], *, short_words: bool) -> str:
    """How many ended how: "3 timed_out 1 refused", "3 t/o 1 ref"."""
    found = [how for how in Outcome if counts.get(how)]
    found.sort(key=lambda how: -counts[how])
    return " ".join(f"{counts[how]} {SHORT_OUTCOMES[how] if short_words else how}" for how in found)
