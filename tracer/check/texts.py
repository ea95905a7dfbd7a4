"""The check of text that somebody sent: files, standard input, a bundle."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tracer.check.context import Context
from tracer.errors import InputError
from tracer.finding import CheckResult, Finding, PodIdentity
from tracer.model import Endpoint, Flow, Process
from tracer.report_record import load
from tracer.sinks.bundle import CONNECTIONS, CONNTRACK, REPORT
from tracer.sources.raw import Raw, aside
from tracer.sources.text.connection import Connection, ConntrackEntry
from tracer.sources.text.lines import Copy, file_lines, text_lines
from tracer.sources.text.recognise import Parsed, read

_SYN_SENT: Final = frozenset({"SYN_SENT"})
_SHOWN_PROBLEMS: Final = 5


def check_files(context: Context, names: Sequence[str]) -> CheckResult:
    """Reads text that somebody sent; "-" is standard input. Raises InputError."""
    texts = Texts(context)
    for name in names:
        shown = _shown(name)
        with _Keeping(context.raw, shown) as copy:
            if name == "-":
                texts.read(text_lines(sys.stdin.buffer, shown, copy), shown)
            else:
                texts.read(file_lines(name, copy), shown)
    if context.raw is not None:
        context.raw.conntrack(aside(f"what was given of conntrack is in {CONNECTIONS}"))
    return texts.result(", ".join(map(_shown, names)))


def check_bundle(context: Context, directory: str, *, reclassify: bool) -> CheckResult:
    """Reads a report that --report wrote, or text under the names that it gives to text.

    Scopes stay as they were recorded, unless they are to be judged anew. Raises InputError.
    """
    folder = Path(directory)
    if os.path.lexists(folder / REPORT):
        result = load(str(folder / REPORT))
        return _reclassified(context, result) if reclassify else result
    present = [folder / name for name in (CONNECTIONS, CONNTRACK) if (folder / name).is_file()]
    if not present:
        raise InputError(
            f"there is no bundle in {directory}: neither {REPORT} nor {CONNECTIONS} nor "
            f"{CONNTRACK} is a file in it",
            hint="name the directory that --report made, or one with files of these names",
        )
    texts = Texts(context)
    failed: list[InputError] = []
    for path in present:
        try:
            texts.read(file_lines(str(path)), str(path))
        except InputError as error:
            failed.append(error)
    if len(failed) == len(present):
        raise failed[0]
    texts.notes += map(str, failed)
    return texts.result(f"{' and '.join(path.name for path in present)} of {directory}")


class Texts:
    """What several texts say together; `notes` is what could not be read.

    A conntrack entry is a finding where no text shows its socket: each connection counts once.
    """

    def __init__(self, context: Context, pod: PodIdentity | None = None) -> None:
        """`pod` is whose text it is, where that is known."""
        self.notes: list[str] = []
        self._context = context
        self._pod = pod
        self._formats: dict[str, None] = {}  # a set that keeps its order
        self._findings: list[Finding] = []
        self._sockets: set[tuple[Endpoint, Endpoint]] = set()
        self._tracked: dict[tuple[Endpoint, Endpoint], ConntrackEntry] = {}

    def read(self, lines: Iterable[str], name: str) -> None:
        """Reads one text; `name` is the file's. Raises InputError where nothing of it is usable."""
        parsed = read(lines, name, states=_SYN_SENT)
        for entry in parsed:
            if isinstance(entry, ConntrackEntry):
                self._tracked[entry.original.source, entry.original.destination] = entry
            else:
                self._sockets.add((entry.source, entry.destination))
                self._findings.append(_finding(self._context, entry, self._pod))
        self.notes += _problems(parsed)
        self._formats |= dict.fromkeys(parsed.formats)

    def findings(self) -> tuple[Finding, ...]:
        """The sockets in their order, then what conntrack alone knows."""
        unseen = (
            _finding(self._context, entry, self._pod)
            for ends, entry in self._tracked.items()
            if ends not in self._sockets
        )
        return (*self._findings, *unseen)

    def result(self, target: str) -> CheckResult:
        """The answer of a check of these texts alone."""
        return CheckResult(
            target=target,
            node=self._context.node_name,
            method=", ".join(self._formats),
            wall_ns=time.time_ns(),
            findings=self.findings(),
            notes=tuple(self.notes),
        )


def _finding(
    context: Context, entry: Connection | ConntrackEntry, pod: PodIdentity | None
) -> Finding:
    if isinstance(entry, ConntrackEntry):
        source, destination = entry.original.source, entry.original.destination
        return Finding(
            flow=Flow(None, entry.family, source, destination),
            destination=context.destinations.classify(destination.address),
            pod=pod,
        )
    process = None
    if entry.pid is not None:
        process = Process(pid=entry.pid, name=entry.process)
    return Finding(
        flow=Flow(None, entry.family, entry.source, entry.destination, entry.mapped),
        destination=context.destinations.classify(entry.destination.address),
        syns_sent=None if entry.retransmissions is None else entry.retransmissions + 1,
        next_retry_seconds=entry.next_retry_seconds,
        uid=entry.uid,
        process=process,
        pod=pod,
    )


def _problems(parsed: Parsed) -> Iterator[str]:
    """The first lines that could not be read, and how many more there are."""
    shown = parsed.problems[:_SHOWN_PROBLEMS]
    yield from map(str, shown)
    more = parsed.problem_count - len(shown)
    if more > 0:
        yield f"{more} more lines of {parsed.name} that could not be read"


def _reclassified(context: Context, result: CheckResult) -> CheckResult:
    def judged(found: Finding) -> Finding:
        scope = context.destinations.classify(found.flow.destination.address).scope
        return replace(found, destination=replace(found.destination, scope=scope))

    return replace(result, findings=tuple(map(judged, result.findings)))


def _shown(name: str) -> str:
    return "standard input" if name == "-" else name


class _Keeping:
    """Hands on a text as it is read, under a heading and ending in a newline."""

    def __init__(self, raw: Raw | None, name: str) -> None:
        self._raw = raw
        self._name = name
        self._end = b"\n"

    def __enter__(self) -> Copy | None:
        if self._raw is None:
            return None
        self._raw.connections(aside(f"file {self._name}"))
        return self._take

    def __exit__(self, *_: object) -> None:
        if self._raw is not None and self._end != b"\n":
            self._raw.connections(b"\n")  # the next heading begins a line

    def _take(self, block: bytes) -> None:
        if self._raw is not None:
            self._raw.connections(block)
            self._end = block[-1:]
