"""The network namespaces of this machine: which there are, who lives in them, how to enter one.

A namespace is named by its inode number on nsfs, as `/proc/PID/ns/net` shows it (namespaces(7)).
It is found through the processes that live in it and the bind mounts that ip-netns(8) and CNI
plugins keep in /run/netns. Not found are namespaces held open by a file descriptor alone, and those
that only a single thread of a process has entered.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tracer.errors import UsageError

RUN_FOLDERS = ("/run/netns", "/var/run/netns")

CLONE_NEWNET = 0x40000000
"""include/uapi/linux/sched.h."""

_NS_GET_NSTYPE = 0xB703
"""ioctl_nsfs(2), Linux 4.11: the CLONE_NEW* flag of a namespace's file."""

_INODE = re.compile(r"(?:net:\[([0-9]{1,20})\]|([0-9]{1,20}))")


@dataclass(frozen=True, slots=True)
class Namespace:
    """One network namespace.

    `pids` are those that live in it, ascending; empty where a bind mount alone keeps it. `path`
    can be opened for setns() for as long as its process lives or the mount stays: OSError on
    opening it means that it is to be listed again.
    """

    inode: int
    pids: tuple[int, ...]
    path: str


class Namespaces(dict[int, Namespace]):
    """Namespaces by inode number. `unreadable` counts processes whose namespace was denied."""

    unreadable: int = 0


def list_namespaces(proc: str = "/proc", run: Sequence[str] = RUN_FOLDERS) -> Namespaces:
    """Every network namespace that processes of `proc` live in or that is mounted in `run`.

    Processes that vanish meanwhile are left out. Folders of `run` that do not exist are no error.
    Raises OSError where `proc` itself cannot be listed.
    """
    pids_of: dict[int, list[int]] = {}
    found = Namespaces()
    for pid in pids_in(proc):
        try:
            inode = inode_of_process(pid, proc)
        except PermissionError:
            found.unreadable += 1
        except OSError:
            continue
        else:
            pids_of.setdefault(inode, []).append(pid)
    for inode, pids in pids_of.items():
        found[inode] = Namespace(inode, tuple(pids), f"{proc}/{pids[0]}/ns/net")
    for inode, path in _mounted(proc, run):
        if inode not in found:
            found[inode] = Namespace(inode, (), path)
    return found


def pids_in(proc: str = "/proc") -> list[int]:
    """The processes that `proc` shows, ascending. Raises OSError where it cannot be listed."""
    with os.scandir(proc) as entries:
        names = [entry.name for entry in entries]
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def inode_of_process(pid: int | str, proc: str = "/proc") -> int:
    """The network namespace of a process ("self" is this one).

    The link is read rather than followed: 3 µs against 6 µs. Raises PermissionError where ptrace
    access is denied (proc_pid_ns(5)), FileNotFoundError or ProcessLookupError where the process is
    gone, OSError where the link is no namespace's.
    """
    path = f"{proc}/{pid}/ns/net"
    link = os.readlink(path)  # noqa: PTH115 - for every process of the node: half of Path's time
    match = _INODE.fullmatch(link)
    if match is None or match[1] is None:
        raise OSError(f"{path} leads to {link!r}, which is no network namespace")
    return int(match[1])


def host_path(proc: str = "/proc") -> str:
    """The file of the node's own namespace: that of its first process.

    Where that may not be read (pid 1 may hold capabilities that this process lacks), of this
    process, as the trace runs in the node's network.
    """
    try:
        inode_of_process(1, proc)
    except OSError:
        return f"{proc}/self/ns/net"
    return f"{proc}/1/ns/net"


def inode_of(spec: str, run: Sequence[str] = RUN_FOLDERS) -> int:
    """The namespace that --netns names: an inode number, a path, or a name under /run/netns.

    A number, bare or as "net:[4026531840]", is taken at its word: nothing may live there yet.
    Raises UsageError, saying what was tried, where there is no network namespace.
    """
    match = _INODE.fullmatch(spec)
    if match is not None:
        return int(match[1] or match[2])
    paths = [spec] if "/" in spec else [f"{folder}/{spec}" for folder in run]
    failures = []
    for path in paths:
        try:
            return _inode_at(path)
        # ValueError: a NUL in the name.
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            failures.append(f"{path!r}: {reason or error}")
    raise UsageError(
        f"--netns {spec!r} is no network namespace ({'; '.join(failures)})",
        hint="give an inode number (ls -L -i /proc/PID/ns/net), a path such as /proc/PID/ns/net, "
        "or a name that `ip netns list` shows",
    )


@contextmanager
def enter(path: str) -> Iterator[None]:
    """Put the calling thread into the network namespace at `path` for the length of the block.

    Other threads stay where they are; sockets opened and threads started inside keep the namespace
    afterwards. Raises
    OSError where `path` cannot be opened, is no network namespace (EINVAL) or may not be entered
    (EPERM: setns(2) wants CAP_SYS_ADMIN); the thread is then where it was. Raises RuntimeError
    where the way back fails: the thread is of no use any more, since everything it opened from
    there on would be another namespace's.
    """
    # Not /proc/self, which is the main thread's (proc(5), Linux 3.17).
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(target, path)
        finally:
            os.close(target)
        try:
            yield
        finally:
            try:
                _setns(home, "/proc/thread-self/ns/net")
            except OSError as error:
                raise RuntimeError(
                    f"this thread cannot leave the network namespace at {path}: {error}"
                ) from error
    finally:
        os.close(home)


def _setns(descriptor: int, path: str) -> None:
    """setns(2), refusing any other type of namespace; `path` is for the error alone."""
    if _libc_setns()(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


@cache
def _libc_setns() -> Callable[[int, int], int]:
    """The C library's setns(): Python has os.setns() from 3.12 on."""
    setns = ctypes.CDLL(None, use_errno=True).setns
    setns.argtypes = (ctypes.c_int, ctypes.c_int)
    setns.restype = ctypes.c_int
    function: Callable[[int, int], int] = setns
    return function


def _mounted(proc: str, run: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Inode and path of each namespace that is bind-mounted in one of the folders.

    A mount point whose mount is gone is an ordinary file, on another device than nsfs.
    """
    try:
        nsfs = Path(proc, "self/ns/net").stat().st_dev
    except OSError:
        return
    for folder in run:
        try:
            paths = sorted(Path(folder).iterdir())
        except OSError:
            continue
        for path in paths:
            try:
                status = path.stat()
            except OSError:
                continue
            if status.st_dev == nsfs:
                yield status.st_ino, str(path)


def _inode_at(path: str) -> int:
    """The inode of the network namespace at `path`. Raises OSError or ValueError if it is none."""
    # O_NONBLOCK: opening a FIFO must not wait for its other end.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if os.fstat(descriptor).st_dev != Path("/proc/self/ns/net").stat().st_dev:
            raise ValueError("not a namespace")
        if fcntl.ioctl(descriptor, _NS_GET_NSTYPE) != CLONE_NEWNET:
            raise ValueError("a namespace of another type")
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)
