"""Keeps the memory that compiling takes in one place."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_M_ARENA_MAX: Final = -8
"""mallopt(3), <malloc.h> of glibc."""


def share_heap() -> None:
    """Has threads take their memory from the heap that is there. To be called before the first one
    begins: a second heap would be shared out too.

    The evidence's program is compiled in a thread, with the memory that compiling the tracing
    program has left: glibc would else give that thread a heap of its own, 30 MB more. Other C
    libraries have one heap anyway.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
