"""A report as a directory that can be sent to somebody: what was found, and the text it came from.

    report.md, report.json         the answer and why, for a ticket and for programs
    events.jsonl                   what is stuck, as events of the live trace
    environment.txt                where and when
    pod_connections.txt            TCP sockets in every state, as they were read
    pod_conntrack_connections.txt  conntrack's entries about the addresses in question

The last two have the names by which other toolkits collect them; `check --bundle` reads either.
A bundle is written beside its name and renamed once it is whole: under its name there is all of it
or nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tracer import __version__
from tracer.errors import OutputError, UsageError
from tracer.event import attempt_record, timestamp
from tracer.finding import CheckResult, Finding, Step
from tracer.model import NANOSECONDS, Attempt, Change, ChangeKind, Owner, Report, SourceName
from tracer.sinks import report
from tracer.sinks.jsonl import encoded
from tracer.text import safe

REPORT: Final = "report.json"
CONNECTIONS: Final = "pod_connections.txt"
CONNTRACK: Final = "pod_conntrack_connections.txt"

_STUCK_SECONDS: Final = 1.0
"""The kernel's first retransmission timeout (TCP_TIMEOUT_INIT), and the live trace's default."""
_STUCK_SYNS: Final = 2
_MOST_NAME_CHARACTERS: Final = 50
"""Of the bundle's name in that of the unfinished one, which must not exceed NAME_MAX (255) bytes;
a character takes four at most."""


class Bundle:
    """A bundle that is being written, between `with` and finish(); without finish() it is gone.

    Until then it is a hidden directory beside its place, `.NAME.partial-*`, for its owner alone:
    sockets of others, and their command lines, are in it. What may leave one behind is a signal
    that is not one of those which ask a program to end (SIGKILL, SIGUSR1), and a crash of the
    machine.
    """

    def __init__(self, path: str) -> None:
        """Raises UsageError where something is at `path` already, or nothing can be made there.

        An empty directory may be there: it is replaced.
        """
        self._path = Path(path)
        self._partial: Path | None = None
        self._files: dict[str, _File] = {}
        _require_free(self._path)

    def __enter__(self) -> Self:
        name = self._path.name[:_MOST_NAME_CHARACTERS]
        try:
            # Mode 0700, as mkdtemp makes all its directories.
            made = tempfile.mkdtemp(prefix=f".{name}.partial-", dir=self._path.parent)
            self._partial = Path(made)
            self._files = {each: _File(self._partial / each) for each in (CONNECTIONS, CONNTRACK)}
        except OSError as error:
            self._discard()
            raise _unusable(self._path, error) from error
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._discard()

    def connections(self, data: bytes) -> None:
        """Takes text of sockets as it was read. Never raises: finish() tells what went wrong."""
        self._files[CONNECTIONS].write(data)

    def conntrack(self, data: bytes) -> None:
        """Takes text of conntrack entries. Never raises: finish() tells what went wrong."""
        self._files[CONNTRACK].write(data)

    def finish(
        self,
        result: CheckResult,
        steps: Sequence[Step],
        environment: Iterable[tuple[str, str]],
        *,
        told: Iterable[bytes] | None = None,
    ) -> None:
        """Writes the rest and gives the bundle its name. Raises OutputError; it is gone then.

        `told` are the events of a trace, where there was one; else they follow from the findings.
        """
        partial = self._partial
        if partial is None:
            raise ValueError("the bundle is not open")
        try:
            self._write(partial / "report.md", [_bytes(report.as_markdown(result, steps))])
            self._write(partial / REPORT, map(_bytes, report.as_json(result, steps)))
            self._write(partial / "events.jsonl", events(result) if told is None else told)
            self._write(partial / "environment.txt", _environment(result, environment))
            for file in self._files.values():
                file.close()
            _sync(partial)
            # rename(2) refuses to replace anything but an empty directory.
            partial.rename(self._path)
        except OSError as error:
            raise OutputError(
                f"the report could not be written to {self._path}: {error.strerror or error}",
                hint=_hint(error),
            ) from error
        self._partial = None
        # Not every file system can; there a crash of the machine may still undo the name.
        with suppress(OSError):
            _sync(self._path.parent)

    def _write(self, path: Path, parts: Iterable[bytes]) -> None:
        file = self._files[path.name] = _File(path)
        for part in parts:
            file.write(part)

    def _discard(self) -> None:
        for file in self._files.values():
            file.drop()
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial = None


class _File:
    """A file of the bundle. What it cannot take it remembers, so that the check goes on."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._stream = open(descriptor, "wb")  # noqa: SIM115 - closed by close() or drop()
        self._error: OSError | None = None

    def write(self, data: bytes) -> None:
        if self._error is None:
            try:
                self._stream.write(data)
            except OSError as error:
                self._error = error

    def close(self) -> None:
        """Raises OSError where anything of it is not on the disk."""
        if self._error is not None:
            raise self._error
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def drop(self) -> None:
        # Closing writes out what is held, which may fail as writing did; it is closed all the same.
        with suppress(OSError):
            self._stream.close()


