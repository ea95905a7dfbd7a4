"""The command line: options, environment variables, exit codes. The only place that exits."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, TextIO

from tracer import stderr
from tracer.cli_trace import (
    PROGRAM,
    has_terminal,
    new_parser,
    settings_from,
    wants_color,
    wants_screen,
)
from tracer.errors import SynsentError, UsageError
from tracer.options import wants_debug
from tracer.settings import Settings
from tracer.text import safe

if TYPE_CHECKING:
    from tracer.screen.parts import ScreenParts
    from tracer.sinks import Pulse, Sink

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def _notify(message: str) -> None:
    """Says something in one line on stderr, which may be closed."""
    with suppress(OSError, ValueError):
        stderr.say(f"{PROGRAM}: {safe(message)}\n")


def _sinks(settings: Settings, screen: ScreenParts | None) -> tuple[list[Sink], Pulse | None]:
    """The outputs, and whoever of them wants to know how the tracer is meanwhile."""
    sinks: list[Sink] = []
    pulse: Pulse | None = None
    if settings.jsonl is not None:
        from tracer.sinks.jsonl import JsonlSink

        notify = _notify if screen is None else screen.notify
        sinks.append(JsonlSink(settings.jsonl, node=settings.node_name, notify=notify))
    if screen is not None:
        sinks += screen.sinks
        pulse = screen.pulse
    elif settings.jsonl != "-":
        from tracer.sinks.lines import LinesSink

        color = wants_color(os.environ) and not settings.plain
        lines = LinesSink(sys.stdout, node=settings.node_name, color=color, notify=_notify)
        sinks.append(lines)
        pulse = lines.pulse
    return sinks, pulse


class Stoppable(Protocol):
    """A trace, or one that is played back."""

    def stop(self) -> None: ...


class _Stop:
    """Ctrl-C and its kin: remembered until there is a session, handed on from then on.

    A handler interrupts any line of this program, itself too: it does nothing but set booleans.
    """

    def __init__(self) -> None:
        self.asked = False
        self._session: Stoppable | None = None

    def handle_signals(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup(1)
            signal.signal(signal.SIGHUP, self._on_signal)

    def hand_to(self, session: Stoppable) -> None:
        self._session = session
        if self.asked:
            session.stop()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self.asked = True
        if self._session is not None:
            self._session.stop()


def _open_standard_descriptors() -> None:
    """Opens what is missing of stdin, stdout and stderr on the null device (`>&-`).

    Else the next file to be opened would get the number, and what is written there. sys.__stdout__
    stays None: it tells that nobody reads.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, which is this one (open(2)).
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = _text_stream(1)
    if sys.stderr is None:
        sys.stderr = _text_stream(2)


def _text_stream(number: int) -> TextIO:
    return open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def _clear(ready_file: Path) -> None:
    """Removes what an earlier run left. Raises UsageError where the file could not be made."""
    import stat
    from tempfile import TemporaryFile

    try:
        with suppress(FileNotFoundError):
            # Never a device, nor a link such as /dev/stdout.
            if not stat.S_ISREG(ready_file.lstat().st_mode):
                raise UsageError(
                    f"--ready-file {ready_file}: it is no ordinary file",
                    hint="name a file that may be removed and made",
                )
            ready_file.unlink()
        TemporaryFile(dir=ready_file.parent).close()
    except OSError as error:
        raise UsageError(
            f"--ready-file {ready_file}: {error.strerror}",
            hint="name a file in a folder that exists and may be written to",
        ) from None


def _trace(settings: Settings, stop: _Stop) -> None:
    if settings.ready_file is not None:
        _clear(settings.ready_file)
    if stop.asked:
        return
    from tracer.evidence.heap import share_heap
    from tracer.session import Session

    share_heap()  # sinks have threads
    screen: ScreenParts | None = None
    if wants_screen(settings, os.environ):
        from tracer.screen.parts import ScreenParts

        headless = not has_terminal(os.environ)
        screen = ScreenParts(settings, os.environ, headless=headless)
    sinks, pulse = _sinks(settings, screen)
    try:
        session = Session(settings, sinks, pulse)
        stop.hand_to(session)
        if screen is None:
            session.run()
        else:
            screen.run(session)
    finally:
        for sink in sinks:
            sink.close()
        if screen is not None:
            screen.farewell(_notify)


def _replay(arguments: Sequence[str], stop: _Stop) -> None:
    from tracer import cli_replay

    parser = new_parser(f"{PROGRAM} replay")
    cli_replay.add_options(parser)
    given = vars(parser.parse_args(arguments))
    cli_replay.run(given, os.environ, notify=_notify, hand_over=stop.hand_to)


class _Interrupted(BaseException):
    """A signal that is to end a check, raised wherever it is, so that nothing half-made is left."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _interrupt(number: int, _frame: object) -> NoReturn:
    raise _Interrupted(number)


def _check(arguments: Sequence[str]) -> int:
    try:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1)
                signal.signal(number, _interrupt)
        from tracer import cli_check

        parser = new_parser(f"{PROGRAM} check")
        cli_check.add_options(parser)
        return cli_check.run(vars(parser.parse_args(arguments)), os.environ)
    except _Interrupted as interrupted:
        # By the signal itself, so that a shell's loop ends with it (bash(1), SIGNALS).
        signal.signal(interrupted.number, signal.SIG_DFL)
        os.kill(os.getpid(), interrupted.number)
        return 128 + interrupted.number  # where the signal is blocked
    finally:
        # Nothing is left to be tidied up.
        for number in _SIGNALS:
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, signal.SIG_DFL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit status. The handlers of signals stay in place."""
    stop = _Stop()
    stop.handle_signals()
    try:
        _open_standard_descriptors()
        arguments = sys.argv[1:] if arguments is None else arguments
        if arguments[:1] == ["check"]:
            return _check(arguments[1:])
        if arguments[:1] == ["replay"]:
            _replay(arguments[1:], stop)
            return 0
        _trace(settings_from(arguments, os.environ), stop)
    except SynsentError as error:
        _notify(f"{error}{f'; {error.hint}' if error.hint else ''}")
        return error.exit_code
    except OSError as error:
        _show_traceback()
        _notify(f"the trace had to end: {error}")
        return 4
    except Exception as error:  # noqa: BLE001 - the last resort
        _show_traceback()
        _notify(
            f"the trace had to end: {type(error).__name__}: {error}; this is a defect of {PROGRAM}"
        )
        return 4
    return 0


def _show_traceback() -> None:
    if not wants_debug(os.environ):
        return
    import traceback

    for line in traceback.format_exc().splitlines():
        _notify(line)


if __name__ == "__main__":
    sys.exit(main())
