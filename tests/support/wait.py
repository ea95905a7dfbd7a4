"""Waiting for something to become true, with a deadline; nothing here sleeps and hopes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02


def wait_until(predicate: Callable[[], T], deadline_seconds: float, what: str) -> T:
    """Returns the first true value of `predicate`.

    Raises AssertionError naming `what` once `deadline_seconds` have passed without one.
    """
    deadline = time.monotonic() + deadline_seconds
    while True:
        late = time.monotonic() >= deadline
        if value := predicate():
            return value
        if late:
            raise AssertionError(f"waited {deadline_seconds:g} s for {what}")
        time.sleep(POLL_SECONDS)


def stays_true(predicate: Callable[[], object], seconds: float, what: str) -> None:
    """Looks for `seconds` whether `predicate` holds all the time: absence takes time to show."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert predicate(), f"did not stay true for {seconds:g} s: {what}"
        time.sleep(POLL_SECONDS)
