"""Real terminals: tmux with a server of its own, and a pty that is read or not."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import secrets
import shlex
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from tests.support.wait import wait_until

COMMAND_SECONDS = 20


class Tmux:
    """A shell in tmux. The server ends with the block, by its own socket."""

    def __init__(self, folder: Path, width: int, height: int, term: str) -> None:
        self._socket = f"synsent-{secrets.token_hex(4)}"
        self._folder = folder
        self._size, self._term = (width, height), term

    def start(self, environment: Mapping[str, str]) -> None:
        config = self._folder / "tmux.conf"
        config.write_text(f"set -g default-terminal {self._term}\nset -g escape-time 0\n")
        width, height = self._size
        subprocess.run(
            [
                *("tmux", "-u", "-L", self._socket, "-f", str(config)),
                *("new-session", "-d", "-x", str(width), "-y", str(height), "sh"),
            ],
            env={**environment, "PS1": "$ ", "TERM": "xterm-256color"},
            check=True,
            timeout=COMMAND_SECONDS,
        )
        wait_until(lambda: self.text().strip(), COMMAND_SECONDS, "the shell's prompt")

    def kill(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self._tmux("kill-server")

    def type(self, line: str) -> None:
        self._tmux("send-keys", "-l", line)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def text(self) -> str:
        return self._tmux("capture-pane", "-p")

    def colours(self) -> str:
        """The text with its control sequences."""
        return self._tmux("capture-pane", "-p", "-e")

    def flag(self, name: str) -> str:
        """What tmux knows of the terminal's state: alternate_on, cursor_flag, mouse_any_flag."""
        return self._tmux("display-message", "-p", f"#{{{name}}}").strip()

    def wait_for(self, part: str, seconds: float = COMMAND_SECONDS) -> str:
        """Waits until a text is on the screen; the screen's text then."""
        try:
            wait_until(lambda: part in self.text(), seconds, f"{part!r} on the screen")
        except AssertionError as error:
            raise AssertionError(f"{error}; there is:\n{self.text()}") from None
        return self.text()

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-u", "-L", self._socket, *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=COMMAND_SECONDS,
        )
        return done.stdout


@contextmanager
def tmux(
    folder: Path,
    environment: Mapping[str, str],
    *,
    size: tuple[int, int] = (80, 24),
    term: str = "xterm-256color",
) -> Iterator[Tmux]:
    made = Tmux(folder, *size, term)
    try:
        made.start(environment)
        yield made
    finally:
        made.kill()


class Pty:
    """A program on a terminal of its own, of which the test decides whether it is read."""

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        size: tuple[int, int] = (140, 40),
        cwd: Path | None = None,
    ) -> None:
        self._master, slave = pty.openpty()
        width, height = size
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, env=dict(environment), cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
        self._reading = threading.Event()
        self._reading.set()
        self._ended = threading.Event()
        self._said = bytearray()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(COMMAND_SECONDS)
        self._ended.set()
        self._reading.set()
        os.close(self.slave)
        self._thread.join(COMMAND_SECONDS)
        os.close(self._master)

    @property
    def said(self) -> bytes:
        with self._lock:
            return bytes(self._said)

    def forget(self) -> None:
        with self._lock:
            self._said.clear()

    def stop_reading(self) -> None:
        self._reading.clear()

    def go_on_reading(self) -> None:
        self._reading.set()

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait(self, predicate: Callable[[], object], seconds: float, what: str) -> None:
        try:
            wait_until(lambda: predicate() or self.process.poll() is not None, seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said {self.said[-4000:]!r}") from None
        assert predicate(), f"it ended with {self.process.poll()}: {self.said[-4000:]!r}"

    def wait_for(self, part: bytes, seconds: float = COMMAND_SECONDS) -> None:
        self.wait(lambda: part in self.said, seconds, f"{part!r} on the terminal")

    def _read(self) -> None:
        while not self._ended.is_set():
            self._reading.wait()
            try:
                data = os.read(self._master, 65_536)
            except OSError as error:
                if error.errno == errno.EIO:  # nobody has it open any more
                    return
                raise
            with self._lock:
                self._said += data


def command(program: Path, *options: str) -> str:
    return shlex.join([str(program), *options])
