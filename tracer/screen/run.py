"""Runs a trace below the screen: the session in a thread, the screen where signals come in."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from tracer import stderr
from tracer.board import Board
from tracer.errors import SynsentError
from tracer.screen.glyphs import Glyphs, glyphs_for
from tracer.screen.report import report_name, write
from tracer.sinks.descriptor import hung_up
from tracer.sinks.recorder import Recorder
from tracer.snapshot import Snapshot

STALL_SECONDS: Final = 2.0
"""How long the end waits for a terminal that does not read."""

_AGAIN_SECONDS: Final = 0.05
_PICTURE: Final = (140, 40)
"""Columns and rows of a picture that is drawn without a terminal."""


class Tracing(Protocol):
    """The session."""

    def run(self) -> None: ...
    def stop(self) -> None: ...


class ScreenServices:
    """What the screen asks of the program around it."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        node: str,
        watched: str,
        recording: str | None,
        gone: Callable[[], bool],
        stalled: Callable[[], bool],
        copies: bool,
        notice: Callable[[str], None],
        note: Callable[[], str] | None = None,
    ) -> None:
        self._note = note
        self._recorder = recorder
        self._node, self._watched = node, watched
        self._since_start = recording
        self._gone, self._stalled = gone, stalled
        self._copies, self._notice = copies, notice

    @property
    def recording(self) -> str | None:
        return self._recorder.path or self._since_start

    @property
    def note(self) -> str | None:
        return None if self._note is None else self._note()

    def toggle_recording(self) -> str:
        if self._note is not None:
            return "a replay is not recorded: the recording is there"
        if self._since_start is not None:
            return f"every event goes to {self._since_start} since the start (--jsonl)"
        path = self._recorder.path
        if path is not None:
            self._recorder.stop()
            return f"recorded to {path}"
        name = report_name(self._node, time.time_ns(), "events")
        try:
            path = str(writable_folder() / f"{name}.jsonl")
        except OSError as error:
            return f"there is no folder to record to: {error.strerror or error}"
        self._recorder.start(path)
        return f"recording to {path}; r stops it"

    def write_report(self, snapshot: Snapshot) -> str:
        try:
            folder = writable_folder()
            path = write(
                snapshot,
                node=self._node,
                watched=self._watched,
                folder=folder,
                past=self._note is not None,
            )
        except SynsentError as error:
            said = f"{error}{f'; {error.hint}' if error.hint else ''}"
        except OSError as error:
            said = f"the report could not be written: {error}"
        else:
            said = f"report written to {path}"
        self._notice(said)
        return said

    def terminal_gone(self) -> bool:
        return self._gone()

    def terminal_stalled(self) -> bool:
        return self._stalled()

    def copy_allowed(self) -> bool:
        return self._copies


def writable_folder() -> Path:
    """Where files go: here, else where temporary ones do. Raises OSError where there is none."""
    with suppress(OSError):  # the working directory has been removed
        here = Path.cwd()
        if os.access(here, os.W_OK):
            return here
    return Path(tempfile.gettempdir())


def run(
    session: Tracing,
    board: Board,
    recorder: Recorder,
    *,
    node: str,
    watched: str,
    recording: str | None,
    notice: Callable[[str], None],
    environment: Mapping[str, str],
    ascii_only: bool = False,
    headless: bool = False,
    screenshot: Path | None = None,
    note: Callable[[], str] | None = None,
) -> None:
    """Traces until the session ends, or the screen is left. Raises what either of them raised.

    `notice` gets sentences for people: for the log of events, and for the end.
    """
    tracing = _InThread(session)
    tracing.start()  # the screen takes a quarter of a second to load: the trace runs meanwhile
    failure: Exception | None = None
    left = False
    try:
        failure, left = _show(
            tracing,
            board,
            recorder,
            node=node,
            watched=watched,
            recording=recording,
            notice=notice,
            environment=environment,
            ascii_only=ascii_only,
            headless=headless,
            screenshot=screenshot,
            note=note,
        )
    except BaseException:
        session.stop()
        raise
    finally:
        board.hang_up()
        if left or failure is not None:
            session.stop()
        tracing.join()
    if tracing.failure is not None:
        raise tracing.failure
    if failure is not None:
        raise failure


def _show(
    tracing: _InThread,
    board: Board,
    recorder: Recorder,
    *,
    node: str,
    watched: str,
    recording: str | None,
    notice: Callable[[str], None],
    environment: Mapping[str, str],
    ascii_only: bool,
    headless: bool,
    screenshot: Path | None,
    note: Callable[[], str] | None,
) -> tuple[Exception | None, bool]:
    """Shows the screen; returns its failure, and whether somebody left it."""
    if os.environ.get("NO_COLOR") == "":
        del os.environ["NO_COLOR"]  # no-color.org: an empty one asks for nothing
    from tracer.screen.app import TraceApp
    from tracer.screen.terminal import Terminal, driver_for

    glyphs: Glyphs = glyphs_for(environment, ascii_only=ascii_only)
    plain = environment.get("TERM", "").startswith(("linux", "vt", "ansi"))
    sys.stdout.flush()
    terminal = Terminal(sys.stdout.fileno())

    def gone() -> bool:
        return not headless and (terminal.gone or hung_up(terminal.fileno()))

    app = TraceApp(
        board,
        ScreenServices(
            recorder,
            node=node,
            watched=watched,
            recording=recording,
            gone=gone,
            stalled=lambda: terminal.stalled,
            copies=not plain,
            notice=notice,
            note=note,
        ),
        node=node,
        watched=watched,
        glyphs=glyphs,
        driver_class=None if headless else driver_for(terminal, plain=plain),
    )
    app.screenshot = screenshot
    over = threading.Event()

    def leave() -> None:
        """The screen goes, whether the terminal takes that or not; it may have yet to begin."""
        deadline = time.monotonic() + STALL_SECONDS
        while not over.wait(_AGAIN_SECONDS):
            loop = app._loop  # noqa: SLF001 - there is no other way in that does not wait
            if loop is not None:
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(app.leave)
            # Whoever merely takes long to be done is waited for.
            if terminal.stalled and time.monotonic() >= deadline:
                terminal.abandon()

    def leaving() -> None:
        threading.Thread(target=leave, name="screen-end", daemon=True).start()

    app.when_left = leaving
    tracing.when_over = leaving
    try:
        with stderr.held_back():
            app.run(headless=headless, size=_PICTURE if headless else None)
    finally:
        over.set()
        if not headless:
            terminal.flush()
        lost = gone()
        terminal.release()
    return app.failure, not lost


class _InThread:
    """The session in a thread of its own; its error is kept."""

    def __init__(self, session: Tracing) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="session")
        self._when_over: Callable[[], None] | None = None
        self.failure: Exception | None = None
        self.over = False

    @property
    def when_over(self) -> Callable[[], None] | None:
        return self._when_over

    @when_over.setter
    def when_over(self, call: Callable[[], None]) -> None:
        with self._lock:
            self._when_over = call
            over = self.over
        if over:
            call()

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            self._session.run()
        except Exception as error:  # noqa: BLE001 - raised again where the program ends
            self.failure = error
        with self._lock:
            self.over = True
            call = self._when_over
        if call is not None:
            call()
