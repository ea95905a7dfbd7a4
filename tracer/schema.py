"""The JSONL events: one table of their fields, and the records built from the model.

The table is the one truth of the format. `python -m tracer.schema` prints the JSON Schema that
follows from it, which is shipped as `synsent-events.schema.json`; a test holds every record
against it. Names are OpenTelemetry's where it has one for the thing, else the field's.

Every field is in every record of its kind, null where it is unknown: a `jq -r '[...]|@tsv'` has
the same columns for each line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial

from tracer import __version__
from tracer.model import (
    NANOSECONDS,
    ChangeKind,
    Lifecycle,
    LifecycleKind,
    Outcome,
    Process,
    Report,
    Scope,
    SourceName,
    errno_name,
)

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or goes away; new fields leave it alone."""

Record = dict[str, object]
"""One event: JSON values in nested objects."""

ATTEMPT_EVENTS = tuple(kind.value for kind in ChangeKind)
LIFECYCLE_EVENTS = tuple(kind.value for kind in LifecycleKind)
ALL_EVENTS = ATTEMPT_EVENTS + LIFECYCLE_EVENTS

_SHAPES = {"attempt": ATTEMPT_EVENTS, "lifecycle": LIFECYCLE_EVENTS}
"""Events that have the same fields, by the name of their JSON Schema definition."""

