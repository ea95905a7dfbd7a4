"""The descriptor of standard error, which compilers and libraries write to behind Python's back.

Several threads may want what is written there at one time, and let go of it in any order: it goes
to whoever asked last. What this program itself has to say (`say`) gets past all of them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Final

_STDERR: Final = 2
_MOST: Final = 64 * 1024
"""Bytes that come out afterwards, of what was kept."""

_lock = threading.RLock()
_keepers: list[int] = []
"""Files in memory, the last of which descriptor 2 stands for."""

_real: int | None = None
"""What descriptor 2 was before anybody kept it."""


@contextlib.contextmanager
def captured() -> Iterator[list[str]]:
    """Lines that are written meanwhile, by whatever thread; they are in the list afterwards."""
    lines: list[str] = []
    memory = _begin()
    try:
        yield lines
    finally:
        said = _end(memory)
        lines += [line.strip() for line in said.decode(errors="replace").splitlines()]
        lines[:] = filter(None, lines)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Keeps it off a terminal while there is a screen on it; what was written comes out afterwards.

    Where standard error is no terminal it is left alone.
    """
    with _lock:
        terminal = os.isatty(_STDERR if _real is None else _real)
        memory = _begin() if terminal else None
    try:
        yield
    finally:
        if memory is not None:
            said = _end(memory)[-_MOST:]
            with contextlib.suppress(OSError):
                _write(said)


def say(text: str) -> None:
    """Writes to standard error itself. Raises OSError or ValueError where that is closed."""
    with _lock:
        if _real is not None:
            _write(text.encode(errors="backslashreplace"))
            return
    sys.stderr.write(text)
    sys.stderr.flush()


def _write(data: bytes) -> None:
    with _lock:
        while data:
            data = data[os.write(_STDERR if _real is None else _real, data) :]


def _begin() -> int:
    """A new file in memory that descriptor 2 stands for from now on."""
    global _real  # noqa: PLW0603 - the process has one standard error
    memory = os.memfd_create("synsent-stderr", os.MFD_CLOEXEC)
    with _lock:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        if _real is None:
            _real = os.dup(_STDERR)
        _keepers.append(memory)
        os.dup2(memory, _STDERR)
    return memory


def _end(memory: int) -> bytes:
    """Lets go of it; what was written to it."""
    global _real  # noqa: PLW0603
    with _lock:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        _keepers.remove(memory)
        if _keepers:
            os.dup2(_keepers[-1], _STDERR)
        elif _real is not None:
            os.dup2(_real, _STDERR)
            os.close(_real)
            _real = None
    try:
        return os.pread(memory, os.fstat(memory).st_size, 0)
    finally:
        os.close(memory)
