"""The JSONL events as records: values of the model under the keys of the schema's table."""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache

from tracer import __version__
from tracer.model import (
    NANOSECONDS,
    Destination,
    Lifecycle,
    Nat,
    Outcome,
    PodIdentity,
    Process,
    Report,
    errno_name,
)
from tracer.schema import SCHEMA_VERSION, Record

_NO_POD = PodIdentity()


def attempt_record(report: Report, node: str) -> Record:
    """The event of a change of an attempt, as seen on the node called `node`."""
    change, destination, process = report.change, report.destination, report.process
    attempt = change.attempt
    flow, owner = attempt.flow, attempt.owner
    return {
        "schema_version": SCHEMA_VERSION,
        "time": timestamp(report.wall_ns),
        "event": change.kind.value,
        "k8s": {"node": {"name": node}, **pod_record(report.pod)},
        "systemd": {"unit": process.unit if process else None},
        "container": {"id": process.container_id if process else None},
        "process": {
            "pid": process.pid if process else owner.pid,
            "executable": {
                "name": _executable_name(process) if process else None,
                "path": process.executable if process else None,
            },
            "command": owner.comm,
            "command_args": _arguments(process) if process else None,
        },
        "user": {"id": owner.uid},
        "source": {"address": flow.source.address, "port": flow.source.port},
        "destination": {
            "address": flow.destination.address,
            "port": flow.destination.port,
            **destination_record(destination),
        },
        "nat": _nat_record(destination.nat),
        "network": {"type": "ipv4" if flow.family == 4 else "ipv6", "transport": "tcp"},
        "netns": flow.netns,
        "attempt": {
            "id": attempt.id,
            "started_at": _timestamp_or_none(attempt.started_wall_ns),
            "age_seconds": _seconds(report.age_seconds),
            "syns_sent": attempt.syns_sent,
            "next_retry_seconds": _seconds(report.next_retry_seconds),
            "backoff": attempt.backoff,
            "outcome": attempt.outcome.value if attempt.outcome else None,
            "stuck": attempt.stuck,
            "mapped": flow.mapped,
        },
        "error": {
            "type": errno_name(attempt.errno),
            "soft_type": errno_name(attempt.soft_errno),
        },
        "verdict": _verdict_record(report),
        "detected_by": attempt.detected_by.value,
    }


def pod_record(pod: PodIdentity | None) -> Record:
    """What is known of a pod, and of the container in it, beside its node."""
    pod = pod or _NO_POD
    workload = pod.workload
    return {
        "namespace": {"name": pod.namespace},
        "pod": {
            "name": pod.name,
            "uid": pod.uid,
            "evidence": pod.evidence,
            "name_source": pod.name_source,
            "names_as_of": _timestamp_or_none(pod.names_wall_ns),
        },
        "container": {"name": pod.container},
        "workload": {
            "kind": workload.kind if workload else None,
            "name": workload.name if workload else None,
        },
    }


def destination_record(destination: Destination) -> Record:
    """What is known of a destination, beside its address and port."""
    endpoints = destination.endpoints
    return {
        "scope": destination.scope.value,
        "tag": destination.scope.tag,
        "kind": destination.kind.value,
        "name": destination.name,
        "ambiguous": destination.ambiguous,
        "endpoints": {
            "ready": endpoints.ready if endpoints else None,
            "total": endpoints.total if endpoints else None,
        },
        "names_as_of": _timestamp_or_none(destination.names_wall_ns),
    }


def _nat_record(nat: Nat | None) -> Record:
    if nat is None:
        return {"destination": {"address": None, "port": None}, "state": None, "replied": None}
    return {
        "destination": {"address": nat.destination.address, "port": nat.destination.port},
        "state": nat.state,
        "replied": nat.replied,
    }


def _verdict_record(report: Report) -> Record:
    verdict = report.verdict
    if verdict is None:
        return {"cause": None, "confidence": None, "summary": None, "evidence": []}
    to_wall_ns = report.wall_ns - report.change.time_ns
    return {
        "cause": verdict.cause.value,
        "confidence": verdict.confidence.value,
        "summary": verdict.summary,
        "evidence": [
            {
                "kind": piece.kind,
                "summary": piece.summary,
                "time": None if piece.at_ns is None else timestamp(piece.at_ns + to_wall_ns),
            }
            for piece in verdict.evidence
        ],
    }


def lifecycle_record(event: Lifecycle, node: str) -> Record:
    """The event of the tracer's own state, on the node called `node`."""
    health = event.health
    return {
        "schema_version": SCHEMA_VERSION,
        "time": timestamp(event.wall_ns),
        "event": event.kind.value,
        "k8s": {"node": {"name": node}},
        "tracer": {
            "version": __version__,
            "backend": health.backend.value,
            "hooks": list(health.hooks),
            "lacking": list(health.lacking),
            "uptime_seconds": _seconds(event.uptime_seconds),
            "lost_events": health.losses.lost,
            "dropped_events": health.losses.dropped,
            "losses": asdict(health.losses),
            "stuck_now": health.stuck_now,
            "tracked_now": health.tracked_now,
            "became_stuck": health.became_stuck,
            "withheld": health.withheld,
            "own_connects": health.own_connects,
            "outcomes": {outcome.value: health.outcomes.get(outcome, 0) for outcome in Outcome},
            "connects": asdict(health.rates),
            "crosscheck": asdict(health.crosscheck),
            "kube": {
                "state": health.kube.state.value,
                "message": health.kube.message,
                "names_as_of": _timestamp_or_none(health.kube.names_wall_ns),
            },
            "message": event.message,
        },
    }


def timestamp(wall_ns: int) -> str:
    """Nanoseconds since the epoch as RFC 3339 in UTC, cut to microseconds."""
    seconds, nanoseconds = divmod(wall_ns, NANOSECONDS)
    return f"{_utc_second(seconds)}.{nanoseconds // 1000:06d}Z"


@lru_cache(maxsize=256)
def _utc_second(seconds: int) -> str:
    """Cached: the events of a batch share a second, and formatting one costs more than the rest."""
    # Not strftime(): years before 1000 would have fewer digits.
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()


def _timestamp_or_none(wall_ns: int | None) -> str | None:
    return None if wall_ns is None else timestamp(wall_ns)


def _seconds(value: float | None) -> float | None:
    """Milliseconds are what a jiffy-driven timer is good for; JSON has no NaN or infinity."""
    return round(value, 3) if value is not None and math.isfinite(value) else None


def _executable_name(process: Process) -> str | None:
    """OpenTelemetry wants the base name of the executable; a process may call itself anything."""
    return process.executable.rpartition("/")[2] if process.executable else process.name


def _arguments(process: Process) -> list[str] | None:
    return None if process.command_line is None else list(process.command_line)