_STRING = ("string",)
_TEXT = ("string", "null")
_INTEGER = ("integer", "null")
_SECONDS = ("number", "null")
_RFC3339 = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event.

    key          its path, dotted: "k8s.pod.name" is {"k8s": {"pod": {"name": ...}}}
    types        JSON types it may have; "null" among them where it may be unknown
    description  what it says, with its unit
    events       the events that carry it
    enum         its values where the set is closed, without null
    required     whether each of `events` has it
    minimum      the smallest value of a number
    maximum      the largest value of a number
    pattern      a regular expression for a text
    Arrays hold strings.
    """

    key: str
    types: tuple[str, ...]
    description: str
    events: tuple[str, ...]
    enum: tuple[str | int, ...] | None = None
    required: bool = True
    minimum: int | None = None
    maximum: int | None = None
    pattern: str | None = None


_every = partial(Field, events=ALL_EVENTS)
_attempt = partial(Field, events=ATTEMPT_EVENTS)
_port = partial(_attempt, types=_INTEGER, minimum=0, maximum=65_535)
_tracer = partial(Field, events=LIFECYCLE_EVENTS)
_total = partial(_tracer, types=("integer",), minimum=0)


FIELDS: tuple[Field, ...] = (
    _every("schema_version", ("integer",), "Version of this format.", enum=(SCHEMA_VERSION,)),
    _every(
        "time",
        _STRING,
        "When it happened, not when it was written: RFC 3339, UTC, microseconds.",
        pattern=_RFC3339,
    ),
    _every("event", _STRING, "What happened.", enum=ALL_EVENTS),
    _every("k8s.node.name", _STRING, "The node the tracer runs on."),
    _attempt("k8s.namespace.name", _TEXT, "The pod's namespace; null: not looked up yet."),
    _attempt("k8s.pod.name", _TEXT, "The pod's name; null: not looked up yet."),
    _attempt("k8s.pod.uid", _TEXT, "UID of the pod, read from the process's cgroup."),
    _attempt("container.id", _TEXT, "Id of the container, read from the process's cgroup."),
    _attempt(
        "process.pid", _INTEGER, "The connecting process, in the host's pid namespace.", minimum=0
    ),
    _attempt(
        "process.executable.name",
        _TEXT,
        "Base name of the executable; the process's own name where the file is unknown.",
    ),
    _attempt("process.executable.path", _TEXT, "Target of /proc/PID/exe."),
    _attempt(
        "process.command",
        _TEXT,
        "The comm as the kernel saw it at connect: that of the connecting thread, 15 bytes at most."
        " Chosen by the process itself.",
    ),
    _attempt(
        "process.command_args",
        ("array", "null"),
        "The command line as a list, the program first. Chosen by the process itself; may hold"
        " secrets.",
    ),
    _attempt("user.id", _INTEGER, "UID of the socket's owner.", minimum=0),
    _attempt("source.address", _STRING, "Local address, as it leaves the socket."),
    _port("source.port", description="Local port; null until it is known."),
    _attempt("destination.address", _STRING, "Address the application connects to, before NAT."),
    _port("destination.port", description="Port the application connects to, before NAT."),
    _attempt(
        "destination.scope",
        _STRING,
        "Where the destination lies, judged by its address alone.",
        enum=tuple(scope.value for scope in Scope),
    ),
    _attempt(
        "destination.tag",
        _STRING,
        "The scope in words for people.",
        enum=tuple(scope.tag for scope in Scope),
    ),
    _attempt(
        "destination.kind",
        _STRING,
        "What the destination is known to be; address: nothing more than an address.",
        enum=("service", "pod", "node", "address"),
    ),
    _attempt("destination.name", _TEXT, "The destination's name, where it is certain."),
    _attempt(
        "network.type", _STRING, "Address family of the SYNs on the wire.", enum=("ipv4", "ipv6")
    ),
    _attempt("network.transport", _STRING, "Always tcp.", enum=("tcp",)),
    _attempt(
        "netns", _INTEGER, "Inode number of the attempt's network namespace (lsns).", minimum=0
    ),
    _attempt("attempt.id", _STRING, "The same in every event of one attempt."),
    _attempt(
        "attempt.started_at",
        _TEXT,
        "When it entered SYN_SENT: RFC 3339, UTC, microseconds.",
        pattern=_RFC3339,
    ),
    _attempt(
        "attempt.age_seconds",
        _SECONDS,
        "Seconds in SYN_SENT up to this event; null where its start is not known.",
        minimum=0,
    ),
    _attempt("attempt.syns_sent", _INTEGER, "SYNs sent so far, the first one too.", minimum=0),
    _attempt(
        "attempt.next_retry_seconds",
        _SECONDS,
        "Seconds from this event to the next SYN; negative when it is overdue.",
    ),
    _attempt(
        "attempt.backoff",
        _INTEGER,
        "How often the kernel has doubled the interval between two SYNs.",
        minimum=0,
    ),
    _attempt(
        "attempt.outcome",
        _TEXT,
        "How it left SYN_SENT; null while it has not. vanished: gone, its end was not seen.",
        enum=tuple(outcome.value for outcome in Outcome),
    ),
    _attempt(
        "attempt.stuck",
        ("boolean",),
        "Whether a SYN was retransmitted, or it grew older than the threshold, so far.",
    ),
    _attempt(
        "attempt.mapped",
        ("boolean",),
        "Whether an IPv6 socket speaks IPv4 (::ffff:a.b.c.d); its addresses are given as IPv4.",
    ),
    _attempt(
        "error.type", _TEXT, "The socket's error at the end, such as ECONNREFUSED; null for none."
    ),
    _attempt(
        "error.soft_type",
        _TEXT,
        "An ICMP error that did not end the attempt, such as EHOSTUNREACH; null for none.",
    ),
    _attempt(
        "detected_by",
        _STRING,
        "The source that observed the attempt; text: what another program printed.",
        enum=tuple(source.value for source in SourceName),
    ),
    _tracer("tracer.version", _STRING, "Version of the tracer."),
    _tracer(
        "tracer.backend",
        _STRING,
        "The source that observes sockets.",
        enum=tuple(source.value for source in SourceName if source is not SourceName.TEXT),
    ),
    _tracer("tracer.hooks", ("array",), "Where the source is attached."),
    _tracer("tracer.lacking", ("array",), "What this machine does not allow, at what cost."),
    _tracer("tracer.uptime_seconds", _SECONDS, "Seconds since the start of the trace.", minimum=0),
    _total("tracer.lost_events", description="Observations that never reached the tracker."),
    _total("tracer.dropped_events", description="Events that were known but not written."),
    _total("tracer.losses.ring_full", description="Records the kernel could not hand over."),
    _total(
        "tracer.losses.untracked",
        description="Attempts begun while the kernel's table was full.",
    ),
    _total(
        "tracer.losses.unseen_ends",
        description="Attempts of which the kernel skipped the probe that sees the end.",
    ),
    _total("tracer.losses.queue_full", description="Records user space had no room for."),
    _total("tracer.losses.undecodable", description="Records that made no sense."),
    _total("tracer.losses.table_full", description="Attempts the tracker had no room for."),
    _total("tracer.losses.output_dropped", description="Events that could not be recorded."),
    _total(
        "tracer.losses.lines_not_shown",
        description="Lines that a slow terminal had no room for; no event is lost by that.",
    ),
    _total("tracer.stuck_now", description="Attempts stuck at this moment."),
    _total("tracer.tracked_now", description="Attempts followed at this moment."),
    _total("tracer.became_stuck", description="Attempts that became stuck since the start."),
    *(
        _total(
            f"tracer.outcomes.{outcome.value}",
            description=f"Attempts that ended as {outcome.value} since the start.",
        )
        for outcome in Outcome
    ),
    _tracer(
        "tracer.connects.started",
        _INTEGER,
        "Connects begun since the start; null where the source cannot count them.",
        minimum=0,
    ),
    _tracer(
        "tracer.connects.established",
        _INTEGER,
        "Connects that succeeded without having been stuck; null where they cannot be counted.",
        minimum=0,
    ),
    _total("tracer.crosscheck.sweeps", description="Sweeps that were compared with the stream."),
    _total("tracer.crosscheck.agreed", description="Stuck sockets both knew, summed over sweeps."),
    _total(
        "tracer.crosscheck.before_start",
        description="Sockets stuck before the tracer, found by a sweep.",
    ),
    _total(
        "tracer.crosscheck.missed",
        description="Sockets the stream should have reported and did not.",
    ),
    _total(
        "tracer.crosscheck.unended",
        description="Attempts that were gone without the stream reporting their end.",
    ),
    _tracer("tracer.message", _TEXT, "A sentence for people; null for none."),
)


def json_schema(fields: Sequence[Field] = FIELDS) -> dict[str, object]:
    """The JSON Schema (draft 2020-12) of one line, for the events that `fields` describe.

    No object allows keys other than those of `fields`, so that a misspelt one fails instead of
    passing unseen.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "synsent-trace event",
        "description": "One line of `synsent-trace --jsonl`. Null stands for unknown.",
        "type": "object",
        "required": ["event"],
        "properties": {"event": {"enum": list(ALL_EVENTS)}},
        "if": {"properties": {"event": {"enum": list(ATTEMPT_EVENTS)}}},
        "then": {"$ref": "#/$defs/attempt"},
        "else": {"$ref": "#/$defs/lifecycle"},
        "$defs": {
            name: _object_schema(
                [field for field in fields if set(events) & set(field.events)], events
            )
            for name, events in _SHAPES.items()
        },
    }


