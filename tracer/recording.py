"""A recording read back: lines of the JSONL events as values of the model.

CLOCK_MONOTONIC is in no recording: times of the day stand in for it, so that what matters, the
differences, is right. What is not an event as the schema has it is skipped and counted.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, TypeVar

from tracer.errors import InputError
from tracer.model import (
    NANOSECONDS,
    Attempt,
    Cause,
    Change,
    ChangeKind,
    Confidence,
    CrossCheck,
    Destination,
    Endpoint,
    Endpoints,
    Evidence,
    Flow,
    Health,
    Kind,
    KubeHealth,
    KubeState,
    Lifecycle,
    LifecycleKind,
    Losses,
    NameSource,
    Nat,
    Outcome,
    Owner,
    PodEvidence,
    PodIdentity,
    Process,
    Rates,
    Report,
    Scope,
    SourceName,
    Verdict,
    Workload,
)
from tracer.schema import ALL_EVENTS, ATTEMPT_EVENTS, SCHEMA_VERSION

NO_EVENT: Final = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What is raised where a record is not as the schema has it."""

Event = Report | Lifecycle
Fields = dict[str, Any]

MOST_LINE_BYTES: Final = 1 << 20
"""A command line takes 128 KiB at the most (MAX_ARG_STRLEN), its escapes six times as much."""

MOST_LIVE: Final = 1 << 17
"""Attempts of a recording that are held at once: a trace follows half as many."""

# As this program writes them: keys in this order, no spaces.
_BRIEF: Final = re.compile(
    rb'\{"schema_version":1,"time":"([^"\\]{20,30})","event":"(attempt\.(?:retransmit|evidence))",'
    rb'.*"attempt":\{"id":"([^"\\]{1,100})",'
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_SECONDS: Final = 1e9
_MOST_ERRNO: Final = 40
_MICROSECOND: Final = timedelta(microseconds=1)
_NO_POD: Final = PodIdentity()

_Known = TypeVar("_Known")
_Choice = TypeVar("_Choice", bound=StrEnum)


class Recording:
    """The events of a file, in the order in which they were written.

    skipped  lines that are no event, so far; `first_skipped` says why of the first
    """

    def __init__(self, path: str) -> None:
        """Raises InputError where it cannot be read."""
        self._path = path
        self.skipped = 0
        self.first_skipped = ""
        self.lines = 0
        self.node: str | None = None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        self._file = open(descriptor, "rb", buffering=1 << 20)  # noqa: SIM115 - closed by close()
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            self._file.close()
            raise InputError(
                f"{path} is no ordinary file", hint="a replay needs one to find its place in"
            )

    def close(self) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Event]:
        """The events. Raises InputError for a version of the schema that is not known."""
        for record in self.records():
            try:
                event = read(record)
            except NO_EVENT as error:
                self._skip(f"{type(error).__name__} {error}")
                continue
            yield event

    def records(self, *, in_brief: bool = False) -> Iterator[Fields]:
        """The events as they are in JSON, each known to be an event of a known version.

        `in_brief` those that only go on, the most of all, have their time and attempt's id alone:
        to read that takes a tenth of the time.
        """
        for line in self._whole_lines():
            self.lines += 1
            if in_brief and self.node is not None:  # the first event tells of the node
                brief = _BRIEF.match(line)
                if brief is not None and line.endswith(b"}\n") and b'"outcome":null' in line:
                    at, event, name = (part.decode(errors="replace") for part in brief.groups())
                    yield {"time": at, "event": event, "attempt": {"id": name, "outcome": None}}
                    continue
            try:
                # Of bytes it would guess the encoding.
                record = json.loads(line.decode(), parse_constant=_refused)
                version, event = record["schema_version"], record["event"]
            except (ValueError, KeyError, TypeError, RecursionError):
                if line.strip():
                    self._skip("is not whole" if not line.endswith(b"\n") else "is no event")
                continue
            if version != SCHEMA_VERSION:
                raise InputError(
                    f"{self._path}, line {self.lines}: its schema_version is {version!r}, and this"
                    f" program knows {SCHEMA_VERSION}",
                    hint="replay it with the version of synsent-trace that made it, or a newer one",
                )
            if event not in ALL_EVENTS:
                self._skip(f"is an unknown event {event!r}")
                continue
            if self.node is None:
                self.node = _node(record)
            yield record

    def _whole_lines(self) -> Iterator[bytes]:
        while line := self._file.readline(MOST_LINE_BYTES):
            if len(line) == MOST_LINE_BYTES and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = self._file.readline(MOST_LINE_BYTES)
                line = b"\x00\n"  # too long for an event
            yield line

    def _skip(self, why: str) -> None:
        self.skipped += 1
        if not self.first_skipped:
            self.first_skipped = f"line {self.lines} {why}"


