"""The answer of a check as one JSON object, and back: the two sides of report.json.

What is written can be read again without loss, but for durations, which are rounded to
milliseconds, for the facts behind a verdict, and for what would make it larger than is read: then a
note says how many connections are in it.
What follows from something else in it (destinations, advice, tags, the number found) is for the
reader's convenience, and is not read back.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, Final, TypeVar

from tracer import __version__
from tracer.errors import InputError
from tracer.event import destination_record, pod_record, timestamp
from tracer.finding import CheckResult, Clue, Finding, Judged, Rung, Step, by_destination
from tracer.model import (
    Cause,
    Confidence,
    Destination,
    Endpoint,
    Endpoints,
    Flow,
    Kind,
    NameSource,
    PodEvidence,
    PodIdentity,
    Process,
    Scope,
    Workload,
)

REPORT_VERSION: Final = 1
"""Raised when a key changes its meaning or goes away; new keys leave it alone."""

MAX_REPORT_BYTES: Final = 256 << 20
"""Some 400,000 connections; several times as much memory while it is read."""

_ROOM: Final = 1_000
"""Bytes for two notes more, and for what stands between the members."""
MOST_VERDICTS: Final = 1_000
MOST_EVIDENCE: Final = 100
"""Of one report, and of one of its verdicts: far more than is written, so that a later release may
write more. More than that is no report."""
_PART_OF_SUMMARY: Final = 4
"""The part of a report that its destinations may take: each is less than half of a connection."""

_MOST_32_BITS: Final = (1 << 32) - 1
_MOST_64_BITS: Final = (1 << 64) - 1
_RFC3339: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
_FAMILIES: Final = {"ipv4": 4, "ipv6": 6}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_Read = TypeVar("_Read")


# --- to JSON -------------------------------------------------------------------------------------


def document(result: CheckResult, steps: Sequence[Step]) -> Iterator[str]:
    """The whole answer as one JSON object, in pieces; `finding_record` says what is in a finding.

    A connection is a piece, and a line, of its own: there may be very many.
    """
    head = {
        "report_version": REPORT_VERSION,
        "tool": f"synsent-trace {__version__}",
        "time": timestamp(result.wall_ns),
        "target": result.target,
        "node": result.node,
        "method": result.method,
        "tried": [{"method": rung.method, "reason": rung.reason} for rung in result.tried],
        "found": len(result.findings),
    }
    tail = {
        "verdicts": [_verdict_record(one) for one in result.verdicts],
        "advice": [
            {"title": step.title, "reason": step.reason, "commands": list(step.commands)}
            for step in steps
        ],
    }
    opening, notes = _members(head), list(result.notes)
    left = MAX_REPORT_BYTES - len(opening) - len(_members({"notes": notes, **tail})) - _ROOM
    yield f"{{\n{opening}"
    for name, records, most_bytes in (
        # What the connections say too gets no more than a part.
        ("destinations", _destinations(result), left // _PART_OF_SUMMARY),
        ("connections", map(finding_record, result.findings), left - left // _PART_OF_SUMMARY),
    ):
        kept, number = yield from _array(name, records, most_bytes)
        if kept < number:
            notes.append(
                f"{name} beyond the first {kept} of {number}: report.json would be too large to be "
                "read"
            )
    yield f",\n{_members({'notes': notes, **tail})}\n}}\n"


def _members(values: Mapping[str, object]) -> str:
    """The members of an object, without its braces."""
    return json.dumps(values, indent=2)[2:-2]


def _array(
    name: str, records: Iterable[Mapping[str, object]], most_bytes: int
) -> Generator[str, None, tuple[int, int]]:
    """A member that is a list, a record a line, as far as they fit: so many, of so many."""
    kept = number = size = 0
    yield f',\n  "{name}": ['
    for number, record in enumerate(records, 1):
        piece = f"{',' if kept else ''}\n    {json.dumps(record)}"
        size += len(piece)
        if size <= most_bytes:
            yield piece
            kept = number
    yield "\n  ]" if kept else "]"
    return kept, number


def _destinations(result: CheckResult) -> Iterator[dict[str, object]]:
    for where, what, count in by_destination(result.findings):
        yield {
            **_endpoint(where),
            "scope": what.scope.value,
            "tag": what.scope.tag,
            "count": count,
        }


def _verdict_record(one: Judged) -> dict[str, object]:
    return {
        "pod": one.pod,
        "destination": _endpoint(one.destination),
        "cause": one.cause.value,
        "confidence": one.confidence.value,
        "summary": one.summary,
        "evidence": [
            {
                "kind": clue.kind,
                "summary": clue.summary,
                "time": None if clue.wall_ns is None else timestamp(clue.wall_ns),
            }
            for clue in one.evidence
        ],
    }


def finding_record(finding: Finding) -> dict[str, object]:
    """One connection, keyed as the live trace's events are."""
    flow, pod, process = finding.flow, finding.pod, finding.process
    return {
        "k8s": {"node": {"name": pod.node if pod else None}, **pod_record(pod)},
        "systemd": {"unit": process.unit if process else None},
        "eni_id": pod.eni_id if pod else None,
        "container": {"id": process.container_id if process else None},
        "process": None
        if process is None
        else {
            "pid": process.pid,
            "executable": {"name": process.name, "path": process.executable},
            "command_args": None if process.command_line is None else list(process.command_line),
            "pod_uid": process.pod_uid,
        },
        "user": {"id": finding.uid},
        "netns": flow.netns,
        "network": {"type": f"ipv{flow.family}", "transport": "tcp"},
        "source": _endpoint(flow.source),
        "destination": {
            **_endpoint(flow.destination),
            **destination_record(finding.destination),
        },
        "attempt": {
            "age_seconds": _rounded(finding.age_seconds),
            "syns_sent": finding.syns_sent,
            "next_retry_seconds": _rounded(finding.next_retry_seconds),
            "mapped": flow.mapped,
        },
    }


