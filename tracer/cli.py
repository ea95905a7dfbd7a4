"""The command line: options, environment variables, exit codes. The only place that exits."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TextIO

from tracer import __version__
from tracer.errors import SynsentError, UsageError
from tracer.options import Options, wants_debug
from tracer.settings import Backend, Settings
from tracer.text import safe

if TYPE_CHECKING:
    from tracer.session import Session
    from tracer.sinks import Sink

_PROGRAM: Final = "synsent-trace"
_TARGETS: Final = ("node", "pod", "pid", "netns")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

_LEAST_SECONDS: Final = 0.01
_MOST_SECONDS: Final = 365 * 86_400.0
# PID_MAX_LIMIT of <linux/threads.h> where a long has 64 bits.
_MOST_PID: Final = 1 << 22
# `unsigned int inum` of struct ns_common.
_MOST_INODE: Final = (1 << 32) - 1

_DESCRIPTION: Final = """\
Shows, while it happens, which pods of this node are stuck in TCP connect, to where and since when:
they sent a SYN and nothing answers.
"""
_EPILOG: Final = """\
Every option can be set by an environment variable too: --vpc-cidr by SYNSENT_VPC_CIDR (several
separated by commas), --plain by SYNSENT_PLAIN=1. The command line wins: what it says to trace
replaces all that the environment says to trace. SYNSENT_DEBUG=1 shows where a defect is.

synsent-trace check looks once instead, and says what to check next: see
synsent-trace check --help.

exit status:
  0  done; a trace ended by Ctrl-C, SIGTERM or --duration ends so too
  1  check found connections in SYN_SENT
  2  wrong usage
  3  not permitted
  4  nothing on this machine can observe sockets, or the trace broke off; the report of a check
     could not be written
  5  an input could not be read

examples:
  synsent-trace --node
  synsent-trace --node --jsonl events.jsonl
  synsent-trace --node --jsonl - | jq 'select(.event == "attempt.stuck") | .destination'
  synsent-trace --pod shop/cart-7d4b9 --duration 60
  synsent-trace check --node
"""


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that `main` alone ends the program."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {_PROGRAM} --help")


def _new_parser(program: str) -> _Parser:
    return _Parser(
        prog=program,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )


def _parser() -> _Parser:
    parser = _new_parser(_PROGRAM)
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {__version__}")
    what = parser.add_argument_group("what to trace (one of)")
    what.add_argument("--node", action="store_true", help="every pod and process of this node")
    what.add_argument("--pod", metavar="NAMESPACE/NAME", help="one pod that runs on this node")
    what.add_argument("--pid", metavar="PID", help="one process")
    what.add_argument(
        "--netns",
        metavar="NETNS",
        help="one network namespace: its inode number, its file, or its name in /run/netns",
    )
    how = parser.add_argument_group("how to observe")
    how.add_argument(
        "--backend",
        metavar="auto|bpf|poll",
        help="bpf sees everything as it happens; poll works where BPF does not; "
        "auto (the default) takes bpf if it can, and says so if it can not",
    )
    how.add_argument(
        "--threshold",
        metavar="SECONDS",
        help="call an attempt stuck that is older than this even without a retransmission "
        "(default 1.0, at least 0.01)",
    )
    how.add_argument(
        "--crosscheck",
        metavar="SECONDS",
        help="compare BPF with the kernel's socket table this often (default 10; 0 is off)",
    )
    how.add_argument("--duration", metavar="SECONDS", help="end after this time")
    show = parser.add_argument_group("what to show")
    show.add_argument(
        "--vpc-cidr",
        metavar="CIDR",
        action="append",
        help="count these addresses as VPC/internal, beside the private ranges (repeatable)",
    )
    show.add_argument(
        "--jsonl",
        metavar="FILE|-",
        help="write every event as a line of JSON; with - to stdout, which then holds nothing else",
    )
    show.add_argument("--plain", action="store_true", help="lines without colour")
    show.add_argument(
        "--node-name",
        metavar="NAME",
        help="name of this node in the output (default: $NODE_NAME, else the host name)",
    )
    show.add_argument(
        "--ready-file",
        metavar="FILE",
        help="create this file once every probe is attached; an old one is removed first",
    )
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not _LEAST_SECONDS <= value <= _MOST_SECONDS:  # so is NaN, which no comparison is true of
        raise ValueError(text)
    return value


def _seconds_or_off(text: str) -> float:
    return 0.0 if float(text) == 0 else _seconds(text)


def _pid(text: str) -> int:
    # int() takes "1_0", signs and digits of every script.
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_PID):
        raise ValueError(text)
    return int(text)


def settings_from(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from the command line and the environment. Raises UsageError, naming the value."""
    from tracer.enrich.destination import parse_cidrs

    options = Options(vars(_parser().parse_args(arguments)), environment, exclusive=_TARGETS)
    node, pod = options.flag("node"), options.text("pod")
    pid: int | None = options.parsed("pid", _pid, f"a process id from 1 to {_MOST_PID}", None)
    netns_text = options.text("netns")
    chosen = [node, pod is not None, pid is not None, netns_text is not None].count(True)
    if chosen != 1:
        raise UsageError(
            "nothing to trace" if chosen == 0 else "more than one thing to trace",
            hint="give one of --node, --pod NAMESPACE/NAME, --pid PID, --netns NETNS",
        )
    if pid is not None:
        _require_process(pid, options.label("pid"))
    ready_file = options.text("ready_file")
    seconds = f"a number of seconds from {_LEAST_SECONDS} to {_MOST_SECONDS:.0f} (a year)"
    return Settings(
        node_name=options.text("node_name") or environment.get("NODE_NAME") or os.uname().nodename,
        backend=options.parsed("backend", Backend, "one of auto, bpf, poll", Backend.AUTO),
        threshold_seconds=options.parsed("threshold", _seconds, seconds, 1.0),
        crosscheck_seconds=options.parsed(
            "crosscheck", _seconds_or_off, f"{seconds}, or 0 for off", 10.0
        ),
        duration_seconds=options.parsed("duration", _seconds, seconds, None),
        vpc_cidrs=parse_cidrs(options.several("vpc_cidr"), options.label("vpc_cidr")),
        pid=pid,
        netns=_namespaces(netns_text, pod, options.label("netns")),
        jsonl=options.text("jsonl"),
        plain=options.flag("plain"),
        ready_file=None if ready_file is None else Path(ready_file),
    )


