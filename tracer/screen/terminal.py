"""The terminal the screen is on: what is written to it, and what it is left as.

It never holds up the end of the program: what a terminal that stopped reading does not take within
a moment is given up.
"""

from __future__ import annotations

import errno
import os
import select
import termios
import threading
from contextlib import suppress
from io import TextIOBase, TextIOWrapper
from typing import TYPE_CHECKING, Final, cast

from textual.drivers.linux_driver import LinuxDriver

if TYPE_CHECKING:
    from textual.app import App

_WAIT_SECONDS: Final = 0.2

# Leaves the alternate screen, shows the cursor, ends mouse, paste and focus reports, wraps lines.
LEAVE: Final = (
    "\x1b[?1006l\x1b[?1003l\x1b[?1000l\x1b[?2004l\x1b[?2048l\x1b[?1004l\x1b[?7h\x1b[0m"
    "\x1b[?1049l\x1b[?25h"
)


class Terminal(TextIOBase):
    """Standard output as a stream that can be given up, and that never raises."""

    def __init__(self, fd: int) -> None:
        own = _opened_anew(fd)
        self._fd = fd if own is None else own
        self._opened = own is not None
        self._held: list[str] = []
        self._abandoned = threading.Event()
        self.gone = False
        self.stalled = False

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not self._abandoned.is_set():
            self._held.append(text)
        return len(text)

    def flush(self) -> None:
        data = "".join(self._held).encode(errors="replace")
        self._held.clear()
        view = memoryview(data)
        while view and not self._abandoned.is_set() and not self.gone:
            try:
                if not self._opened and not self._room(_WAIT_SECONDS):
                    continue
                view = view[os.write(self._fd, view if self._opened else view[:1]) :]
            except BlockingIOError:
                self._room(_WAIT_SECONDS)
            except InterruptedError:
                continue
            except OSError as error:
                self.gone = error.errno in {errno.EIO, errno.EPIPE, errno.EBADF}
                break
        self.stalled = False

    def _room(self, seconds: float) -> bool:
        """Whether something can be written within `seconds`. A file that is shared blocks for what
        is more than there is room for, and a terminal only tells that there is room for a byte.
        """
        _, room, _ = select.select([], [self._fd], [], seconds)
        self.stalled = not room
        return bool(room)

    def abandon(self) -> None:
        """Gives up what the terminal has not taken, and leaves it as well as that can be done."""
        if self._abandoned.is_set():
            return
        self._abandoned.set()
        with suppress(OSError, termios.error):
            termios.tcflush(self._fd, termios.TCOFLUSH)
        with suppress(OSError):
            data = LEAVE.encode()
            if self._opened:
                os.write(self._fd, data)
                return
            for index in range(len(data)):
                if not self._room(0):
                    return
                os.write(self._fd, data[index : index + 1])

    def release(self) -> None:
        if self._opened:
            self._opened = False
            with suppress(OSError):
                os.close(self._fd)


def _opened_anew(fd: int) -> int | None:
    """The terminal as an open file of its own, which does not block: the flags of the shared one
    stay as they are. None where that cannot be had.

    In another mount namespace (nsenter, chroot) the terminal may have no name, or another's.
    """
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with suppress(OSError):
        return os.open(f"/proc/self/fd/{fd}", flags)
    with suppress(OSError):
        return os.open(os.ttyname(fd), flags)
    return None


def driver_for(terminal: Terminal, *, plain: bool) -> type[LinuxDriver]:
    """Textual's driver on that terminal; a `plain` one is asked nothing it may not know."""

    class TraceDriver(LinuxDriver):
        def __init__(
            self,
            app: App[None],
            *,
            debug: bool = False,
            mouse: bool = True,
            size: tuple[int, int] | None = None,
        ) -> None:
            super().__init__(app, debug=debug, mouse=mouse and not plain, size=size)
            # Textual's own choice is standard error, which may be a file.
            self._file = cast("TextIOWrapper", terminal)

        def write(self, data: str) -> None:
            # Keys in kitty's protocol would outlive `reset` where the program is killed.
            if data.startswith("\x1b[>") or data == "\x1b[<u":
                return
            if plain and data.startswith("\x1b]"):
                return
            super().write(data)

        def _enable_mouse_support(self) -> None:
            """Clicks and the wheel: that the mouse moves is of no use, and costs over SSH."""
            if self._mouse:
                self.write("\x1b[?1000h\x1b[?1006h")

        def _disable_mouse_support(self) -> None:
            if self._mouse:
                self.write("\x1b[?1006l\x1b[?1000l")

        def _enable_mouse_pixels(self) -> None:
            """Cells are what is clicked on."""

        def _request_terminal_sync_mode_support(self) -> None:
            if not plain:
                super()._request_terminal_sync_mode_support()

        def _query_in_band_window_resize(self) -> None:
            """SIGWINCH tells, and a terminal that is killed in this mode keeps it."""

        def _enable_bracketed_paste(self) -> None:
            if not plain:
                super()._enable_bracketed_paste()

        def _get_terminal_size(self) -> tuple[int, int]:
            """The terminal's own: COLUMNS may be a shell's, from before it was resized."""
            try:
                columns, rows = os.get_terminal_size(terminal.fileno())
            except OSError:
                return 80, 24
            return columns or 80, rows or 24

    return TraceDriver
