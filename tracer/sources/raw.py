"""The text that a report of this node rests on: the kernel's own lists, passed on as they are read.

Nothing is kept in memory but a block. Headings begin with "#", which the readers of such text pass
over (text.reader.is_aside).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import BinaryIO, Final, Protocol

from tracer.host.conntrack import entries_about
from tracer.host.netns import Namespace, enter
from tracer.text import safe

_BLOCK: Final = 256 * 1024
_TABLES: Final = ("tcp", "tcp6")
_FIRST_PROCESS: Final = "/proc/1"


class Raw(Protocol):
    """Takes text as it is read. Neither method raises for what cannot be stored."""

    def connections(self, data: bytes) -> None:
        """Text of sockets."""

    def conntrack(self, data: bytes) -> None:
        """Text of conntrack entries."""


def aside(text: str) -> bytes:
    """A line that no reader takes for a connection."""
    return f"# {safe(text)}\n".encode()


def copy_sockets(namespaces: Iterable[Namespace], raw: Raw) -> Iterator[str]:
    """Copies the TCP sockets of network namespaces, in every state; yields what could not be."""
    for namespace in namespaces:
        for table in _TABLES:
            try:
                with _opened(namespace, table) as (file, path):
                    raw.connections(aside(f"network namespace {namespace.inode}, {path}"))
                    _copy(file, raw.connections)
            except OSError as error:
                reason = (
                    f"net/{table} of network namespace {namespace.inode}: {error.strerror or error}"
                )
                raw.connections(aside(reason))
                # A kernel without IPv6 has no tcp6, and nothing is missing.
                if table == "tcp" or not isinstance(error, FileNotFoundError):
                    yield reason


def copy_conntrack(namespaces: Iterable[Namespace], addresses: Collection[str], raw: Raw) -> None:
    """Copies conntrack's entries about `addresses`, as the node and the namespaces have them.

    The node's come first: what a pod's packets meet on their way out is tracked there.
    """
    folders = (_FIRST_PROCESS, *(f"/proc/{one.pids[0]}" for one in namespaces if one.pids))
    for line in entries_about(addresses, folders):
        raw.conntrack(f"{line}\n".encode())


def addresses_in(namespace: Namespace) -> frozenset[str]:
    """The addresses of a network namespace's interfaces, but for loopback and link-local ones.

    Empty where it may not be entered or is gone.
    """
    import psutil

    with suppress(OSError), enter(namespace.path):
        texts = [each.address for one in psutil.net_if_addrs().values() for each in one]
        return frozenset(filter(_leaves_the_link, texts))
    return frozenset()


def _leaves_the_link(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:  # a hardware address
        return False
    return not (address.is_loopback or address.is_link_local)


@contextmanager
def _opened(namespace: Namespace, table: str) -> Iterator[tuple[BinaryIO, str]]:
    """A table of a namespace, and its path. Raises OSError.

    It is the namespace's, and stays so, once it is open (proc_net_open in fs/proc/proc_net.c),
    whatever becomes of the process by whose folder it was found.
    """
    if not namespace.pids:
        with enter(namespace.path):
            file = open(f"/proc/thread-self/net/{table}", "rb", buffering=0)  # noqa: SIM115
        with file:
            yield file, f"net/{table} through {namespace.path}"
        return
    path = f"/proc/{_alive(namespace)}/net/{table}"
    with open(path, "rb", buffering=0) as file:
        yield file, path


def _alive(namespace: Namespace) -> int:
    """A process of the namespace that is still there, else the first."""
    for pid in namespace.pids:
        if os.path.exists(f"/proc/{pid}"):  # noqa: PTH110
            return pid
    return namespace.pids[0]


def _copy(file: BinaryIO, take: Callable[[bytes], None]) -> None:
    while block := file.read(_BLOCK):
        take(block)
