"""Events as JSON lines, for programs: one line an event, and every event that is lost is counted.

A full disk, a reader that stalls or goes away, and logrotate are what a recording meets during
an outage. None of them may stop the trace or damage more than the line it hit.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tracer.errors import UsageError
from tracer.event import attempt_record, lifecycle_record
from tracer.model import Lifecycle, Report
from tracer.schema import Record
from tracer.sinks.descriptor import can_hang_up, hung_up, wait_writable
from tracer.text import safe

STDOUT = 1

STALL_SECONDS = 2.0
"""How long one batch may wait for a reader; a pipe holds 64 KiB, some 60 events."""

ROTATION_SECONDS = 1.0
"""Time between looks at whether the file is still where it was."""

_READER_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.EBADF})

_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


class JsonlSink:
    """Writes events to a file, or to standard output, each batch with one write(2).

    target         a path, opened for append and created for its owner alone, since a recording
                   may hold command lines; "-" is standard output
    node           name of this node, for the records
    notify         gets a sentence for people about each problem, once, and about its end
    stall_seconds  see STALL_SECONDS
    clock          seconds that only go forward

    Where standard output is a pipe or a terminal, it is opened anew without blocking, so that a
    stalled reader costs events, not the trace; the flags of the shared one stay as they are.

    The constructor raises UsageError if the path cannot be opened; nothing raises afterwards.
    All methods belong to one thread; `dropped` and `finished` may be read from any.
    """

    keeps_record = True

    def __init__(
        self,
        target: str,
        *,
        node: str,
        notify: Callable[[str], None],
        stall_seconds: float = STALL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = None if target == "-" else target
        self._name = "standard output" if self._path is None else safe(self._path)
        self._node = node
        self._notify = notify
        self._stall_seconds = stall_seconds
        self._clock = clock
        self._dropped = 0
        self._lost = 0  # events since writing began to fail
        self._failing = False
        self._finished = False
        self._closed = False
        self._fd: int | None = None
        self._can_hang_up = False
        self._mid_line = False
        try:
            self._open()
        except OSError as error:
            raise UsageError(
                f"cannot write events to {self._name}: {_cause(error)}", hint=_open_hint(error)
            ) from error
        self._looked_at = clock()

    @property
    def dropped(self) -> int:
        """Events that could not be written so far."""
        return self._dropped

    @property
    def finished(self) -> bool:
        """Whether the reader of the pipe, socket or terminal is gone; found without writing."""
        fd = self._fd
        if not self._finished and self._can_hang_up and fd is not None:
            self._finished = hung_up(fd)
        return self._finished

    def write(self, reports: Sequence[Report]) -> None:
        """Writes the events of one batch."""
        self._put([encoded(attempt_record(report, self._node)) for report in reports])

    def lifecycle(self, event: Lifecycle) -> None:
        """Writes an event of the tracer itself."""
        self._put([encoded(lifecycle_record(event, self._node))])

    def close(self) -> None:
        """Closes the file. Nothing is held back, so nothing is left to write."""
        if self._closed:
            return
        self._closed = True
        if self._lost:
            self._notify(f"{self._lost} events could not be written to {self._name}")
        try:
            self._release()
        except OSError as error:  # a network file system tells of a full disk only now
            self._notify(f"the last events may be missing in {self._name}: {_cause(error)}")

    def _put(self, lines: list[bytes]) -> None:
        if not lines:
            return
        if self._closed or self._finished:
            self._dropped += len(lines)
            return
        try:
            self._follow_rotation()
            written, error = self._store(lines)
        except OSError as reopening:
            written, error = 0, reopening
        lost = len(lines) - written
        self._dropped += lost
        if error is None:
            self._say_that_it_works()
        elif error.errno in _READER_GONE or self.finished:
            self._finished = True
        else:
            self._lost += lost
            self._say_that_it_fails(error)

    def _store(self, lines: list[bytes]) -> tuple[int, OSError | None]:
        """Writes `lines`; returns how many are whole in the file, and what stopped the rest.

        A line that an earlier write left unfinished gets its newline first: a reader loses that
        one, not the next as well.
        """
        data = b"".join([b"\n", *lines] if self._mid_line else lines)
        written, error = self._write(data)
        whole = data.count(b"\n", 0, written)
        if written:
            whole -= self._mid_line
            self._mid_line = data[written - 1] != ord("\n")
        return whole, error

    def _write(self, data: bytes) -> tuple[int, OSError | None]:
        """Writes `data`; returns the number of bytes that went out, and what stopped the rest."""
        fd = self._fd
        if fd is None:
            return 0, OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        view = memoryview(data)
        written = 0
        deadline = time.monotonic() + self._stall_seconds
        while written < len(data):
            try:
                written += os.write(fd, view[written:])
            except BlockingIOError as error:
                # A reader known to be stalled is not waited for again until it takes something.
                waits = written > 0 or not self._failing
                if not (waits and wait_writable(fd, deadline - time.monotonic())):
                    return written, error
            except OSError as error:
                return written, error
        return written, None

    def _follow_rotation(self) -> None:
        """Opens the file anew if its name stands for another one by now, or for none.

        OSError: it cannot be opened. It is tried again at the next look.
        """
        now = self._clock()
        if self._path is None or now - self._looked_at < ROTATION_SECONDS:
            return
        self._looked_at = now
        if self._fd is not None:
            if _names(self._path, self._fd):
                return
            self._release()
            self._open()
            self._notify(f"{self._name} was removed or replaced: events now go to the new file")
        else:
            self._open()

    def _open(self) -> None:
        if self._path is None:
            self._fd = _nonblocking_stdout()
            self._finished = self._fd is None
        else:
            # O_NONBLOCK: without it, a FIFO that nobody reads yet would hold up the trace here.
            self._fd = os.open(
                self._path,
                os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
                0o600,
            )
            self._mid_line = _ends_mid_line(self._path)
        self._can_hang_up = self._fd is not None and can_hang_up(self._fd)

    def _release(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None and fd != STDOUT:
            os.close(fd)

    def _say_that_it_fails(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            self._notify(
                f"cannot write events to {self._name}: {_cause(error)};"
                " tracing goes on; events are counted as dropped"
            )

    def _say_that_it_works(self) -> None:
        if self._failing:
            self._notify(f"writing to {self._name} works again; {self._lost} events were lost")
            self._failing = False
            self._lost = 0


def encoded(record: Record) -> bytes:
    """An event as a line of UTF-8, harmless on a terminal."""
    text = _encode(record)
    if not text.isascii() or "\x7f" in text:
        text = "".join(char if char.isprintable() else _escape(char) for char in text)
    return text.encode() + b"\n"


def _escape(char: str) -> str:
    r"""Writes an unprintable character as JSON's \uXXXX: the same text for a program, and harmless
    where the lines end up on a terminal.

    A lone surrogate (a byte of a command line that is no UTF-8) has no place in UTF-8, and strict
    parsers refuse its escape: the escape itself becomes the text.
    """
    escape = json.dumps(char)[1:-1]
    return "\\" + escape if "\ud800" <= char <= "\udfff" else escape


def _nonblocking_stdout() -> int | None:
    """A descriptor for standard output; None if it was closed before the program started."""
    if sys.__stdout__ is None:  # the number 1 may be any file by now
        return None
    try:
        if can_hang_up(STDOUT):
            return os.open(
                f"/proc/self/fd/{STDOUT}",
                os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
            )
    except OSError:  # a socket, a pipe of another user or without a reader, no /proc
        pass
    return STDOUT


def _names(path: str, fd: int) -> bool:
    """Whether `path` still stands for the open file; true also where that cannot be known."""
    try:
        there = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    here = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _ends_mid_line(path: str) -> bool:
    """Whether an earlier run was killed in the middle of a line; false where that is not known."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            return False
        return os.pread(fd, 1, status.st_size - 1) != b"\n"
    except OSError:
        return False
    finally:
        os.close(fd)


def _cause(error: OSError) -> str:
    if isinstance(error, BlockingIOError):
        return "its reader does not keep up"
    return error.strerror or str(error)


def _open_hint(error: OSError) -> str:
    if error.errno == errno.ENXIO:
        return "start the reader of this pipe first"
    return "name a file in a directory that exists and may be written to, or - for standard output"