def _node(record: Fields) -> str | None:
    try:
        name = record["k8s"]["node"]["name"]
    except (KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def read(record: Fields) -> Event:
    """An event. Raises one of NO_EVENT where it is none."""
    if record["event"] in ATTEMPT_EVENTS:
        return _report(record)
    return _lifecycle(record)


def _report(record: Fields) -> Report:
    wall_ns = nanoseconds(record["time"])
    kind = ChangeKind(record["event"])
    told, source, asked = record["attempt"], record["source"], record["destination"]
    outcome = _among(told["outcome"], Outcome)
    age, left = _seconds(told["age_seconds"]), _seconds(told["next_retry_seconds"])
    ended = kind is ChangeKind.END or outcome is not None
    process = record["process"]
    pid = integer(process["pid"])
    attempt = Attempt(
        id=text(told["id"]) or "",
        flow=Flow(
            netns=integer(record["netns"]),
            family=6 if record["network"]["type"] == "ipv6" else 4,
            source=endpoint_of(source),
            destination=endpoint_of(asked),
            mapped=bool(told["mapped"]),
        ),
        owner=Owner(pid=pid, uid=integer(record["user"]["id"]), comm=text(process["command"])),
        detected_by=SourceName(record["detected_by"]),
        first_seen_ns=wall_ns,
        started_ns=None if age is None else wall_ns - int(age * NANOSECONDS),
        stuck_ns=wall_ns if told["stuck"] else None,
        syns_sent=integer(told["syns_sent"]),
        last_syn_ns=wall_ns if kind in {ChangeKind.STUCK, ChangeKind.RETRANSMIT} else None,
        next_retry_ns=None if left is None or ended else wall_ns + int(left * NANOSECONDS),
        backoff=integer(told["backoff"]),
        outcome=outcome,
        ended_ns=wall_ns if ended else None,
        errno=_errno(record["error"]["type"]),
        soft_errno=_errno(record["error"]["soft_type"]),
    )
    return Report(
        change=Change(kind, attempt, wall_ns),
        destination=destination_of(record),
        process=_process(record, pid),
        wall_ns=wall_ns,
        age_seconds=age,
        next_retry_seconds=left,
        pod=_pod(record["k8s"]),
        verdict=_verdict(record["verdict"]),
    )


def destination_of(record: Fields) -> Destination:
    """What an event knew of its destination. Raises as `read` does."""
    asked, nat = record["destination"], record["nat"]
    ready, total = asked["endpoints"]["ready"], asked["endpoints"]["total"]
    there = nat["destination"]
    return Destination(
        scope=Scope(asked["scope"]),
        kind=Kind(asked["kind"]),
        name=text(asked["name"]),
        ambiguous=bool(asked["ambiguous"]),
        endpoints=None
        if ready is None or total is None
        else Endpoints(_count(ready), _count(total)),
        nat=(
            None
            if there["address"] is None
            else Nat(endpoint_of(there), text(nat["state"]), bool(nat["replied"]))
        ),
    )


def _process(record: Fields, pid: int | None) -> Process | None:
    told = record["process"]
    arguments = told["command_args"]
    if pid is None:
        return None
    return Process(
        pid=pid,
        name=text(told["executable"]["name"]),
        executable=text(told["executable"]["path"]),
        command_line=None if arguments is None else tuple(map(str, arguments)),
        container_id=text(record["container"]["id"]),
        unit=text(record["systemd"]["unit"]),
    )


def _pod(k8s: Fields) -> PodIdentity | None:
    pod, work = k8s["pod"], k8s["workload"]
    kind, name = text(work["kind"]), text(work["name"])
    as_of = pod["names_as_of"]
    found = PodIdentity(
        namespace=text(k8s["namespace"]["name"]),
        name=text(pod["name"]),
        uid=text(pod["uid"]),
        container=text(k8s["container"]["name"]),
        workload=None if kind is None or name is None else Workload(kind, name),
        evidence=_among(pod["evidence"], PodEvidence),
        name_source=_among(pod["name_source"], NameSource),
        names_wall_ns=None if as_of is None else nanoseconds(as_of),
    )
    return None if found == _NO_POD else found


def _verdict(told: Fields) -> Verdict | None:
    if told["cause"] is None:
        return None
    return Verdict(
        cause=Cause(told["cause"]),
        confidence=Confidence(told["confidence"]),
        summary=text(told["summary"]) or "",
        evidence=tuple(
            Evidence(
                text(piece["kind"]) or "",
                text(piece["summary"]) or "",
                None if piece["time"] is None else nanoseconds(piece["time"]),
            )
            for piece in told["evidence"]
        ),
    )


def _lifecycle(record: Fields) -> Lifecycle:
    told = record["tracer"]
    kube = told["kube"]
    as_of = kube["names_as_of"]
    counted = {Outcome(how): _count(count) for how, count in told["outcomes"].items()}
    return Lifecycle(
        kind=LifecycleKind(record["event"]),
        wall_ns=nanoseconds(record["time"]),
        health=Health(
            backend=SourceName(told["backend"]),
            hooks=tuple(map(str, told["hooks"])),
            lacking=tuple(map(str, told["lacking"])),
            stuck_now=_count(told["stuck_now"]),
            tracked_now=_count(told["tracked_now"]),
            outcomes=counted,
            became_stuck=_count(told["became_stuck"]),
            rates=Rates(
                integer(told["connects"]["started"]), integer(told["connects"]["established"])
            ),
            losses=_counts(Losses, told["losses"]),
            crosscheck=_counts(CrossCheck, told["crosscheck"]),
            kube=KubeHealth(
                KubeState(kube["state"]),
                text(kube["message"]),
                None if as_of is None else nanoseconds(as_of),
            ),
            withheld=_count(told.get("withheld", 0)),
            own_connects=_count(told.get("own_connects", 0)),
        ),
        uptime_seconds=_seconds(told["uptime_seconds"]) or 0.0,
        message=text(told["message"]),
    )


def _counts(kind: Callable[..., _Known], told: Fields) -> _Known:
    """Counts by name; one that an older program did not know is zero."""
    return kind(**{one.name: _count(told.get(one.name, 0)) for one in fields(kind)})  # type: ignore[arg-type]


def endpoint_of(told: Fields) -> Endpoint:
    """An address and port. Raises as `read` does."""
    address = text(told["address"])
    if address is None:
        raise ValueError("an endpoint has no address")
    return Endpoint(address, integer(told["port"]))


def _among(value: object, kind: type[_Choice]) -> _Choice | None:
    return None if value is None else kind(text(value) or "")


def text(value: object) -> str | None:
    """Raises TypeError for anything but a text, or none."""
    if value is not None and not isinstance(value, str):
        raise TypeError("a text is none")
    return value


def integer(value: object) -> int | None:
    """Raises TypeError for anything but a whole number, or none; ValueError out of 64 bits."""
    if value is None:
        return None
    return _count(value)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("a number is none")
    if not 0 <= value < 1 << 64:  # sums of larger ones could not even be written
        raise ValueError("a number is out of bounds")
    return value


def _refused(constant: str) -> float:
    """Python's own NaN and Infinity, which are not JSON."""
    raise ValueError(f"{constant} is no JSON")


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a number of seconds is none")
    if not 0 <= value <= _MOST_SECONDS:  # so is NaN
        raise ValueError("a number of seconds is out of bounds")
    return float(value)


@lru_cache(maxsize=256)
def _errno(name: str | None) -> int | None:
    if name is None:
        return None
    if len(name) > _MOST_ERRNO:
        raise ValueError("an errno is none")
    found = getattr(errno, name, None) if name.startswith("E") else None
    return found if isinstance(found, int) else _count(int(name.removeprefix("errno ")))


def nanoseconds(text: str) -> int:
    """A time of RFC 3339 in UTC, since the epoch. Raises ValueError."""
    return _second(text[:19]) * NANOSECONDS + _fraction(text[19:])


@lru_cache(maxsize=256)
def _second(text: str) -> int:
    """Cached: the events of a second share it."""
    seconds = (datetime.fromisoformat(f"{text}+00:00") - _EPOCH) // _MICROSECOND // 1_000_000
    if seconds < 0:
        raise ValueError(f"{text!r} is before 1970")
    return seconds


def _fraction(text: str) -> int:
    if not text.endswith("Z") or not text.startswith("."):
        raise ValueError(f"{text!r} ends no time")
    digits = text[1:-1]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 9:
        raise ValueError(f"{text!r} ends no time")
    return int(digits.ljust(9, "0"))
