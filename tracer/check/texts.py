"""The check of text that somebody sent: files, standard input, a bundle."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Final

from tracer.check.context import Context
from tracer.errors import InputError
from tracer.finding import CheckResult, Finding
from tracer.model import Endpoint, Flow, PodIdentity, Process
from tracer.report_record import load
from tracer.sinks.bundle import CONNECTIONS, CONNTRACK, REPORT
from tracer.sources.raw import Raw, aside
from tracer.sources.text.connection import Connection, ConntrackEntry
from tracer.sources.text.conntrack import ConntrackReader
from tracer.sources.text.lines import Copy, file_lines, text_lines
from tracer.sources.text.recognise import Parsed, read

_SYN_SENT: Final = frozenset({"SYN_SENT"})
_SHOWN_PROBLEMS: Final = 5
_MOST_ALIKE: Final = 64
"""Sockets of the same addresses and ports that a row is compared with: in as many namespaces."""

_Ends = tuple[Endpoint, Endpoint]


def check_files(context: Context, names: Sequence[str], *, state: str | None = None) -> CheckResult:
    """Reads text that somebody sent; "-" is standard input. Raises InputError if none is usable.

    `state` is that of rows of ss that show none.
    """
    texts = Texts(context, state=state)
    failed: list[InputError] = []
    for name in names:
        shown = _shown(name)
        try:
            with _Keeping(context.raw, shown) as copy:
                texts.read(_lines(name, copy), shown)
        except InputError as error:
            failed.append(error)
    texts.note_failures(failed, len(names))
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
    try:
        present = [folder / name for name in (CONNECTIONS, CONNTRACK) if (folder / name).is_file()]
    except OSError as error:
        raise InputError(
            f"cannot read {directory}: {error.strerror or error}",
            hint="check the directory's name and permissions",
        ) from None
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
    texts.note_failures(failed, len(present))
    return texts.result(f"{' and '.join(path.name for path in present)} of {directory}")


class Texts:
    """What several texts say together; `notes` is what could not be read.

    A socket counts once, however many sections and files show it. Rows are one socket where their
    addresses and ports are the same and nothing that both know of it differs (inode, owner,
    interface). Two nodes can have such sockets on loopback and link-local addresses alone; they are
    told apart where inodes are shown.

    A conntrack entry outlasts its socket by up to two minutes (nf_conntrack_tcp_timeout_syn_sent),
    and may be of an attempt from outside: it is a finding only where no text lists sockets.
    """

    def __init__(
        self, context: Context, pod: PodIdentity | None = None, *, state: str | None = None
    ) -> None:
        """`pod` is whose text it is, where that is known; `state` that of rows that show none."""
        self.notes: list[str] = []
        self._context = context
        self._pod = pod
        self._state = state
        self._formats: dict[str, None] = {}  # a set that keeps its order
        self._sockets_listed = False
        self._sockets: dict[_Ends, list[Connection]] = {}
        self._tracked: dict[_Ends, ConntrackEntry] = {}

    def read(self, lines: Iterable[str], name: str) -> None:
        """Reads one text; `name` is the file's. Raises InputError where nothing of it is usable."""
        parsed = read(lines, name, states=_SYN_SENT, assume_state=self._state)
        try:
            for entry in parsed:
                if isinstance(entry, ConntrackEntry):
                    self._tracked[entry.original.source, entry.original.destination] = entry
                else:
                    self._add(entry)
        except InputError:
            if parsed.rows:  # it broke off
                self._met(parsed)
            raise
        self._met(parsed)
        self.notes += _problems(parsed)

    def note_failures(self, failed: Sequence[InputError], of: int) -> None:
        """Notes what was wrong with some texts of several. Raises it where it is all of them."""
        if len(failed) == of:
            raise failed[0]
        self.notes += map(str, failed)

    def findings(self) -> tuple[Finding, ...]:
        """The sockets in their order; where none are listed, what conntrack tracks."""
        entries: Iterable[Connection | ConntrackEntry] = self._tracked.values()
        if self._sockets_listed:
            entries = chain.from_iterable(self._sockets.values())
        return tuple(_finding(self._context, entry, self._pod) for entry in entries)

    def result(self, target: str) -> CheckResult:
        """The answer of a check of these texts alone."""
        return CheckResult(
            target=target,
            node=self._context.node_name,
            method=", ".join(self._formats) + (" alone" if self._conntrack_alone else ""),
            wall_ns=time.time_ns(),
            findings=self.findings(),
            notes=(*self.notes, *self._notes_on_conntrack()),
        )

    @property
    def _conntrack_alone(self) -> bool:
        return list(self._formats) == [ConntrackReader.format]

    def _met(self, parsed: Parsed) -> None:
        self._formats |= dict.fromkeys(parsed.formats)
        self._sockets_listed |= parsed.lists_sockets

    def _add(self, row: Connection) -> None:
        alike = self._sockets.setdefault((row.source, row.destination), [])
        # Before the kernel has chosen a port, any number of sockets look the same.
        if row.source.port is not None:
            for index, known in enumerate(alike[:_MOST_ALIKE]):
                if _may_be_one(known, row):
                    alike[index] = _merged(known, row)
                    return
        alike.append(row)

    def _notes_on_conntrack(self) -> Iterator[str]:
        if not self._sockets_listed:
            if self._tracked:
                yield (
                    "the sockets themselves: conntrack tracks attempts that have just ended, and "
                    "those that others make to this node too"
                )
            return
        local = {source.address for source, _ in self._sockets}
        # From elsewhere to here are others' attempts.
        unseen = sum(
            source.address in local or destination.address not in local
            for source, destination in self._tracked.keys() - self._sockets.keys()
        )
        if unseen:
            yield (
                f"{unseen} tracked attempt(s) without a socket: just ended, or of another namespace"
            )


def _may_be_one(one: Connection, other: Connection) -> bool:
    """Whether nothing that is known of two rows of the same addresses and ports differs."""
    if one.mapped != other.mapped:
        return False
    pairs = (
        (one.inode, other.inode),
        (one.uid, other.uid),
        (one.interface, other.interface),
    )
    return all(mine is None or theirs is None or mine == theirs for mine, theirs in pairs)


def _merged(known: Connection, row: Connection) -> Connection:
    """What is known, and what a further row of the same socket adds."""
    added = {
        member.name: getattr(row, member.name)
        for member in fields(known)
        if getattr(known, member.name) is None
    }
    return replace(known, **added)


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


def _lines(name: str, copy: Copy | None) -> Iterator[str]:
    if name != "-":
        yield from file_lines(name, copy)
        return
    # sys.stdin is None where it was closed.
    with open(0, "rb", closefd=False) as stream:
        yield from text_lines(stream, _shown(name), copy)


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
