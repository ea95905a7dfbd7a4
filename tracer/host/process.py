"""What /proc tells of the processes that attempts belong to, read through psutil, and remembered.

Two things about psutil, whose answers a root process cannot take as they come:

- cmdline(), which name() and exe() call as well, reads without bound, while any process may
  declare an argument area of its own choosing (prctl(2), PR_SET_MM_MAP), gigabytes included. The
  command line is therefore read here, bounded, and handed to psutil.
- exe() falls back to guessing from argv[0], which the process chose and which is a path in another
  mount namespace. It is asked while it has no command line to guess from.
"""

from __future__ import annotations

import codecs
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from tracer.host.cgroup import UNKNOWN, CgroupIdentity, read_cgroup
from tracer.model import NANOSECONDS, Owner, Process

MAX_COMMAND_LINE_BYTES = 4 << 10
"""Of the arguments with the NUL after each, as the kernel keeps them."""

MAX_ARGUMENTS = 256
"""Bounds what thousands of one-letter arguments would take here."""

MAX_NAME_CHARACTERS = 255
"""NAME_MAX: psutil completes a cut-off comm from argv[0], which has no such limit."""

REMEMBERED_PROCESSES = 2_048
"""1-2 KB each, 25 KB at worst."""

ELLIPSIS = "…"

_TICK_NS = NANOSECONDS // os.sysconf("SC_CLK_TCK")
_START_SLACK_NS = 2 * _TICK_NS
"""A start is known by the tick, and the two clocks are not read at the same instant."""

_MAX_STAT_BYTES = 4 << 10
_START_TIME_FIELD = 22 - 3
"""proc_pid_stat(5) counts from 1; here counting begins behind comm, at field 3."""


@dataclass(slots=True)
class _Entry:
    """A process as it was read, and the span over which the pid is known to have been its own.

    `started_ns` and `seen_ns` are CLOCK_MONOTONIC, the start up to a tick too early. `generation`
    is the inode number of /proc/PID, which procfs makes anew for every process.
    """

    process: Process
    started_ns: int
    seen_ns: int
    generation: int


class ProcessTable:
    """Describes processes, remembering the last REMEMBERED_PROCESSES of them.

    For use by one thread: reading a process may block for as long as the kernel holds its memory
    map, which must not hold up others.
    """

    def __init__(self, size: int = REMEMBERED_PROCESSES) -> None:
        self._size = size
        # By comm too: a process that calls execve() keeps its pid and start time, not its comm.
        self._entries: OrderedDict[tuple[int, str | None], _Entry] = OrderedDict()

    def describe(self, owner: Owner, *, not_after_ns: int | None = None) -> Process | None:
        """The process an attempt belongs to; None where no process is known.

        `not_after_ns` is when the attempt began (CLOCK_MONOTONIC): a process that started later
        has been given the pid anew and is not blamed. Of a process that is gone, and was not read
        while it was there, only pid and `owner.comm` are returned. Fields that may not be read are
        None. Texts are untrusted, and free of lone surrogates. Never raises.
        """
        pid = owner.pid
        if pid is None or pid <= 0:  # 0 is the idle task, which owns no socket
            return None
        entry = self._entry(pid, owner.comm, not_after_ns)
        if entry is None or (
            not_after_ns is not None and entry.started_ns > not_after_ns + _START_SLACK_NS
        ):
            return Process(pid=pid, name=owner.comm)
        return entry.process

    def _entry(self, pid: int, comm: str | None, at_ns: int | None) -> _Entry | None:
        key = (pid, comm)
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            # Within the span the answer stands, even if the process has gone since.
            if at_ns is not None and at_ns <= entry.seen_ns:
                return entry
            now_ns = time.monotonic_ns()
            if _generation(pid) == entry.generation:
                entry.seen_ns = now_ns
                return entry
        entry = _read(pid)
        if entry is not None:
            self._entries[key] = entry
            self._entries.move_to_end(key)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
        return entry


def _read(pid: int) -> _Entry | None:
    """Read a process; None if it is gone, or went while it was read."""
    generation = _generation(pid)
    started_ns = start_of(pid)
    if generation is None or started_ns is None:
        return None
    described = _describe(pid)
    if described is None:
        return None
    try:
        cgroup = read_cgroup(pid)
    except OSError:
        cgroup = UNKNOWN
    seen_ns = time.monotonic_ns()
    if _generation(pid) != generation:
        return None
    return _Entry(
        process=_with_cgroup(described, cgroup),
        started_ns=started_ns,
        seen_ns=seen_ns,
        generation=generation,
    )


