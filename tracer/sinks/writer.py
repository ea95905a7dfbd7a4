"""Text for a terminal that may stop reading: a bounded queue, and a thread that writes from it."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TextIO

from tracer.sinks.descriptor import can_hang_up, hung_up, wait_writable

QUEUE_LINES = 10_000
"""Lines that may wait for a slow terminal: one for each attempt of a black hole, some 2 MB."""

_CHUNK_LINES = 256
_ASK_SECONDS = 0.05
"""Between questions whether it is still to be waited for."""

_Item = str | int
"""A line, or the number of lines that are missing here."""


class Writer:
    """A bounded queue of lines and the thread that writes them.

    The thread writes to the file descriptor, past Python's buffers: a thread that waits for a
    stopped terminal inside such a buffer holds its lock, which ends the interpreter with a fatal
    error at exit; and a buffer that a broken pipe left full complains there once more.
    """

    def __init__(
        self,
        stream: TextIO,
        notify: Callable[[str], None],
        waits: Callable[[], bool] = lambda: False,
    ) -> None:
        """While `waits`, nothing is dropped for want of room: whoever writes waits for the reader.

        It is for what can wait, such as a file; it is asked from any thread.
        """
        self._waits = waits
        self.dropped = 0
        self.finished = False
        self._stream = stream
        self._fd = _descriptor(stream)
        self._can_hang_up = self._fd is not None and can_hang_up(self._fd)
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._notify = notify
        self._failing = False
        self._mid_line = False
        self._lines: deque[_Item] = deque()
        self._being_written: list[_Item] = []
        self._gap = 0
        self._closing = False
        self._given_up = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()

    def put(self, lines: Sequence[str], *, whatever_the_queue: bool = False) -> None:
        """Queues as many of `lines` as there is room for, or all."""
        with self._changed:
            if self.finished or self._closing:
                self.dropped += len(lines)
                return
            if not whatever_the_queue:
                self._wait_for_room(len(lines))
            room = QUEUE_LINES - len(self._lines)
            taken = lines if whatever_the_queue else lines[: max(0, room)]
            if taken:
                self._mark_gap()
                self._lines.extend(taken)
                self._changed.notify_all()
            missing = len(lines) - len(taken)
            self._gap += missing
            self.dropped += missing

    def _wait_for_room(self, count: int) -> None:
        """With the lock, until there is room or nothing else to wait for."""
        room = max(0, QUEUE_LINES - count)
        while not self.finished and len(self._lines) > room and self._waits():
            self._changed.wait(_ASK_SECONDS)

    def reader_gone(self) -> bool:
        """Whether nobody reads any more, told by the descriptor where nothing is written."""
        if self.finished or not self._can_hang_up or self._fd is None:
            return self.finished
        try:
            self.finished = hung_up(self._fd)
        except (OSError, ValueError):
            self.finished = True
        return self.finished

    def close(self, seconds: float) -> None:
        """Lets the thread write what is queued, for at most `seconds` once nobody waits."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        while self._thread.is_alive() and not self.finished and self._waits():
            self._thread.join(_ASK_SECONDS)
        self._thread.join(seconds)
        with self._changed:
            if self._thread.is_alive() and not self._given_up:
                self._given_up = True
                self.dropped += _count_lines(self._being_written)
            self._discard()

    def _run(self) -> None:
        while chunk := self._next_chunk():
            try:
                self._emit(chunk)
            except ValueError:  # the stream is closed
                self._finish(chunk)
            except OSError as error:
                if self._gone(error):
                    self._finish(chunk)
                else:
                    self._fail(chunk, error)
            else:
                self._failing = False

    def _next_chunk(self) -> list[_Item]:
        """What to write next, waited for; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closing)
            if not self._lines and not self._failing:
                self._mark_gap()
            count = min(len(self._lines), _CHUNK_LINES)
            self._being_written = [self._lines.popleft() for _ in range(count)]
            self._changed.notify_all()
            return self._being_written

    def _mark_gap(self) -> None:
        if self._gap:
            self._lines.append(self._gap)
            self._gap = 0

    def _emit(self, chunk: Iterable[_Item]) -> None:
        text = "".join(
            f"-- ... {item} lines not shown\n" if isinstance(item, int) else f"{item}\n"
            for item in chunk
        )
        data = text.encode(self._encoding, "backslashreplace")
        if self._fd is None:
            self._stream.write(data.decode(self._encoding))
            self._stream.flush()
            return
        if self._mid_line:
            data = b"\n" + data
        while data and not self._given_up:
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:  # somebody made the shared terminal non-blocking
                wait_writable(self._fd, 1.0)
                continue
            self._mid_line = data[written - 1 : written] != b"\n"
            data = data[written:]

    def _gone(self, error: OSError) -> bool:
        """Whether nobody will read again: a closed pipe, or the hang-up of a terminal."""
        return error.errno in (errno.EPIPE, errno.ECONNRESET, errno.EBADF) or (
            error.errno == errno.EIO and self._fd is not None and os.isatty(self._fd)
        )

    def _finish(self, chunk: Sequence[_Item]) -> None:
        with self._changed:
            self.finished = True
            if not self._given_up:  # close() has counted them
                self.dropped += _count_lines(chunk)
            self._discard()

    def _fail(self, chunk: Sequence[_Item], error: OSError) -> None:
        with self._changed:
            if self._given_up:
                return
            self.dropped += _count_lines(chunk)
            self._gap += sum(item if isinstance(item, int) else 1 for item in chunk)
        if not self._failing:
            self._failing = True
            self._notify(
                f"cannot write lines: {error.strerror or error};"
                " tracing goes on; lines are counted as dropped"
            )

    def _discard(self) -> None:
        self.dropped += _count_lines(self._lines)
        self._lines.clear()
        self._gap = 0


def _count_lines(items: Iterable[_Item]) -> int:
    return sum(isinstance(item, str) for item in items)


def _descriptor(stream: TextIO) -> int | None:
    """The stream's file descriptor, with nothing left in its buffers; None if it has none."""
    try:
        stream.flush()
        return stream.fileno()
    except (OSError, ValueError):
        return None