def _endpoint(where: Endpoint) -> dict[str, object]:
    return {"address": where.address, "port": where.port}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


# --- from JSON -----------------------------------------------------------------------------------


def load(path: str) -> CheckResult:
    """The answer that report.json at `path` holds.

    The file may be anybody's work: what is not as `document` writes it raises InputError, which
    names the file and the key.
    """
    try:
        whole: object = json.loads(_contents(path), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not JSON: {_why_not_json(error)}",
            hint="it may be damaged, or cut short: ask for the bundle again",
        ) from None
    try:
        return result_from(whole)
    except _Damaged as error:
        raise InputError(
            f"{path} is not a report of synsent-trace: {error}",
            hint="it may be damaged, or edited: ask for the bundle again",
        ) from None
    except _TooNew as error:
        raise InputError(
            f"{path} was made by a newer release: {error}",
            hint="read it with that release of synsent-trace, or take report.json away: the other "
            "files are read then",
        ) from None


def result_from(whole: object) -> CheckResult:
    """What `document` was made of. Raises ValueError, naming the key that is not as it must be."""
    report = _Value(whole, "")
    version = report["report_version"].integer(1, _MOST_64_BITS)
    if version > REPORT_VERSION:
        raise _TooNew(f"report_version is {version}, known is {REPORT_VERSION}")
    return CheckResult(
        target=report["target"].text(),
        node=report["node"].text(),
        method=report["method"].text(),
        wall_ns=_wall_ns(report["time"]),
        findings=report["connections"].each(_finding),
        tried=report["tried"].each(lambda one: Rung(one["method"].text(), one["reason"].text())),
        notes=report["notes"].each(_Value.text),
        # Earlier releases wrote none.
        verdicts=report["verdicts"].each(_verdict, MOST_VERDICTS) if "verdicts" in report else (),
    )


def _verdict(record: _Value) -> Judged:
    destination = record["destination"]
    return Judged(
        pod=record["pod"].text_or_none(),
        destination=Endpoint(
            destination["address"].ip_address(), destination["port"].integer_or_none(0, 65_535)
        ),
        cause=record["cause"].among({cause.value: cause for cause in Cause}),
        confidence=record["confidence"].among({one.value: one for one in Confidence}),
        summary=record["summary"].text(),
        evidence=record["evidence"].each(_clue, MOST_EVIDENCE),
    )


