"""The JSONL events: one table of their fields, and the records built from the model.

The table is the one truth of the format. `python -m tracer.schema` prints the JSON Schema that
follows from it, which is shipped as `synsent-events.schema.json`; a test holds every record
against it. Names are OpenTelemetry's where it has one for the thing, else the field's.

Every field is in every record of its kind, null where it is unknown: a `jq -r '[...]|@tsv'` has
the same columns for each line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from tracer.model import (
    Cause,
    ChangeKind,
    Confidence,
    Kind,
    KubeState,
    LifecycleKind,
    NameSource,
    Outcome,
    PodEvidence,
    Scope,
    SourceName,
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
class Member:
    """One key of the objects in an array."""

    key: str
    types: tuple[str, ...]
    description: str
    pattern: str | None = None


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
    members      keys of the objects of an array; without, it holds strings
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
    members: tuple[Member, ...] | None = None


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
    _attempt("k8s.namespace.name", _TEXT, "The pod's namespace."),
    _attempt(
        "k8s.pod.name",
        _TEXT,
        "The pod's name; null: a process of the node itself, or not known (yet).",
    ),
    _attempt("k8s.pod.uid", _TEXT, "UID of the pod."),
    _attempt(
        "k8s.pod.evidence",
        _TEXT,
        "What ties the attempt to the pod: the cgroup of its process, its network namespace, or its"
        " source address.",
        enum=tuple(evidence.value for evidence in PodEvidence),
    ),
    _attempt(
        "k8s.pod.name_source",
        _TEXT,
        "Who told the pod's name: the API server, what it said earlier and is kept on disk, the"
        " container runtime's state, or the kubelet's log folders.",
        enum=tuple(source.value for source in NameSource),
    ),
    _attempt(
        "k8s.pod.names_as_of",
        _TEXT,
        "When the pod's name was last known to be true, where it is no longer kept up to date:"
        " RFC 3339, UTC, microseconds; null: it is.",
        pattern=_RFC3339,
    ),
    _attempt("k8s.container.name", _TEXT, "Name of the container in its pod."),
    _attempt("k8s.workload.kind", _TEXT, "What the pod belongs to: Deployment, CronJob ..."),
    _attempt("k8s.workload.name", _TEXT, "The name of what the pod belongs to."),
    _attempt("systemd.unit", _TEXT, "Service or scope of a process that is in no container."),
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
        enum=tuple(kind.value for kind in Kind),
    ),
    _attempt(
        "destination.name",
        _TEXT,
        "The destination's name, where it is certain: NAMESPACE/NAME:PORT of a service.",
    ),
    _attempt(
        "destination.ambiguous",
        ("boolean",),
        "Whether others may answer at this address too: a node's hostNetwork pods share its own.",
    ),
    _attempt(
        "destination.endpoints.ready",
        _INTEGER,
        "Endpoints of the service that are ready; null: no service, or not known.",
        minimum=0,
    ),
    _attempt("destination.endpoints.total", _INTEGER, "Endpoints of the service.", minimum=0),
    _attempt(
        "destination.names_as_of",
        _TEXT,
        "When name and endpoints were last known to be true, where they are no longer kept up to"
        " date: RFC 3339, UTC, microseconds; null: they are.",
        pattern=_RFC3339,
    ),
    _attempt(
        "nat.destination.address",
        _TEXT,
        "Where connection tracking sends the SYNs; null: not tracked, or not looked up (yet).",
    ),
    _port("nat.destination.port", description="The port that they are sent to."),
    _attempt("nat.state", _TEXT, "Connection tracking's state: SYN_SENT ..."),
    _attempt(
        "nat.replied",
        ("boolean", "null"),
        "Whether connection tracking saw a packet come back.",
    ),
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
        "verdict.cause",
        _TEXT,
        "Where the handshake died; null: not judged yet.",
        enum=tuple(cause.value for cause in Cause),
    ),
    _attempt(
        "verdict.confidence",
        _TEXT,
        "How sure that is.",
        enum=tuple(confidence.value for confidence in Confidence),
    ),
    _attempt("verdict.summary", _TEXT, "The verdict in one sentence."),
    _attempt(
        "verdict.evidence",
        ("array",),
        "What the verdict rests on, the deciding piece first; then what else is known.",
        members=(
            Member("kind", _STRING, "What kind of fact it is: drop, icmp, route, neighbour ..."),
            Member("summary", _STRING, "The fact in words."),
            Member("time", _TEXT, "When it was seen: RFC 3339, UTC, microseconds.", _RFC3339),
        ),
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
    _total(
        "tracer.losses.evidence",
        description="Attempts, drops, ICMP errors, failures and verdicts that the evidence had no"
        " room for, and how often its thread failed.",
    ),
    _total("tracer.losses.table_full", description="Attempts the tracker had no room for."),
    _total("tracer.losses.output_dropped", description="Events that could not be recorded."),
    _total(
        "tracer.losses.lines_not_shown",
        description="Lines that a slow terminal had no room for; no event is lost by that.",
    ),
    _total("tracer.stuck_now", description="Attempts stuck at this moment."),
    _total("tracer.tracked_now", description="Attempts followed at this moment."),
    _total("tracer.became_stuck", description="Attempts that became stuck since the start."),
    _total(
        "tracer.withheld",
        description="Attempts that may be of --pod, --namespace or --selector and are not told:"
        " their pod's name or labels are not known.",
    ),
    _total(
        "tracer.own_connects",
        description="Attempts of the tracer itself, to the API server, which are not told and not"
        " counted elsewhere.",
    ),
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
    _tracer(
        "tracer.kube.state",
        _STRING,
        "How much the API server tells: synced is all that names need, off is not asked.",
        enum=tuple(state.value for state in KubeState),
    ),
    _tracer("tracer.kube.message", _TEXT, "What is wrong with it, in a sentence; null: nothing."),
    _tracer(
        "tracer.kube.names_as_of",
        _TEXT,
        "When the names were last known to be true, where they are not kept up to date.",
        pattern=_RFC3339,
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


def _items_schema(members: Sequence[Member] | None) -> dict[str, object]:
    if members is None:
        return {"type": "string"}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [member.key for member in members],
        "properties": {
            member.key: {
                "description": member.description,
                "type": list(member.types),
                **({} if member.pattern is None else {"pattern": member.pattern}),
            }
            for member in members
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
        schema["items"] = _items_schema(field.members)
    bounds = {"minimum": field.minimum, "maximum": field.maximum, "pattern": field.pattern}
    return schema | {keyword: value for keyword, value in bounds.items() if value is not None}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