def _generation(pid: int) -> int | None:
    """A number that differs between a process and the next one of the same pid.

    procfs takes a new inode number for each process's folder (proc_pid_make_inode() in
    fs/proc/base.c) and drops it when the process ends. Under memory pressure a living process may
    get a new one: then it is read again. At 2 µs this is a fifth of reading the start time.
    """
    try:
        return os.stat(f"/proc/{pid}").st_ino  # noqa: PTH116 - three times the speed of Path
    except OSError:
        return None


def start_of(pid: int, proc: str = "/proc") -> int | None:
    """When a process started, on CLOCK_MONOTONIC, up to a tick too early; None if it is gone.

    The kernel gives ticks of CLOCK_BOOTTIME (proc_pid_stat(5), field 22), which runs on while the
    machine is suspended, as CLOCK_MONOTONIC does not. What was suspended since the start is taken
    off too: that again gives too early a time, never too late, so nobody is wrongly cleared of an
    attempt.
    """
    data = _read_file(pid, "stat", _MAX_STAT_BYTES, proc)
    # comm is in parentheses and may hold any of them itself.
    fields = data.rpartition(b")")[2].split()
    if len(fields) <= _START_TIME_FIELD:
        return None
    suspended_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return int(fields[_START_TIME_FIELD]) * _TICK_NS - suspended_ns


def _describe(pid: int) -> Process | None:
    """Name, executable and command line; None if the process is gone."""
    import psutil  # late: 20-30 ms that the start-up need not wait for

    try:
        inspected = _inspector()(pid)
        with inspected.oneshot():
            # Before the arguments are known: see the module's head.
            executable = _field(inspected.exe, psutil.Error)
            arguments = _arguments(_read_file(pid, "cmdline", MAX_COMMAND_LINE_BYTES + 1))
            inspected.arguments = list(arguments)
            name = _field(inspected.name, psutil.Error)
    except psutil.NoSuchProcess:
        return None
    return Process(
        pid=pid,
        name=name[:MAX_NAME_CHARACTERS] if name else None,
        executable=executable,
        command_line=arguments or None,
    )


def _with_cgroup(process: Process, cgroup: CgroupIdentity) -> Process:
    return Process(
        pid=process.pid,
        name=process.name,
        executable=process.executable,
        command_line=process.command_line,
        container_id=cgroup.container_id,
        pod_uid=cgroup.pod_uid,
        unit=cgroup.unit,
    )


class _Inspected(Protocol):
    """What is used of psutil.Process, and the arguments it is to believe."""

    arguments: list[str]

    def oneshot(self) -> AbstractContextManager[None]: ...
    def name(self) -> str: ...
    def exe(self) -> str: ...


@cache
def _inspector() -> Callable[[int], _Inspected]:
    import psutil

    class Inspected(psutil.Process):
        """psutil's process with the command line that it was given instead of one it reads."""

        def __init__(self, pid: int) -> None:
            self.arguments: list[str] = []
            super().__init__(pid)

        def cmdline(self) -> list[str]:
            return self.arguments

    return Inspected


def _field(read: Callable[[], str], unreadable: type[Exception]) -> str | None:
    """One of psutil's fields; None where it may not be read, is gone, or is empty."""
    try:
        text = read()
    except (unreadable, OSError):
        return None
    # psutil decodes with surrogateescape; no output could encode that.
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") or None


def _arguments(data: bytes) -> tuple[str, ...]:
    """Split /proc/PID/cmdline (proc_pid_cmdline(5)); an ellipsis ends what had to be cut.

    A process may have written a title over its arguments, without the NULs or with many of them
    behind it: the former is one argument, the latter are left out.
    """
    whole = len(data) <= MAX_COMMAND_LINE_BYTES
    # The decoder leaves out a character of which the cut took a part.
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    text = decoder.decode(data[:MAX_COMMAND_LINE_BYTES], final=whole)
    if whole:
        text = text.rstrip("\0")
        if not text:
            return ()
    arguments = text.split("\0", MAX_ARGUMENTS)
    if len(arguments) > MAX_ARGUMENTS:
        arguments[MAX_ARGUMENTS:] = [ELLIPSIS]
    elif not whole:
        arguments[-1] += ELLIPSIS
    return tuple(arguments)


def _read_file(pid: int, name: str, limit: int, proc: str = "/proc") -> bytes:
    """The first `limit` bytes of a file of /proc/PID; empty if it cannot be read."""
    try:
        descriptor = os.open(f"{proc}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, limit)
        finally:
            os.close(descriptor)
    except OSError:
        return b""