def _clue(record: _Value) -> Clue:
    return Clue(
        kind=record["kind"].text(),
        summary=record["summary"].text(),
        wall_ns=None if record["time"].is_none() else _wall_ns(record["time"]),
    )


def _finding(record: _Value) -> Finding:
    destination = record["destination"]
    family = record["network"]["type"].among(_FAMILIES)
    attempt = record["attempt"]
    return Finding(
        flow=Flow(
            netns=record["netns"].integer_or_none(0, _MOST_32_BITS),
            family=family,
            source=_read_endpoint(record["source"], family),
            destination=_read_endpoint(destination, family),
            mapped=attempt["mapped"].boolean(),
        ),
        destination=Destination(
            scope=destination["scope"].among({scope.value: scope for scope in Scope}),
            kind=destination["kind"].among({kind.value: kind for kind in Kind}),
            name=destination["name"].text_or_none(),
            ambiguous=destination["ambiguous"].boolean(),
            endpoints=_endpoints(destination["endpoints"]),
        ),
        age_seconds=attempt["age_seconds"].seconds_or_none(),
        syns_sent=attempt["syns_sent"].integer_or_none(0, _MOST_64_BITS),
        next_retry_seconds=attempt["next_retry_seconds"].seconds_or_none(),
        uid=record["user"]["id"].integer_or_none(0, _MOST_32_BITS),
        process=_process(record),
        pod=_pod(record),
    )


def _read_endpoint(record: _Value, family: int) -> Endpoint:
    address = record["address"]
    return Endpoint(address.ip_address(family), record["port"].integer_or_none(0, 65_535))


def _process(record: _Value) -> Process | None:
    process = record["process"]
    if process.is_none():
        return None
    arguments = process["command_args"]
    return Process(
        pid=process["pid"].integer(0, _MOST_32_BITS),
        name=process["executable"]["name"].text_or_none(),
        executable=process["executable"]["path"].text_or_none(),
        command_line=None if arguments.is_none() else arguments.each(_Value.text),
        container_id=record["container"]["id"].text_or_none(),
        pod_uid=process["pod_uid"].text_or_none(),
        unit=record["systemd"]["unit"].text_or_none(),
    )


def _endpoints(record: _Value) -> Endpoints | None:
    ready = record["ready"].integer_or_none(0, _MOST_32_BITS)
    total = record["total"].integer_or_none(0, _MOST_32_BITS)
    return None if ready is None or total is None else Endpoints(ready, total)


def _pod(record: _Value) -> PodIdentity | None:
    k8s = record["k8s"]
    pod = PodIdentity(
        namespace=k8s["namespace"]["name"].text_or_none(),
        name=k8s["pod"]["name"].text_or_none(),
        uid=k8s["pod"]["uid"].text_or_none(),
        node=k8s["node"]["name"].text_or_none(),
        eni_id=record["eni_id"].text_or_none(),
        container=k8s["container"]["name"].text_or_none(),
        workload=_workload(k8s["workload"]),
        evidence=k8s["pod"]["evidence"].among_or_none({one.value: one for one in PodEvidence}),
        name_source=k8s["pod"]["name_source"].among_or_none({one.value: one for one in NameSource}),
        names_wall_ns=None
        if k8s["pod"]["names_as_of"].is_none()
        else _wall_ns(k8s["pod"]["names_as_of"]),
    )
    return None if pod == PodIdentity() else pod


def _workload(record: _Value) -> Workload | None:
    kind, name = record["kind"].text_or_none(), record["name"].text_or_none()
    return None if kind is None or name is None else Workload(kind, name)


def _wall_ns(value: _Value) -> int:
    text = value.text()
    if _RFC3339.fullmatch(text) is not None:
        with suppress(ValueError):  # the 30th of February
            # Whole numbers: a float of this size is exact to 200 ns at best.
            return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1) * 1_000
    raise value.damaged("is not a time such as 2026-01-02T03:04:05.000000Z")


class _Damaged(ValueError):
    """A key is missing, or its value is not what it must be."""


