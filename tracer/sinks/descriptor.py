"""What can be known of a file descriptor before writing to it."""

from __future__ import annotations

import os
import select
import stat


def can_hang_up(fd: int) -> bool:
    """Whether a reader is at the other end, who may go away. Raises OSError."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


def hung_up(fd: int) -> bool:
    """Whether the reader has gone away."""
    poller = select.poll()
    poller.register(fd, 0)  # errors and hang-ups are always reported
    return any(
        event & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, event in poller.poll(0)
    )


def wait_writable(fd: int, seconds: float) -> bool:
    """Whether there is room within `seconds`."""
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return seconds > 0 and bool(poller.poll(seconds * 1000))