def events(result: CheckResult) -> Iterable[bytes]:
    """One attempt.stuck for each finding that is stuck, as lines of the live trace's format.

    An attempt's id is its place among the findings. Unlike the live trace's, the events name the
    pod, where its name is known.
    """
    detected_by = _source(result.method)
    for index, finding in enumerate(result.findings):
        if is_stuck(finding):
            told = _report(finding, f"check-{index}", result.wall_ns, detected_by)
            yield encoded(attempt_record(told, result.node))


def is_stuck(finding: Finding) -> bool:
    """Whether a SYN was sent again, or the attempt is older than the first timeout."""
    return (finding.syns_sent is not None and finding.syns_sent >= _STUCK_SYNS) or (
        finding.age_seconds is not None and finding.age_seconds >= _STUCK_SECONDS
    )


def _source(method: str) -> SourceName:
    """The kernel's own lists have the source's name, everything else is text."""
    own = {source.value: source for source in (SourceName.SOCK_DIAG, SourceName.PROCFS)}
    return own.get(method, SourceName.TEXT)


def _report(finding: Finding, name: str, wall_ns: int, detected_by: SourceName) -> Report:
    age, pid = finding.age_seconds, finding.process.pid if finding.process else None
    attempt = Attempt(
        id=name,
        flow=finding.flow,
        owner=Owner(pid=pid, uid=finding.uid),
        detected_by=detected_by,
        # The monotonic clock of the moment is not known any more, and no record holds it.
        first_seen_ns=0,
        stuck_ns=0,
        started_wall_ns=None if age is None else wall_ns - int(age * NANOSECONDS),
        syns_sent=finding.syns_sent,
    )
    return Report(
        change=Change(ChangeKind.STUCK, attempt, 0),
        destination=finding.destination,
        process=finding.process,
        wall_ns=wall_ns,
        age_seconds=age,
        next_retry_seconds=finding.next_retry_seconds,
        pod=finding.pod,
    )


def _environment(result: CheckResult, environment: Iterable[tuple[str, str]]) -> Iterable[bytes]:
    known = (
        ("time", timestamp(result.wall_ns)),
        ("tool", f"synsent-trace {__version__}"),
        ("target", result.target),
        ("node", result.node),
        ("method", result.method),
    )
    for key, value in (*known, *environment):
        yield _bytes(f"{safe(key)}: {safe(value)}\n")


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def _require_free(path: Path) -> None:
    """Raises UsageError where no bundle can be made at `path`; renaming asks the kernel again."""
    if path.name in {"", ".."}:
        raise UsageError(
            f"--report {str(path)!r} names no directory that could be made",
            hint="name a new one, such as ./report-1",
        )
    try:
        if not path.parent.is_dir():
            raise UsageError(
                f"--report {path}: there is no directory {path.parent}",
                hint="make it first, or name another",
            )
        status = path.lstat()
        # rename(2) replaces an empty directory, and nothing else.
        free = stat.S_ISDIR(status.st_mode) and next(path.iterdir(), None) is None
    except FileNotFoundError:
        free = True
    except OSError as error:
        raise _unusable(path, error) from error
    if not free:
        raise UsageError(
            f"--report {path}: it exists already, and nothing is ever overwritten",
            hint="name a new directory, or remove this one",
        )


def _unusable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"--report {path}: {error.strerror}",
        hint="name a new directory in one that exists and may be written to",
    )


def _sync(directory: Path) -> None:
    """Has the names in a directory written to disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hint(error: OSError) -> str:
    if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
        return "somebody made it meanwhile; name another"
    return "the answer itself is whole; make room, or name a directory elsewhere, and try again"