def _require_process(pid: int, label: str) -> None:
    from tracer.host.netns import pids_in

    # The listing, since /proc/TID can be opened for every thread.
    if pid not in pids_in():
        raise UsageError(
            f"{label}: no process has the id {pid}", hint="`ps -e` lists those that there are"
        )


def _namespaces(netns: str | None, pod: str | None, label: str) -> frozenset[int] | None:
    """Inodes of the network namespaces to trace; None: all. `label` names the option."""
    if netns is not None:
        from tracer.host.netns import inode_of

        inode = inode_of(netns)
        if not 1 <= inode <= _MOST_INODE:
            raise UsageError(
                f"{label}: {netns!r} is no inode number of a namespace: those have 32 bits",
                hint="`ls -L -i /proc/PID/ns/net` shows that of a process",
            )
        return frozenset({inode})
    if pod is None:
        return None
    from tracer.host.pods import find_pod

    found = find_pod(pod)
    if found.host_network:
        raise UsageError(
            f"pod {pod} uses the node's own network, which it shares with others",
            hint="trace its process with --pid, or the whole node with --node",
        )
    return found.netns


def _notify(message: str) -> None:
    """Says something in one line on stderr, which may be closed."""
    try:
        sys.stderr.write(f"{_PROGRAM}: {safe(message)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def _sinks(settings: Settings) -> list[Sink]:
    sinks: list[Sink] = []
    if settings.jsonl is not None:
        from tracer.sinks.jsonl import JsonlSink

        sinks.append(JsonlSink(settings.jsonl, node=settings.node_name, notify=_notify))
    if settings.jsonl != "-":
        from tracer.sinks.lines import LinesSink

        color = sys.stdout.isatty() and not settings.plain and not os.environ.get("NO_COLOR")
        sinks.append(LinesSink(sys.stdout, node=settings.node_name, color=color, notify=_notify))
    return sinks


class _Stop:
    """Ctrl-C and its kin: remembered until there is a session, handed on from then on.

    A handler interrupts any line of this program, itself too: it does nothing but set booleans.
    """

    def __init__(self) -> None:
        self.asked = False
        self._session: Session | None = None

    def handle_signals(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup(1)
            signal.signal(signal.SIGHUP, self._on_signal)

    def hand_to(self, session: Session) -> None:
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
    from tracer.session import Session

    sinks = _sinks(settings)
    try:
        session = Session(settings, sinks)
        stop.hand_to(session)
        session.run()
    finally:
        for sink in sinks:
            sink.close()


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

        parser = _new_parser(f"{_PROGRAM} check")
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
            f"the trace had to end: {type(error).__name__}: {error}; this is a defect of {_PROGRAM}"
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