class _NoNumber(ValueError):
    """NaN or an infinity, which JSON does not have."""


class _TooNew(ValueError):
    """A report of a version that is not known yet."""


class _Value:
    """A value out of JSON and the path of keys to it; what is asked of it it must be."""

    def __init__(self, value: object, path: str) -> None:
        self._value = value
        self._path = path

    def damaged(self, what: str) -> _Damaged:
        return _Damaged(f"{self._path or 'the whole'} {what}")

    def __getitem__(self, key: str) -> _Value:
        path = f"{self._path}.{key}" if self._path else key
        if not isinstance(self._value, dict):
            raise self.damaged("is not an object")
        if key not in self._value:
            raise _Damaged(f"{path} is missing")
        return _Value(self._value[key], path)

    def __contains__(self, key: str) -> bool:
        return isinstance(self._value, dict) and key in self._value

    def each(self, read: Callable[[_Value], _Read], most: int | None = None) -> tuple[_Read, ...]:
        """What `read` makes of the members of a list, of which there may be `most`."""
        if not isinstance(self._value, list):
            raise self.damaged("is not a list")
        if most is not None and len(self._value) > most:
            raise self.damaged(f"has more than {most} members")
        return tuple(
            read(_Value(one, f"{self._path}[{index}]")) for index, one in enumerate(self._value)
        )

    def is_none(self) -> bool:
        return self._value is None

    def text(self) -> str:
        if not isinstance(self._value, str):
            raise self.damaged("is not a text")
        return self._value

    def text_or_none(self) -> str | None:
        return None if self._value is None else self.text()

    def boolean(self) -> bool:
        if not isinstance(self._value, bool):
            raise self.damaged("is neither true nor false")
        return self._value

    def integer(self, least: int, most: int) -> int:
        # A bool is an int to Python.
        value = None if isinstance(self._value, bool) else self._value
        if not isinstance(value, int) or not least <= value <= most:
            raise self.damaged(f"is not a whole number from {least} to {most}")
        return value

    def integer_or_none(self, least: int, most: int) -> int | None:
        return None if self._value is None else self.integer(least, most)

    def seconds_or_none(self) -> float | None:
        value = None if isinstance(self._value, bool) else self._value
        if self._value is None:
            return None
        # An integer may be too large for a float to hold: comparing comes first.
        if isinstance(value, int | float) and 0 <= value <= _MOST_64_BITS and math.isfinite(value):
            return float(value)
        raise self.damaged("is not a number of seconds")

    def ip_address(self, family: int | None = None) -> str:
        """An address in text form and without a zone, of that family; None: of either."""
        text = self.text()
        # What follows a % may be anything, and would end up in commands to copy.
        if "%" not in text:
            with suppress(ValueError):
                if ip_address(text).version in (_FAMILIES.values() if family is None else {family}):
                    return text
        raise self.damaged(f"is not an IP{'' if family is None else f'v{family}'} address")

    def among(self, allowed: dict[str, _Read]) -> _Read:
        """What the text stands for."""
        if not isinstance(self._value, str) or self._value not in allowed:
            raise self.damaged(f"is not one of {', '.join(allowed)}")
        return allowed[self._value]

    def among_or_none(self, allowed: dict[str, _Read]) -> _Read | None:
        return None if self._value is None else self.among(allowed)


def _contents(path: str) -> bytes:
    """What is in the file. Raises InputError where it cannot be read, or is too large."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"{path} is no ordinary file")
            contents = file.read(MAX_REPORT_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(contents) > MAX_REPORT_BYTES:
        raise InputError(f"{path} is larger than {MAX_REPORT_BYTES >> 20} MiB")
    return contents


def _no_number(name: str) -> Any:  # noqa: ANN401 - never returns
    raise _NoNumber(f"{name} is no number")


def _why_not_json(error: Exception) -> str:
    """Of what json.loads raises, in words that do not talk of Python."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, _NoNumber | json.JSONDecodeError):
        return str(error)
    # The one ValueError that is left: int() takes 4300 digits at most.
    return "a number in it has too many digits"