def _object_schema(
    fields: Sequence[Field], events: tuple[str, ...], depth: int = 0
) -> dict[str, object]:
    """The object that holds `fields` in `events`; their keys agree in the first `depth` parts."""
    members: dict[str, list[Field]] = {}
    for field in fields:
        members.setdefault(field.key.split(".")[depth], []).append(field)
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [
            name
            for name, under in members.items()
            if any(field.required and set(events) <= set(field.events) for field in under)
        ],
        "properties": {
            name: (
                _leaf_schema(under[0])
                if under[0].key.count(".") == depth
                else _object_schema(under, events, depth + 1)
            )
            for name, under in members.items()
        },
    }


def _leaf_schema(field: Field) -> dict[str, object]:
    schema: dict[str, object] = {
        "description": field.description,
        "type": field.types[0] if len(field.types) == 1 else list(field.types),
    }
    if field.enum is not None:
        schema["enum"] = [*field.enum, None] if "null" in field.types else list(field.enum)
    if "array" in field.types:
        schema["items"] = {"type": "string"}
    bounds = {"minimum": field.minimum, "maximum": field.maximum, "pattern": field.pattern}
    return schema | {keyword: value for keyword, value in bounds.items() if value is not None}


def attempt_record(report: Report, node: str) -> Record:
    """The event of a change of an attempt, as seen on the node called `node`."""
    change, destination, process = report.change, report.destination, report.process
    attempt = change.attempt
    flow, owner = attempt.flow, attempt.owner
    return {
        "schema_version": SCHEMA_VERSION,
        "time": timestamp(report.wall_ns),
        "event": change.kind.value,
        "k8s": {
            "node": {"name": node},
            "namespace": {"name": None},
            "pod": {"name": None, "uid": process.pod_uid if process else None},
        },
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
            "scope": destination.scope.value,
            "tag": destination.scope.tag,
            "kind": destination.kind,
            "name": destination.name,
        },
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
        "detected_by": attempt.detected_by.value,
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
            "outcomes": {outcome.value: health.outcomes.get(outcome, 0) for outcome in Outcome},
            "connects": asdict(health.rates),
            "crosscheck": asdict(health.crosscheck),
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


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
