"""Keeps the garbage collector out of the reading of long lists.

A page of a list becomes some ten thousand objects of which none is in a cycle. Their number has the
collector walk all there are again and again, up to 0.2 s at a time in which no thread runs: on a
cluster with 10,000 services that was half the cost of listing, and held up the trace.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0


@contextmanager
def uncollected() -> Iterator[None]:
    """No collection meanwhile. For several threads at once; a collector that is off stays off."""
    global _inside  # noqa: PLW0603  there is one collector
    with _lock:
        if _inside == 0 and not gc.isenabled():
            was_on = False
        else:
            was_on = True
            _inside += 1
            gc.disable()
    try:
        yield
    finally:
        if was_on:
            with _lock:
                _inside -= 1
                if _inside == 0:
                    gc.enable()


def settled(*, again: bool) -> None:
    """Something large was read to its end: from now on it is freed by its reference counts alone.

    So is all else that is there (gc.freeze), garbage too. Where it was read `again` that of the
    times before is collected first, which walks all there is.
    """
    with _lock:
        if _inside == 0 and not gc.isenabled():
            return
        if again:
            gc.unfreeze()
            gc.collect()
        gc.freeze()
